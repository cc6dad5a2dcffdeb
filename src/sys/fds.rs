//! The descriptor table as a whole.

use std::io;

/// Closes every descriptor above standard error. Only for the first moments of a process, before anything is open that
/// somebody owns: what was inherited by accident must not live as long as the process.
///
/// # Errors
/// As close_range(2).
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: called before anything owns a descriptor above 2, so no owner finds its own closed or reused.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
