//! husk's configuration: one TOML file, its drop-ins, and the flags that override it.
//!
//! Every key has a default, so the file is optional. An unknown key is an error that names the file, the line and the
//! nearest known key: a typing mistake must not silently change how a node runs. `deploy/config.toml` shows every
//! key with its default; a test keeps the two in step.

mod checkpoint;
mod load;
mod runtime;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use checkpoint::{Checkpoint, Level as CheckpointLevel};
pub use load::load;
pub use runtime::{BUILTIN, Handler};
pub use stream::Stream;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory for what must survive a reboot: images, writable layers, the database.
    pub root: PathBuf,
    /// Directory for what must not: sockets, pod files, exit records. Best on a tmpfs.
    pub run: PathBuf,
    /// Unix socket of the gRPC server; empty means `husk.sock` in [`Config::run`].
    pub socket: PathBuf,
    /// Logs.
    pub log: Log,
    /// Control groups.
    pub cgroup: Cgroup,
    /// Images and registries.
    pub image: Image,
    /// Pod networking.
    pub network: Network,
    /// The server that exec, attach and port forwarding go over.
    pub stream: Stream,
    /// Containers.
    pub container: Container,
    /// Checkpoints of containers.
    pub checkpoint: Checkpoint,
    /// Plugins of the node resource interface.
    pub nri: Nri,
    /// The Prometheus endpoint.
    pub metrics: Metrics,
    /// Traces.
    pub telemetry: Telemetry,
    /// Runtime handlers by name.
    pub runtime: BTreeMap<String, Handler>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,husk::image=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroup {
    /// Who makes cgroups; must be the same for kubelet (which asks husk).
    pub driver: CgroupDriver,
    /// Parent of pods that name none, and of the supervisors' cgroup.
    pub parent: String,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// husk, in the cgroup file system.
    #[default]
    Cgroupfs,
    /// systemd, over D-Bus.
    Systemd,
}

/// `[image]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Image {
    /// Directories in containerd's `certs.d` layout, first match wins.
    pub hosts_dirs: Vec<PathBuf>,
    /// Layers downloaded at once per pull.
    pub max_concurrent_downloads: usize,
    /// Seconds without a byte after which a transfer counts as stalled and is resumed.
    pub stall_timeout_secs: u64,
    /// Images that garbage collection must keep; `*` matches any run of characters.
    pub pinned: Vec<String>,
    /// Directory of image verifiers in containerd's sense: programs that all have to allow an image when it is pulled.
    /// Empty, or a directory that does not exist, for none.
    pub verifier_dir: PathBuf,
    /// Seconds each verifier may take.
    pub verifier_timeout_secs: u64,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Directory of CNI network configurations; the first by name is used.
    pub cni_conf_dir: PathBuf,
    /// Template of a CNI configuration: husk writes `10-husk.conflist` from it when kubelet tells the node's pod ranges,
    /// unless another configuration is there. Empty means none.
    pub cni_conf_template: PathBuf,
    /// Directories searched for CNI plugins.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Seconds a CNI plugin may take.
    pub cni_timeout_secs: u64,
    /// Network namespaces kept ready.
    pub netns_pool: usize,
    /// Use husk's own bridge when there is no CNI configuration.
    pub builtin: bool,
    /// Name of that bridge; empty derives one from [`Config::root`].
    pub builtin_bridge: String,
    /// Subnet of that bridge.
    pub builtin_subnet: String,
}

/// `[container]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Container {
    /// Longest line in a container log, in bytes, before it is split.
    pub max_log_line_bytes: u32,
    /// Size of a pod's `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// Let containers bind ports below 1024 without a capability, as other runtimes do.
    pub unprivileged_ports: bool,
    /// Let containers open ICMP echo sockets without a capability, as other runtimes do.
    pub unprivileged_icmp: bool,
    /// Soft and hard limit of open files; 0 inherits husk's own.
    pub nofile: u64,
    /// Most bytes kept of each of stdout and stderr of a synchronous exec. Both together have to fit into the 16 MiB
    /// that clients accept of a message.
    pub exec_output_bytes: usize,
    /// Directories with the files of device vendors (Container Device Interface); what is in a later one wins.
    pub cdi_dirs: Vec<PathBuf>,
    /// What to make of SELinux.
    pub selinux: Selinux,
}

/// Whether containers get SELinux labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selinux {
    /// Where the kernel has SELinux. Elsewhere a wish for certain options is ignored, as other runtimes do: much that is
    /// deployed relies on that.
    #[default]
    Auto,
    /// As `Auto`, and a pod or container that asks for options on a node without SELinux is refused.
    Required,
    /// Never.
    Off,
}

/// `[nri]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nri {
    /// Let NRI plugins connect.
    pub enabled: bool,
    /// Unix socket they connect to.
    pub socket: PathBuf,
    /// Seconds a plugin may take to register, and to take in the state of the node.
    pub plugin_registration_timeout_secs: u64,
    /// Seconds a plugin may take to answer anything else. One that takes longer is disconnected.
    pub plugin_request_timeout_secs: u64,
}

impl Default for Nri {
    fn default() -> Self {
        Self {
            enabled: false,
            socket: "/var/run/nri/nri.sock".into(),
            plugin_registration_timeout_secs: 5,
            plugin_request_timeout_secs: 2,
        }
    }
}

/// `[metrics]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where the Prometheus endpoint listens: `127.0.0.1:9640` or `unix:///run/husk/metrics.sock`. Empty means nowhere.
    pub address: String,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// gRPC address of an OpenTelemetry collector: `http://127.0.0.1:4317`. Empty means no traces.
    pub otlp_endpoint: String,
    /// Of a million calls whose client has not decided itself, how many are traced.
    pub sampling_per_million: u32,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            sampling_per_million: 1_000_000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/husk".into(),
            run: "/run/husk".into(),
            socket: PathBuf::new(),
            log: Log::default(),
            cgroup: Cgroup::default(),
            image: Image::default(),
            network: Network::default(),
            stream: Stream::default(),
            container: Container::default(),
            checkpoint: Checkpoint::default(),
            nri: Nri::default(),
            metrics: Metrics::default(),
            telemetry: Telemetry::default(),
            runtime: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self {
            driver: CgroupDriver::Cgroupfs,
            parent: "/husk".into(),
        }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            hosts_dirs: vec!["/etc/husk/certs.d".into(), "/etc/containerd/certs.d".into()],
            max_concurrent_downloads: 3,
            stall_timeout_secs: 60,
            pinned: Vec::new(),
            verifier_dir: "/opt/containerd/image-verifier/bin".into(),
            verifier_timeout_secs: 10,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_conf_template: PathBuf::new(),
            cni_bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cni_timeout_secs: 180,
            netns_pool: 4,
            builtin: false,
            builtin_bridge: String::new(),
            builtin_subnet: "10.88.0.0/16".into(),
        }
    }
}

impl Default for Container {
    fn default() -> Self {
        Self {
            max_log_line_bytes: 16 * 1024,
            shm_bytes: 64 << 20,
            unprivileged_ports: true,
            unprivileged_icmp: true,
            nofile: 1_048_576,
            exec_output_bytes: (8 << 20) - (64 << 10),
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            selinux: Selinux::Auto,
        }
    }
}

impl Config {
    /// The socket, with its default worked out.
    pub fn socket(&self) -> PathBuf {
        if self.socket.as_os_str().is_empty() {
            self.run.join("husk.sock")
        } else {
            self.socket.clone()
        }
    }
}
