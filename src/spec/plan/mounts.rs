//! Mounts of a plan: the spec's options sorted into flags, attributes, propagation and data.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount as OciMount;
use serde::{Deserialize, Serialize};

use super::namespaces::mappings;
use super::options::{Meaning, meaning};
use crate::spec::selinux::mount_options;
use crate::sys::mount::attr;
use crate::types::security::IdMapping;
use crate::types::{Error, Result};

/// `MOUNT_ATTR_*` bits to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
}

impl Attributes {
    /// Whether there is nothing to change.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn apply(&mut self, bit: u64, on: bool) {
        // The access time modes are one field of the attributes, not bits.
        if bit == attr::RELATIME || bit & attr::ATIME_MASK != 0 {
            self.set = (self.set & !attr::ATIME_MASK) | if on { bit } else { 0 };
            self.clear |= attr::ATIME_MASK;
        } else if on {
            self.set |= bit;
            self.clear &= !bit;
        } else {
            self.set &= !bit;
            self.clear |= bit;
        }
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the node.
    Bind {
        /// Absolute path on the node.
        source: PathBuf,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// A new file system.
    Filesystem {
        /// Its type.
        fstype: String,
        /// Its device, or a name to show.
        source: String,
        /// `MS_*` flags.
        flags: u64,
        /// Options for the file system, comma-separated.
        data: String,
        /// Fill it with what it covers (tmpfs only).
        copy_up: bool,
    },
    /// The container's view of its cgroups, whatever version the node has.
    Cgroup,
    /// An image or a part of one, read-only.
    Image(ImageVolume),
    /// New flags for what is already mounted there.
    Remount {
        /// `MS_*` flags.
        flags: u64,
        /// Options for the file system.
        data: String,
    },
}

/// An image that a container sees at some path besides its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageVolume {
    /// Where: the destination of the spec's mount that stands for it.
    pub destination: PathBuf,
    /// What messages call the image.
    pub image: String,
    /// Layer directories, the topmost first. One alone is shown as it is, more are merged.
    pub layers: Vec<PathBuf>,
    /// The file or directory of the image that is shown; links in it are followed within the image. Empty means all.
    pub sub_path: PathBuf,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path inside; symbolic links in it are followed within the root.
    pub destination: PathBuf,
    /// What.
    pub kind: MountKind,
    /// Attributes of this mount.
    #[serde(default)]
    pub attributes: Attributes,
    /// Attributes of this mount and all below it.
    #[serde(default)]
    pub recursive: Attributes,
    /// `MS_*` propagation changes in order.
    #[serde(default)]
    pub propagation: Vec<u64>,
    /// User id mappings of an id-mapped mount.
    #[serde(default)]
    pub uid_mappings: Vec<IdMapping>,
    /// Group id mappings of an id-mapped mount.
    #[serde(default)]
    pub gid_mappings: Vec<IdMapping>,
    /// Map ids as the container's user namespace does, and whether below, too.
    #[serde(default)]
    pub id_map: Option<bool>,
}

pub(super) fn mounts(list: &[OciMount], label: Option<&str>) -> Result<Vec<Mount>> {
    list.iter().map(|m| convert(m, label)).collect()
}

/// Puts the images in the place of the spec's mounts that stand for them.
pub(super) fn place_images(mounts: &mut [Mount], volumes: &[ImageVolume]) -> Result<()> {
    for volume in volumes {
        let place = mounts
            .iter_mut()
            .find(|m| m.destination.components().eq(volume.destination.components()));
        let Some(mount) = place else {
            return Err(Error::invalid(format!(
                "spec: mounts: nothing is mounted at {}, where image {} belongs",
                volume.destination.display(),
                volume.image
            )));
        };
        mount.kind = MountKind::Image(volume.clone());
    }
    Ok(())
}

/// Whether a bind mount takes the place of `path`, so that its content is somebody else's.
pub(super) fn binds_over(mounts: &[Mount], path: &Path) -> bool {
    mounts
        .iter()
        .any(|m| matches!(m.kind, MountKind::Bind { .. }) && m.destination.components().eq(path.components()))
}

