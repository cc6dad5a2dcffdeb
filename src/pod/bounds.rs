//! What one request may ask for at most, and what a name, a path or a number must look like.
//!
//! Everything here is far beyond what Kubernetes sends. It keeps one request from taking the node's memory or time, and
//! turns what the kernel would refuse later, or what would break somebody's tool, into an answer that names the field.
//! Pure, and knows no other rules: what contradicts what is for the callers to say.

use std::collections::BTreeMap;

use crate::types::error::{Error, Result};
use crate::types::{ContainerConfig, PodConfig, Resources};

/// Most bytes of a name in metadata. Kubernetes allows 253.
const MAX_NAME: usize = 1024;
/// Most bytes of labels and annotations together. Kubernetes allows 256 KiB of annotations; lists repeat all of them for
/// every object, and no client takes a list of more than 16 MiB.
const MAX_METADATA: usize = 512 << 10;
/// Most bytes of a path: the kernel's PATH_MAX.
const MAX_PATH: usize = 4096;
/// Most mounts, and most masked or read-only paths, of a container. The kernel takes 100,000 in a namespace.
const MAX_MOUNTS: usize = 4096;
/// Most devices that a request names one by one.
const MAX_DEVICES: usize = 4096;
/// Most bytes of arguments and environment together: what the kernel takes however large the stack may grow.
const MAX_COMMAND: usize = 6 << 20;
/// Most port mappings of a pod.
const MAX_PORTS: usize = 4096;
/// Most bytes of all DNS settings.
const MAX_DNS: usize = 16 << 10;
/// Most entries of a list of limits.
const MAX_LIMITS: usize = 256;
/// Most supplementary groups of a process: the kernel's NGROUPS_MAX.
const MAX_GROUPS: usize = 65_536;

/// Checks what a client asked of a pod.
///
/// # Errors
/// `InvalidArgument` with the field and the bound.
pub fn pod(config: &PodConfig) -> Result<()> {
    let m = &config.metadata;
    for (field, text) in [
        ("metadata.name", &m.name),
        ("metadata.namespace", &m.namespace),
        ("metadata.uid", &m.uid),
    ] {
        name(field, text)?;
    }
    metadata(&config.labels, &config.annotations)?;
    hostname(&config.hostname)?;
    path("log_directory", &config.log_directory)?;
    path("cgroup_parent", &config.cgroup_parent)?;
    count("port_mappings", config.port_mappings.len(), MAX_PORTS)?;
    count("sysctls", config.sysctls.len(), MAX_LIMITS)?;
    for (key, value) in &config.sysctls {
        path("sysctls", key)?;
        path(&format!("sysctls: value of {key:?}"), value)?;
    }
    if let Some(dns) = &config.dns {
        let texts = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
        bytes("dns_config", texts.map(String::len).sum(), MAX_DNS)?;
    }
    for limits in [&config.overhead, &config.resources].into_iter().flatten() {
        resources(limits)?;
    }
    count(
        "supplemental_groups",
        config.security.supplemental_groups.len(),
        MAX_GROUPS,
    )
}

/// Checks what a client asked of a container.
///
/// # Errors
/// `InvalidArgument` with the field and the bound.
pub fn container(config: &ContainerConfig) -> Result<()> {
    name("metadata.name", &config.metadata.name)?;
    metadata(&config.labels, &config.annotations)?;
    path("log_path", &config.log_path)?;
    path("working_dir", &config.working_dir)?;
    let command = config.command.iter().chain(&config.args);
    let envs = config
        .envs
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2);
    command_length("command, args and envs", command.map(|a| a.len() + 1).chain(envs))?;
    no_nul("command or args", config.command.iter().chain(&config.args))?;
    count("mounts", config.mounts.len(), MAX_MOUNTS)?;
    for m in &config.mounts {
        path("mounts: container_path", &m.container_path)?;
        path("mounts: host_path", &m.host_path)?;
        path("mounts: image_sub_path", &m.image_sub_path)?;
        over_the_root(&m.container_path, &m.host_path)?;
    }
    count("devices", config.devices.len(), MAX_DEVICES)?;
    for d in &config.devices {
        path("devices: container_path", &d.container_path)?;
        path("devices: host_path", &d.host_path)?;
    }
    let security = &config.security;
    for (field, list) in [
        ("masked_paths", &security.masked_paths),
        ("readonly_paths", &security.readonly_paths),
    ] {
        count(field, list.len(), MAX_MOUNTS)?;
        list.iter().try_for_each(|p| path(field, p))?;
    }
    count(
        "supplemental_groups",
        security.supplemental_groups.len(),
        MAX_GROUPS,
    )?;
    resources(&config.resources)
}

