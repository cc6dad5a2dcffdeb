//! Runs a `LaunchPlan` between clone3 and execve: namespaces, root file system, mounts, devices, user, capabilities,
//! limits, seccomp.
//!
//! The caller is a small single-threaded process, the supervisor of a pod or `husk oci`. [`launch()`] clones it and
//! returns at once; from there on caller and child talk over a socket, and the caller never blocks:
//!
//! ```text
//! launch ──> Pending ──> [BeforePivot, resume] ──> Ready ──> open_gate ──> Running
//! exec   ──> Pending ──────────────────────────────> Ready ──────────────> Running
//!                └──────────┴──────── a LaunchError at any point
//! ```
//!
//! In a user namespace the child may open next to nothing of the node: a supplier, a further child that stays outside,
//! opens the mounts and hands them in (see `supply`).
//!
//! The child is ordinary Rust in a copy of the caller's memory, which is what being single-threaded buys. It knows
//! nothing of pods, CRI, or how a plan came to be. It never executes a helper program, leaves no descriptor of the
//! node open for the container, is not dumpable until execve, and does nothing through paths of the container that a
//! hostile image could bend.

mod cgroup;
mod child;
mod console;
mod copy_up;
pub mod criu;
mod dev;
mod diagnosis;
mod elf;
mod enter;
mod error;
pub mod gate;
pub mod hooks;
mod identity;
mod idmap;
mod image_volume;
mod labels;
mod launch;
mod mask;
mod message;
mod mounts;
mod namespaces;
mod path;
mod program;
pub mod restore;
mod rootfs;
pub mod runtime;
mod scratch;
mod start;
mod streams;
mod supply;
mod tail;
mod user_namespace;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::spec::plan::{ExecPlan, LaunchPlan, NamespaceKind};
use crate::types::CgroupJoin;

use child::Start;
use error::During;
use streams::Kept;
use user_namespace::Wanted;

pub use error::{LaunchError, NOT_EXECUTABLE, NOT_FOUND, NOT_STARTED};
pub use launch::{Launch, Progress};
pub use streams::Stdio;
pub use supply::try_id_maps;

/// The container that an exec goes into.
#[derive(Debug, Clone)]
pub struct ExecTarget<'a> {
    /// Its first process, as the caller counts.
    pub pid: i32,
    /// That process for good. Without it, `pid` must not have been reused.
    pub pidfd: Option<BorrowedFd<'a>>,
    /// The cgroup to run in instead of the plan's.
    pub cgroup: Option<CgroupJoin>,
}

/// What only some callers want.
#[derive(Debug, Default)]
pub struct Extras {
    /// A listening socket of type `SOCK_SEQPACKET`. The gate is then opened by whoever connects to it (see [`gate`]),
    /// not by the caller, who may end after `Ready`.
    pub gate: Option<OwnedFd>,
    /// How many descriptors from 3 on the program inherits. They must have been open before the caller opened any of
    /// its own.
    pub inherited_fds: u16,
}

/// Clones the first process of a container and returns at once.
///
/// The caller must be single-threaded.
///
/// # Errors
/// If nothing could be cloned. All else is told by [`Launch::advance`].
pub fn launch(plan: &LaunchPlan, stdio: Stdio) -> Result<Launch, LaunchError> {
    launch_with(plan, stdio, Extras::default())
}

/// As [`launch()`], with more wishes.
///
/// # Errors
/// As [`launch()`].
pub fn launch_with(plan: &LaunchPlan, stdio: Stdio, extras: Extras) -> Result<Launch, LaunchError> {
    let pid_namespace = namespaces::to_join(&plan.namespaces, NamespaceKind::Pid)?;
    let (sync, childs) = message::pair()?;
    let user = user_namespace::Wanted::of(plan)?;
    let (supplier, supplies) = match user {
        Wanted::Own => (None, None),
        _ => message::pair().map(|(a, b)| (Some(a), Some(b)))?,
    };
    let flags = match user {
        // It makes them once it is inside.
        Wanted::Joined(_) => 0,
        _ => namespaces::clone_flags(&plan.namespaces),
    };
    if let (false, Some(uid)) = (plan.process.terminal, user.host_uid(plan)) {
        streams::give_early(&stdio, uid);
    }
    // In a new user namespace the child may not write to the node's cgroups.
    let parent_joins = matches!(user, Wanted::New);

    let child = start::in_pid_namespace(pid_namespace.as_ref().map(AsFd::as_fd), || {
        start::clone_into(flags, plan.cgroup.as_ref(), |in_cgroup| {
            let start = Start {
                stdio: &stdio,
                kept: Kept {
                    sync: childs,
                    extra: extras.gate,
                    supplies,
                },
                inherited: extras.inherited_fds,
                in_cgroup: in_cgroup || parent_joins,
            };
            child::main(plan, start)
        })
    })?;
    let mut launch = Launch::new(child.pid, child.pidfd, sync);
    match user_namespace::help(plan, &user, &mut launch, supplier) {
        Ok(()) => Ok(launch),
        Err(e) => {
            launch.abandon();
            Err(e)
        }
    }
}

/// Clones a further process into a container and returns at once. There is no gate.
///
/// The caller must be single-threaded.
///
/// # Errors
/// If nothing could be cloned. All else is told by [`Launch::advance`].
pub fn exec(plan: &ExecPlan, target: &ExecTarget<'_>, stdio: Stdio) -> Result<Launch, LaunchError> {
    exec_with(plan, target, stdio, 0)
}

/// As [`exec`]; the program inherits `inherited_fds` descriptors from 3 on.
///
/// # Errors
/// As [`exec`].
pub fn exec_with(
    plan: &ExecPlan,
    target: &ExecTarget<'_>,
    stdio: Stdio,
    inherited_fds: u16,
) -> Result<Launch, LaunchError> {
    let pidfd = target_pidfd(target)?;
    let (sync, childs) = message::pair()?;
    let cgroup = target.cgroup.as_ref().or(plan.cgroup.as_ref());
    let pidfd_for_child = pidfd
        .try_clone()
        .during("duplicate", || "pidfd of the container")?;

    let child = start::in_pid_namespace(Some(pidfd.as_fd()), || {
        start::clone_into(0, cgroup, |in_cgroup| {
            let start = Start {
                stdio: &stdio,
                kept: Kept {
                    sync: childs,
                    extra: Some(pidfd_for_child),
                    supplies: None,
                },
                inherited: inherited_fds,
                in_cgroup,
            };
            enter::main(
                plan,
                enter::Entry {
                    start,
                    pid: target.pid,
                    cgroup,
                },
            )
        })
    })?;
    Ok(Launch::new(child.pid, child.pidfd, sync))
}

fn target_pidfd(target: &ExecTarget<'_>) -> Result<OwnedFd, LaunchError> {
    let object = || format!("first process {} of the container", target.pid);
    match target.pidfd {
        Some(fd) => fd.try_clone_to_owned().during("duplicate", object),
        None => {
            let pid = Pid::from_raw(target.pid)
                .ok_or_else(|| LaunchError::new("open", object(), "there is no such process"))?;
            pidfd_open(pid, PidfdFlags::empty())
                .during("open", object)
                .map_err(|e| e.advise("is the container still running?"))
        }
    }
}
