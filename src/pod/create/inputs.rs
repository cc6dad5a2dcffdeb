//! What a container's spec is worked out from: user, capabilities, mounts, devices, limits, namespaces.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Spec};

use crate::image::Image;
use crate::image::lookup;
use crate::seccomp::profile::Environment;
use crate::seccomp::{self, Abi};
use crate::spec::container::PodNamespaces;
use crate::spec::identity;
use crate::spec::mounts::{PodFiles, ResolvedMount};
use crate::spec::plan::ImageVolume;
use crate::spec::process::{ImageDefaults, User};
use crate::spec::selinux::Labels;
use crate::spec::{self, ContainerInputs};
use crate::types::capability::{self, CapSet, ContainerCaps};
use crate::types::container::{Mount, Propagation};
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::security::{NamespaceMode, Profile, UserNamespace};
use crate::types::{ContainerConfig, ContainerId, ContainerState, PodConfig};

use super::super::container::ImageMount;
use super::super::sandbox::{Pod, Supervisor};
use super::super::{Runtime, devices, selinux};

/// Most bytes read of an image's `/etc/passwd` or `/etc/group`.
const MAX_ACCOUNTS_BYTES: u64 = 10 << 20;

/// What [`gather`] worked out.
pub(super) struct Gathered {
    pub(super) spec: Spec,
    pub(super) image: ImageDefaults,
    pub(super) user: User,
    pub(super) image_mounts: Vec<ImageMount>,
    pub(super) image_volumes: Vec<ImageVolume>,
    pub(super) cgroup_path: String,
}

/// Refuses a config that contradicts itself or its pod, before anything is looked up.
pub(in crate::pod) fn check(config: &ContainerConfig, pod: &PodConfig) -> Result<()> {
    crate::pod::bounds::container(config)?;
    if config.metadata.name.is_empty() {
        return Err(Error::invalid("container config: metadata.name is empty"));
    }
    if config.image.image.is_empty() {
        return Err(Error::invalid("container config: image is empty"));
    }
    let log = Path::new(&config.log_path);
    if log.is_absolute()
        || log
            .components()
            .any(|c| matches!(c, std::path::Component::ParentDir))
    {
        return Err(Error::invalid(format!(
            "log_path {:?} must stay within the pod's log directory",
            config.log_path
        )));
    }
    let ns = &config.security.namespaces;
    if config.security.privileged && !pod.security.privileged {
        return Err(Error::invalid(
            "a privileged container needs a pod whose security context is privileged",
        ));
    }
    ns.check_user()?;
    let pods_user = pod.security.namespaces.own_user();
    if ns.user.is_some() && ns.own_user() != pods_user {
        return Err(Error::invalid(
            "the container's user namespace differs from its pod's: all containers of a pod share one",
        ));
    }
    if pods_user.is_some() && ns.pid == NamespaceMode::Node {
        return Err(Error::invalid(
            "pid namespace mode Node is not possible in a pod with a user namespace",
        ));
    }
    config.mounts.iter().try_for_each(|m| check_mount(m, pods_user))
}

fn check_mount(m: &Mount, user: Option<&UserNamespace>) -> Result<()> {
    let fail = |why: &str| Err(Error::invalid(format!("mount at {:?}: {why}", m.container_path)));
    if !m.container_path.starts_with('/') && m.container_path.is_empty() {
        return fail("container_path is empty");
    }
    match &m.image {
        Some(image) => super::image_volumes::check(m, image)?,
        None if !m.image_sub_path.is_empty() => return fail("image_sub_path without an image"),
        None if m.host_path.is_empty() => return fail("host_path is empty"),
        None if !m.host_path.starts_with('/') => return fail("host_path is not absolute"),
        None => {}
    }
    if m.uid_mappings.is_empty() != m.gid_mappings.is_empty() {
        return fail("id mappings are needed for users and groups, or for neither");
    }
    if user.is_some() && m.propagation == Propagation::Bidirectional {
        return fail(
            "mounts made in a user namespace cannot be shared with the node: use another propagation",
        );
    }
    Ok(())
}

