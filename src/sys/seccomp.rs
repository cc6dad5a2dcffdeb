//! seccomp(2).

use std::io;

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: libc::c_uint = 1;

/// Installs `filter`, an array of `struct sock_filter` in memory order, for the calling thread and what it becomes.
/// `flags` are `SECCOMP_FILTER_FLAG_*`. Needs CAP_SYS_ADMIN or the no_new_privs bit. Allocates nothing, so a forked
/// child may call it.
///
/// # Errors
/// What the kernel says; `EINVAL` for a program it does not take, `EBUSY` if another thread could not be brought in
/// line (`SECCOMP_FILTER_FLAG_TSYNC`).
pub fn install(filter: &[u64], flags: u32) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` describes `filter`: `len` elements of 8 bytes with the size of `sock_filter` and at least its
    // alignment. Both live until the call returns; the kernel copies the program and writes to neither.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    match result {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        // With TSYNC: the id of a thread that has other filters.
        _ => Err(io::Error::from_raw_os_error(libc::EBUSY)),
    }
}
