//! Sysctls of the pod's own namespaces.
//!
//! Owns which names are namespaced and by what: a sysctl of the node must never be set for a pod.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use crate::types::error::Context as _;
use crate::types::{Error, Result};

use super::protocol::PodSpawn;

/// Writes the pod's sysctls. The process is in the pod's namespaces already: /proc/sys shows those of the reader.
///
/// # Errors
/// [`crate::types::Kind::InvalidArgument`] for a name that is not namespaced, or whose namespace is not the pod's own.
pub fn apply(spawn: &PodSpawn) -> Result<()> {
    for (name, value) in &spawn.sysctls {
        let path = file(name, spawn)?;
        // Opened as it is: nothing can be created under /proc, and trying to would hide that the name is unknown.
        let file = OpenOptions::new().write(true).open(&path);
        file.and_then(|mut file| file.write_all(value.as_bytes()))
            .with_context(|| format!("set sysctl {name} to {value:?} in the pod's namespaces"))?;
    }
    Ok(())
}

/// The file of `name`, if the pod has the namespace that it belongs to.
fn file(name: &str, spawn: &PodSpawn) -> Result<PathBuf> {
    let parts = parts(name);
    let malformed = parts.len() < 2 || parts.iter().any(|part| matches!(part.as_str(), "" | "." | ".."));
    if malformed || parts.iter().any(|part| part.contains('/')) {
        return Err(Error::invalid(format!("{name:?} is not the name of a sysctl")));
    }
    let (owned, namespace) = match (parts[0].as_str(), parts[1].as_str()) {
        ("net", _) => (spawn.netns.is_some() || spawn.new_net, "network"),
        ("fs", "mqueue") => (spawn.new_ipc, "IPC"),
        ("kernel", key) if is_ipc(key) => (spawn.new_ipc, "IPC"),
        ("kernel", "domainname") => (spawn.new_uts, "UTS"),
        _ => {
            return Err(Error::invalid(format!(
                "sysctl {name} is not namespaced: it can only be set on the node"
            )));
        }
    };
    if owned {
        Ok(["/proc/sys"]
            .into_iter()
            .map(PathBuf::from)
            .chain(parts.iter().map(PathBuf::from))
            .collect())
    } else {
        Err(Error::invalid(format!(
            "sysctl {name} cannot be set: the pod shares the node's {namespace} namespace"
        )))
    }
}

/// `a.b.c`, or `a/b/c` where a part itself has dots; whichever separator comes first is the one meant.
fn parts(name: &str) -> Vec<String> {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.split('/').map(str::to_owned).collect(),
        _ => name.split('.').map(|part| part.replace('/', ".")).collect(),
    }
}

fn is_ipc(key: &str) -> bool {
    matches!(
        key,
        "sem" | "msgmax" | "msgmnb" | "msgmni" | "shmall" | "shmmax" | "shmmni" | "shm_rmid_forced"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PodId;

    fn pod(own: bool) -> PodSpawn {
        PodSpawn {
            pod_id: PodId::random(),
            run_dir: "/".into(),
            netns: own.then(|| "/proc/self/ns/net".into()),
            new_ipc: own,
            new_uts: own,
            hostname: String::new(),
            sysctls: Vec::new(),
            shared_pid: false,
            shm_bytes: 0,
            new_net: false,
            uids: Vec::new(),
            gids: Vec::new(),
            mount_label: String::new(),
            process_label: String::new(),
        }
    }

    #[test]
    fn names_become_files() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            (
                "net/ipv4/conf/eth0.100/rp_filter",
                "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
            ),
            ("kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced"),
            ("fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max"),
        ] {
            assert_eq!(
                file(name, &pod(true)).map(|p| p.display().to_string()),
                Ok(path.into())
            );
        }
    }

    #[test]
    fn the_nodes_sysctls_are_out_of_reach() {
        for name in [
            "",
            "net",
            "kernel.core_pattern",
            "vm.swappiness",
            "net/../kernel/core_pattern",
            "net..ipv4",
            "net.//.kernel",
            "kernel.shmmax/../core_pattern",
        ] {
            assert!(file(name, &pod(true)).is_err(), "{name}");
        }
        for name in ["net.ipv4.ip_forward", "kernel.sem", "kernel.domainname"] {
            assert!(file(name, &pod(false)).is_err(), "{name}");
        }
    }
}
