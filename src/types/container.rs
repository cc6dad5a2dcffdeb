//! Containers: what was asked for and the states they can be in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::resources::Resources;
use super::security::{ContainerSecurity, IdMapping};

/// What names a container within its pod (CRI `ContainerMetadata`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Container name.
    pub name: String,
    /// Attempt number.
    pub attempt: u32,
}

/// Lifecycle of a container.
///
/// ```text
/// Creating ──> Created ──> Running ──> Exited
///                 └───────────────────────^   (start failed, pod stopped)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Being made; clients see nothing of it yet.
    Creating,
    /// Its process waits at the gate.
    Created,
    /// Its process was started.
    Running,
    /// Its process ended, or never ran.
    Exited,
    /// husk cannot tell.
    Unknown,
}

/// The image a container runs, as the client named it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// Image id or reference.
    pub image: String,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// What the user wrote in the pod.
    pub user_specified_image: String,
    /// Runtime handler the image was pulled for.
    pub runtime_handler: String,
    /// Digest reference.
    pub image_ref: String,
}

/// How mount events travel between node and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// Mounts made on the node later appear in the container.
    HostToContainer,
    /// And the other way too.
    Bidirectional,
}

/// A mount asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path inside.
    pub container_path: String,
    /// Path on the node; empty for image mounts.
    pub host_path: String,
    /// Read-only.
    pub readonly: bool,
    /// Relabel for SELinux.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// Id mappings for user ids.
    pub uid_mappings: Vec<IdMapping>,
    /// Id mappings for group ids.
    pub gid_mappings: Vec<IdMapping>,
    /// Read-only including what is mounted below.
    pub recursive_read_only: bool,
    /// Image to mount instead of a path.
    pub image: Option<ImageSpec>,
    /// Path within that image.
    pub image_sub_path: String,
}

/// A device asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path inside.
    pub container_path: String,
    /// Path on the node; a directory means all devices in it.
    pub host_path: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Everything a client asked of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Names.
    pub metadata: ContainerMetadata,
    /// Image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint; empty keeps it.
    pub command: Vec<String>,
    /// Replaces the image's command; empty keeps it unless `command` is set.
    pub args: Vec<String>,
    /// Working directory; empty means the image's.
    pub working_dir: String,
    /// Environment in order; later entries win.
    pub envs: Vec<(String, String)>,
    /// Mounts in order.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// CDI device names.
    pub cdi_devices: Vec<String>,
    /// Labels, stored verbatim.
    pub labels: BTreeMap<String, String>,
    /// Annotations, stored verbatim.
    pub annotations: BTreeMap<String, String>,
    /// Log file relative to the pod's log directory; empty means no log.
    pub log_path: String,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin after the first attach.
    pub stdin_once: bool,
    /// Run on a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Security.
    pub security: ContainerSecurity,
    /// Signal to stop with, by number; 0 means the image's or SIGTERM.
    pub stop_signal: i32,
}
