//! The files' format, JSON or YAML, read strictly: an edit that is not understood is not left out silently.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::is_word;

/// Newest version of the format that is known here.
const NEWEST: (u64, u64) = (1, 1);

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpecFile {
    #[serde(skip)]
    pub path: PathBuf,
    cdi_version: String,
    pub kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    pub devices: Vec<DeviceEntry>,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// One device of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceEntry {
    pub name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// What a device changes in a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerEdits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<DeviceNode>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Programs to run.
    pub hooks: Vec<Hook>,
    /// Further groups of the process.
    pub additional_gids: Vec<u32>,
    /// Cache allocation; not supported, and so an error where it is asked for.
    pub(super) intel_rdt: Option<serde_json::Value>,
    /// Network interfaces; likewise.
    pub(super) net_devices: Option<serde_json::Value>,
}

/// A device node.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// Path inside.
    pub path: PathBuf,
    /// Path on the node; the same if it is empty.
    pub host_path: PathBuf,
    /// `b`, `c`, `u`, `p`; empty is what the node has.
    pub r#type: String,
    /// Major number; together with the minor one, 0 is what the node has.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits; absent is what the node has.
    pub file_mode: Option<u32>,
    /// cgroup access of `r`, `w`, `m`; empty is all.
    pub permissions: String,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Path on the node.
    pub host_path: PathBuf,
    /// Path inside.
    pub container_path: PathBuf,
    /// File system; empty is a bind mount.
    pub r#type: String,
    /// Options as in fstab.
    pub options: Vec<String>,
}

/// A program to run.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// When.
    pub hook_name: String,
    /// The program.
    pub path: PathBuf,
    /// All arguments, its name included.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Seconds it may take.
    pub timeout: Option<i64>,
}

/// Reads a file. The error does not name it.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<SpecFile, String> {
    let mut spec: SpecFile = if path.extension().is_some_and(|e| e == "yaml") {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        serde_saphyr::from_str(text).map_err(|e| e.to_string())?
    } else {
        serde_json::from_slice(bytes).map_err(|e| e.to_string())?
    };
    path.clone_into(&mut spec.path);
    check(&spec)?;
    Ok(spec)
}

fn check(spec: &SpecFile) -> Result<(), String> {
    let version = spec.cdi_version.strip_prefix('v').unwrap_or(&spec.cdi_version);
    let mut numbers = version.split('.').map(str::parse::<u64>);
    let known = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) <= NEWEST,
        _ => false,
    };
    if !known {
        let (major, minor) = NEWEST;
        return Err(format!(
            "cdiVersion {:?} is not one up to {major}.{minor}",
            spec.cdi_version
        ));
    }
    match spec.kind.split_once('/') {
        Some((vendor, class)) if is_word(vendor, true) && is_word(class, true) => {}
        _ => return Err(format!("kind {:?} is not vendor.com/class", spec.kind)),
    }
    if spec.devices.is_empty() {
        return Err("it describes no devices".to_owned());
    }
    for (n, device) in spec.devices.iter().enumerate() {
        if !is_word(&device.name, false) {
            return Err(format!("device name {:?} is none", device.name));
        }
        if spec.devices[..n].iter().any(|d| d.name == device.name) {
            return Err(format!("device {:?} is described twice", device.name));
        }
    }
    Ok(())
}
