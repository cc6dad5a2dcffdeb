//! The last pure step before the kernel: an OCI runtime spec becomes a [`LaunchPlan`], a flat list of steps that
//! `executor` carries out between clone3 and execve.
//!
//! A plan travels as JSON from the daemon to the supervisor of a pod, which may be older than the daemon. So every
//! field has a default and unknown fields are ignored; a field never changes its meaning.
//!
//! Nothing here touches the kernel: what is wrong with a spec is said here, what is wrong with the node is said by the
//! executor.

mod devices;
mod mounts;
mod namespaces;
mod options;
mod process;
mod restore;
mod runtime;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Spec};
use serde::{Deserialize, Serialize};

use crate::types::security::IdMapping;
use crate::types::{CgroupJoin, Error, Result};

pub use devices::{Device, DeviceKind, convert as device};
pub use mounts::{Attributes, ImageVolume, Mount, MountKind};
pub use namespaces::{Namespace, NamespaceKind};
pub use process::{
    Capabilities, HOOK_PATIENCE, Process, Rlimit, Scheduler, SeccompProgram, convert as hooks,
};
pub use restore::RestorePlan;
pub use runtime::{ExecCgroup, RuntimePlan, device_path, image_path, mapped_path};

/// What the container's root file system is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay of image layers with a writable directory on top.
    Overlay {
        /// Layer directories, the topmost first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// overlayfs' scratch directory, on the same file system as `upper`.
        work: PathBuf,
        /// Skip all syncs of the upper layer: it is worthless after a crash of the node.
        volatile: bool,
    },
    /// A directory as it is.
    Directory(PathBuf),
}

impl Default for Rootfs {
    fn default() -> Self {
        Self::Directory(PathBuf::new())
    }
}

/// What a launch needs that the OCI spec has no word for.
#[derive(Debug, Clone, Default)]
pub struct ContainerOptions {
    /// The root file system. `spec.root.path` is not looked at.
    pub rootfs: Rootfs,
    /// Show the layers of [`Rootfs::Overlay`] with the owners that the container's user namespace gives them. The upper
    /// directory belongs to the root user of that namespace.
    pub rootfs_id_map: bool,
    /// An existing directory that the root file system is mounted on, in the container's own mount namespace only.
    /// All containers may share it. With [`Rootfs::Directory`] it may be that directory.
    pub mount_point: PathBuf,
    /// The images that the container sees besides its own. The spec has a mount for each, which says where.
    pub image_volumes: Vec<ImageVolume>,
    /// The cgroup to start in; `None` stays in the caller's.
    pub cgroup: Option<CgroupJoin>,
    /// The compiled form of `spec.linux.seccomp`.
    pub seccomp: Option<SeccompProgram>,
    /// Fail if oom_score_adj cannot be lowered, instead of noting it.
    pub require_oom_score_adj: bool,
    /// Use MS_MOVE and chroot instead of pivot_root, for a root file system in an initramfs. Less safe.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub keep_keyring: bool,
    /// Look for the command before the gate and fail there, as runc's `create` does.
    pub check_command_early: bool,
    /// Stop before pivot_root so that the caller can run hooks: `Progress::BeforePivot`. Without it whatever hooks of the
    /// runtime the spec has become part of the plan.
    pub pause_before_pivot: bool,
}

/// Everything `executor::launch` does, in the order it does it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchPlan {
    /// See [`ContainerOptions::cgroup`].
    pub cgroup: Option<CgroupJoin>,
    /// Namespaces that are created or joined; those not listed are the caller's.
    pub namespaces: Vec<Namespace>,
    /// User ids of the user namespace, which a new one is given and one that is joined has.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids likewise.
    pub gid_mappings: Vec<IdMapping>,
    /// Offsets of a new time namespace: clock name, seconds, nanoseconds.
    pub time_offsets: Vec<(String, i64, u32)>,
    /// See [`ContainerOptions::keep_keyring`].
    pub keep_keyring: bool,
    /// Host name to set.
    pub hostname: Option<String>,
    /// NIS domain name to set.
    pub domainname: Option<String>,
    /// Kernel parameters by dotted name.
    pub sysctls: Vec<(String, String)>,
    /// See [`ContainerOptions::rootfs`].
    pub rootfs: Rootfs,
    /// See [`ContainerOptions::rootfs_id_map`].
    pub rootfs_id_map: bool,
    /// SELinux label of the root file system, where it is an overlay; empty for none.
    pub mount_label: String,
    /// See [`ContainerOptions::mount_point`].
    pub mount_point: PathBuf,
    /// Mounts in order.
    pub mounts: Vec<Mount>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Make the usual symbolic links in `/dev`.
    pub dev_links: bool,
    /// Paths that become empty.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that become read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// The root becomes read-only.
    pub readonly_root: bool,
    /// `MS_*` propagation of the finished root mount; 0 keeps it private.
    pub root_propagation: u64,
    /// See [`ContainerOptions::no_pivot`].
    pub no_pivot: bool,
    /// See [`ContainerOptions::pause_before_pivot`].
    pub pause_before_pivot: bool,
    /// Hooks that run inside the container's namespaces.
    pub hooks: Hooks,
    /// See [`ContainerOptions::check_command_early`].
    pub check_command_early: bool,
    /// The process itself.
    pub process: Process,
}

