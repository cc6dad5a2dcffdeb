//! Descriptor numbers: putting a descriptor at a given number and closing ranges.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Closes all descriptors from `first` on. Whoever still owns one of them must not use or drop it: for a process that
/// is about to execve or exit.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first, 0)
}

/// Marks all descriptors from `first` on to be closed by execve.
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `EINVAL` before 5.11.
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    close_range(first, CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes integers only. That no owner uses what gets closed is the caller's part, as documented.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes `number` refer to what `fd` refers to, closing what it was; it is not closed by execve.
///
/// # Errors
/// As dup2(2).
pub fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // dup2 would leave close-on-exec as it is.
        // SAFETY: takes integers only.
        return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) });
    }
    // SAFETY: takes integers only; `fd` is open.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) })
}

/// Moves `fd` to exactly `number`, closing what was there, to be closed by execve.
///
/// # Errors
/// As dup3(2).
pub fn move_to(fd: OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() == number {
        return Ok(fd);
    }
    // SAFETY: takes integers only; `fd` is open.
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    // SAFETY: `number` is open now, and what it was before is gone together with its owner's right to it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Duplicates `fd` to a number of at least `least`, to be closed by execve.
///
/// # Errors
/// As fcntl(2), `F_DUPFD_CLOEXEC`.
pub fn dup_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only; `fd` is open.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    check(new)?;
    // SAFETY: the kernel made `new` just now.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
