//! What is to be known to have a container made by an OCI runtime instead of husk's own executor.
//!
//! Like a [`super::LaunchPlan`] it travels as JSON to a supervisor that may be older than the daemon, and stays there as
//! long as the container: whoever kills and deletes it later needs nothing else.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Device, ImageVolume, Mount, Rootfs};

/// An OCI runtime and one container of its.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimePlan {
    /// The program.
    pub program: PathBuf,
    /// Arguments before the verb, `--root` among them.
    pub args: Vec<String>,
    /// Where the runtime keeps the state of its containers, each in a directory named by its id.
    pub root: PathBuf,
    /// The container's bundle: a directory with `config.json`, whose `root.path` is `rootfs`. Files of single calls go
    /// there too.
    pub bundle: PathBuf,
    /// Mounted on `rootfs` in the bundle, in a mount namespace that only the runtime and the container are in.
    pub rootfs: Rootfs,
    /// SELinux label of what husk mounts for the container; empty for none.
    pub mount_label: String,
    /// Each is mounted in the same namespace at [`image_path`], from where the spec binds it.
    pub image_volumes: Vec<ImageVolume>,
    /// The pod's user namespace, through which the layers and the images are mapped; none for a pod without.
    pub user_namespace: Option<PathBuf>,
    /// Whose the standard streams are to be, as the node counts, so that they can be opened again from inside a user
    /// namespace.
    pub stdio_owner: Option<u32>,
    /// Volumes with mapped ids, which not every runtime can make. Each is mounted in the same namespace at
    /// [`mapped_path`], from where the spec binds it.
    pub mapped: Vec<Mount>,
    /// Device nodes, which nobody in a user namespace can make. Each is made in the same namespace at [`device_path`], from
    /// where the spec binds it.
    pub devices: Vec<Device>,
    /// Sources of mounts that propagate to the node. In the runtime's mount namespace nothing else does.
    pub bidirectional: Vec<PathBuf>,
    /// How an exec gets a cgroup of its own.
    pub exec_cgroup: ExecCgroup,
}

/// Where in a bundle the image volume of that number is.
pub fn image_path(bundle: &Path, number: usize) -> PathBuf {
    bundle.join("images").join(number.to_string())
}

/// Where in a bundle the volume with mapped ids of that number is.
pub fn mapped_path(bundle: &Path, number: usize) -> PathBuf {
    bundle.join("mapped").join(number.to_string())
}

/// Where in a bundle the device node of that number is.
pub fn device_path(bundle: &Path, number: usize) -> PathBuf {
    bundle.join("devices").join(format!("device-{number}"))
}

/// What a runtime's `exec` knows of cgroups below the container's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecCgroup {
    /// Nothing. The process is moved when it runs already, and what it started by then is not.
    #[default]
    Unknown,
    /// `--cgroup <name>`, the same in every hierarchy: of use on version 2.
    Unified,
    /// `--cgroup <controller>:<name>` as well.
    PerController,
}
