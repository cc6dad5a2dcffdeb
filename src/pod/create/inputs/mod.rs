//! What a container's spec is worked out from: user, capabilities, mounts, devices, limits, namespaces.

mod check;
mod security;
mod signal;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use crate::image::Image;
use crate::pod::container::ImageMount;
use crate::pod::handler::Users;
use crate::pod::sandbox::{Pod, Supervisor};
use crate::pod::{Runtime, devices, selinux};
use crate::spec::container::PodNamespaces;
use crate::spec::mounts::{PodFiles, ResolvedMount};
use crate::spec::plan::ImageVolume;
use crate::spec::process::{ImageDefaults, User};
use crate::spec::selinux::Labels;
use crate::spec::{self, ContainerInputs};
use crate::types::capability::CapSet;
use crate::types::container::Mount;
use crate::types::error::{Context, Error, Result};
use crate::types::security::{IdMapping, NamespaceMode};
use crate::types::{ContainerConfig, ContainerId, ContainerState};

use super::{apparmor, cdi, image_volumes, propagation, volumes};
use security::{capabilities, seccomp_profile, selinux_labels, user};

pub(in crate::pod) use check::check;
pub(in crate::pod) use signal::stop_signal;

/// What [`gather`] worked out.
pub(super) struct Gathered {
    pub(super) spec: Spec,
    pub(super) image: ImageDefaults,
    pub(super) user: User,
    pub(super) image_mounts: Vec<ImageMount>,
    pub(super) image_volumes: Vec<ImageVolume>,
    pub(super) cgroup_path: String,
    pub(super) users: Users,
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
    mounts.extend(volumes::mounts(
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
        selinux: match config.security.privileged {
            // Its files are labelled all the same: by them the policy sees that a container starts, and lets it do all.
            true => Labels {
                process: String::new(),
                mount: labels.mount,
            },
            false => labels,
        },
        apparmor: apparmor::profile(config, host.apparmor)?,
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
    cdi::inject(config, &runtime.config().container.cdi_dirs, &mut spec)?;
    if handler.options.is_builtin() {
        cdi::show_root(&mut spec, &runtime.paths.mount_point());
    }
    handler.adapt(&mut spec, &pod.config, config, host)?;
    let bundle = runtime.paths.container_run(&pod.id, id);
    handler.bind_images(&mut spec, &image_volumes, &bundle);
    let users = Users {
        namespace: supervisor.facts.userns.clone().filter(|_| pods_user.is_some()),
        stdio_owner: pods_user.and_then(|u| IdMapping::to_host(&u.uids, user.uid)),
        mapped: handler.bind_mapped(&mut spec, &bundle)?,
    };
    Ok(Gathered {
        spec,
        image,
        user,
        image_mounts,
        image_volumes,
        cgroup_path,
        users,
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
            let (found, volume) = image_volumes::resolve(runtime, m, image, id)?;
            images.push(found);
            mount.image = Some(volume);
        } else {
            mount.source = host_source(m)?;
            mount.propagation = m.propagation;
            propagation::check(&mount.source, m.propagation)
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
