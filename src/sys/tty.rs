//! Pseudo-terminals: from a master of some devpts instance to its slave, sizes, controlling terminals.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Unlocks the slave of `master` and opens it without a path, so that nothing can be put in its place.
///
/// # Errors
/// As ioctl_tty(2); `EINVAL` for `TIOCGPTPEER` before Linux 4.13.
pub fn open_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let locked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor.
    let raw = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    check(raw)?;
    // SAFETY: the kernel made `raw` just now.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sets the size of a terminal in characters.
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// The size of a terminal: rows and columns.
///
/// # Errors
/// `ENOTTY` if it is none.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes `terminal` the controlling terminal of the calling session leader.
///
/// # Errors
/// `EPERM` if the caller leads no session or the terminal has one already.
pub fn take_control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
