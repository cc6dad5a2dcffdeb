//! A container's user namespace: made with it, or joined.
//!
//! Who is inside has no rights over the node: it cannot join cgroups, write its own id maps, or open what only root may
//! see. So all of that happens before it is inside, or is done for it from outside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, WaitId, WaitIdOptions, chdir, getpid, pidfd_send_signal, setsid, waitid};

use crate::spec::plan::{LaunchPlan, NamespaceKind};
use crate::sys::clone::{clone_process, clone_sibling, exit_now};
use crate::sys::namespace::{enter, unshare};
use crate::sys::process::{die_with, set_undumpable};
use crate::types::security::IdMapping;

use super::error::{During, LaunchError, Step};
use super::launch::Launch;
use super::message::{Channel, Message};
use super::path::shown;
use super::streams::Kept;
use super::{cgroup, identity, namespaces, supply, tail};

/// Where a container's user namespace comes from.
#[derive(Debug)]
pub(super) enum Wanted {
    /// It stays in the caller's.
    Own,
    /// A new one with the plan's maps.
    New,
    /// One that exists.
    Joined(OwnedFd),
}

impl Wanted {
    /// What the plan wants.
    pub fn of(plan: &LaunchPlan) -> Step<Self> {
        if namespaces::is_new(&plan.namespaces, NamespaceKind::User) {
            return Ok(Self::New);
        }
        let found = namespaces::to_join(&plan.namespaces, NamespaceKind::User)?;
        Ok(found.map_or(Self::Own, Self::Joined))
    }

    /// The process's user as the node counts, if that is not its own number.
    pub fn host_uid(&self, plan: &LaunchPlan) -> Option<u32> {
        match self {
            Self::Own => None,
            _ => IdMapping::to_host(&plan.uid_mappings, plan.process.uid),
        }
    }
}

/// What the parent does for a child with a user namespace of its own kind: writes its id maps, follows it inside, and
/// starts its supplier.
pub(super) fn help(plan: &LaunchPlan, user: &Wanted, launch: &mut Launch, supplier: Option<Channel>) -> Step {
    let opened;
    let namespace = match user {
        Wanted::Own => return Ok(()),
        Wanted::New => {
            if let Some(join) = &plan.cgroup {
                cgroup::join(join, launch.pid)?;
            }
            namespaces::write_maps(launch.pid, &plan.uid_mappings, &plan.gid_mappings)?;
            opened = of_process(launch.pid)?;
            launch.go_on()?;
            opened.as_fd()
        }
        Wanted::Joined(namespace) => {
            if moves(plan) {
                launch.follow()?;
            }
            namespace.as_fd()
        }
    };
    match supplier {
        Some(supplier) => supply::start(plan, supplier, namespace).map(|pidfd| launch.supplied_by(pidfd)),
        None => Ok(()),
    }
}

/// Whether a child that joins has to become another process: who enters a user namespace is not the first process of a
/// pid namespace that belongs to it, but its children can be.
fn moves(plan: &LaunchPlan) -> bool {
    namespaces::is_new(&plan.namespaces, NamespaceKind::Pid)
}

/// The child's way into an existing user namespace. Comes back inside it with all new namespaces made, and, if the
/// container has a pid namespace of its own, as another process. `rest` is what that process runs.
pub(super) fn move_in<T>(
    plan: &LaunchPlan,
    namespace: &OwnedFd,
    kept: &mut Kept,
    rest: impl FnOnce(&mut Kept) -> Step<T>,
    failed: impl FnOnce(&Kept, LaunchError) -> i32,
) -> Step<T> {
    identity::raise_hard_limits(&plan.process);
    enter_mount_point(&plan.mount_point)?;
    enter(namespace.as_fd(), NamespaceKind::User.clone_flag())
        .during("enter", || "user namespace of the pod")?;
    tail::become_root()?;
    // A change of user makes a process dumpable again on some nodes.
    set_undumpable().during("hide", || "the process from others")?;
    let flags = namespaces::clone_flags(&plan.namespaces);
    if !moves(plan) {
        unshare(flags).during("create", || "namespaces")?;
        return rest(kept);
    }
    let successor = clone_sibling(flags, || {
        let begun = setsid().during("start", || "session");
        match begun.and_then(|_| rest(kept)) {
            Ok(_) => super::error::NOT_STARTED,
            Err(error) => failed(kept, error),
        }
    })
    .during("clone", || "the container's first process")?;
    let message = Message::Moved { pid: successor.pid };
    kept.sync.send(&message, Some(successor.pidfd.as_fd()))?;
    exit_now(0)
}

/// The directory that the root file system is mounted on may lie below ones that only the node's root may pass. The
/// working directory goes along into a new mount namespace.
pub(super) fn enter_mount_point(path: &Path) -> Step {
    chdir(path).during("enter", || format!("mount point {}", shown(path)))
}

/// The user namespace of a process.
fn of_process(pid: i32) -> Step<OwnedFd> {
    open(
        format!("/proc/{pid}/ns/user"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during("open", || format!("user namespace of process {pid}"))
}

/// A user namespace with these maps that no process is in.
pub(super) fn with_maps(uids: &[IdMapping], gids: &[IdMapping]) -> Step<OwnedFd> {
    let parent = getpid();
    let holder = clone_process(NamespaceKind::User.clone_flag(), None, || {
        if !die_with(parent) {
            return super::error::NOT_STARTED;
        }
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    })
    .during("create", || "user namespace for an id-mapped mount")?;
    let made = namespaces::write_maps(holder.pid, uids, gids).and_then(|()| of_process(holder.pid));
    end(holder.pidfd.as_fd());
    made
}

fn end(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
}
