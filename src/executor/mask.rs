//! Paths that become empty or read-only.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, mount, mount_bind, open_tree};

use crate::spec::selinux::mount_options;
use crate::sys::mount::{MountAttr, attr, set_attributes};

use super::error::{During, LaunchError, Step};
use super::mounts::attach;
use super::path::{Root, by_fd, file_type, shown};

/// Covers each path that exists: a file with the node's `/dev/null`, a directory with an empty tmpfs. One tmpfs serves
/// all directories. It gets the SELinux label `label`, if any.
pub(super) fn mask(root: &Root, paths: &[PathBuf], label: &str) -> Step {
    if paths.is_empty() {
        return Ok(());
    }
    // The node's, not the container's: that one may have been tampered with.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = open(c"/dev/null", flags, Mode::empty()).during("open", || "/dev/null")?;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let object = || shown(path);
        let Some(target) = existing(root, path, "mask")? else {
            continue;
        };
        let is_directory = file_type(&target).during("look at", object)? == FileType::Directory;
        match (&empty, is_directory) {
            (_, false) => mount_bind(by_fd(&null), by_fd(&target)).during("mask", object)?,
            (Some(tmpfs), true) => mount_bind(by_fd(tmpfs), by_fd(&target)).during("mask", object)?,
            (None, true) => {
                cover(&target, label).during("mask", object)?;
                empty = existing(root, path, "mask")?;
            }
        }
    }
    Ok(())
}

fn cover(target: &OwnedFd, label: &str) -> Result<(), Errno> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let data = mount_options("size=4k,mode=755", label);
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    mount("tmpfs", by_fd(target), "tmpfs", flags, data.as_c_str())
}

/// Makes each path that exists read-only, with all below it.
pub(super) fn make_readonly(root: &Root, paths: &[PathBuf]) -> Step {
    for path in paths {
        if let Some(target) = existing(root, path, "make read-only")? {
            rebind_readonly(&target).during("make read-only", || shown(path))?;
        }
    }
    Ok(())
}

fn rebind_readonly(target: &OwnedFd) -> Result<(), Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, by_fd(target), flags)?;
    let readonly = MountAttr {
        set: attr::RDONLY,
        ..MountAttr::default()
    };
    set_attributes(tree.as_fd(), true, &readonly)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    attach(&tree, target)
}

fn existing(root: &Root, path: &Path, step: &str) -> Step<Option<OwnedFd>> {
    match root.find(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(LaunchError::errno(step, shown(path), e.raw_os_error())),
    }
}
