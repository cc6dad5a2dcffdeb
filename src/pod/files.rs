//! The files that husk makes for a pod: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.

use std::path::Path;

use crate::spec::mounts::PodFiles;
use crate::types::PodConfig;
use crate::types::error::{Context, Error, Result};
use crate::types::pod::DnsConfig;
use crate::types::security::{IdMapping, NamespaceMode};

/// What the resolver reads of one line of options or searches is bounded; so is what we write.
const MAX_RESOLV_ENTRIES: usize = 64;

/// Writes the files into the pod's run directory.
///
/// # Errors
/// A file cannot be written; DNS settings with line breaks in them.
pub fn write(dir: &Path, config: &PodConfig) -> Result<PodFiles> {
    let files = PodFiles {
        hosts: dir.join("hosts"),
        hostname: dir.join("hostname"),
        resolv_conf: dir.join("resolv.conf"),
        shm: Default::default(),
    };
    let hostname = hostname(config);
    put(&files.hostname, &format!("{hostname}\n"))?;
    put(&files.hosts, &hosts(&hostname))?;
    put(&files.resolv_conf, &resolv_conf(config.dns.as_ref())?)?;
    if let Some(user) = config.security.namespaces.own_user() {
        let (uid, gid) = (
            IdMapping::to_host(&user.uids, 0),
            IdMapping::to_host(&user.gids, 0),
        );
        for file in [&files.hosts, &files.hostname, &files.resolv_conf] {
            std::os::unix::fs::chown(file, uid, gid)
                .with_context(|| format!("set owner of {}", file.display()))?;
        }
    }
    Ok(files)
}

/// The host name of a pod: what was asked for, or the node's.
pub fn hostname(config: &PodConfig) -> String {
    if config.hostname.is_empty() || config.security.namespaces.network == NamespaceMode::Node {
        let node = nix::unistd::gethostname()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if config.hostname.is_empty() {
            node
        } else {
            config.hostname.clone()
        }
    } else {
        config.hostname.clone()
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// kubelet mounts its own file over this one; it is for pods that come from elsewhere.
fn hosts(hostname: &str) -> String {
    std::fs::read_to_string("/etc/hosts").unwrap_or_else(|_| {
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    })
}

pub(super) fn resolv_conf(dns: Option<&DnsConfig>) -> Result<String> {
    let asked = dns.filter(|d| !(d.servers.is_empty() && d.searches.is_empty() && d.options.is_empty()));
    let Some(dns) = asked else {
        return Ok(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    };
    let all = || dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if all().any(|v| v.contains(['\n', '\r', '\0'])) {
        return Err(Error::invalid("DNS config: a value contains a line break"));
    }
    if all().count() > MAX_RESOLV_ENTRIES {
        return Err(Error::invalid(format!(
            "DNS config: more than {MAX_RESOLV_ENTRIES} entries"
        )));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn dns_settings_become_resolv_conf() {
        let list = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let dns = DnsConfig {
            servers: list("10.0.0.1 10.0.0.2"),
            searches: list("a.b c"),
            options: list("ndots:5"),
        };
        assert_eq!(
            resolv_conf(Some(&dns)).unwrap(),
            "search a.b c\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n"
        );
        let evil = DnsConfig {
            servers: vec!["1.1.1.1\nnameserver 6.6.6.6".into()],
            ..Default::default()
        };
        assert!(resolv_conf(Some(&evil)).is_err());
    }
}
