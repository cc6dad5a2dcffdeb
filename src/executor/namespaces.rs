//! Namespaces of a new container and what is set up in them before there is a root file system.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, open, stat};

use crate::spec::plan::{LaunchPlan, Namespace, NamespaceKind};
use crate::sys::namespace::{enter, loopback_up, set_domain_name, unshare};
use crate::types::security::IdMapping;

use super::error::{Cause, During, LaunchError, Step};
use super::path::shown;

/// Bits for clone3: new namespaces, except those that have to wait until the child has done something.
pub(super) fn clone_flags(list: &[Namespace]) -> u64 {
    list.iter()
        .filter(|n| n.path.is_none() && !matches!(n.kind, NamespaceKind::Cgroup | NamespaceKind::Time))
        .fold(0, |flags, n| flags | n.kind.clone_flag())
}

/// Whether a new namespace of `kind` is made.
pub(super) fn is_new(list: &[Namespace], kind: NamespaceKind) -> bool {
    list.iter().any(|n| n.kind == kind && n.path.is_none())
}

/// Opens the namespace of `kind` to join; `None` if there is none or the caller is in it already.
pub(super) fn to_join(list: &[Namespace], kind: NamespaceKind) -> Step<Option<OwnedFd>> {
    let path = list.iter().find(|n| n.kind == kind).and_then(|n| n.path.as_ref());
    match path {
        Some(path) => open_foreign(kind, path),
        None => Ok(None),
    }
}

fn open_foreign(kind: NamespaceKind, path: &Path) -> Step<Option<OwnedFd>> {
    let object = || format!("{} namespace {}", kind.proc_name(), shown(path));
    let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", object)?;
    let theirs = fstat(&fd).during("look at", object)?;
    let own = stat(format!("/proc/self/ns/{}", kind.proc_name())).during("look at", || "own namespace")?;
    let same = (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino);
    Ok((!same).then_some(fd))
}

/// Joins what is to be joined, but for the pid namespace (a caller's matter) and the user and mount namespaces.
pub(super) fn join(list: &[Namespace]) -> Step {
    for kind in [
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Cgroup,
        NamespaceKind::Time,
    ] {
        if let Some(fd) = to_join(list, kind)? {
            enter(fd.as_fd(), kind.clone_flag())
                .during("enter", || format!("{} namespace", kind.proc_name()))?;
        }
    }
    Ok(())
}

/// Makes the namespaces that clone3 did not. The caller is in its cgroup by now.
pub(super) fn unshare_late(plan: &LaunchPlan) -> Step {
    if is_new(&plan.namespaces, NamespaceKind::Cgroup) {
        unshare(NamespaceKind::Cgroup.clone_flag()).during("create", || "cgroup namespace")?;
    }
    if is_new(&plan.namespaces, NamespaceKind::Time) {
        new_time_namespace(&plan.time_offsets)?;
    }
    Ok(())
}

/// The offsets have to be written before any process is in the namespace.
fn new_time_namespace(offsets: &[(String, i64, u32)]) -> Step {
    let flag = NamespaceKind::Time.clone_flag();
    unshare(flag).during("create", || "time namespace")?;
    if !offsets.is_empty() {
        let lines: String = offsets
            .iter()
            .map(|(clock, s, ns)| format!("{clock} {s} {ns}\n"))
            .collect();
        fs::write("/proc/self/timens_offsets", lines).during("set", || "clock offsets")?;
    }
    let fd = open(
        "/proc/self/ns/time_for_children",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during("open", || "time namespace")?;
    enter(fd.as_fd(), flag).during("enter", || "time namespace")
}

/// Names, loopback and kernel parameters, through the node's `/proc`: the image's cannot be trusted.
pub(super) fn set_up(plan: &LaunchPlan) -> Step {
    if is_new(&plan.namespaces, NamespaceKind::Network) {
        loopback_up().during("bring up", || "loopback interface")?;
    }
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name).during("set", || format!("host name {name}"))?;
    }
    if let Some(name) = &plan.domainname {
        set_domain_name(name).during("set", || format!("domain name {name}"))?;
    }
    plan.sysctls
        .iter()
        .try_for_each(|(name, value)| set_sysctl(name, value))
}

fn set_sysctl(name: &str, value: &str) -> Step {
    // In the dotted form a `/` stands for a dot within a component.
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    fs::write(format!("/proc/sys/{path}"), value).map_err(|e| {
        let error = LaunchError::errno("set", format!("sysctl {name}={value}"), e.number());
        match error.errno {
            Some(libc::ENOENT) => error.advise("this kernel does not have it, or not per namespace"),
            Some(libc::EINVAL) => error.advise("the kernel does not take this value"),
            _ => error,
        }
    })
}

/// Writes the id maps of a new user namespace for the process `pid` in it.
pub(super) fn write_maps(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Step {
    let lines = |list: &[IdMapping]| -> String {
        list.iter()
            .map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.length))
            .collect()
    };
    for (file, list) in [("uid_map", uids), ("gid_map", gids)] {
        fs::write(format!("/proc/{pid}/{file}"), lines(list))
            .during("write", || format!("{file} of the user namespace"))?;
    }
    Ok(())
}
