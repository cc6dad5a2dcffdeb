//! A further process in a container that exists, from clone3 to execve.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, open, stat};

use crate::spec::plan::{ExecPlan, Hooks, NamespaceKind};
use crate::sys::namespace::enter;
use crate::types::CgroupJoin;
use crate::types::security::IdMapping;

use super::error::{Cause, During, LaunchError, Step};
use super::path::Root;
use super::streams::{self, Kept};
use super::tail::{self, Tail};
use super::{cgroup, child, console, identity, labels};

/// What the child gets besides the plan and what a container's first process gets, too. The pidfd of the container's
/// first process is what is kept besides the sync socket.
pub(super) struct Entry<'a> {
    pub start: child::Start<'a>,
    /// The container's first process.
    pub pid: i32,
    pub cgroup: Option<&'a CgroupJoin>,
}

/// Runs the plan. Returns only if it fails, with the exit code.
pub(super) fn main(plan: &ExecPlan, entry: Entry<'_>) -> i32 {
    let Entry { start, pid, cgroup } = entry;
    let given = start.stdio.given();
    let to_join = cgroup.filter(|_| !start.in_cgroup);
    match streams::arrange(start.stdio, start.kept, start.inherited) {
        Ok(mut kept) => {
            let Err(error) = steps(plan, &mut kept, given, pid, to_join);
            child::report(&kept.sync, error)
        }
        Err(error) => error.exit_code,
    }
}

fn steps(
    plan: &ExecPlan,
    kept: &mut Kept,
    given: [bool; 3],
    pid: i32,
    to_join: Option<&CgroupJoin>,
) -> Step<Infallible> {
    let mut notes = Vec::new();
    child::begin()?;
    if let Some(join) = to_join {
        cgroup::join(join, 0)?;
    }
    labels::set(&plan.process, plan.keep_keyring, &mut notes)?;
    labels::confine(&plan.process)?;
    let foreign_user = is_foreign(pid, NamespaceKind::User);
    if foreign_user {
        // What only the node's root may do, done before this is somebody else.
        identity::raise_hard_limits(&plan.process);
        if let (false, Some(uid)) = (plan.process.terminal, host_uid(pid, plan.process.uid)) {
            streams::give_to(uid, given);
        }
    }
    if let Some(pidfd) = kept.extra.take() {
        join_all(pidfd.as_fd(), pid, foreign_user)?;
    }
    if foreign_user {
        tail::become_root()?;
    }

    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(open("/", flags, Mode::empty()).during("open", || "the container's root")?);
    let console = match plan.process.terminal {
        true => Some(console::open(&root, &plan.process)?),
        false => None,
    };
    tail::run(Tail {
        process: &plan.process,
        root,
        kept,
        given,
        console,
        notes,
        gate: false,
        check_early: false,
        hooks: &Hooks::default(),
    })
}

/// Whether process `pid` has another namespace of `kind` than this one.
fn is_foreign(pid: i32, kind: NamespaceKind) -> bool {
    let id = |pid: &str| {
        stat(format!("/proc/{pid}/ns/{}", kind.proc_name()))
            .map(|s| (s.st_dev, s.st_ino))
            .ok()
    };
    id(&pid.to_string()) != id("self")
}

/// What the node calls user `uid` of the user namespace of process `pid`.
fn host_uid(pid: i32, uid: u32) -> Option<u32> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    let lines = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some(IdMapping {
            container_id: next()?,
            host_id: next()?,
            length: next()?,
        })
    });
    IdMapping::to_host(&lines.collect::<Vec<_>>(), uid)
}

/// All namespaces but that for pids, which the parent saw to. Entering the own user namespace again would be refused,
/// and there may be no time namespaces.
fn join_all(pidfd: BorrowedFd<'_>, pid: i32, foreign_user: bool) -> Step {
    let mut kinds = vec![
        NamespaceKind::Mount,
        NamespaceKind::Uts,
        NamespaceKind::Ipc,
        NamespaceKind::Network,
        NamespaceKind::Cgroup,
    ];
    if foreign_user {
        kinds.push(NamespaceKind::User);
    }
    if is_foreign(pid, NamespaceKind::Time) {
        kinds.push(NamespaceKind::Time);
    }
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.clone_flag());
    enter(pidfd, flags).map_err(|e| {
        let error = LaunchError::errno("enter", "namespaces of the container", e.number());
        match error.errno {
            Some(libc::ESRCH) => error.advise("the container's first process has ended"),
            _ => error,
        }
    })
}
