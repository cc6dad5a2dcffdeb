//! The mount part of a spec: what every container gets, then what the client asked for.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use crate::types::container::Propagation;
use crate::types::security::{IdMapping, NamespaceMode};

use super::ContainerInputs;
use super::plan::ImageVolume;

/// Files and directories on the node that husk prepares for a pod.
#[derive(Debug, Clone, Default)]
pub struct PodFiles {
    /// For `/etc/hosts`.
    pub hosts: PathBuf,
    /// For `/etc/hostname`.
    pub hostname: PathBuf,
    /// For `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// For `/dev/shm`; shared by the pod's containers.
    pub shm: PathBuf,
}

/// A mount of the client with its source looked up on the node.
#[derive(Debug, Clone, Default)]
pub struct ResolvedMount {
    /// Path inside.
    pub container_path: PathBuf,
    /// Directory or file on the node; nothing where an image is mounted.
    pub source: PathBuf,
    /// An image in place of a path on the node.
    pub image: Option<ImageVolume>,
    /// Read-only.
    pub readonly: bool,
    /// Read-only all the way down.
    pub recursive_read_only: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// User id mappings of the mount.
    pub uid_mappings: Vec<IdMapping>,
    /// Group id mappings of the mount.
    pub gid_mappings: Vec<IdMapping>,
}

/// All mounts in the order they are made.
pub fn mounts(inputs: &ContainerInputs<'_>) -> Vec<Mount> {
    let wanted = inputs.mounts.iter().map(|m| match &m.image {
        Some(volume) => image(m, volume),
        None => bind(m),
    });
    in_order(system(inputs), pod_files(inputs), wanted.collect())
}

/// The system's first: who mounts the node's `/sys` wants all of it, and not the container's own cgroups in there. Then
/// the pod's files and what the client wants, parents before children: a volume at `/etc` must not cover `/etc/hosts`.
fn in_order(mut list: Vec<Mount>, mut files: Vec<Mount>, wanted: Vec<Mount>) -> Vec<Mount> {
    // What the client mounts at a path replaces what husk would have put there.
    let ours = |m: &Mount| !wanted.iter().any(|w| w.destination() == m.destination());
    list.retain(ours);
    files.retain(ours);
    files.extend(wanted);
    files.sort_by_key(|m| m.destination().components().count());
    list.extend(files);
    list
}

/// The propagation of the root that lets the client's mounts work, in the words of the OCI spec.
pub fn rootfs_propagation(mounts: &[ResolvedMount]) -> Option<&'static str> {
    let has = |p| mounts.iter().any(|m| m.propagation == p);
    if has(Propagation::Bidirectional) {
        Some("rshared")
    } else if has(Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

fn system(inputs: &ContainerInputs<'_>) -> Vec<Mount> {
    let access = if inputs.config.security.privileged {
        "rw"
    } else {
        "ro"
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]
}

fn pod_files(inputs: &ContainerInputs<'_>) -> Vec<Mount> {
    let files = inputs.files;
    let access = if inputs.config.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let mut list = Vec::with_capacity(4);
    for (inside, source) in [
        ("/etc/hostname", &files.hostname),
        ("/etc/hosts", &files.hosts),
        ("/etc/resolv.conf", &files.resolv_conf),
    ] {
        if !source.as_os_str().is_empty() {
            list.push(mount(inside, "bind", source, &["rbind", "rprivate", access]));
        }
    }
    let shm = if inputs.pod.security.namespaces.ipc == NamespaceMode::Node {
        Path::new("/dev/shm")
    } else {
        &files.shm
    };
    if !shm.as_os_str().is_empty() {
        list.push(mount(
            "/dev/shm",
            "bind",
            shm,
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"],
        ));
    }
    list
}

fn bind(m: &ResolvedMount) -> Mount {
    let propagation = match m.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (m.readonly, m.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let mut out = mount(
        &m.container_path,
        "bind",
        &m.source,
        &["rbind", propagation, access],
    );
    out.set_uid_mappings(mappings(&m.uid_mappings))
        .set_gid_mappings(mappings(&m.gid_mappings));
    out
}

/// The mount that stands for an image: as far as the OCI spec has words for it, and such that a runtime which knows no
/// more refuses a part of an image rather than show all of it. husk's executor is told by the plan.
fn image(m: &ResolvedMount, volume: &ImageVolume) -> Mount {
    let access = if m.recursive_read_only { "rro" } else { "ro" };
    let layers: Vec<_> = volume.layers.iter().map(|l| l.display().to_string()).collect();
    let lower = format!("lowerdir={}", layers.join(":"));
    let mut options = vec!["rprivate", access, &lower];
    let part = format!("husk.sub_path={}", volume.sub_path.display());
    if !volume.sub_path.as_os_str().is_empty() {
        options.push(&part);
    }
    mount(&m.container_path, "overlay", "overlay", &options)
}

pub(super) fn mappings(list: &[IdMapping]) -> Option<Vec<LinuxIdMapping>> {
    (!list.is_empty()).then(|| {
        list.iter()
            .filter_map(|m| {
                LinuxIdMappingBuilder::default()
                    .host_id(m.host_id)
                    .container_id(m.container_id)
                    .size(m.length)
                    .build()
                    .ok()
            })
            .collect()
    })
}

fn mount(to: impl AsRef<Path>, kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(to.as_ref().to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.as_ref().to_owned()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(files: &[&str], wanted: &[&str]) -> Vec<String> {
        let system = ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup"];
        let list = |paths: &[&str], source: &str| {
            let made = paths.iter().map(|to| mount(to, "bind", source, &[]));
            made.collect::<Vec<_>>()
        };
        let ordered = in_order(list(&system, "husk"), list(files, "pod"), list(wanted, "client"));
        let shown = ordered
            .iter()
            .skip_while(|m| m.source().as_deref() == Some(Path::new("husk")));
        let source = |m: &Mount| m.source().clone().unwrap_or_default();
        let text = |m: &Mount| format!("{} {}", source(m).display(), m.destination().display());
        shown.map(text).collect()
    }

    #[test]
    fn volumes_do_not_cover_the_pods_files() {
        let files = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm"];
        assert_eq!(
            order(&files, &["/data/b/c", "/etc", "/data/", "/etc/hosts", "/dev"]),
            [
                "client /etc",
                "client /data/",
                "client /dev",
                "pod /etc/hostname",
                "pod /etc/resolv.conf",
                "pod /dev/shm",
                "client /etc/hosts",
                "client /data/b/c",
            ]
        );
    }

    #[test]
    fn the_nodes_sys_is_shown_whole() {
        // Nothing of husk's comes behind it.
        assert_eq!(
            order(&["/etc/hosts"], &["/sys"]),
            ["client /sys", "pod /etc/hosts"]
        );
    }
}
