//! Entering namespaces, and setting up what a new one lacks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Leaves the namespaces named by `CLONE_NEW*` bits for new ones. The file table is never unshared.
///
/// # Errors
/// As unshare(2).
pub fn unshare(flags: u64) -> io::Result<()> {
    // Only CLONE_FILES would touch descriptors, and it is not a namespace.
    let flags = i32::try_from(flags & !u64::from(libc::CLONE_FILES.cast_unsigned()))
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: takes an integer only; memory and descriptors stay shared as they were.
    check(unsafe { libc::unshare(flags) })
}

/// Enters a namespace by its own descriptor, or those of a process by its pidfd (Linux 5.8).
///
/// # Errors
/// As setns(2).
pub fn enter(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    let flags = i32::try_from(flags).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: takes integers only.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) })
}

/// Sets the NIS domain name of the UTS namespace.
///
/// # Errors
/// As setdomainname(2).
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`, which is only read.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })
}

/// Brings the loopback interface of the network namespace up.
///
/// # Errors
/// As socket(2) and netdevice(7).
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: takes integers only.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(raw)?;
    // SAFETY: the kernel made `raw` just now.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with the name and the flags set, both of which are.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
