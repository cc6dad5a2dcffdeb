//! Labels on files and directories.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, XattrFlags, fstat, openat};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::types::error::{Context, Error, Result};
use crate::types::security::SELINUX_ATTRIBUTE;

/// Deeper trees are refused rather than followed.
const MAX_DEPTH: usize = 256;
/// What would no longer work for the node with a container's label.
const REFUSED: [&str; 27] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/etc/ssl",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/lib/kubelet",
    "/var/log",
];

/// Gives what is in the store of images the label `label`. What is unpacked later inherits it from the directories.
///
/// A layer has its label when its directory has: who is interrupted goes on with the next layer at the next start, and
/// one layer that cannot be labelled is tried again then, and stands in no other's way.
pub(super) fn label_store(root: &Path, label: &str) {
    let wanted = |path: &Path| read(path).as_deref() != Some(label.as_bytes());
    for directory in ["layers", "staging", "empty"].map(|name| root.join(name)) {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let todo: Vec<_> = entries.map(|e| e.path()).filter(|path| wanted(path)).collect();
        if !todo.is_empty() {
            info!(directory = %directory.display(), count = todo.len(), label, "labelling images for SELinux");
        }
        let failed = |path: &Path| relabel(path, label).inspect_err(|e| failure(path, e)).is_err();
        let failures = todo.into_iter().filter(|path| failed(path)).count();
        // By itself, and before anything is unpacked into it.
        let own = open(CWD, directory.as_os_str()).map_err(io::Error::from);
        if let Err(e) = own.and_then(|file| set(&file, label)) {
            failure(&directory, &e);
        }
        if failures > 0 {
            warn!(directory = %directory.display(), failures, "containers may not be able to read these images");
        }
    }
}

fn failure(path: &Path, error: &dyn std::fmt::Display) {
    warn!(path = %path.display(), %error, "cannot be labelled for SELinux");
}

/// Labels a file or a directory with all that is in it; links in it are not followed. Nothing happens for an empty label or
/// on a file system that has no labels. A directory is labelled after what is in it, so that one that has its label is done.
///
/// # Errors
/// A directory that the node needs as it is; what cannot be read or labelled.
pub(in crate::pod) fn relabel(path: &Path, label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    let what = || format!("label {} for SELinux", path.display());
    let real = fs::canonicalize(path).with_context(what)?;
    // Callers have followed links, such as /lib to /usr/lib.
    let same = |refused: &&str| {
        let refused = Path::new(refused);
        path == refused || fs::canonicalize(refused).is_ok_and(|refused| refused == real)
    };
    if REFUSED.iter().any(same) {
        return Err(Error::invalid(format!(
            "selinux_relabel of {}: the node could not use it any more",
            path.display()
        )));
    }
    let top = open(CWD, real.as_os_str()).with_context(what)?;
    walk(&top, label, 0).map_err(|e| Error::internal(format!("{}: {e}", what())))
}

/// Whoever may write to the directory, such as a container that has it already, may put a link in a directory's place at
/// any moment: everything is reached from a descriptor of what it is in.
fn walk(file: &OwnedFd, label: &str, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("too many directories in directories"));
    }
    if FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(file, ".", flags, Mode::empty())?;
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match open(file, OsStr::from_bytes(name.to_bytes())) {
                Ok(below) => walk(&below, label, depth + 1)?,
                // Removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    set(file, label)
}

fn open(place: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(place, name, flags, Mode::empty())
}

fn set(file: &OwnedFd, label: &str) -> io::Result<()> {
    let path = by_fd(file);
    // Setting it again would write to the disk.
    if read(&path).as_deref() == Some(label.as_bytes()) {
        return Ok(());
    }
    match rustix::fs::setxattr(&path, SELINUX_ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A descriptor that was opened as a path takes no attributes itself.
fn by_fd(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// The label of what is at `path`.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, SELINUX_ATTRIBUTE, &mut value).ok()?;
    value.truncate(length);
    // The kernel counts the NUL that it puts behind a label.
    value.pop_if(|last| *last == 0);
    Some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_nodes_own_directories_are_not_relabelled() {
        for path in REFUSED {
            assert!(relabel(Path::new(path), "l").is_err(), "{path}");
            // Nor by the name that its links lead to.
            if let Ok(real) = fs::canonicalize(path) {
                assert!(relabel(&real, "l").is_err(), "{path} is {}", real.display());
            }
        }
        assert!(relabel(Path::new("/"), "").is_ok());
    }

    #[test]
    fn everything_in_a_directory_is_labelled_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        relabel(dir.path(), label).unwrap();
        let of = |path: &Path| {
            let mut value = [0u8; 128];
            let n = rustix::fs::lgetxattr(path, SELINUX_ATTRIBUTE, &mut value).ok()?;
            Some(String::from_utf8(value[..n].to_vec()).unwrap())
        };
        // Without SELinux the kernel keeps the attribute as any other, where the file system has attributes.
        if let Some(found) = of(dir.path()) {
            assert_eq!(found, label);
            assert_eq!(of(&dir.path().join("sub/file")).as_deref(), Some(label));
            assert_ne!(of(outside.path()).as_deref(), Some(label));
        }
    }
}
