//! Pods: what was asked for and the states they can be in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::resources::Resources;
use super::security::PodSecurity;

/// Who owns a pod. kubelet must neither see nor kill what the command line made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Realm {
    /// Came through CRI.
    #[default]
    K8s,
    /// Made by husk's command line.
    Husk,
}

/// What names a pod (CRI `PodSandboxMetadata`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodMetadata {
    /// Pod name.
    pub name: String,
    /// Pod uid.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Attempt number of the sandbox.
    pub attempt: u32,
}

/// Lifecycle of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    /// Being made; clients see nothing of it yet.
    Creating,
    /// Network is up and containers may be created.
    Ready,
    /// Stopped, or failed to start, or found dead.
    NotReady,
}

/// Transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node; 0 means the mapping is not published.
    pub host_port: u16,
    /// Address on the node; empty means all.
    pub host_ip: String,
}

/// DNS settings written to the pod's resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// Everything a client asked of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodConfig {
    /// Names.
    pub metadata: PodMetadata,
    /// Host name; empty means the node's for host-network pods, else none is set.
    pub hostname: String,
    /// Directory on the node for container logs; empty means none.
    pub log_directory: String,
    /// DNS; `None` copies the node's resolv.conf.
    pub dns: Option<DnsConfig>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, stored verbatim.
    pub labels: BTreeMap<String, String>,
    /// Annotations, stored verbatim.
    pub annotations: BTreeMap<String, String>,
    /// cgroup parent as kubelet names it (`/kubepods/...` or `...slice`); empty means husk's own.
    pub cgroup_parent: String,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Overhead of the pod.
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources.
    pub resources: Option<Resources>,
    /// Security.
    pub security: PodSecurity,
    /// Handler from the RuntimeClass; empty means the default.
    pub runtime_handler: String,
}
