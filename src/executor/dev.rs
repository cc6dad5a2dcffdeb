//! `/dev`: device nodes and the symbolic links that programs expect.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, access, chownat, makedev, mknodat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::spec::plan::{Device, DeviceKind};

use super::error::{Cause, During, LaunchError, Step};
use super::mounts::attach;
use super::path::{Root, Want, shown};

/// Those of which somebody outside has to make the nodes if the container has a user namespace.
pub(super) fn needing_nodes(devices: &[Device]) -> impl Iterator<Item = &Device> {
    devices.iter().filter(|d| d.kind != DeviceKind::Fifo)
}

/// Puts nodes made by somebody else where they belong, and makes what is left.
pub(super) fn place_nodes(root: &Root, devices: &[Device], nodes: Vec<OwnedFd>) -> Step {
    for (device, node) in needing_nodes(devices).zip(nodes) {
        let object = || format!("device {}", shown(&device.path));
        let target = root
            .find_or_make(&device.path, Want::File)
            .during("make", object)?;
        attach(&node, &target).during("bind", object)?;
    }
    let fifos: Vec<Device> = devices
        .iter()
        .filter(|d| d.kind == DeviceKind::Fifo)
        .cloned()
        .collect();
    make_nodes(root, &fifos)
}

/// Makes the device nodes. The umask has to be 0.
pub(super) fn make_nodes(root: &Root, devices: &[Device]) -> Step {
    // Nearly all are in /dev: look that up once.
    let mut held: Option<(&Path, OwnedFd)> = None;
    for device in devices {
        let parent = device.path.parent().unwrap_or(Path::new("/"));
        if held.as_ref().is_none_or(|(path, _)| *path != parent) {
            let fd = root
                .find_or_make(parent, Want::Directory)
                .during("make directory", || shown(parent))?;
            held = Some((parent, fd));
        }
        if let (Some((_, fd)), Some(name)) = (&held, device.path.file_name()) {
            make_node(root, fd, Path::new(name), device)?;
        }
    }
    Ok(())
}

fn make_node(root: &Root, directory: &OwnedFd, name: &Path, device: &Device) -> Step {
    let object = || format!("device {}", shown(&device.path));
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let number = match device.kind {
        DeviceKind::Fifo => 0,
        _ => makedev(device.major, device.minor),
    };
    let make = || mknodat(directory, name, kind, Mode::from_raw_mode(device.mode), number);
    let made = match make() {
        Err(Errno::EXIST) if is_same(directory, name, kind, number)? => return Ok(()),
        // What an image has there is not the device that was asked for.
        Err(Errno::EXIST) => {
            unlinkat(directory, name, AtFlags::empty()).during("replace", object)?;
            make()
        }
        result => result,
    };
    match made {
        Ok(()) if device.uid == 0 && device.gid == 0 => Ok(()),
        Ok(()) => {
            let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
            chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).during("chown", object)
        }
        // Where husk itself may not make nodes, the node's own can be bound.
        Err(Errno::PERM) if device.kind != DeviceKind::Fifo => bind_node(root, device),
        Err(e) => Err(LaunchError::errno("make", object(), e.number())),
    }
}

fn is_same(directory: &OwnedFd, name: &Path, kind: FileType, number: u64) -> Step<bool> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).during("look at", || shown(name))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == kind && (kind == FileType::Fifo || stat.st_rdev == number))
}

fn bind_node(root: &Root, device: &Device) -> Step {
    let object = || format!("device {}", shown(&device.path));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, &device.path, flags).during("open the node's", object)?;
    let stat = rustix::fs::fstat(&tree).during("look at the node's", object)?;
    if stat.st_rdev != makedev(device.major, device.minor) {
        return Err(LaunchError::new(
            "bind",
            object(),
            "the node has another device there, and husk may not make nodes here",
        ));
    }
    let target = root
        .find_or_make(&device.path, Want::File)
        .during("make", object)?;
    attach(&tree, &target).during("bind", object)
}

/// Makes `/dev/fd`, `/dev/stdin` and so on.
pub(super) fn make_links(root: &Root) -> Step {
    const LINKS: [(&str, &str); 4] = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ];
    let dev = root
        .find_or_make(Path::new("/dev"), Want::Directory)
        .during("make directory", || "/dev")?;
    for (target, name) in LINKS {
        link(&dev, target, name)?;
    }
    if access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok() {
        link(&dev, "/proc/kcore", "core")?;
    }
    // The container's own terminals, wherever the image's ptmx would lead.
    match unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::PERM | Errno::BUSY | Errno::ROFS) => {}
        Err(e) => return Err(LaunchError::errno("replace", "/dev/ptmx", e.number())),
    }
    link(&dev, "pts/ptmx", "ptmx")
}

fn link(dev: &OwnedFd, target: &str, name: &str) -> Step {
    match symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(LaunchError::errno(
            "make link",
            format!("/dev/{name}"),
            e.number(),
        )),
    }
}
