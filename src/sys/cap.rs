//! Capabilities by bit mask: capset(2) and the prctl(2) calls beside it.

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The sets of a thread that capset(2) changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// In force.
    pub effective: u64,
    /// Can be put in force.
    pub permitted: u64,
    /// Kept over execve where the file agrees.
    pub inheritable: u64,
}

/// The calling thread's sets.
///
/// # Errors
/// As capget(2).
pub fn get() -> io::Result<Sets> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 means two data structs, which `data` has; both are valid for writes.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(Sets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Sets the calling thread's sets.
///
/// # Errors
/// `EPERM` for a capability that is not permitted.
pub fn set(sets: Sets) -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 means two data structs, which `data` has; they are only read.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

/// Whether capability number `n` is in the bounding set; `None` if the kernel has no such capability.
pub fn in_bounding_set(n: u8) -> Option<bool> {
    // SAFETY: takes integers only.
    match unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(n), 0, 0, 0) } {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Drops capability number `n` from the bounding set.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP, `EINVAL` if the kernel has no such capability.
pub fn drop_bounding(n: u8) -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(n), 0, 0, 0) }.into())
}

/// Empties the ambient set.
///
/// # Errors
/// As prctl(2).
pub fn clear_ambient() -> io::Result<()> {
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)
}

/// Adds capability number `n` to the ambient set; it must be permitted and inheritable.
///
/// # Errors
/// `EPERM` if it is not.
pub fn raise_ambient(n: u8) -> io::Result<()> {
    ambient(libc::PR_CAP_AMBIENT_RAISE, n)
}

fn ambient(operation: libc::c_int, n: u8) -> io::Result<()> {
    let operation = libc::c_ulong::from(operation.unsigned_abs());
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, libc::c_ulong::from(n), 0, 0) }.into())
}

/// Keeps the permitted set when the user id changes from 0; execve resets it.
///
/// # Errors
/// As prctl(2).
pub fn keep_over_setuid() -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1 as libc::c_ulong, 0, 0, 0) }.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
