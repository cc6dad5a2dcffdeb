//! Writing a container down.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::executor::LaunchError;
use crate::executor::criu::rpc::{CGROUPS_IGNORED, Options, Request, Type};
use crate::executor::criu::{self, PIDS};
use crate::image::layer::pack::pack_tree;
use crate::spec::plan::NamespaceKind;
use crate::types::MountLine;
use crate::types::error::{Context, Error, Result};

use super::super::criu::Criu;
use super::archive;

/// What is needed to know of a running container.
pub(super) struct Subject {
    /// Its first process, for good.
    pub process: OwnedFd,
    /// By number.
    pub pid: i32,
    pub spec: Spec,
    /// Where its changes are.
    pub upper: PathBuf,
}

/// Writes the container down in `dir`, a new directory. Its processes stand still while criu copies them and while the
/// changes in its root file system are packed, and then go on. Execs are no part of it, and do not stand still.
///
/// # Errors
/// What criu said; the disk is full; the container ended meanwhile.
pub(super) fn dump(criu: &Criu, subject: &Subject, dir: &Path) -> Result<()> {
    let images_path = dir.join(archive::IMAGES);
    std::fs::create_dir(&images_path).with_context(|| format!("create {}", images_path.display()))?;
    archive::write_json(&images_path, criu::STREAMS, &streams(subject.pid)?)?;
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (images, work) = (open(&images_path)?, open(dir)?);
    let request = Request {
        kind: Type::Dump as i32,
        options: Some(Options {
            images_dir_fd: images.as_raw_fd(),
            work_dir_fd: Some(work.as_raw_fd()),
            pid: Some(subject.pid),
            leave_running: Some(true),
            log_level: Some(4),
            log_file: Some(archive::LOG.to_owned()),
            notify_scripts: Some(true),
            manage_cgroups_mode: Some(CGROUPS_IGNORED),
            external: external(subject)?,
            // Whoever it talks to stays behind, and the next pod has another address.
            tcp_close: Some(true),
            ext_unix_sk: Some(true),
            file_locks: Some(true),
            ..Options::default()
        }),
        notify_success: None,
    };
    let changes = dir.join(archive::CHANGES);
    let outcome = criu.serve(&subject.process, &request, |stage| match stage {
        // The container's own processes stand still: the files fit the memory.
        "post-dump" => pack_changes(&subject.upper, &changes),
        _ => Ok(()),
    });
    outcome.map(drop).map_err(|error| {
        let log = dir.join(archive::LOG);
        let reason =
            criu::complaints(&log).map_or_else(|| error.to_string(), |said| format!("criu says: {said}"));
        Error::internal(reason)
    })
}

fn pack_changes(upper: &Path, to: &Path) -> Result<(), LaunchError> {
    File::create(to)
        .and_then(|out| pack_tree(upper, BufWriter::with_capacity(1 << 20, out)))
        .and_then(|mut out| out.flush())
        .map_err(|e| LaunchError::new("pack", upper.display(), e.to_string()))
}

/// What the standard streams are, in criu's words.
fn streams(pid: i32) -> Result<Vec<String>> {
    (0..3)
        .map(|number| {
            let link = format!("/proc/{pid}/fd/{number}");
            match std::fs::read_link(&link) {
                Ok(to) => Ok(to.display().to_string()),
                // The program may have closed it.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                Err(e) => Err(e).with_context(|| format!("read {link}")),
            }
        })
        .collect()
}

/// What comes from outside the container: mounts that criu could not make by itself, by their place in the container,
/// and a process id namespace that is the pod's.
fn external(subject: &Subject) -> Result<Vec<String>> {
    let path = format!("/proc/{}/mountinfo", subject.pid);
    let table = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let mut found: Vec<String> = MountLine::all(&table)
        .filter(|m| !is_own(m, &subject.spec))
        .map(|m| format!("mnt[{0}]:{0}", m.point.display()))
        .collect();
    if let Some(inode) = shared_pids(&subject.spec, subject.pid)? {
        found.push(format!("pid[{inode}]:{PIDS}"));
    }
    Ok(found)
}

/// Whether criu can make the mount anew: a file system that the container has to itself.
fn is_own(mount: &MountLine<'_>, spec: &Spec) -> bool {
    if mount.point == Path::new("/") {
        return true;
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    // Of those at or above the place the deepest is what it belongs to; of several at one place the last covers the rest.
    let of_spec = mounts
        .iter()
        .filter(|m| mount.point.starts_with(m.destination()))
        .max_by_key(|m| m.destination().components().count());
    let kind = of_spec.and_then(|m| m.typ().as_deref()).unwrap_or_default();
    matches!(
        (kind, mount.fstype),
        // In /proc there are parts of it that became read-only, there and in /sys what hides something.
        ("proc", "proc" | "tmpfs") | ("sysfs" | "tmpfs", "tmpfs") | ("devpts", "devpts")
    )
}

/// The number of the process id namespace if it is the pod's and not the container's own.
fn shared_pids(spec: &Spec, pid: i32) -> Result<Option<u64>> {
    use std::os::unix::fs::MetadataExt as _;
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let joined = namespaces
        .into_iter()
        .flatten()
        .any(|n| NamespaceKind::from(n.typ()) == NamespaceKind::Pid && n.path().is_some());
    if !joined {
        return Ok(None);
    }
    let path = format!("/proc/{pid}/ns/pid");
    let inode = std::fs::metadata(&path)
        .with_context(|| format!("look at {path}"))?
        .ino();
    Ok(Some(inode))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_a_container_has_to_itself_is_made_anew() {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
                {"destination": "/dev/shm", "type": "bind", "source": "/proc/7/fd/9"},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
                {"destination": "/data", "type": "bind", "source": "/srv"},
                {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}
            ]
        }))
        .unwrap();
        let own = |point: &str, fstype: &str| {
            let line = format!("1 2 0:3 / {point} rw - {fstype} x rw");
            is_own(&MountLine::parse(&line).unwrap(), &spec)
        };
        for (point, fstype) in [
            ("/", "overlay"),
            ("/proc", "proc"),
            ("/proc/sys", "proc"),
            ("/proc/acpi", "tmpfs"),
            ("/dev", "tmpfs"),
            ("/dev/pts", "devpts"),
            ("/sys/firmware", "tmpfs"),
            ("/scratch", "tmpfs"),
        ] {
            assert!(own(point, fstype), "{point}");
        }
        for (point, fstype) in [
            ("/proc/kcore", "devtmpfs"),
            ("/dev/shm", "tmpfs"),
            ("/dev/mqueue", "mqueue"),
            ("/sys", "sysfs"),
            ("/sys/fs/cgroup", "tmpfs"),
            ("/sys/fs/cgroup/pids", "cgroup"),
            ("/sys/fs/cgroup", "cgroup2"),
            ("/data", "ext4"),
            ("/data", "tmpfs"),
            ("/data/below", "tmpfs"),
            ("/etc/hosts", "ext4"),
            ("/etc/hosts", "tmpfs"),
        ] {
            assert!(!own(point, fstype), "{point} {fstype}");
        }
    }
}