/// Options of one mount, sorted.
#[derive(Default)]
struct Sorted<'a> {
    flags: u64,
    attributes: Attributes,
    recursive: Attributes,
    propagation: Vec<u64>,
    bind: Option<bool>,
    remount: bool,
    copy_up: bool,
    id_map: Option<bool>,
    data: Vec<&'a str>,
}

fn sort(options: &[String]) -> Sorted<'_> {
    let mut out = Sorted::default();
    for option in options {
        match meaning(option) {
            Some(Meaning::Flag { ms, attr, on }) => {
                out.flags = if on { out.flags | ms } else { out.flags & !ms };
                if attr != 0 || ms == libc::MS_RELATIME {
                    out.attributes.apply(attr, on);
                }
            }
            Some(Meaning::Recursive { attr, on }) => out.recursive.apply(attr, on),
            Some(Meaning::Propagation(bits)) => out.propagation.push(bits),
            Some(Meaning::Bind { recursive }) => out.bind = Some(recursive),
            Some(Meaning::Remount) => out.remount = true,
            Some(Meaning::CopyUp) => out.copy_up = true,
            Some(Meaning::IdMap { recursive }) => out.id_map = Some(recursive),
            Some(Meaning::Nothing) => {}
            None => out.data.push(option),
        }
    }
    out
}

fn convert(mount: &OciMount, label: Option<&str>) -> Result<Mount> {
    let destination = mount.destination();
    let bad = |what: String| Error::invalid(format!("spec: mounts: {}: {what}", destination.display()));
    let fstype = mount.typ().as_deref().unwrap_or("none");
    let mut sorted = sort(mount.options().as_deref().unwrap_or_default());
    if fstype == "bind" && sorted.bind.is_none() {
        sorted.bind = Some(false);
    }
    if sorted.copy_up && fstype != "tmpfs" {
        return Err(bad("tmpcopyup works on a tmpfs only".into()));
    }

    let kind = if sorted.remount {
        MountKind::Remount {
            // With bind, the mount alone changes and not its file system.
            flags: sorted.flags | if sorted.bind.is_some() { libc::MS_BIND } else { 0 },
            data: data(&sorted, fstype, None),
        }
    } else if let Some(recursive) = sorted.bind {
        let source = mount
            .source()
            .clone()
            .ok_or_else(|| bad("a bind mount needs a source".into()))?;
        if !source.is_absolute() {
            return Err(bad(format!("the source {} is not absolute", source.display())));
        }
        MountKind::Bind { source, recursive }
    } else if matches!(fstype, "cgroup" | "cgroup2") {
        MountKind::Cgroup
    } else if fstype == "none" || fstype.is_empty() {
        return Err(bad("neither a type nor bind is given".into()));
    } else {
        filesystem(mount, fstype, &sorted, label)?
    };
    Ok(Mount {
        // Old specs have relative destinations, meaning "from the root".
        destination: Path::new("/").join(destination),
        kind,
        attributes: sorted.attributes,
        recursive: sorted.recursive,
        propagation: sorted.propagation,
        uid_mappings: mappings(mount.uid_mappings().as_ref()),
        gid_mappings: mappings(mount.gid_mappings().as_ref()),
        id_map: sorted.id_map,
    })
}

fn filesystem(mount: &OciMount, fstype: &str, sorted: &Sorted<'_>, label: Option<&str>) -> Result<MountKind> {
    let source = match mount.source() {
        Some(path) => path
            .to_str()
            .ok_or_else(|| Error::invalid("spec: mounts: a source is not UTF-8"))?
            .to_owned(),
        None => fstype.to_owned(),
    };
    Ok(MountKind::Filesystem {
        fstype: fstype.to_owned(),
        source,
        flags: sorted.flags,
        data: data(sorted, fstype, label),
        copy_up: sorted.copy_up,
    })
}

fn data(sorted: &Sorted<'_>, fstype: &str, label: Option<&str>) -> String {
    let data = sorted.data.join(",");
    // proc, sysfs and mqueue take no label at mount time.
    let label = label.filter(|_| !matches!(fstype, "proc" | "sysfs" | "mqueue"));
    mount_options(&data, label.unwrap_or_default())
}