/// Looks everything up and builds the spec.
pub(super) fn gather(
    runtime: &Runtime,
    pod: &Pod,
    supervisor: &Supervisor,
    id: &ContainerId,
    config: &ContainerConfig,
    image: &Image,
    layers: &[PathBuf],
) -> Result<Gathered> {
    let host = runtime.host();
    let handler = runtime.handlers().find(&supervisor.facts.handler)?;
    let host_devices = config.security.privileged && !handler.options.privileged_without_host_devices;
    let image = defaults(image);
    let user = user(config, &image, layers)?;
    let capabilities = capabilities(config, CapSet::from_bits(host.capability_bounding))?;
    let labels = selinux_labels(runtime, pod, supervisor, config)?;
    relabel(config, &labels.mount)?;
    let (mut mounts, image_mounts) = mounts(runtime, config, id)?;
    let image_volumes: Vec<_> = mounts.iter().filter_map(|m| m.image.clone()).collect();
    let pods_user = pod.config.security.namespaces.own_user();
    mounts.extend(super::volumes::mounts(
        &runtime.paths.container(id),
        &image,
        &mounts,
        pods_user,
    ));
    let devices = devices::named(&config.devices)?;
    let cgroup_path = runtime.cgroup_path(pod, id);
    let inputs = ContainerInputs {
        id,
        pod_id: &pod.id,
        pod: &pod.config,
        config,
        image: &image,
        user: &user,
        selinux: if config.security.privileged {
            Default::default()
        } else {
            labels.clone()
        },
        apparmor: super::apparmor::profile(config, host.apparmor)?,
        seccomp: seccomp_profile(runtime, config, capabilities.granted)?,
        capabilities,
        namespaces: &namespaces(runtime, pod, supervisor, config)?,
        files: &files(runtime, pod, supervisor),
        mounts: &mounts,
        resources: resources(config, host_devices, devices.rules),
        devices: if host_devices {
            devices::all()?
        } else {
            devices.nodes
        },
        cgroup_path: &cgroup_path,
        unified_cgroup: host.unified_cgroup(),
        nofile: runtime.config().container.nofile,
    };
    let mut spec = spec::container(&inputs)?;
    super::cdi::inject(config, &runtime.config().container.cdi_dirs, &mut spec)?;
    if handler.options.is_builtin() {
        super::cdi::show_root(&mut spec, &runtime.paths.mount_point());
    }
    handler.adapt(&mut spec, &pod.config, config, host)?;
    handler.bind_images(
        &mut spec,
        &image_volumes,
        &runtime.paths.container_run(&pod.id, id),
    );
    Ok(Gathered {
        spec,
        image,
        user,
        image_mounts,
        image_volumes,
        cgroup_path,
    })
}

fn defaults(image: &Image) -> ImageDefaults {
    let config = image.config.clone();
    ImageDefaults {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        user: config.user,
        working_dir: config.working_dir,
        volumes: config.volumes,
        stop_signal: config.stop_signal,
    }
}

fn user(config: &ContainerConfig, image: &ImageDefaults, layers: &[PathBuf]) -> Result<User> {
    let accounts = |path| lookup::read(layers, Path::new(path), MAX_ACCOUNTS_BYTES);
    let security = &config.security;
    let found = identity::resolve(
        &identity::Request {
            image_user: &image.user,
            run_as_user: security.run_as_user,
            run_as_username: &security.run_as_username,
            run_as_group: security.run_as_group,
            supplemental_groups: &security.supplemental_groups,
            policy: security.groups_policy,
            image: &config.image.image,
        },
        &accounts("/etc/passwd")?,
        &accounts("/etc/group")?,
    )?;
    Ok(User {
        uid: found.uid,
        gid: found.gid,
        additional_gids: found.additional_gids,
    })
}

fn capabilities(config: &ContainerConfig, available: CapSet) -> Result<ContainerCaps> {
    if config.security.privileged {
        return Ok(capability::privileged(available));
    }
    capability::apply(&config.security.capabilities, CapSet::DEFAULT, available)
}

fn seccomp_profile(
    runtime: &Runtime,
    config: &ContainerConfig,
    caps: CapSet,
) -> Result<Option<LinuxSeccomp>> {
    if config.security.privileged {
        return Ok(None);
    }
    match &config.security.seccomp {
        None | Some(Profile::Unconfined) => Ok(None),
        Some(Profile::RuntimeDefault) => Ok(Some(seccomp::default_profile(caps))),
        Some(Profile::Localhost(path)) => localhost_profile(runtime, path, caps).map(Some),
    }
}

