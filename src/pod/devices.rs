//! Devices: those a client names and, for privileged containers, all of the node's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};

use crate::types::container::Device;
use crate::types::error::{Context, Error, Result};

/// Most devices one request may lead to; a directory may hold many.
const MAX_DEVICES: usize = 4096;
/// Most files looked at on the way to them: a client may name `/`.
const MAX_LOOKED_AT: usize = 65_536;

/// Devices to make and the rules that allow their use.
#[derive(Debug, Default)]
pub struct Devices {
    /// Nodes.
    pub nodes: Vec<LinuxDevice>,
    /// cgroup rules.
    pub rules: Vec<LinuxDeviceCgroup>,
    looked_at: usize,
}

/// Looks up the devices a client named.
///
/// # Errors
/// A path that is no device and no directory; impossible permissions.
pub fn named(devices: &[Device]) -> Result<Devices> {
    let mut out = Devices::default();
    for device in devices {
        let access = if device.permissions.is_empty() {
            "rwm"
        } else {
            &device.permissions
        };
        if !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
            return Err(Error::invalid(format!(
                "device {:?}: permissions {access:?} are not of r, w, m",
                device.host_path
            )));
        }
        let host = Path::new(&device.host_path);
        let inside = if device.container_path.is_empty() {
            host.to_owned()
        } else {
            PathBuf::from(&device.container_path)
        };
        add(&mut out, host, &inside, access, true)?;
    }
    Ok(out)
}

/// All devices of the node, for a privileged container, whose cgroup allows everything.
///
/// # Errors
/// `/dev` cannot be read.
pub fn all() -> Result<Vec<LinuxDevice>> {
    let mut out = Devices::default();
    walk(&mut out, Path::new("/dev"), Path::new("/dev"), "rwm")?;
    Ok(out.nodes)
}

fn add(out: &mut Devices, host: &Path, inside: &Path, access: &str, named: bool) -> Result<()> {
    let meta = fs::metadata(host).with_context(|| format!("device {}", host.display()))?;
    let kind = meta.file_type();
    let typ = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else if kind.is_dir() && named {
        return walk(out, host, inside, access);
    } else if named {
        return Err(Error::invalid(format!(
            "device {} is neither a device nor a directory of devices",
            host.display()
        )));
    } else {
        return Ok(());
    };
    if out.nodes.len() >= MAX_DEVICES {
        return Err(Error::invalid(format!(
            "more than {MAX_DEVICES} devices asked for"
        )));
    }
    let (major, minor) = (
        nix::sys::stat::major(meta.rdev()),
        nix::sys::stat::minor(meta.rdev()),
    );
    let (major, minor) = (
        i64::try_from(major).unwrap_or(0),
        i64::try_from(minor).unwrap_or(0),
    );
    let mut node = LinuxDevice::default();
    node.set_path(inside.to_owned())
        .set_typ(typ)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(Some(meta.mode() & 0o7777))
        .set_uid(Some(meta.uid()))
        .set_gid(Some(meta.gid()));
    out.nodes.push(node);
    out.rules.extend(
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(typ)
            .major(major)
            .minor(minor)
            .access(access)
            .build()
            .ok(),
    );
    Ok(())
}

fn walk(out: &mut Devices, host: &Path, inside: &Path, access: &str) -> Result<()> {
    let entries = fs::read_dir(host).with_context(|| format!("read directory {}", host.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read directory {}", host.display()))?;
        let name = entry.file_name();
        out.looked_at += 1;
        if out.looked_at > MAX_LOOKED_AT {
            return Err(Error::invalid(format!(
                "devices below {}: more than {MAX_LOOKED_AT} files to look through; name the devices, or a directory of \
                 devices such as /dev/snd",
                host.display()
            )));
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            // The container has its own of these.
            if !["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"]
                .iter()
                .any(|own| name == *own)
            {
                walk(out, &entry.path(), &inside.join(&name), access)?;
            }
        } else if (kind.is_char_device() || kind.is_block_device()) && name != "console" {
            // A device that vanishes while we look is not worth an error.
            let _ = add(out, &entry.path(), &inside.join(&name), access, false);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_directory_without_end_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let look = |looked_at| {
            let mut out = Devices {
                looked_at,
                ..Default::default()
            };
            add(&mut out, dir.path(), Path::new("/dev/x"), "r", true)
        };
        assert!(look(MAX_LOOKED_AT - 1).is_ok());
        assert!(
            look(MAX_LOOKED_AT)
                .unwrap_err()
                .message()
                .contains("name the devices")
        );
    }
}
