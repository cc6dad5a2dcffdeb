//! What a process sets on itself before it executes a program.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `struct sigaction` as the kernel has it; all zeroes is the default action with no flags and an empty mask.
#[repr(C)]
#[derive(Default)]
struct KernelSigaction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Sets all signals to their default action and unblocks them. Handlers were reset when the process was cloned; what is
/// ignored would stay ignored over execve. Goes past the C library, which keeps two signals to itself.
pub fn reset_signals() {
    let default = KernelSigaction::default();
    for signal in 1..=64 {
        // SAFETY: `default` is a sigaction in the kernel's form and is only read; 8 is the size of its mask. The
        // default action installs no code. SIGKILL and SIGSTOP are refused, which is as well.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<KernelSigaction>(),
                size_of::<u64>(),
            )
        };
    }
    let empty = 0u64;
    // SAFETY: `empty` is a signal set of the size given and is only read.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Has the calling process killed when its parent ends. `false` if `parent` is not its parent any more: of an end before
/// this took effect nobody tells, so the caller has to end by itself.
pub fn die_with(parent: rustix::process::Pid) -> bool {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).is_ok() && getppid() == Some(parent)
}

/// Hides the process from ptrace and from `/proc/<pid>` access by others until it executes a program.
///
/// # Errors
/// As prctl(2).
pub fn set_undumpable() -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0 as libc::c_ulong, 0, 0, 0) }.into())
}

/// Sets the no_new_privs bit, for good.
///
/// # Errors
/// As prctl(2).
pub fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, 0, 0, 0) }.into())
}

/// Replaces the session keyring by a new, empty one.
///
/// # Errors
/// As keyctl(2); `ENOSYS` if the kernel has no keyrings.
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0 as libc::c_ulong) })
}

/// ioprio_set(2) for the calling process.
///
/// # Errors
/// `EPERM` for a class that needs privileges.
pub fn set_io_priority(value: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_ulong = 1;
    let value = libc::c_ulong::from(value);
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0 as libc::c_ulong, value) })
}

/// personality(2).
///
/// # Errors
/// As personality(2).
pub fn set_personality(value: u64) -> io::Result<()> {
    // SAFETY: takes an integer only.
    check(unsafe { libc::personality(value) }.into())
}

/// `struct sched_attr`, first version.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedAttr {
    /// Bytes of the struct.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// sched_setattr(2) for the calling process.
///
/// # Errors
/// `EPERM` for a policy that needs privileges.
pub fn set_scheduler(mut attributes: SchedAttr) -> io::Result<()> {
    attributes.size = size_of::<SchedAttr>() as u32;
    // SAFETY: `attributes` is a sched_attr of the size it states and lives until the call returns.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attributes, 0) })
}

/// Sets a limit of the calling process by the kernel's number. `u64::MAX` means none.
///
/// # Errors
/// `EPERM` for a hard limit above the present one without CAP_SYS_RESOURCE.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` is valid for reads, no old value is asked for.
    check(unsafe { libc::prlimit64(0, resource, &raw const limit, std::ptr::null_mut()) }.into())
}

/// The soft and the hard limit of the calling process.
///
/// # Errors
/// `EINVAL` for an unknown resource.
pub fn limits(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: no new value is given, `limit` is valid for writes.
    check(unsafe { libc::prlimit64(0, resource, std::ptr::null(), &raw mut limit) }.into())?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sends a signal by number to the process that `pidfd` refers to.
///
/// # Errors
/// `ESRCH` if it has ended and was reaped, `EPERM`, `EINVAL` for a bad number.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the signal's information may be null: the kernel then makes it up as kill(2) does.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, nothing, 0) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::clone::clone_process;
    use rustix::process::{WaitId, WaitIdOptions, getpid, getppid, waitid};

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        let says = |parent| {
            let child = clone_process(0, None, || i32::from(die_with(parent))).unwrap();
            let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
            status.unwrap().exit_status()
        };
        assert_eq!(says(getpid()), Some(1));
        // As after the parent's end: it is another's child.
        assert_eq!(says(getppid().unwrap()), Some(0));
    }
}
