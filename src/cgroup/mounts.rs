//! Where the hierarchies are mounted.

use std::fs;
use std::path::{Path, PathBuf};

use crate::types::{Error, MountLine, Result};

use super::controller::{Controller, Set};

/// A mounted version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Its controllers; empty for a named one, such as systemd's.
    pub(super) controllers: Set,
    /// Mount point.
    pub(super) mount: PathBuf,
}

/// What is mounted below the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mounts {
    /// The hierarchies, the freezer's last.
    V1(Vec<Hierarchy>),
    /// The mount point of the unified hierarchy.
    V2(PathBuf),
}

/// Looks at the mounts of this process; a root that is no mount point is judged by its layout.
///
/// # Errors
/// `FailedPrecondition` if there are no cgroups below `root`.
pub(super) fn find(root: &Path) -> Result<Mounts> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let named = Path::new("/run/systemd/system").is_dir();
    from_mountinfo(&table, root, named)
        .or_else(|| from_layout(root))
        .ok_or_else(|| {
            Error::precondition(format!(
                "no cgroups are mounted on {}: mount cgroup2 there, or the version 1 controllers below it",
                root.display()
            ))
        })
}

/// Mount points of hierarchies below `root` that husk makes nothing in: named ones, and the version 2 hierarchy beside
/// version 1 controllers.
pub(super) fn unused(root: &Path, used: &Mounts) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    unused_of(&table, root, used)
}

fn unused_of(table: &str, root: &Path, used: &Mounts) -> Vec<PathBuf> {
    let Mounts::V1(used) = used else {
        return Vec::new();
    };
    MountLine::all(table)
        .filter(|m| matches!(m.fstype, "cgroup" | "cgroup2") && m.point.starts_with(root))
        .map(|m| m.point)
        .filter(|point| !used.iter().any(|h| h.mount == *point))
        .collect()
}

/// `named`: take hierarchies without a controller too. They only matter where systemd tracks services with one.
fn from_mountinfo(table: &str, root: &Path, named: bool) -> Option<Mounts> {
    let mut v1: Vec<Hierarchy> = Vec::new();
    for mount in MountLine::all(table) {
        if mount.fstype == "cgroup2" && mount.point == root {
            return Some(Mounts::V2(mount.point));
        }
        if mount.fstype != "cgroup" || !mount.point.starts_with(root) {
            continue;
        }
        let controllers = Set::parse(mount.options);
        let wanted = !controllers.is_empty() || (named && mount.options.contains("name="));
        if wanted && !v1.iter().any(|h| h.controllers == controllers) {
            v1.push(Hierarchy {
                controllers,
                mount: mount.point,
            });
        }
    }
    freezer_last(v1)
}

/// Judges by what is in the directory, as far as that can tell.
fn from_layout(root: &Path) -> Option<Mounts> {
    if root.join("cgroup.controllers").exists() {
        return Some(Mounts::V2(root.to_owned()));
    }
    let mut v1: Vec<Hierarchy> = Vec::new();
    for entry in fs::read_dir(root).ok()?.flatten() {
        let controllers = Set::parse(entry.file_name().to_str().unwrap_or_default());
        // `cpu` and `cpuacct` are often symlinks to `cpu,cpuacct`.
        if !controllers.is_empty() && entry.file_type().is_ok_and(|t| t.is_dir()) {
            v1.push(Hierarchy {
                controllers,
                mount: entry.path(),
            });
        }
    }
    v1.sort_by(|a, b| a.mount.cmp(&b.mount));
    freezer_last(v1)
}

/// The last one gets the cgroups of execs. Without a freezer that of the process counts does as well: a child of its own
/// there changes nothing for anybody.
fn freezer_last(mut v1: Vec<Hierarchy>) -> Option<Mounts> {
    v1.sort_by_key(|h| {
        (
            h.controllers.contains(Controller::Freezer),
            h.controllers.contains(Controller::Pids),
        )
    });
    (!v1.is_empty()).then_some(Mounts::V1(v1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
36 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
90 31 0:32 / /elsewhere/memory rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn hybrid_is_version_1_with_the_freezer_last() {
        let Some(Mounts::V1(found)) = from_mountinfo(HYBRID, Path::new("/sys/fs/cgroup"), false) else {
            panic!("not version 1");
        };
        let mounts: Vec<_> = found.iter().map(|h| h.mount.to_str().unwrap()).collect();
        assert_eq!(
            mounts,
            [
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/freezer"
            ]
        );
        assert!(found[0].controllers.contains(Controller::Cpuacct));
    }

    #[test]
    fn what_is_not_used_is_known_all_the_same() {
        let root = Path::new("/sys/fs/cgroup");
        let used = from_mountinfo(HYBRID, root, false).unwrap();
        let unused = unused_of(HYBRID, root, &used);
        assert_eq!(
            unused,
            ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].map(PathBuf::from)
        );
        assert!(unused_of(HYBRID, root, &Mounts::V2(root.to_owned())).is_empty());
    }

    #[test]
    fn named_hierarchies_count_where_systemd_runs() {
        let Some(Mounts::V1(found)) = from_mountinfo(HYBRID, Path::new("/sys/fs/cgroup"), true) else {
            panic!("not version 1");
        };
        assert!(found.iter().any(|h| h.mount.ends_with("systemd")));
    }

    #[test]
    fn unified_is_version_2() {
        let table = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let root = Path::new("/sys/fs/cgroup");
        assert_eq!(
            from_mountinfo(table, root, false),
            Some(Mounts::V2(root.to_owned()))
        );
    }

    #[test]
    fn a_directory_is_judged_by_its_layout() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(dir.path()).is_err());
        for name in ["memory", "cpu,cpuacct", "freezer", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", dir.path().join("cpu")).unwrap();
        let Mounts::V1(found) = find(dir.path()).unwrap() else {
            panic!("not version 1")
        };
        assert_eq!(found.len(), 3);
        assert!(found[2].mount.ends_with("freezer"));
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert_eq!(find(dir.path()).unwrap(), Mounts::V2(dir.path().to_owned()));
    }
}
