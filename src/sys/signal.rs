//! Signal dispositions, and signals by pidfd including the real-time ones.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::sys::signal::{SigHandler, Signal, signal};

/// Ignores `which` from now on. An ignored signal stays ignored across exec(2): see [`restore`].
///
/// # Errors
/// As sigaction(2).
pub fn ignore(which: Signal) -> io::Result<()> {
    // SAFETY: ignoring a signal installs no code, so nothing can be asynchronously unsafe.
    unsafe { signal(which, SigHandler::SigIgn) }?;
    Ok(())
}

/// Gives `which` its default action back.
///
/// # Errors
/// As sigaction(2).
pub fn restore(which: Signal) -> io::Result<()> {
    // SAFETY: the default action is the kernel's own; no code is installed.
    unsafe { signal(which, SigHandler::SigDfl) }?;
    Ok(())
}

/// Sends signal number `number` (1 to 64) to the process behind `pidfd`.
///
/// # Errors
/// `InvalidInput` for a number that is no signal; ESRCH if the process is gone.
pub fn send_by_pidfd(pidfd: impl AsFd, number: i32) -> io::Result<()> {
    // SAFETY: all arguments are numbers but the null pointer, which asks for an ordinary siginfo.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
