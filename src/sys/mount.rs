//! mount_setattr(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `MOUNT_ATTR_*` bits.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// The bits that hold the access time mode.
    pub const ATIME_MASK: u64 = 0x70;
    /// Access times relative to modification times: the mode that is zero.
    pub const RELATIME: u64 = 0;
    /// No access times.
    pub const NOATIME: u64 = 0x10;
    /// Access times on every read.
    pub const STRICTATIME: u64 = 0x20;
    /// No access times for directories.
    pub const NODIRATIME: u64 = 0x80;
    /// Ids are mapped through a user namespace.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttr {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// `MS_SHARED` and the like, or 0.
    pub propagation: u64,
    /// User namespace for [`attr::IDMAP`].
    pub userns_fd: u64,
}

/// Changes the mount that `mount` refers to the root of; with `recursive`, all mounts below it as well.
///
/// # Errors
/// `ENOSYS` before Linux 5.12, `EINVAL` if `mount` is not a mount's root or is not the caller's, `EPERM` for flags that
/// a user namespace has locked.
pub fn set_attributes(mount: BorrowedFd<'_>, recursive: bool, attributes: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attributes` is a mount_attr of the size given and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
