//! Edits applied to a container's spec.

use std::path::Path;

use oci_spec::runtime::{
    Hook as OciHook, Hooks, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    Mount as OciMount, Spec,
};

use crate::types::{Error, Kind, Result};

use super::format::{ContainerEdits, DeviceNode, Hook, Mount};

/// A device node as the node has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNode {
    /// Block, character or fifo.
    pub kind: LinuxDeviceType,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
}

/// Applies `list` in order. `look` looks a device up on the node.
///
/// # Errors
/// An edit that cannot be, or that husk does not do; whatever `look` says.
pub fn apply(
    list: &[&ContainerEdits],
    spec: &mut Spec,
    look: impl Fn(&Path) -> Result<HostNode>,
) -> Result<()> {
    for edits in list {
        refuse_unsupported(edits)?;
        edits.env.iter().try_for_each(|e| env(spec, e))?;
        for node in &edits.device_nodes {
            device(spec, node, &look)?;
        }
        edits.mounts.iter().try_for_each(|m| mount(spec, m))?;
        edits.hooks.iter().try_for_each(|h| hook(spec, h))?;
        groups(spec, &edits.additional_gids);
    }
    // A mount of a device may be above one that was there, or below.
    if let Some(mounts) = spec.mounts_mut() {
        mounts.sort_by_key(|m| m.destination().components().count());
    }
    Ok(())
}

fn refuse_unsupported(edits: &ContainerEdits) -> Result<()> {
    let what = match (&edits.intel_rdt, &edits.net_devices) {
        (Some(_), _) => "intelRdt",
        (_, Some(_)) => "netDevices",
        (None, None) => return Ok(()),
    };
    Err(Error::new(
        Kind::Unimplemented,
        format!("CDI: containerEdits.{what} is not supported by this version of husk"),
    ))
}

fn env(spec: &mut Spec, entry: &str) -> Result<()> {
    let name = match entry.split_once('=') {
        Some((name, _)) if !name.is_empty() && !entry.contains('\0') => name,
        _ => return Err(Error::invalid(format!("CDI: env {entry:?} is not NAME=value"))),
    };
    let process = spec.process_mut().get_or_insert_default();
    let all = process.env_mut().get_or_insert_default();
    let old = all
        .iter_mut()
        .find(|e| e.split_once('=').is_some_and(|(n, _)| n == name));
    match old {
        Some(old) => entry.clone_into(old),
        None => all.push(entry.to_owned()),
    }
    Ok(())
}

fn device(spec: &mut Spec, node: &DeviceNode, look: impl Fn(&Path) -> Result<HostNode>) -> Result<()> {
    let fail = |why: &str| Error::invalid(format!("CDI: device node {}: {why}", node.path.display()));
    if !node.path.is_absolute() {
        return Err(fail("its path is not absolute"));
    }
    if !node.permissions.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
        return Err(fail("its permissions are not of r, w, m"));
    }
    let kind = match node.r#type.as_str() {
        "" => None,
        "b" => Some(LinuxDeviceType::B),
        "c" | "u" => Some(LinuxDeviceType::C),
        "p" => Some(LinuxDeviceType::P),
        _ => return Err(fail("its type is not b, c, u or p")),
    };
    let numbered = node.major != 0 || node.minor != 0 || kind == Some(LinuxDeviceType::P);
    let host = match (kind, numbered, node.file_mode) {
        (Some(kind), true, Some(mode)) => HostNode {
            kind,
            major: node.major,
            minor: node.minor,
            mode,
        },
        _ => {
            let path = if node.host_path.as_os_str().is_empty() {
                &node.path
            } else {
                &node.host_path
            };
            let found = look(path)?;
            if kind.is_some_and(|k| k != found.kind) {
                return Err(fail("the node has a device of another type there"));
            }
            HostNode {
                kind: found.kind,
                major: if numbered { node.major } else { found.major },
                minor: if numbered { node.minor } else { found.minor },
                mode: node.file_mode.unwrap_or(found.mode),
            }
        }
    };
    // A device without an owner is the process's: it is there to be used.
    let user = spec.process().as_ref().map(|p| (p.user().uid(), p.user().gid()));
    let (uid, gid) = user.unwrap_or_default();
    let mut made = LinuxDevice::default();
    made.set_path(node.path.clone())
        .set_typ(host.kind)
        .set_major(host.major)
        .set_minor(host.minor)
        .set_file_mode(Some(host.mode & 0o7777))
        .set_uid(Some(node.uid.unwrap_or(uid)))
        .set_gid(Some(node.gid.unwrap_or(gid)));
    let linux = spec.linux_mut().get_or_insert_default();
    let devices = linux.devices_mut().get_or_insert_default();
    devices.retain(|d| *d.path() != node.path);
    devices.push(made);
    if host.kind != LinuxDeviceType::P {
        let resources = linux.resources_mut().get_or_insert_default();
        resources
            .devices_mut()
            .get_or_insert_default()
            .push(rule(host, &node.permissions)?);
    }
    Ok(())
}

fn rule(host: HostNode, permissions: &str) -> Result<LinuxDeviceCgroup> {
    let access = if permissions.is_empty() {
        "rwm"
    } else {
        permissions
    };
    LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(host.kind)
        .major(host.major)
        .minor(host.minor)
        .access(access)
        .build()
        .map_err(|e| Error::internal(format!("CDI: device rule: {e}")))
}

fn mount(spec: &mut Spec, m: &Mount) -> Result<()> {
    if !m.container_path.is_absolute() || m.host_path.as_os_str().is_empty() {
        return Err(Error::invalid(format!(
            "CDI: mount of {:?} on {:?}: hostPath and an absolute containerPath are needed",
            m.host_path.display(),
            m.container_path.display()
        )));
    }
    let binds = |o: &String| o == "bind" || o == "rbind";
    let mut options = m.options.clone();
    let kind = match m.r#type.as_str() {
        "" | "none" | "bind" => {
            if !options.iter().any(binds) {
                options.push("rbind".into());
            }
            "bind"
        }
        other => other,
    };
    let mut made = OciMount::default();
    made.set_destination(m.container_path.clone())
        .set_source(Some(m.host_path.clone()))
        .set_typ(Some(kind.to_owned()))
        .set_options(Some(options));
    let all = spec.mounts_mut().get_or_insert_default();
    all.retain(|old| *old.destination() != m.container_path);
    all.push(made);
    Ok(())
}

fn hook(spec: &mut Spec, h: &Hook) -> Result<()> {
    let mut made = OciHook::default();
    made.set_path(h.path.clone())
        .set_args((!h.args.is_empty()).then(|| h.args.clone()))
        .set_env((!h.env.is_empty()).then(|| h.env.clone()))
        .set_timeout(h.timeout);
    let hooks: &mut Hooks = spec.hooks_mut().get_or_insert_default();
    #[allow(deprecated)]
    let list = match h.hook_name.as_str() {
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        name => {
            return Err(Error::new(
                Kind::Unimplemented,
                format!(
                    "CDI: hook {} at {name:?}: husk runs prestart, createRuntime, createContainer and startContainer \
                     hooks",
                    h.path.display()
                ),
            ));
        }
    };
    list.get_or_insert_default().push(made);
    Ok(())
}

fn groups(spec: &mut Spec, gids: &[u32]) {
    if gids.is_empty() {
        return;
    }
    let user = spec.process_mut().get_or_insert_default().user_mut();
    let all = user.additional_gids_mut().get_or_insert_default();
    for gid in gids.iter().filter(|g| **g != 0) {
        if !all.contains(gid) {
            all.push(*gid);
        }
    }
}