/// Checks limits, of a new container or for one that runs.
///
/// # Errors
/// `InvalidArgument` with the field.
pub fn resources(r: &Resources) -> Result<()> {
    for (field, value) in [("cpu_period", r.cpu_period), ("cpu_shares", r.cpu_shares)] {
        if value < 0 {
            return Err(Error::invalid(format!(
                "resources: {field} {value} is negative; leave it 0 for the default"
            )));
        }
    }
    if !(-1000..=1000).contains(&r.oom_score_adj) {
        return Err(Error::invalid(format!(
            "resources: oom_score_adj {} is outside -1000 to 1000",
            r.oom_score_adj
        )));
    }
    path("resources: cpuset_cpus", &r.cpuset_cpus)?;
    path("resources: cpuset_mems", &r.cpuset_mems)?;
    count("resources: hugepage_limits", r.hugepage_limits.len(), MAX_LIMITS)?;
    count("resources: unified", r.unified.len(), MAX_LIMITS)
}

/// Checks the command of an exec.
///
/// # Errors
/// `InvalidArgument`: it is empty, holds a NUL, or is longer than any kernel takes.
pub fn command(cmd: &[String]) -> Result<()> {
    if cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd is empty: name a program to run"));
    }
    command_length("cmd", cmd.iter().map(|a| a.len() + 1))?;
    no_nul("cmd", cmd.iter())
}

fn command_length(field: &str, lengths: impl Iterator<Item = usize>) -> Result<()> {
    bytes(field, lengths.sum(), MAX_COMMAND)
}

fn no_nul<'a>(field: &str, mut texts: impl Iterator<Item = &'a String>) -> Result<()> {
    match texts.find(|t| t.contains('\0')) {
        Some(text) => Err(Error::invalid(format!(
            "{field}: {:?} contains a NUL byte, where every program would see its end",
            shown(text)
        ))),
        None => Ok(()),
    }
}

/// Names end up in logs, in plugins' environments and in tables.
fn name(field: &str, text: &str) -> Result<()> {
    bytes(field, text.len(), MAX_NAME)?;
    if text.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "{field} {:?} contains a control character",
            shown(text)
        )));
    }
    Ok(())
}

fn path(field: &str, text: &str) -> Result<()> {
    bytes(field, text.len(), MAX_PATH)?;
    if text.contains(['\0', '\n']) {
        return Err(Error::invalid(format!(
            "{field} {:?} contains a NUL byte or a line break",
            shown(text)
        )));
    }
    Ok(())
}

/// What the resolver and everybody else takes for a host name; it also goes into files of lines.
fn hostname(text: &str) -> Result<()> {
    if text.len() > 64 {
        return Err(Error::invalid(format!(
            "hostname {:?} has {} bytes; the kernel takes at most 64",
            shown(text),
            text.len()
        )));
    }
    if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '/') {
        return Err(Error::invalid(format!(
            "hostname {text:?} contains a blank, a slash or a control character"
        )));
    }
    Ok(())
}

/// A mount in the place of the root would hide the image, one in the place of `/proc` the container's processes from
/// itself and from what makes it safe.
fn over_the_root(container_path: &str, host_path: &str) -> Result<()> {
    let mut parts: Vec<&str> = Vec::new();
    for part in container_path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    match parts[..] {
        [] => Err(Error::invalid(format!(
            "mounts: container_path {container_path:?} is the container's root: mount below it"
        ))),
        ["proc"] if host_path != "/proc" => Err(Error::invalid(format!(
            "mounts: container_path {container_path:?} can only be the node's /proc, not {host_path:?}"
        ))),
        _ => Ok(()),
    }
}

