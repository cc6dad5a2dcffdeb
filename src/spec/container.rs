//! From what a client asked of a container to its OCI runtime spec.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxNamespace, LinuxNamespaceType, LinuxResources, LinuxSeccomp, Root, Spec,
};

use crate::types::capability::ContainerCaps;
use crate::types::error::Result;
use crate::types::security::NamespaceMode;
use crate::types::{ContainerConfig, ContainerId, PodConfig, PodId};

use super::selinux::Labels;
use super::{mounts, process};

/// Everything that decides a container's spec.
pub struct ContainerInputs<'a> {
    /// The container.
    pub id: &'a ContainerId,
    /// Its pod.
    pub pod_id: &'a PodId,
    /// What was asked of the pod.
    pub pod: &'a PodConfig,
    /// What was asked of the container.
    pub config: &'a ContainerConfig,
    /// What the image says.
    pub image: &'a process::ImageDefaults,
    /// The user, looked up in the image.
    pub user: &'a process::User,
    /// Capability sets, worked out against the node.
    pub capabilities: ContainerCaps,
    /// Namespaces of the pod.
    pub namespaces: &'a PodNamespaces,
    /// Files that husk makes for the pod.
    pub files: &'a mounts::PodFiles,
    /// The client's mounts with their sources resolved, in order.
    pub mounts: &'a [mounts::ResolvedMount],
    /// Devices beyond the default ones.
    pub devices: Vec<LinuxDevice>,
    /// Limits, with the device rules.
    pub resources: LinuxResources,
    /// SELinux labels; empty for none.
    pub selinux: Labels,
    /// Name of the AppArmor profile, if any.
    pub apparmor: Option<String>,
    /// Seccomp profile, if any.
    pub seccomp: Option<LinuxSeccomp>,
    /// cgroup of the container, as `cgroup` named it.
    pub cgroup_path: &'a str,
    /// The node runs the unified cgroup hierarchy.
    pub unified_cgroup: bool,
    /// Limit of open files; 0 inherits.
    pub nofile: u64,
}

/// Where the pod's namespaces are to be found. `None` means the node's.
#[derive(Debug, Clone, Default)]
pub struct PodNamespaces {
    /// Network.
    pub network: Option<PathBuf>,
    /// IPC.
    pub ipc: Option<PathBuf>,
    /// Host name.
    pub uts: Option<PathBuf>,
    /// Process ids shared by the pod, or those of the target container.
    pub pid: Option<PathBuf>,
    /// Users.
    pub user: Option<PathBuf>,
}

/// Builds the OCI runtime spec.
///
/// # Errors
/// A request that contradicts itself, such as a container without a command.
pub fn container(inputs: &ContainerInputs<'_>) -> Result<Spec> {
    let mut spec = Spec::default();
    spec.set_version("1.2.1".into())
        .set_root(Some(root(inputs)))
        .set_process(Some(process::process(inputs)?))
        .set_hostname(None)
        .set_mounts(Some(mounts::mounts(inputs)))
        .set_annotations(Some(annotations(inputs)))
        .set_linux(Some(linux(inputs)));
    Ok(spec)
}

fn root(inputs: &ContainerInputs<'_>) -> Root {
    let mut root = Root::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(inputs.config.security.readonly_rootfs));
    root
}

fn linux(inputs: &ContainerInputs<'_>) -> Linux {
    let security = &inputs.config.security;
    let (masked, readonly) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        (security.masked_paths.clone(), security.readonly_paths.clone())
    };
    // Those of the namespace that is joined, for whoever has to know whom root is on the node.
    let user = inputs.pod.security.namespaces.own_user();
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(inputs)))
        .set_cgroups_path(Some(inputs.cgroup_path.into()))
        .set_resources(Some(inputs.resources.clone()))
        .set_devices(Some(inputs.devices.clone()))
        .set_seccomp(if security.privileged {
            None
        } else {
            inputs.seccomp.clone()
        })
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_mount_label(text(&inputs.selinux.mount))
        .set_rootfs_propagation(mounts::rootfs_propagation(inputs.mounts).map(str::to_owned))
        .set_sysctl(None)
        .set_uid_mappings(user.and_then(|u| mounts::mappings(&u.uids)))
        .set_gid_mappings(user.and_then(|u| mounts::mappings(&u.gids)));
    linux
}

/// What is there.
pub(super) fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn namespaces(inputs: &ContainerInputs<'_>) -> Vec<LinuxNamespace> {
    let pod = inputs.namespaces;
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)];
    match inputs.config.security.namespaces.pid {
        NamespaceMode::Container => list.push(namespace(LinuxNamespaceType::Pid, None)),
        NamespaceMode::Pod | NamespaceMode::Target => {
            list.extend(
                pod.pid
                    .as_deref()
                    .map(|p| namespace(LinuxNamespaceType::Pid, Some(p))),
            );
        }
        NamespaceMode::Node => {}
    }
    for (kind, path) in [
        (LinuxNamespaceType::Network, &pod.network),
        (LinuxNamespaceType::Ipc, &pod.ipc),
        (LinuxNamespaceType::Uts, &pod.uts),
        (LinuxNamespaceType::User, &pod.user),
    ] {
        list.extend(path.as_deref().map(|p| namespace(kind, Some(p))));
    }
    // On the unified hierarchy a container sees its own cgroup as the root; privileged ones manage the node's.
    if inputs.unified_cgroup && !inputs.config.security.privileged {
        list.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    list
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut ns = LinuxNamespace::default();
    ns.set_typ(kind).set_path(path.map(Path::to_owned));
    ns
}

/// The annotations that external runtimes and hooks know from other CRI implementations.
fn annotations(inputs: &ContainerInputs<'_>) -> HashMap<String, String> {
    let pod = &inputs.pod.metadata;
    [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-id", inputs.pod_id.as_str()),
        ("io.kubernetes.cri.sandbox-name", &pod.name),
        ("io.kubernetes.cri.sandbox-namespace", &pod.namespace),
        ("io.kubernetes.cri.sandbox-uid", &pod.uid),
        ("io.kubernetes.cri.container-name", &inputs.config.metadata.name),
        ("io.kubernetes.cri.image-name", &inputs.config.image.image),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}
