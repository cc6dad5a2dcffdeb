//! The docker-like command line; a client of the daemon's socket, except for `serve`, `oci` and `demo`.

mod client;
pub mod demo;
mod exec;
mod images;
mod inspect;
mod logs;
pub mod oci;
mod pods;
mod pull;
mod stop;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::{self, CgroupDriver, Config};
use crate::daemon;
use crate::supervisor;
use crate::sys;

/// Where the daemon listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/run/husk/husk.sock";
/// Where the configuration is unless told otherwise.
const DEFAULT_CONFIG: &str = "/etc/husk/config.toml";
/// Threads of the daemon: its work is short, and each thread costs memory on every node.
const DAEMON_THREADS: usize = 4;

/// A Kubernetes container runtime: CRI v1 server, image store and executor in one program.
#[derive(Parser)]
#[command(name = "husk", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the daemon that kubelet and crictl talk to
    Serve(Serve),
    /// Show the main job end to end: a pod from an image of an embedded registry, and nothing left behind
    Demo(demo::Demo),
    /// Pull an image
    Pull(pull::Pull),
    /// List images
    Images(images::Images),
    /// Remove images
    Rmi(images::Rmi),
    /// List pods
    Pods(pods::Pods),
    /// List containers
    Ps(pods::Ps),
    /// Show a container's log
    Logs(logs::Logs),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Show everything about containers, pods or images as JSON
    Inspect(inspect::Inspect),
    /// Stop containers or pods
    Stop(stop::Stop),
    /// Remove containers or pods
    Rm(stop::Rm),
    /// Use the executor with runc's command line
    Oci(oci::Oci),
    /// The process from which supervisors are forked; started by the daemon
    #[command(hide = true)]
    SupervisorTemplate,
    /// What the containers of the demo run
    #[command(hide = true)]
    DemoWorkload(demo::Workload),
}

/// Flags of `husk serve`; each overrides a key of the configuration.
#[derive(Args)]
struct Serve {
    /// Configuration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Directory for images, writable layers and the database [default: /var/lib/husk]
    #[arg(long)]
    root: Option<PathBuf>,
    /// Directory for sockets and pod files [default: /run/husk]
    #[arg(long)]
    run: Option<PathBuf>,
    /// Unix socket to serve on [default: husk.sock in the run directory]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Directory of registry hosts in containerd's certs.d layout; may be repeated
    #[arg(long)]
    hosts_dir: Vec<PathBuf>,
    /// Directory of CNI network configurations
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be repeated
    #[arg(long)]
    cni_bin_dir: Vec<PathBuf>,
    /// Who makes cgroups
    #[arg(long)]
    cgroup_driver: Option<CgroupDriver>,
    /// Let NRI plugins connect, to this Unix socket
    #[arg(long)]
    nri_socket: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter
    #[arg(long)]
    log_level: Option<String>,
}

/// The flag that all client verbs share.
#[derive(Args)]
struct Socket {
    /// Socket of the daemon
    #[arg(long, env = "HUSK_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        // These run single-threaded.
        Verb::SupervisorTemplate => return code(supervisor::template::main()),
        Verb::Oci(oci) => return code(oci::run(oci)),
        Verb::DemoWorkload(workload) => return code(workload.run()),
        Verb::Serve(serve) => serve.run(),
        Verb::Demo(demo) => client::block_on(demo.run()),
        Verb::Pull(pull) => client::block_on(pull.run()),
        Verb::Images(images) => client::block_on(images.run()),
        Verb::Rmi(rmi) => client::block_on(rmi.run()),
        Verb::Pods(pods) => client::block_on(pods.run()),
        Verb::Ps(ps) => client::block_on(ps.run()),
        Verb::Logs(logs) => client::block_on(logs.run()),
        Verb::Exec(exec) => client::block_on(exec.run()),
        Verb::Inspect(inspect) => client::block_on(inspect.run()),
        Verb::Stop(stop) => client::block_on(stop.run()),
        Verb::Rm(rm) => client::block_on(rm.run()),
    };
    match outcome {
        Ok(exit_code) => exit_code,
        Err(error) => {
            eprintln!("husk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn code(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(number & 0xff).unwrap_or(1))
}

impl Serve {
    fn run(self) -> anyhow::Result<ExitCode> {
        // First of all, before there are threads or descriptors of our own.
        let passed = sys::activation::take().context("take over the sockets of the service manager")?;
        let config = self.config()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(DAEMON_THREADS.min(std::thread::available_parallelism().map_or(1, usize::from)))
            .enable_all()
            .build()
            .context("start the async runtime")?;
        runtime.block_on(daemon::serve(config, passed))?;
        // Blocking work that nobody waits for must not hold up the end of the daemon.
        runtime.shutdown_background();
        Ok(ExitCode::SUCCESS)
    }

    fn config(self) -> anyhow::Result<Config> {
        let path = self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into());
        let mut config = config::load(&path, self.config.is_some())?;
        let set = |key: &mut PathBuf, flag: Option<PathBuf>| {
            if let Some(value) = flag {
                *key = value;
            }
        };
        set(&mut config.root, self.root);
        set(&mut config.run, self.run);
        set(&mut config.socket, self.socket);
        set(&mut config.network.cni_conf_dir, self.cni_conf_dir);
        if !self.hosts_dir.is_empty() {
            config.image.hosts_dirs = self.hosts_dir;
        }
        if !self.cni_bin_dir.is_empty() {
            config.network.cni_bin_dirs = self.cni_bin_dir;
        }
        if let Some(driver) = self.cgroup_driver {
            config.cgroup.driver = driver;
        }
        if let Some(socket) = self.nri_socket {
            config.nri.enabled = true;
            config.nri.socket = socket;
        }
        if let Some(level) = self.log_level {
            config.log.level = level;
        }
        config.check().context("command line")?;
        Ok(config)
    }
}
