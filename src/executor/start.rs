//! The parent's side of a clone: the pid namespace and the cgroup.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

use crate::spec::plan::NamespaceKind;
use crate::sys::clone::{Child, clone_process};
use crate::sys::namespace::enter;
use crate::types::CgroupJoin;

use super::cgroup;
use super::error::{Cause, During, LaunchError, Step};

/// Clones into a v2 cgroup if the kernel can; `body` is told whether it is in its cgroup already.
pub(super) fn clone_into(
    flags: u64,
    join: Option<&CgroupJoin>,
    body: impl FnOnce(bool) -> i32,
) -> Step<Child> {
    let directory = cgroup::directory(join)?;
    let mut body = Some(body);
    if let Some(directory) = &directory {
        let attempt = clone_process(flags, Some(directory.as_fd()), || run(&mut body, true));
        match attempt {
            Err(e) if may_do_without(e.number()) => {}
            result => return result.map_err(|e| clone_failed(e.number())),
        }
    }
    clone_process(flags, None, || run(&mut body, false)).map_err(|e| clone_failed(e.number()))
}

fn run(body: &mut Option<impl FnOnce(bool) -> i32>, in_cgroup: bool) -> i32 {
    body.take()
        .map_or(super::error::NOT_STARTED, |body| body(in_cgroup))
}

/// An older kernel, or a cgroup that cannot be cloned into; joining it later either works or says why not.
fn may_do_without(errno: i32) -> bool {
    matches!(
        errno,
        libc::EINVAL | libc::E2BIG | libc::EOPNOTSUPP | libc::EBUSY | libc::EACCES | libc::EPERM
    )
}

fn clone_failed(errno: i32) -> LaunchError {
    let error = LaunchError::errno("clone", "the new process", errno);
    match errno {
        libc::EAGAIN => {
            error.advise("a limit of processes is reached (pids.max, RLIMIT_NPROC, kernel.pid_max)")
        }
        libc::ENOSPC => error.advise("a limit of namespaces is reached (/proc/sys/user/max_*_namespaces)"),
        libc::ENOMEM => error.advise("no memory, or the pid namespace to join has lost its first process"),
        libc::EPERM => error.advise("husk needs CAP_SYS_ADMIN to create namespaces"),
        libc::ENOSYS => error.advise("clone3(2) needs Linux 5.3, and must not be filtered out"),
        _ => error,
    }
}

/// Runs `clone` so that its child is in the pid namespace that `target` leads to; the caller's own is left alone.
pub(super) fn in_pid_namespace<T>(
    target: Option<BorrowedFd<'_>>,
    clone: impl FnOnce() -> Step<T>,
) -> Step<T> {
    let Some(target) = target else {
        return clone();
    };
    let flag = NamespaceKind::Pid.clone_flag();
    let own = own_pid_namespace()?;
    enter(target, flag).map_err(|e| {
        let error = LaunchError::errno("enter", "pid namespace", e.number());
        match error.errno {
            Some(libc::ESRCH) => error.advise("the container's first process has ended"),
            Some(libc::EINVAL) => error.advise("it is not below husk's own pid namespace"),
            _ => error,
        }
    })?;
    let result = clone();
    // Otherwise the caller's next children would end up there.
    enter(own.as_fd(), flag).during("go back to", || "own pid namespace")?;
    result
}

fn own_pid_namespace() -> Step<OwnedFd> {
    open(
        "/proc/self/ns/pid",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during("open", || "own pid namespace")
}
