//! Owner, mode, extended attributes and times, in the one order that works: a change of owner takes set-id bits and
//! capabilities away, so it comes first, and everything changes times, so those come last.

use std::borrow::Cow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::LayerError;
use super::display;
use super::place::{Dir, failed};
use crate::image::layer::archive::{Entry, Time};
use crate::types::security::SELINUX_ATTRIBUTE;

/// Set-id and sticky bits.
const SPECIAL: u32 = 0o7000;
/// Inherited by what is made in a directory, so set once all is made.
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What an inode has besides its contents. The permission bits were given when it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) path: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Attributes<'a> {
    pub(super) fn of(entry: &'a Entry) -> Self {
        Self {
            path: &entry.path,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        }
    }

    /// Sets all on a file that is open. Returns how many extended attributes the file system refused.
    pub(super) fn apply_to_file(&self, fd: BorrowedFd<'_>) -> Result<u64, LayerError> {
        if self.needs_chown() {
            rustix::fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
                .map_err(|e| failed("set the owner of", self.path, e))?;
        }
        if self.mode & SPECIAL != 0 {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))
                .map_err(|e| failed("set the mode of", self.path, e))?;
        }
        let skipped = self.set_xattrs(
            |name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            true,
        )?;
        rustix::fs::futimens(fd, &timestamps(self.mtime))
            .map_err(|e| failed("set the time of", self.path, e))?;
        Ok(skipped)
    }

    /// Sets all on what cannot be opened: a link, a device, a pipe.
    pub(super) fn apply_to_node(&self, dir: &Dir, base: &[u8], is_link: bool) -> Result<u64, LayerError> {
        if self.needs_chown() {
            let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
            rustix::fs::chownat(&dir.fd, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed("set the owner of", self.path, e))?;
        }
        if self.mode & SPECIAL != 0 && !is_link {
            // No link can have taken the node's place: nobody else works in this directory.
            rustix::fs::chmodat(&dir.fd, base, Mode::from_raw_mode(self.mode), AtFlags::empty())
                .map_err(|e| failed("set the mode of", self.path, e))?;
        }
        let path = by_descriptor(dir.fd.as_fd(), base);
        let set = |name: &[u8], value: &[u8]| {
            rustix::fs::lsetxattr(path.as_slice(), name, value, XattrFlags::empty())
        };
        let skipped = self.set_xattrs(set, false)?;
        rustix::fs::utimensat(&dir.fd, base, &timestamps(self.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("set the time of", self.path, e))?;
        Ok(skipped)
    }

    /// Sets the extended attributes that do not have to wait.
    pub(super) fn set_xattrs(
        &self,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
        is_file: bool,
    ) -> Result<u64, LayerError> {
        let mut skipped = 0;
        for (name, value) in self
            .xattrs
            .iter()
            .filter(|(name, _)| name != DEFAULT_ACL && name != SELINUX_ATTRIBUTE.as_bytes())
        {
            match set(&stored_name(name), value) {
                Ok(()) => {}
                Err(error) if may_skip(name, error, is_file) => skipped += 1,
                Err(error) => {
                    let action = format!("set extended attribute {:?} of", display(name));
                    return Err(failed(&action, self.path, error));
                }
            }
        }
        Ok(skipped)
    }

    fn needs_chown(&self) -> bool {
        // Whoever unpacks is root, so that is what new inodes belong to.
        (self.uid, self.gid) != (0, 0)
    }
}

/// Overlayfs reads its own state from these names, and an image could redirect it with them. It keeps a way for such
/// attributes of its users: one level of `overlay.` more, which it takes off again for whoever looks through the mount.
pub(super) fn stored_name(name: &[u8]) -> Cow<'_, [u8]> {
    for prefix in [b"trusted.overlay.".as_slice(), b"user.overlay."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return Cow::Owned([prefix, b"overlay.", rest].concat());
        }
    }
    Cow::Borrowed(name)
}

/// Losing a capability would break a program silently. Everything else is a hint that not every store can keep.
fn may_skip(name: &[u8], error: Errno, is_file: bool) -> bool {
    match error {
        Errno::NOTSUP => true,
        Errno::PERM | Errno::ACCESS => {
            name != b"security.capability" && (!is_file || !name.starts_with(b"user."))
        }
        _ => false,
    }
}

/// A path for calls that take no directory descriptor. Its last component is not followed by the `l` calls.
pub(super) fn by_descriptor(dir: BorrowedFd<'_>, base: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(base);
    path
}

/// Sets the modification time and leaves the access time.
pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanos.into(),
        },
    }
}
