//! clone3(2) without a shared address space: fork with namespaces, a pidfd and a cgroup.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A process just made.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's pid namespace.
    pub pid: i32,
    /// Refers to it for good.
    pub pidfd: OwnedFd,
}

/// Clones the calling process and runs `body` in the child, which exits with what `body` returns (70 if it panics) and
/// never gets back to the caller's code. All signal handlers are reset in the child.
///
/// `flags` are `CLONE_NEW*` bits; `cgroup` is a directory of the cgroup v2 file system to start in.
///
/// The caller must be single-threaded: `body` may then be ordinary code. With other threads it could hang on a lock
/// that one of them held.
///
/// # Errors
/// What clone3 says: `ENOSYS` before Linux 5.3, `EINVAL` for `cgroup` before 5.7, `ENOSPC` at a namespace limit,
/// `EAGAIN` at a process limit.
pub fn clone_process(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let mut args = CloneArgs {
        flags,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd().unsigned_abs().into();
    }
    clone(args, body)
}

/// As [`clone_process`], but the child's parent is the caller's parent, which is signalled and reaps as it is for the
/// caller. For a process that entered namespaces on its way and makes room for its successor.
///
/// # Errors
/// As [`clone_process`]; `EINVAL` if the caller is the init of a pid namespace.
pub fn clone_sibling(flags: u64, body: impl FnOnce() -> i32) -> io::Result<Child> {
    let args = CloneArgs {
        // The exit signal is the caller's own; naming one is refused.
        flags: flags | CLONE_PARENT,
        ..CloneArgs::default()
    };
    clone(args, body)
}

fn clone(mut args: CloneArgs, body: impl FnOnce() -> i32) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    args.flags |= CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    args.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    // SAFETY: `args` is a valid clone_args of the size given; `pidfd` outlives the call. Without CLONE_VM the child
    // gets copies of all memory, so no Rust reference is shared; no stack is given, so both return here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Unwinding would carry the child into the caller's frames.
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(70);
            exit_now(code)
        }
        pid => Ok(Child {
            pid: pid as i32,
            // SAFETY: the kernel stored a new descriptor in `pidfd`, which nothing else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Ends the process without running exit handlers, which belong to the process it was cloned from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}
