//! Pods.

use bytes::Bytes;

use crate::cri::list;
use crate::cri::proto as p;
use crate::pod::events::PodView;
use crate::pod::index::PodFilter;
use crate::pod::sandbox::Pod;
use crate::types::error::{Error, Result};
use crate::types::pod::{DnsConfig, PodConfig, PodMetadata, PodState, PortMapping, Protocol};

use super::{enumeration, from_map, resources, security, to_map};

/// A pod's configuration.
///
/// # Errors
/// Missing metadata, a port out of range, an unknown enum value.
pub fn config(c: p::PodSandboxConfig, runtime_handler: String) -> Result<PodConfig> {
    let metadata = c
        .metadata
        .ok_or_else(|| Error::invalid("sandbox config: metadata is missing"))?;
    let linux = c.linux.unwrap_or_default();
    Ok(PodConfig {
        metadata: PodMetadata {
            name: metadata.name,
            uid: metadata.uid,
            namespace: metadata.namespace,
            attempt: metadata.attempt,
        },
        hostname: c.hostname,
        log_directory: c.log_directory,
        dns: c.dns_config.map(|d| DnsConfig {
            servers: d.servers,
            searches: d.searches,
            options: d.options,
        }),
        port_mappings: c.port_mappings.into_iter().map(port).collect::<Result<_>>()?,
        labels: from_map(c.labels),
        annotations: from_map(c.annotations),
        cgroup_parent: linux.cgroup_parent,
        sysctls: from_map(linux.sysctls),
        overhead: linux.overhead.map(resources::from),
        resources: linux.resources.map(resources::from),
        security: security::pod(linux.security_context.unwrap_or_default())?,
        runtime_handler,
    })
}

fn port(m: p::PortMapping) -> Result<PortMapping> {
    let number = |value: i32, field| {
        u16::try_from(value)
            .map_err(|_| Error::invalid(format!("port mapping: {field} {value} is not a port")))
    };
    Ok(PortMapping {
        protocol: match enumeration(m.protocol, "port mapping: protocol")? {
            p::Protocol::Tcp => Protocol::Tcp,
            p::Protocol::Udp => Protocol::Udp,
            p::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: number(m.container_port, "container_port")?,
        host_port: number(m.host_port, "host_port")?,
        host_ip: m.host_ip,
    })
}

/// A list filter.
pub fn filter(f: Option<p::PodSandboxFilter>) -> Result<PodFilter> {
    let Some(f) = f else {
        return Ok(PodFilter::default());
    };
    let state = match f.state {
        None => None,
        Some(s) => Some(match enumeration(s.state, "filter: state")? {
            p::PodSandboxState::SandboxReady => PodState::Ready,
            p::PodSandboxState::SandboxNotready => PodState::NotReady,
        }),
    };
    Ok(PodFilter {
        id: f.id,
        state,
        labels: from_map(f.label_selector),
    })
}

/// A list item on the wire, kept for as long as the pod is in this state.
pub fn encoded(pod: &Pod, state: PodState) -> Bytes {
    pod.encoded.get(state, || list::encode(&item(pod, state)))
}

fn item(pod: &Pod, at: PodState) -> p::PodSandbox {
    p::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.config.metadata)),
        state: state(at).into(),
        created_at: pod.created_at,
        labels: to_map(&pod.config.labels),
        annotations: to_map(&pod.config.annotations),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// The status.
pub fn status(view: &PodView) -> p::PodSandboxStatus {
    let pod = &view.pod;
    let mut ips = view.ips.iter().map(ToString::to_string);
    p::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.config.metadata)),
        state: state(view.state).into(),
        created_at: pod.created_at,
        network: Some(p::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| p::PodIp { ip }).collect(),
        }),
        linux: Some(p::LinuxPodSandboxStatus {
            namespaces: Some(p::Namespace {
                options: Some(security::to_namespaces(&pod.config.security.namespaces)),
            }),
        }),
        labels: to_map(&pod.config.labels),
        annotations: to_map(&pod.config.annotations),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// What names a pod.
pub fn metadata(m: &PodMetadata) -> p::PodSandboxMetadata {
    p::PodSandboxMetadata {
        name: m.name.clone(),
        uid: m.uid.clone(),
        namespace: m.namespace.clone(),
        attempt: m.attempt,
    }
}

fn state(state: PodState) -> p::PodSandboxState {
    match state {
        PodState::Ready => p::PodSandboxState::SandboxReady,
        PodState::Creating | PodState::NotReady => p::PodSandboxState::SandboxNotready,
    }
}
