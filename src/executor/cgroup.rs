//! Joining a cgroup, and showing a container its own cgroups.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, open, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, mount, open_tree};

use crate::sys::mount::{MountAttr, attr, set_attributes};
use crate::types::CgroupJoin;

use super::error::{Cause, During, LaunchError, Step};
use super::mounts::{attach, set_flags};
use super::path::{Root, by_fd, shown};

/// Where the node keeps its cgroups.
const MOUNTED_AT: &str = "/sys/fs/cgroup";
/// `f_type` of cgroup v2 (`CGROUP2_SUPER_MAGIC`).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The directory to clone into, where that is possible.
pub(super) fn directory(join: Option<&CgroupJoin>) -> Step<Option<OwnedFd>> {
    let Some(CgroupJoin::V2(path)) = join else {
        return Ok(None);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty())
        .map(Some)
        .during("open", || format!("cgroup {}", shown(path)))
}

/// Moves process `pid` (0: the caller), which has one thread, into a cgroup by writing its id.
pub(super) fn join(join: &CgroupJoin, pid: i32) -> Step {
    match join {
        // See [`CgroupJoin::V1`] for why not cgroup.procs.
        CgroupJoin::V1(directories) => directories.iter().try_for_each(|d| enter(d, "tasks", pid)),
        CgroupJoin::V2(directory) => enter(directory, "cgroup.procs", pid),
    }
}

fn enter(directory: &Path, file: &str, pid: i32) -> Step {
    let file = directory.join(file);
    let mut handle = fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .during("join", || format!("cgroup {}", shown(directory)))?;
    handle.write_all(pid.to_string().as_bytes()).map_err(|e| {
        let error = LaunchError::errno("join", format!("cgroup {}", shown(directory)), e.number());
        match error.errno {
            Some(libc::EBUSY) => {
                error.advise("it has child cgroups with controllers on: only leaves hold processes")
            }
            Some(libc::EAGAIN) => error.advise("the cgroup's limit of processes is reached"),
            Some(libc::ENOSPC) => error.advise("cpuset.cpus or cpuset.mems of the cgroup is empty"),
            _ => error,
        }
    })
}

/// The process's own cgroups as directories of the node, found before a cgroup namespace hides them.
#[derive(Debug)]
pub(super) enum OwnCgroups {
    V1(Vec<Hierarchy>),
    V2(PathBuf),
}

/// One mounted hierarchy of v1, or the v2 one beside them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Directory under the mount point, such as `cpu,cpuacct`.
    name: String,
    /// Other names of it.
    aliases: Vec<String>,
    /// The process's cgroup in it.
    directory: PathBuf,
}

impl OwnCgroups {
    /// Looks them up.
    pub fn find() -> Step<Self> {
        let list = fs::read_to_string("/proc/self/cgroup").during("read", || "/proc/self/cgroup")?;
        let kind = rustix::fs::statfs(MOUNTED_AT).during("look at", || MOUNTED_AT)?;
        if kind.f_type == CGROUP2_MAGIC {
            let path = list.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
            return Ok(Self::V2(below(Path::new(MOUNTED_AT), path)));
        }
        Ok(Self::V1(
            hierarchies(&list)
                .into_iter()
                .filter(|h| h.directory.is_dir())
                .collect(),
        ))
    }

    /// Mounts them on `target`, which is `destination` in `root`, with these attributes besides.
    pub fn mount(&self, root: &Root, destination: &Path, target: &OwnedFd, attributes: u64) -> Step {
        let attributes = attributes | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        match self {
            Self::V2(path) => bind(path, target, attributes),
            Self::V1(list) => mount_v1(list, root, destination, target, attributes),
        }
    }
}

/// Parses lines such as `4:cpu,cpuacct:/pod/container`.
fn hierarchies(list: &str) -> Vec<Hierarchy> {
    list.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let name = match controllers {
                "" => "unified",
                other => other.strip_prefix("name=").unwrap_or(other),
            };
            let aliases = match name.contains(',') {
                true => name.split(',').map(str::to_owned).collect(),
                false => Vec::new(),
            };
            Some(Hierarchy {
                name: name.to_owned(),
                aliases,
                directory: below(&Path::new(MOUNTED_AT).join(name), path),
            })
        })
        .collect()
}

fn below(base: &Path, path: &str) -> PathBuf {
    base.join(path.trim_start_matches('/'))
}

fn mount_v1(list: &[Hierarchy], root: &Root, destination: &Path, target: &OwnedFd, attributes: u64) -> Step {
    let object = || format!("tmpfs for cgroups on {}", shown(destination));
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("cgroup", by_fd(target), "tmpfs", flags, c"mode=755,size=64k").during("mount", object)?;
    let top = root.find(destination).during("open", object)?;
    for hierarchy in list {
        mount_hierarchy(&top, hierarchy, attributes)?;
    }
    if attributes & attr::RDONLY != 0 {
        set_flags(&top, attr::RDONLY).during("make read-only", object)?;
    }
    Ok(())
}

fn mount_hierarchy(top: &OwnedFd, hierarchy: &Hierarchy, attributes: u64) -> Step {
    let object = || format!("cgroup hierarchy {}", hierarchy.name);
    mkdirat(top, &hierarchy.name, Mode::from_raw_mode(0o755)).during("make directory for", object)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(top, &hierarchy.name, flags, Mode::empty()).during("open", object)?;
    bind(&hierarchy.directory, &target, attributes)?;
    for alias in &hierarchy.aliases {
        match symlinkat(&hierarchy.name, top, alias) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(LaunchError::errno("link", object(), e.raw_os_error())),
        }
    }
    Ok(())
}

/// Binding a directory of what is mounted is cheaper than mounting cgroup2 again, which waits for the cgroup lock, and
/// shows the same in a cgroup namespace.
fn bind(source: &Path, target: &OwnedFd, attributes: u64) -> Step {
    let object = || format!("cgroup {}", shown(source));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags).during("open", object)?;
    let change = MountAttr {
        set: attributes & !attr::ATIME_MASK,
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    set_attributes(tree.as_fd(), false, &change).during("set flags of", object)?;
    attach(&tree, target).during("mount", object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let list = "5:cpu,cpuacct:/pods/a\n1:name=systemd:/\n0::/pods/a\nnonsense\n";
        let found = hierarchies(list);
        assert_eq!(
            found,
            [
                Hierarchy {
                    name: "cpu,cpuacct".into(),
                    aliases: vec!["cpu".into(), "cpuacct".into()],
                    directory: "/sys/fs/cgroup/cpu,cpuacct/pods/a".into(),
                },
                Hierarchy {
                    name: "systemd".into(),
                    aliases: vec![],
                    directory: "/sys/fs/cgroup/systemd/".into(),
                },
                Hierarchy {
                    name: "unified".into(),
                    aliases: vec![],
                    directory: "/sys/fs/cgroup/unified/pods/a".into(),
                },
            ]
        );
    }
}