fn localhost_profile(runtime: &Runtime, path: &str, caps: CapSet) -> Result<LinuxSeccomp> {
    // Old clients put the scheme in front.
    let path = Path::new(path.strip_prefix("localhost/").unwrap_or(path));
    if !path.is_absolute() {
        return Err(Error::invalid(format!(
            "seccomp profile {} is not an absolute path",
            path.display()
        )));
    }
    let what = || format!("seccomp profile {}", path.display());
    let text = read_file(path, seccomp::profile::MAX_BYTES as u64).map_err(|e| e.context(what()))?;
    let native = Abi::native().ok_or_else(|| {
        Error::new(
            Kind::Unimplemented,
            "seccomp profiles are not supported on this machine's architecture",
        )
    })?;
    let environment = Environment {
        native,
        caps,
        kernel: runtime.host().kernel,
    };
    seccomp::profile::parse(&path.display().to_string(), &text, &environment)
}

/// Reads a file that a client named: it may as well be a pipe that nobody writes to, or `/dev/zero`.
fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .context("open")?;
    if !file.metadata().context("look at it")?.is_file() {
        return Err(Error::invalid("it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(most + 1).read_to_end(&mut text).context("read")?;
    if text.len() as u64 > most {
        return Err(Error::invalid(format!("it has more than {most} bytes")));
    }
    Ok(text)
}

fn selinux_labels(
    runtime: &Runtime,
    pod: &Pod,
    supervisor: &Supervisor,
    config: &ContainerConfig,
) -> Result<Labels> {
    let wish = config
        .security
        .selinux
        .as_ref()
        .or(pod.config.security.selinux.as_ref());
    runtime.selinux_labels(wish, &supervisor.facts.selinux_level)
}

/// Gives the mounts for which the client wants it the container's label.
fn relabel(config: &ContainerConfig, label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    let wanted = config
        .mounts
        .iter()
        .filter(|m| m.selinux_relabel && m.image.is_none());
    for m in wanted {
        selinux::relabel(&host_source(m)?, label)
            .map_err(|e| e.context(format!("mount at {:?}", m.container_path)))?;
    }
    Ok(())
}

/// The client's mounts with their sources, and which images are among them.
fn mounts(
    runtime: &Runtime,
    config: &ContainerConfig,
    id: &ContainerId,
) -> Result<(Vec<ResolvedMount>, Vec<ImageMount>)> {
    let mut images = Vec::new();
    let mut resolved = Vec::with_capacity(config.mounts.len());
    for m in &config.mounts {
        let mut mount = ResolvedMount {
            // Old clients leave the slash out.
            container_path: Path::new("/").join(&m.container_path),
            readonly: m.readonly,
            recursive_read_only: m.recursive_read_only,
            uid_mappings: m.uid_mappings.clone(),
            gid_mappings: m.gid_mappings.clone(),
            ..Default::default()
        };
        if let Some(image) = &m.image {
            let (found, volume) = super::image_volumes::resolve(runtime, m, image, id)?;
            images.push(found);
            mount.image = Some(volume);
        } else {
            mount.source = host_source(m)?;
            mount.propagation = m.propagation;
            super::propagation::check(&mount.source, m.propagation)
                .map_err(|e| e.context(format!("mount at {:?}", m.container_path)))?;
        }
        resolved.push(mount);
    }
    Ok((resolved, images))
}

/// The source with its links followed; a missing one becomes a directory, as clients of other runtimes expect.
fn host_source(m: &Mount) -> Result<PathBuf> {
    let path = Path::new(&m.host_path);
    match std::fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).with_context(|| {
                format!(
                    "create directory {} for mount {:?}",
                    path.display(),
                    m.container_path
                )
            })?;
            std::fs::canonicalize(path).with_context(|| format!("mount source {}", path.display()))
        }
        Err(e) => Err(Error::internal(format!("mount source {}: {e}", path.display()))),
    }
}

fn files(runtime: &Runtime, pod: &Pod, supervisor: &Supervisor) -> PodFiles {
    let dir = runtime.paths.pod(&pod.id);
    PodFiles {
        hosts: dir.join("hosts"),
        hostname: dir.join("hostname"),
        resolv_conf: dir.join("resolv.conf"),
        shm: supervisor.facts.shm.clone(),
    }
}

