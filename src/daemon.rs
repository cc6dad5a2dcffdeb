//! The composition root of `husk serve`: only it knows every part.
//!
//! Order matters: configuration, logs, lock, state, services, recovery, socket. Nothing is answered before recovery is
//! through, and a daemon that cannot take over everything does not start half.

mod activation;
mod clients;
mod deadline;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tracing::{info, warn};

use self::activation::Activated;
use crate::api;
use crate::cgroup::{Cgroups, Driver};
use crate::config::{CgroupDriver, Config};
use crate::cri::proto::image_service_server::ImageServiceServer;
use crate::cri::proto::runtime_service_server::RuntimeServiceServer;
use crate::cri::{self, MAX_MESSAGE_BYTES};
use crate::exporter::Exporter;
use crate::host::Host;
use crate::image::{ImageConfig, ImageStore};
use crate::network::{self, BuiltinConfig, Network, NetworkConfig};
use crate::nri::{self, Nri};
use crate::pod::handler::Handlers;
use crate::pod::launcher::{self, Launcher};
use crate::pod::{Parts, Runtime, selinux};
use crate::socket;
use crate::state::{Db, Table};
use crate::stats::Stats;
use crate::stream;
use crate::sys::activation::Passed;
use crate::telemetry;
use crate::types::error::{Context, Error, Kind, Result};

/// How long calls in flight may take to end once husk was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, on a socket among `passed` if there is any. Pods go on running afterwards.
///
/// # Errors
/// Anything that keeps the daemon from starting, and a failing socket.
pub async fn serve(config: Config, passed: Vec<Passed>) -> Result<()> {
    let telemetry = telemetry::start(&config.log, &config.telemetry)?;
    let activated = activation::socket(passed, &config.socket())?;
    let _lock = lock(&config.run)?;
    std::fs::create_dir_all(&config.root)
        .with_context(|| format!("create directory {}", config.root.display()))?;

    let mut host = Host::probe();
    let driver = match config.cgroup.driver {
        CgroupDriver::Cgroupfs => Driver::Cgroupfs,
        CgroupDriver::Systemd => Driver::Systemd,
    };
    let cgroups = Arc::new(Cgroups::probe(Path::new("/sys/fs/cgroup"), driver)?);
    let db = Db::open(&config.root.join("husk.db"))?;
    let launcher = Launcher::start(launcher_config(&config, &cgroups)?).await?;
    host.id_mapped_layers_problem = id_maps_problem(&launcher, &config.root).await;
    let parts = (host, Arc::clone(&cgroups), launcher.clone(), db.clone());
    let served = with_network(&config, parts, activated).await;
    launcher.stop().await;
    if db.all(Table::Pods).is_ok_and(|pods| pods.is_empty()) {
        remove_cgroups(&config, &cgroups);
    }
    if served.is_ok() {
        info!("husk stopped; its pods go on");
    }
    telemetry.finish().await;
    served
}

/// What a daemon is made of before it has a network.
type Base = (Host, Arc<Cgroups>, Launcher, Db);

/// Takes the network down again whether husk served or could not start.
async fn with_network(config: &Config, base: Base, activated: Option<Activated>) -> Result<()> {
    let network = Network::start(network_config(config)?).await?;
    let served = serve_pods(config, base, &network, activated).await;
    network.shutdown().await;
    served
}

async fn serve_pods(
    config: &Config,
    (host, cgroups, launcher, db): Base,
    network: &Arc<Network>,
    activated: Option<Activated>,
) -> Result<()> {
    let images = ImageStore::open(image_config(config), db.clone())?;
    label_layers(&host, config).await;
    let handlers = Handlers::probe(config, &host).await;
    let runtime = Runtime::new(Parts {
        config: config.clone(),
        host,
        cgroups: Arc::clone(&cgroups),
        images: Arc::clone(&images),
        network: Arc::clone(network),
        db,
        launcher,
        handlers,
    })?;
    runtime.recover().await?;
    let stats = Stats::new(Arc::clone(&runtime), cgroups, Arc::clone(network));
    let nri = match nri_settings(config) {
        Some(settings) => Some(Nri::start(&runtime, settings).await?),
        None => None,
    };
    let streams = stream::Server::start(&config.stream, Arc::clone(&runtime)).await?;

    let _exporter = if config.metrics.address.is_empty() {
        None
    } else {
        Some(Exporter::start(&config.metrics.address, Arc::clone(&stats)).await?)
    };
    let passed = activated.is_some();
    let (listener, address) = match activated {
        Some(Activated { listener, address }) => {
            let listener = UnixListener::from_std(listener).context("serve on the socket that was passed")?;
            (listener, address)
        }
        None => (
            socket::listen(&config.socket(), 0o660).await?,
            config.socket().display().to_string(),
        ),
    };
    info!(socket = address, passed, streams = %streams.address(), version = env!("CARGO_PKG_VERSION"), "husk is serving");
    let service = cri::runtime::Service::new(Arc::clone(&runtime), stats, streams);
    answer(listener, &runtime, &images, service).await?;
    if let Some(nri) = nri {
        nri.shutdown().await;
    }
    if !passed {
        let _ = std::fs::remove_file(config.socket());
    }
    Ok(())
}

