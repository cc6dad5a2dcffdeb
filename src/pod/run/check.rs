//! Whether a pod's config can be had at all, before anything is looked up.

use crate::types::PodConfig;
use crate::types::error::{Error, Result};
use crate::types::security::NamespaceMode;

/// Refuses a config that contradicts itself.
///
/// # Errors
/// `InvalidArgument`.
pub(in crate::pod) fn check(config: &PodConfig) -> Result<()> {
    crate::pod::bounds::pod(config)?;
    let name = &config.metadata;
    if name.name.is_empty() || name.namespace.is_empty() || name.uid.is_empty() {
        return Err(Error::invalid(
            "sandbox config: metadata needs name, namespace and uid",
        ));
    }
    let ns = &config.security.namespaces;
    for (kind, mode) in [("network", ns.network), ("ipc", ns.ipc)] {
        if matches!(mode, NamespaceMode::Container | NamespaceMode::Target) {
            return Err(Error::invalid(format!(
                "{kind} namespace mode {mode:?} is not possible for a pod"
            )));
        }
    }
    if ns.pid == NamespaceMode::Target {
        return Err(Error::invalid(
            "pid namespace mode Target is for containers, not for a pod",
        ));
    }
    ns.check_user()?;
    let logs = &config.log_directory;
    if !logs.is_empty() && !logs.starts_with('/') {
        return Err(Error::invalid(format!(
            "log_directory {logs:?} is not an absolute path"
        )));
    }
    if config.cgroup_parent.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!(
            "cgroup_parent {:?} must not contain ..",
            config.cgroup_parent
        )));
    }
    for name in config.sysctls.keys() {
        check_sysctl(
            name,
            ns.network == NamespaceMode::Node,
            ns.ipc == NamespaceMode::Node,
        )?;
    }
    Ok(())
}

/// Only what belongs to a namespace of the pod may be set, or the node would change with it.
fn check_sysctl(name: &str, host_network: bool, host_ipc: bool) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = name.replace('/', ".");
    let (kind, host) = if dotted.starts_with("net.") {
        ("network", host_network)
    } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        ("IPC", host_ipc)
    } else if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        return Err(Error::invalid(format!(
            "sysctl {name}: set the pod's hostname instead"
        )));
    } else {
        return Err(Error::invalid(format!(
            "sysctl {name} belongs to no namespace of the pod"
        )));
    };
    if host {
        return Err(Error::invalid(format!(
            "sysctl {name} would change the node: the pod uses its {kind} namespace"
        )));
    }
    if dotted.contains("..") {
        return Err(Error::invalid(format!("sysctl {name} is not a name")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_the_pods_own_namespaces_pass() {
        for (name, host_network, host_ipc, ok) in [
            ("net.ipv4.ip_forward", false, false, true),
            ("net.ipv4.ip_forward", true, false, false),
            ("net/ipv4/ip_forward", false, false, true),
            ("kernel.shm_rmid_forced", false, false, true),
            ("kernel.shm_rmid_forced", false, true, false),
            ("fs.mqueue.msg_max", false, false, true),
            ("kernel.core_pattern", false, false, false),
            ("vm.swappiness", false, false, false),
            ("net..ipv4", false, false, false),
            ("net.../../kernel/core_pattern", false, false, false),
        ] {
            assert_eq!(check_sysctl(name, host_network, host_ipc).is_ok(), ok, "{name}");
        }
    }
}
