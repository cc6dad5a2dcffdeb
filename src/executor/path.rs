//! Paths inside a root file system that somebody else filled: symbolic links and `..` never lead out of it.
//!
//! Everything is done by descriptor. The kernel resolves (`RESOLVE_IN_ROOT`), so a file system that changes meanwhile
//! cannot lead astray either; only where something has to be created are the steps taken one by one.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// What has to be at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Directory,
    File,
}

/// A directory that bounds all lookups.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// Bounds lookups by an open directory.
    pub fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens what is at `path`, following links within the root.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(path, flags, ResolveFlags::empty())
    }

    /// A handle on what is at `path`.
    pub fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH)
    }

    /// As [`Root::find`], but no part of `path` may be a symbolic link (`ELOOP`).
    pub fn find_without_links(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.resolve(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    fn resolve(&self, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let mut tries = 32;
        loop {
            match openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed while the kernel looked at a `..`.
                Err(Errno::AGAIN) if tries > 0 => tries -= 1,
                result => return result,
            }
        }
    }

    /// A handle on what is at `path`; directories on the way and the end itself are made if they are missing.
    /// Links that point to nothing yet get what they point to.
    pub fn find_or_make(&self, path: &Path, want: Want) -> Result<OwnedFd, Errno> {
        match self.find(path) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        self.walk(path, want)
    }

    /// Walks component by component, making what is missing.
    fn walk(&self, path: &Path, want: Want) -> Result<OwnedFd, Errno> {
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut here = rustix::io::dup(&self.0)?;
        let mut rest: Vec<OsString> = reversed(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                here = above.pop().unwrap_or(here);
                continue;
            }
            let kind = if rest.is_empty() { want } else { Want::Directory };
            let next = match open_child(&here, &name) {
                Err(Errno::NOENT) => make_child(&here, &name, kind)?,
                result => result?,
            };
            match file_type(&next)? {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = readlinkat(&next, c"", Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        above.clear();
                        here = rustix::io::dup(&self.0)?;
                    }
                    rest.extend(reversed(&target));
                }
                FileType::Directory => above.push(std::mem::replace(&mut here, next)),
                _ if rest.is_empty() => return Ok(next),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(here)
    }
}

/// Components in the order they are popped; `.` and the leading `/` mean nothing here.
fn reversed(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn open_child(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn make_child(directory: &OwnedFd, name: &OsStr, want: Want) -> Result<OwnedFd, Errno> {
    let made = match want {
        Want::Directory => mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        Want::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Somebody else was faster, which is as good.
        Ok(()) | Err(Errno::EXIST) => open_child(directory, name),
        Err(e) => Err(e),
    }
}

/// The type of the file behind a handle.
pub(super) fn file_type(fd: &OwnedFd) -> Result<FileType, Errno> {
    let stat = statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// A path to a descriptor's file for system calls that want one. Only for use while the node's `/proc` is visible.
pub(super) fn by_fd(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Shows a path in a message.
pub(super) fn shown(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}
