//! What the pod side says to the network and hears from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cidr::Cidr;
use crate::types::PodId;
use crate::types::pod::{DnsConfig, PortMapping};

/// Where everything is and which network is used.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Directory of CNI configurations; the first file by name counts.
    pub cni_conf_dir: PathBuf,
    /// Template of a CNI configuration, filled with the node's pod ranges; `None`: somebody else makes it.
    pub cni_conf_template: Option<PathBuf>,
    /// Directories searched for CNI plugins, in order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// husk's own records, which must survive a reboot.
    pub state_dir: PathBuf,
    /// Where namespaces are pinned by name. This daemon's alone: what it finds there under a pod id is its to remove.
    pub netns_dir: PathBuf,
    /// The network used while there is no CNI configuration. `None`: pods then fail.
    pub builtin: Option<BuiltinConfig>,
    /// How many namespaces are made ahead of need.
    pub netns_pool: usize,
    /// Bound on all plugins of one attachment together. Keep it below kubelet's four minutes.
    pub cni_timeout: Duration,
    /// libcni's result cache, shared with other runtimes on the node (`/var/lib/cni/results`). Without it husk never
    /// sends the GC verb, which removes all attachments it is not told of: those of other runtimes as well.
    pub cni_shared_cache: Option<PathBuf>,
    /// How long the detaching of a pod fails because a plugin that attached it is not installed any more.
    pub missing_plugin_patience: Duration,
}

impl NetworkConfig {
    /// Three minutes: a stalled plugin is reported, and cleaned up after, before kubelet gives up.
    pub const CNI_TIMEOUT: Duration = Duration::from_secs(180);
}

/// The network husk makes itself: one bridge, one address per pod.
#[derive(Debug, Clone)]
pub struct BuiltinConfig {
    /// Name of the bridge; empty derives one from the state directory, so that several daemons do not meet.
    pub bridge: String,
    /// IPv4 network of the pods. If it is taken on this node another of the same size is used.
    pub subnet: Cidr,
    /// IPv6 network of the pods. With it the node forwards IPv6, and then takes no default route from router
    /// advertisements any more unless `accept_ra` is 2.
    pub subnet6: Option<Cidr>,
    /// MTU; 0 for the kernel's default.
    pub mtu: u32,
}

/// What the network needs to know of a pod.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    /// Identifier; also the CNI container id.
    pub id: PodId,
    /// Pod name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod uid.
    pub uid: String,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations; bandwidth limits are among them.
    pub annotations: BTreeMap<String, String>,
    /// DNS settings, for plugins that want them.
    pub dns: Option<DnsConfig>,
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Addresses of the pod; the primary one first.
    pub ips: Vec<IpAddr>,
    /// Interfaces, those on the node included.
    pub interfaces: Vec<Interface>,
    /// The whole result in CNI's form, for verbose status.
    pub result_json: String,
}

/// An interface that belongs to an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Hardware address; may be empty.
    pub mac: String,
    /// Path of the namespace it is in; empty for the node's.
    pub sandbox: String,
}

/// Whether pods can be given a network (CRI's `NetworkReady`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// They can.
    pub ready: bool,
    /// One word, empty if ready.
    pub reason: String,
    /// For people. May carry a note although ready.
    pub message: String,
}

/// Counters of one interface, as seen from within the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Interface name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receive.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped on send.
    pub tx_dropped: u64,
}