async fn label_layers(host: &Host, config: &Config) {
    let (host, config) = (host.clone(), config.clone());
    let root = image_config(&config).root;
    let work = tokio::task::spawn_blocking(move || selinux::label_layers(&host, &config, &root));
    let _ = work.await;
}

/// Why layers cannot be mounted with mapped ids here, if so: it depends on the kernel and on the file system.
async fn id_maps_problem(launcher: &Launcher, root: &Path) -> Option<String> {
    let problem = launcher.try_id_maps(root).await.err()?.to_string();
    info!(root = %root.display(), %problem, "pods cannot have user namespaces");
    Some(problem)
}

/// Without pods nothing of husk is in its own cgroups any more, and the next daemon makes them anew.
fn remove_cgroups(config: &Config, cgroups: &Cgroups) {
    for path in [supervisors_path(config), config.cgroup.parent.clone()] {
        let removed = cgroups
            .release(&path)
            .and_then(|()| cgroups.open(&path).remove())
            .and_then(|()| cgroups.remove_unused(&path));
        if let Err(error) = removed {
            warn!(%error, "cgroup could not be removed");
        }
    }
}

/// Supervisors live outside the pods' limits, in a cgroup of their own.
fn supervisors_path(config: &Config) -> String {
    format!("{}/supervisors", config.cgroup.parent)
}

async fn answer(
    listener: UnixListener,
    runtime: &Arc<Runtime>,
    images: &Arc<ImageStore>,
    service: cri::runtime::Service,
) -> Result<()> {
    let (tell, told) = tokio::sync::watch::channel(false);
    let mut stop = told.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(clients::PING_INTERVAL))
        .http2_keepalive_timeout(Some(clients::PING_TIMEOUT))
        .layer(telemetry::calls::Calls)
        .layer(deadline::Deadlines)
        .add_service(
            RuntimeServiceServer::new(service)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            ImageServiceServer::new(cri::image::Service::new(Arc::clone(images)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(api::server(Arc::clone(images)))
        .serve_with_incoming_shutdown(clients::incoming(listener), async move {
            let _ = stop.wait_for(|s| *s).await;
        });
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.context("serve gRPC"),
        () = told_to_stop() => {
            // Streams of events have no end of their own; to kubelet a broken one is a failure.
            runtime.events().close();
            tell.send_replace(true)
        }
    };
    // Clients such as an open image pull may hold their connection for long.
    match tokio::time::timeout(DRAIN, server).await {
        Ok(ended) => ended.context("serve gRPC"),
        Err(_) => {
            warn!("calls were still in flight; their work is taken up by the next daemon");
            Ok(())
        }
    }
}

async fn told_to_stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// One daemon for each run directory.
fn lock(run: &Path) -> Result<Flock<File>> {
    std::fs::create_dir_all(run).with_context(|| format!("create directory {}", run.display()))?;
    std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("set mode of {}", run.display()))?;
    let path = run.join("husk.lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
        Error::new(
            Kind::FailedPrecondition,
            format!(
                "lock {}: {e}: another husk uses this run directory; stop it or use --run",
                path.display()
            ),
        )
    })
}

fn launcher_config(config: &Config, cgroups: &Cgroups) -> Result<launcher::Config> {
    let cgroup = cgroups.create(&supervisors_path(config), &Default::default())?;
    Ok(launcher::Config {
        cgroup: Some(cgroup.join()),
        ..Default::default()
    })
}

fn image_config(config: &Config) -> ImageConfig {
    ImageConfig {
        hosts_dirs: config.image.hosts_dirs.clone(),
        max_concurrent_downloads: config.image.max_concurrent_downloads,
        stall_timeout: Duration::from_secs(config.image.stall_timeout_secs),
        pinned: config.image.pinned.clone(),
        verifier_dir: config.image.verifier_dir.clone(),
        verifier_limit: Duration::from_secs(config.image.verifier_timeout_secs),
        ..ImageConfig::new(config.root.join("images"))
    }
}

fn nri_settings(config: &Config) -> Option<nri::Settings> {
    let nri = &config.nri;
    nri.enabled.then(|| nri::Settings {
        socket: nri.socket.clone(),
        registration_timeout: Duration::from_secs(nri.plugin_registration_timeout_secs),
        request_timeout: Duration::from_secs(nri.plugin_request_timeout_secs),
        runtime_name: cri::RUNTIME_NAME.into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
    })
}

fn network_config(config: &Config) -> Result<NetworkConfig> {
    let net = &config.network;
    let builtin = if net.builtin {
        Some(BuiltinConfig {
            bridge: net.builtin_bridge.clone(),
            subnet: net.builtin_subnet.parse().context("network.builtin_subnet")?,
            subnet6: None,
            mtu: 0,
        })
    } else {
        None
    };
    Ok(NetworkConfig {
        cni_conf_dir: net.cni_conf_dir.clone(),
        cni_conf_template: Some(net.cni_conf_template.clone()).filter(|t| !t.as_os_str().is_empty()),
        cni_bin_dirs: net.cni_bin_dirs.clone(),
        state_dir: config.root.join("network"),
        netns_dir: config.run.join("netns"),
        builtin,
        netns_pool: net.netns_pool,
        cni_timeout: Duration::from_secs(net.cni_timeout_secs),
        cni_shared_cache: None,
        missing_plugin_patience: network::MISSING_PLUGIN_PATIENCE,
    })
}
