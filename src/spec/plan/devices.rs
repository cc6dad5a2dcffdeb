//! Device nodes of a plan: those that every container has, then the spec's own.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use crate::types::{Error, Result};

/// What kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where, inside.
    pub path: PathBuf,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number.
    #[serde(default)]
    pub major: u32,
    /// Minor number.
    #[serde(default)]
    pub minor: u32,
    /// Permission bits.
    #[serde(default)]
    pub mode: u32,
    /// Owner.
    #[serde(default)]
    pub uid: u32,
    /// Group.
    #[serde(default)]
    pub gid: u32,
}

/// Made in every container that does not bring its own `/dev`.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

pub(super) fn devices(linux: &Linux) -> Result<Vec<Device>> {
    let wanted = linux.devices().as_deref().unwrap_or_default();
    let mut out: Vec<Device> = DEFAULT
        .iter()
        .filter(|(path, ..)| !wanted.iter().any(|d| d.path() == Path::new(path)))
        .map(|&(path, major, minor)| Device {
            path: path.into(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for device in wanted {
        out.push(convert(device)?);
    }
    Ok(out)
}

/// The node that a spec's device asks for.
///
/// # Errors
/// `InvalidArgument`: it makes no sense.
pub fn convert(device: &LinuxDevice) -> Result<Device> {
    let path = device.path();
    let bad = |what: &str| Error::invalid(format!("spec: linux.devices: {}: {what}", path.display()));
    if !path.is_absolute() {
        return Err(bad("the path is not absolute"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(bad("type \"a\" is for cgroup rules, not for a node")),
    };
    Ok(Device {
        path: path.clone(),
        kind,
        major: u32::try_from(device.major()).map_err(|_| bad("bad major number"))?,
        minor: u32::try_from(device.minor()).map_err(|_| bad("bad minor number"))?,
        // Specs hold either permission bits or a whole st_mode.
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}