fn namespaces(
    runtime: &Runtime,
    pod: &Pod,
    supervisor: &Supervisor,
    config: &ContainerConfig,
) -> Result<PodNamespaces> {
    let wanted = &pod.config.security.namespaces;
    let of = |pid: i32, kind: &str| PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
    let own_network = wanted.network != NamespaceMode::Node;
    let facts = &supervisor.facts;
    let pid = match config.security.namespaces.pid {
        NamespaceMode::Pod => {
            let init = facts.pidns_init.ok_or_else(|| {
                Error::invalid("pid namespace mode Pod: the pod was made without a shared pid namespace")
            })?;
            Some(of(init, "pid"))
        }
        NamespaceMode::Target => Some(of(
            target_pid(runtime, pod, &config.security.namespaces.target)?,
            "pid",
        )),
        NamespaceMode::Container | NamespaceMode::Node => None,
    };
    Ok(PodNamespaces {
        network: facts.netns.clone().filter(|_| own_network),
        ipc: (wanted.ipc != NamespaceMode::Node).then(|| of(facts.pid, "ipc")),
        uts: own_network.then(|| of(facts.pid, "uts")),
        pid,
        user: facts.userns.clone(),
    })
}

fn target_pid(runtime: &Runtime, pod: &Pod, target: &str) -> Result<i32> {
    let container = runtime
        .find_container(target)
        .map_err(|e| e.context("pid namespace mode Target"))?;
    if container.facts.pod != pod.id {
        return Err(Error::invalid(format!(
            "pid namespace mode Target: container {target} is in another pod"
        )));
    }
    let status = container.status();
    if status.state != ContainerState::Running {
        return Err(Error::precondition(format!(
            "pid namespace mode Target: container {target} is not running"
        )));
    }
    Ok(status.pid)
}

fn resources(
    config: &ContainerConfig,
    all_devices: bool,
    rules: Vec<oci_spec::runtime::LinuxDeviceCgroup>,
) -> LinuxResources {
    crate::cgroup::resources(&config.resources, all_devices, rules)
}

/// The signal by number: the client's, the image's, or SIGTERM.
pub(in crate::pod) fn stop_signal(asked: i32, image: &ImageDefaults) -> Result<i32> {
    if asked != 0 {
        return Ok(asked);
    }
    if image.stop_signal.is_empty() {
        return Ok(libc::SIGTERM);
    }
    parse_signal(&image.stop_signal).ok_or_else(|| {
        Error::invalid(format!(
            "image: STOPSIGNAL {:?} is not a signal",
            image.stop_signal
        ))
    })
}

/// `9`, `KILL`, `SIGKILL`, `SIGRTMIN+3`.
pub fn parse_signal(text: &str) -> Option<i32> {
    const RTMIN: i32 = 34;
    let number = if let Ok(n) = text.parse::<i32>() {
        n
    } else {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(n) = name.strip_prefix("RTMIN") {
            RTMIN + offset(n, '+')?
        } else if let Some(n) = name.strip_prefix("RTMAX") {
            64 - offset(n, '-')?
        } else {
            format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok()? as i32
        }
    };
    (1..=64).contains(&number).then_some(number)
}

/// What follows `RTMIN` or `RTMAX`: nothing, or a sign and a small number. Images write what they like here.
fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX", Some(64)),
            ("RTMAX-14", Some(50)),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN+2147483647", None),
            ("RTMAX--2147483648", None),
            ("SIGNONE", None),
            ("0", None),
            ("65", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text), number, "{text}");
        }
    }

    #[test]
    fn files_of_clients_are_files_and_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let (pipe, file) = (dir.path().join("pipe"), dir.path().join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        std::fs::write(&file, "12345").expect("a file");
        assert_eq!(read_file(&file, 5), Ok(b"12345".to_vec()));
        for (path, most, part) in [
            (file.as_path(), 4, "more than 4"),
            (&pipe, 5, "regular"),
            (Path::new("/dev/zero"), 5, "regular"),
            (Path::new("/"), 5, "regular"),
            (&dir.path().join("absent"), 5, "No such file"),
        ] {
            let error = read_file(path, most).expect_err("refused");
            assert!(error.message().contains(part), "{}: {error}", path.display());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let pod = PodConfig::default();
        let good = || {
            let mut c = ContainerConfig::default();
            c.metadata.name = "c".into();
            c.image.image = "i".into();
            c
        };
        assert!(check(&good(), &pod).is_ok());
        let mut c = good();
        c.log_path = "../../etc/cron.d/x".into();
        assert!(check(&c, &pod).is_err());
        let mut c = good();
        c.security.privileged = true;
        assert!(check(&c, &pod).is_err());
        let mut c = good();
        c.mounts.push(Mount {
            container_path: "/x".into(),
            host_path: "relative".into(),
            ..Default::default()
        });
        assert!(check(&c, &pod).is_err());
    }
}
