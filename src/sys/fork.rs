//! fork(2), for processes with one thread only.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::sched::CloneFlags;

/// Which side of the fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the child's process id.
    Parent(i32),
}

/// Forks.
///
/// # Errors
/// As fork(2); and if the process has more than one thread, because the child could then find locks held by threads
/// that it does not have.
pub fn fork() -> io::Result<Forked> {
    refuse_threads()?;
    // SAFETY: the process has one thread, so the child is a complete copy and may run any code.
    outcome(unsafe { libc::fork() }.into())
}

/// Forks into new namespaces. The child keeps the C library's idea of its own thread id from before, so it must not use
/// anything built on that (recursive locks, `raise`) and is best followed by an exec.
///
/// # Errors
/// As [`fork`].
pub fn fork_into(namespaces: CloneFlags) -> io::Result<Forked> {
    refuse_threads()?;
    let flags = libc::c_long::from(namespaces.bits() | libc::SIGCHLD);
    let none = 0 as libc::c_long;
    // SAFETY: without CLONE_VM and without a stack of its own the child is a copy of this single-threaded process that
    // continues here on a copy of this stack, as after fork(2). All further arguments are pointers that no flag uses.
    outcome(unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) })
}

fn outcome(result: libc::c_long) -> io::Result<Forked> {
    match i32::try_from(result) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) if pid > 0 => Ok(Forked::Parent(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The directory of threads has one link per thread besides its own two. The test harness runs every test in a thread of
/// its own while the main thread only waits, so unit tests may fork all the same.
fn refuse_threads() -> io::Result<()> {
    let threads = std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2);
    if threads == 1 || cfg!(test) {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "refusing to fork a process of {threads} threads"
        )))
    }
}