/// What `executor::exec` needs besides the container to enter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecPlan {
    /// The cgroup to run in; `None` stays in the caller's.
    pub cgroup: Option<CgroupJoin>,
    /// See [`ContainerOptions::keep_keyring`].
    pub keep_keyring: bool,
    /// The process.
    pub process: Process,
}

/// What an exec needs that the OCI spec has no word for.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The cgroup to run in.
    pub cgroup: Option<CgroupJoin>,
    /// The compiled form of the container's seccomp profile.
    pub seccomp: Option<SeccompProgram>,
    /// Fail if oom_score_adj cannot be lowered, instead of noting it.
    pub require_oom_score_adj: bool,
    /// Keep the caller's session keyring.
    pub keep_keyring: bool,
}

/// A program that the spec wants run at some point of the container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// All arguments, the program's name included; empty means the path alone.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<String>,
    /// Seconds after which the hook has failed. `None`: never; a hook of a pod's container that names no limit gets
    /// [`HOOK_PATIENCE`].
    pub timeout: Option<u64>,
}

/// The hooks that the new process itself runs, and the container state they are told on stdin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// Before those of `create_container`, in the runtime's own namespaces; with the name of their stage.
    pub runtime: Vec<(String, Hook)>,
    /// Before pivot_root, in the container's namespaces with the node's files.
    pub create_container: Vec<Hook>,
    /// After the gate, in the container's namespaces with its files.
    pub start_container: Vec<Hook>,
    /// OCI state without status and pid, which the executor fills in. `None` if nobody set it.
    pub state: Option<serde_json::Value>,
}

/// Turns a spec into the plan for the container's first process.
///
/// # Errors
/// `InvalidArgument` for what contradicts itself or asks for what is not namespaced, `Unimplemented` for what husk
/// does not do. The message names the field.
pub fn container(spec: &Spec, options: &ContainerOptions) -> Result<LaunchPlan> {
    let linux = spec.linux().clone().unwrap_or_default_less();
    let namespaces = namespaces::namespaces(&linux)?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::invalid("spec: process is missing: nothing to run"))?;
    let mut process = process::process(process)?;
    process.seccomp.clone_from(&options.seccomp);
    process.oom_score_adj_required = options.require_oom_score_adj;
    process.personality = process::personality(&linux)?;

    let mut mounts = mounts::mounts(
        spec.mounts().as_deref().unwrap_or_default(),
        linux.mount_label().as_deref(),
    )?;
    mounts::place_images(&mut mounts, &options.image_volumes)?;
    let dev_is_foreign = mounts::binds_over(&mounts, Path::new("/dev"));
    Ok(LaunchPlan {
        cgroup: options.cgroup.clone(),
        uid_mappings: namespaces::mappings(linux.uid_mappings().as_ref()),
        gid_mappings: namespaces::mappings(linux.gid_mappings().as_ref()),
        time_offsets: namespaces::time_offsets(&linux, &namespaces)?,
        keep_keyring: options.keep_keyring,
        hostname: namespaces::uts_name("hostname", spec.hostname().as_deref(), &namespaces)?,
        domainname: namespaces::uts_name("domainname", spec.domainname().as_deref(), &namespaces)?,
        sysctls: namespaces::sysctls(&linux, &namespaces)?,
        rootfs: options.rootfs.clone(),
        rootfs_id_map: options.rootfs_id_map,
        mount_label: linux.mount_label().clone().unwrap_or_default(),
        mount_point: options.mount_point.clone(),
        devices: if dev_is_foreign {
            Vec::new()
        } else {
            devices::devices(&linux)?
        },
        dev_links: !dev_is_foreign,
        mounts,
        masked_paths: paths(linux.masked_paths().as_ref()),
        readonly_paths: paths(linux.readonly_paths().as_ref()),
        readonly_root: spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false),
        root_propagation: options::root_propagation(linux.rootfs_propagation().as_deref())?,
        no_pivot: options.no_pivot,
        pause_before_pivot: options.pause_before_pivot,
        hooks: process::hooks(spec, !options.pause_before_pivot)?,
        check_command_early: options.check_command_early,
        namespaces,
        process,
    })
}

/// Turns a process of a spec into the plan for running it in a container that exists. `spec` is the container's own.
///
/// # Errors
/// As [`container`].
pub fn exec(spec: &Spec, process: &oci_spec::runtime::Process, options: &ExecOptions) -> Result<ExecPlan> {
    let mut process = process::process(process)?;
    process.seccomp.clone_from(&options.seccomp);
    process.oom_score_adj_required = options.require_oom_score_adj;
    if let Some(linux) = spec.linux() {
        process.personality = process::personality(linux)?;
    }
    Ok(ExecPlan {
        cgroup: options.cgroup.clone(),
        keep_keyring: options.keep_keyring,
        process,
    })
}

/// oci-spec's own default for `Linux` is a whole docker-like container; what is absent must mean nothing.
trait OrNothing {
    fn unwrap_or_default_less(self) -> Linux;
}

impl OrNothing for Option<Linux> {
    fn unwrap_or_default_less(self) -> Linux {
        self.unwrap_or_else(|| {
            let mut linux = Linux::default();
            linux
                .set_namespaces(None)
                .set_resources(None)
                .set_masked_paths(None)
                .set_readonly_paths(None);
            linux
        })
    }
}

fn paths(list: Option<&Vec<String>>) -> Vec<PathBuf> {
    list.into_iter().flatten().map(PathBuf::from).collect()
}
