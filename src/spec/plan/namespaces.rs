//! Namespaces of a plan and what only makes sense in one: id maps, clock offsets, host names, kernel parameters.

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use crate::types::security::IdMapping;
use crate::types::{Error, Kind, Result};

/// A kind of Linux namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Mounts.
    Mount,
    /// View of the cgroup tree.
    Cgroup,
    /// Host and domain name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Users and capabilities.
    User,
    /// Process ids.
    Pid,
    /// Network.
    Network,
    /// Offsets of the monotonic and boot clocks.
    Time,
}

impl NamespaceKind {
    /// The name under `/proc/<pid>/ns/`.
    pub fn proc_name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Cgroup => "cgroup",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Network => "net",
            Self::Time => "time",
        }
    }

    /// The `CLONE_NEW*` bit.
    pub fn clone_flag(self) -> u64 {
        let bit = match self {
            Self::Mount => libc::CLONE_NEWNS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::User => libc::CLONE_NEWUSER,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Network => libc::CLONE_NEWNET,
            Self::Time => 0x80,
        };
        u64::from(bit.cast_unsigned())
    }
}

impl From<LinuxNamespaceType> for NamespaceKind {
    fn from(kind: LinuxNamespaceType) -> Self {
        match kind {
            LinuxNamespaceType::Mount => Self::Mount,
            LinuxNamespaceType::Cgroup => Self::Cgroup,
            LinuxNamespaceType::Uts => Self::Uts,
            LinuxNamespaceType::Ipc => Self::Ipc,
            LinuxNamespaceType::User => Self::User,
            LinuxNamespaceType::Pid => Self::Pid,
            LinuxNamespaceType::Network => Self::Network,
            LinuxNamespaceType::Time => Self::Time,
        }
    }
}

/// A namespace the process gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Which kind.
    pub kind: NamespaceKind,
    /// The existing one to join; `None` makes a new one.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

pub(super) fn namespaces(linux: &Linux) -> Result<Vec<Namespace>> {
    let mut out: Vec<Namespace> = Vec::new();
    for ns in linux.namespaces().iter().flatten() {
        let kind = NamespaceKind::from(ns.typ());
        if out.iter().any(|n| n.kind == kind) {
            return Err(Error::invalid(format!(
                "spec: linux.namespaces: {} is listed twice",
                kind.proc_name()
            )));
        }
        let path = ns.path().clone().filter(|p| !p.as_os_str().is_empty());
        if path.as_ref().is_some_and(|p| !p.is_absolute()) {
            return Err(Error::invalid(format!(
                "spec: linux.namespaces: the path of {} is not absolute",
                kind.proc_name()
            )));
        }
        out.push(Namespace { kind, path });
    }
    check(&out)?;
    Ok(out)
}

fn check(list: &[Namespace]) -> Result<()> {
    match list.iter().find(|n| n.kind == NamespaceKind::Mount) {
        Some(Namespace { path: None, .. }) => Ok(()),
        Some(_) => Err(Error::new(
            Kind::Unimplemented,
            "spec: linux.namespaces: joining an existing mount namespace is not supported: give mount no path",
        )),
        None => Err(Error::invalid(
            "spec: linux.namespaces: a mount namespace is needed to give the container a root file system",
        )),
    }
}

pub(super) fn has(list: &[Namespace], kind: NamespaceKind) -> bool {
    list.iter().any(|n| n.kind == kind)
}

fn is_new(list: &[Namespace], kind: NamespaceKind) -> bool {
    list.iter().any(|n| n.kind == kind && n.path.is_none())
}

pub(super) fn mappings(list: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMapping> {
    list.into_iter()
        .flatten()
        .map(|m| IdMapping {
            host_id: m.host_id(),
            container_id: m.container_id(),
            length: m.size(),
        })
        .collect()
}

pub(super) fn time_offsets(linux: &Linux, list: &[Namespace]) -> Result<Vec<(String, i64, u32)>> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|o| !o.is_empty()) else {
        return Ok(Vec::new());
    };
    if !is_new(list, NamespaceKind::Time) {
        return Err(Error::invalid(
            "spec: linux.timeOffsets needs a new time namespace in linux.namespaces",
        ));
    }
    let mut out: Vec<_> = offsets
        .iter()
        .map(|(clock, o)| {
            (
                clock.clone(),
                o.secs().unwrap_or_default(),
                o.nanosecs().unwrap_or_default(),
            )
        })
        .collect();
    out.sort();
    Ok(out)
}

pub(super) fn uts_name(field: &str, name: Option<&str>, list: &[Namespace]) -> Result<Option<String>> {
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    if !has(list, NamespaceKind::Uts) {
        return Err(Error::invalid(format!(
            "spec: {field} is set but linux.namespaces has no uts namespace: the node's name would change"
        )));
    }
    // __NEW_UTS_LEN of the kernel.
    if name.len() > 64 {
        return Err(Error::invalid(format!(
            "spec: {field} has {} bytes, the kernel takes at most 64",
            name.len()
        )));
    }
    Ok(Some(name.to_owned()))
}

/// Checks that each parameter belongs to a namespace of the container: anything else would change the node.
pub(super) fn sysctls(linux: &Linux, list: &[Namespace]) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        let dotted = dotted(name);
        let kind = namespace_of(&dotted).ok_or_else(|| {
            Error::invalid(format!(
                "spec: linux.sysctl: {name} belongs to no namespace and cannot be set for one container"
            ))
        })?;
        if !has(list, kind) {
            return Err(Error::invalid(format!(
                "spec: linux.sysctl: {name} needs a {} namespace, the container uses the node's",
                kind.proc_name()
            )));
        }
        if dotted
            .split(['.', '/'])
            .any(|part| part.is_empty() || part == "..")
        {
            return Err(Error::invalid(format!("spec: linux.sysctl: bad name {name:?}")));
        }
        out.push((dotted, value.clone()));
    }
    out.sort();
    Ok(out)
}

/// Both `net.ipv4.conf.eth0/1.x` and `net/ipv4/conf/eth0.1/x` are in use; the first separator decides.
fn dotted(name: &str) -> String {
    if name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes()[at] == b'/')
    {
        name.chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect()
    } else {
        name.to_owned()
    }
}

fn namespace_of(name: &str) -> Option<NamespaceKind> {
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm_next_id",
    ];
    if name.starts_with("net.") {
        Some(NamespaceKind::Network)
    } else if name.starts_with("fs.mqueue.") || IPC.contains(&name) {
        Some(NamespaceKind::Ipc)
    } else if name == "kernel.domainname" || name == "kernel.hostname" {
        Some(NamespaceKind::Uts)
    } else if name.starts_with("user.") {
        Some(NamespaceKind::User)
    } else {
        None
    }
}