fn metadata(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Result<()> {
    let all = labels.iter().chain(annotations);
    bytes(
        "labels and annotations",
        all.map(|(key, value)| key.len() + value.len()).sum(),
        MAX_METADATA,
    )
}

fn bytes(field: &str, have: usize, most: usize) -> Result<()> {
    within(field, have, most, " bytes")
}

fn count(field: &str, have: usize, most: usize) -> Result<()> {
    within(field, have, most, "")
}

fn within(field: &str, have: usize, most: usize, unit: &str) -> Result<()> {
    if have > most {
        return Err(Error::invalid(format!(
            "{field}: {have}{unit} are more than the {most} allowed"
        )));
    }
    Ok(())
}

/// For messages.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::container::{Device, Mount};

    /// The message if a container changed like that is refused.
    fn refused(change: impl FnOnce(&mut ContainerConfig)) -> Option<String> {
        let mut config = ContainerConfig::default();
        change(&mut config);
        container(&config).err().map(|e| e.message().to_owned())
    }

    fn mount(inside: &str, host: &str) -> Mount {
        Mount {
            container_path: inside.into(),
            host_path: host.into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_kubernetes_sends_passes() {
        assert_eq!(
            refused(|c| {
                c.metadata.name = "main".into();
                c.annotations.insert("a".into(), "x".repeat(256 << 10));
                c.envs = (0..5000).map(|n| (format!("V{n}"), "x".repeat(1000))).collect();
                c.mounts = (0..1000).map(|n| mount(&format!("/m/{n}"), "/srv")).collect();
                c.mounts.push(mount("/proc", "/proc"));
                c.mounts
                    .push(mount("/proc/cpuinfo", "/var/lib/lxcfs/proc/cpuinfo"));
                c.resources.cpu_quota = -1;
                c.resources.memory_limit = -1;
                c.resources.oom_score_adj = -997;
            }),
            None
        );
    }

    #[test]
    fn what_no_container_can_have_is_refused_by_name() {
        type Change = fn(&mut ContainerConfig);
        let cases: [(&str, Change); 15] = [
            ("metadata.name", |c| c.metadata.name = "a\nb".into()),
            ("metadata.name", |c| c.metadata.name = "n".repeat(2000)),
            ("labels and annotations", |c| {
                c.labels.insert("a".into(), "x".repeat(1 << 20));
            }),
            ("command, args and envs", |c| c.args = vec!["x".repeat(7 << 20)]),
            ("command or args", |c| c.command = vec!["a\0b".into()]),
            ("mounts", |c| c.mounts = vec![mount("/x", "/y"); 10_000]),
            ("mounts: host_path", |c| c.mounts = vec![mount("/x", "/a\0b")]),
            ("container's root", |c| c.mounts = vec![mount("/a/../.", "/y")]),
            ("/proc", |c| c.mounts = vec![mount("//proc/", "/y")]),
            ("devices: host_path", |c| {
                c.devices = vec![Device {
                    host_path: "/dev/".repeat(1000),
                    ..Default::default()
                }];
            }),
            ("masked_paths", |c| c.security.masked_paths = vec!["/x\n".into()]),
            ("supplemental_groups", |c| {
                c.security.supplemental_groups = vec![1; 70_000]
            }),
            ("cpu_shares", |c| c.resources.cpu_shares = -1),
            ("oom_score_adj", |c| c.resources.oom_score_adj = i64::MIN),
            ("working_dir", |c| c.working_dir = "/\0".into()),
        ];
        for (field, change) in cases {
            let message = refused(change);
            assert!(
                message.as_ref().is_some_and(|m| m.contains(field)),
                "{field}: {message:?}"
            );
            assert!(message.is_some_and(|m| m.len() < 500), "{field}: endless");
        }
    }

    #[test]
    fn what_no_pod_can_have_is_refused_by_name() {
        type Change = fn(&mut PodConfig);
        let cases: [(&str, Change); 7] = [
            ("metadata.namespace", |c| c.metadata.namespace = "a\0".into()),
            ("hostname", |c| c.hostname = "h".repeat(65)),
            ("hostname", |c| c.hostname = "a\n10.0.0.1 registry".into()),
            ("log_directory", |c| c.log_directory = "/a\0".into()),
            ("sysctls", |c| drop(c.sysctls.insert("net.\0".into(), "1".into()))),
            ("dns_config", |c| {
                c.dns.get_or_insert_default().searches = vec!["x".repeat(20_000)];
            }),
            ("cpu_period", |c| {
                c.resources.get_or_insert_default().cpu_period = -5
            }),
        ];
        for (field, change) in cases {
            let mut config = PodConfig::default();
            change(&mut config);
            let message = pod(&config).err().map(|e| e.message().to_owned());
            assert!(
                message.as_ref().is_some_and(|m| m.contains(field)),
                "{field}: {message:?}"
            );
        }
    }

    #[test]
    fn commands_of_execs() {
        assert!(command(&["true".into()]).is_ok());
        for bad in [
            vec![],
            vec![String::new()],
            vec!["a\0".into()],
            vec!["x".repeat(7 << 20)],
        ] {
            assert!(command(&bad).is_err());
        }
    }
}
