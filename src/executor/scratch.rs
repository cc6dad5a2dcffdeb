//! A place in a mount namespace that nobody else sees, for what has to be mounted or made somewhere for a moment: layers
//! with mapped ids, device nodes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, makedev, mkdirat, mknodat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, open_tree, unmount,
};

use crate::spec::plan::{Device, DeviceKind, Rootfs};

use super::error::{During, Step};
use super::path::shown;
use super::{idmap, rootfs};

/// The root file system, its layers mapped through `namespace`.
pub(super) fn root(
    rootfs: &Rootfs,
    label: &str,
    mount_point: &Path,
    namespace: Option<BorrowedFd<'_>>,
) -> Step<OwnedFd> {
    let (
        Rootfs::Overlay {
            lower,
            upper,
            work,
            volatile,
        },
        Some(namespace),
    ) = (rootfs, namespace)
    else {
        return rootfs::detached(rootfs, label, mount_point);
    };
    let (_scratch, lower) = layers(lower, mount_point, namespace)?;
    let mapped = Rootfs::Overlay {
        lower,
        upper: upper.clone(),
        work: work.clone(),
        volatile: *volatile,
    };
    rootfs::detached(&mapped, label, mount_point)
}

/// Layers mapped through `namespace`, and what keeps them mounted below `place`. Kernels before 6.15 take a layer only if
/// it is mounted somewhere in the caller's mount namespace.
pub(super) fn layers(
    list: &[PathBuf],
    place: &Path,
    namespace: BorrowedFd<'_>,
) -> Step<(Scratch, Vec<PathBuf>)> {
    let scratch = Scratch::mount(place, "")?;
    let mapped = list
        .iter()
        .enumerate()
        .map(|(n, layer)| scratch.layer(n, layer, namespace))
        .collect::<Step<_>>()?;
    Ok((scratch, mapped))
}

/// A tmpfs in this mount namespace only, for what has to be somewhere for a moment.
pub(super) struct Scratch {
    path: PathBuf,
    top: OwnedFd,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What was cloned or merged of it lives on.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

impl Scratch {
    /// `label` is the SELinux label of what will be made in it, empty for none.
    pub fn mount(path: &Path, label: &str) -> Step<Self> {
        let object = || format!("scratch file system on {}", shown(path));
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).during("open", object)?;
        fsconfig_set_string(&context, "mode", "755").during("configure", object)?;
        if !label.is_empty() {
            fsconfig_set_string(&context, "context", label).during("configure", object)?;
        }
        fsconfig_create(&context).during("create", object)?;
        let top = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .during("create", object)?;
        rootfs::attach(&top, path).during("mount", object)?;
        Ok(Self {
            path: path.to_owned(),
            top,
        })
    }

    /// Mounts a layer with mapped ids, and returns where.
    fn layer(&self, n: usize, layer: &Path, namespace: BorrowedFd<'_>) -> Step<PathBuf> {
        let object = || format!("layer {}", shown(layer));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, layer, flags).during("open", object)?;
        idmap::map(tree.as_fd(), namespace, false, object)?;
        let name = n.to_string();
        mkdirat(&self.top, &name, Mode::from_raw_mode(0o755)).during("make directory for", object)?;
        let place = self.path.join(name);
        rootfs::attach(&tree, &place).during("mount", object)?;
        Ok(place)
    }

    /// Makes a device node: who is in a user namespace may not. It belongs to whom it belongs on the node, so that a
    /// disk stays out of reach of a container that is root only inside.
    pub fn device(&self, n: usize, device: &Device) -> Step<OwnedFd> {
        let path = self.node(n, device)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, path, flags).during("open", || format!("device {}", shown(&device.path)))
    }

    /// Makes a device node, and returns where.
    fn node(&self, n: usize, device: &Device) -> Step<PathBuf> {
        let object = || format!("device {}", shown(&device.path));
        let name = format!("device-{n}");
        let kind = match device.kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        let mode = Mode::from_raw_mode(device.mode);
        mknodat(&self.top, &name, kind, mode, makedev(device.major, device.minor)).during("make", object)?;
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        chownat(&self.top, &name, Some(uid), Some(gid), AtFlags::empty()).during("chown", object)?;
        Ok(self.path.join(&name))
    }

    /// Makes device nodes that stay, with this file system, as long as the mount namespace.
    pub fn keep_devices(self, devices: &[Device]) -> Step {
        for (n, device) in devices.iter().enumerate() {
            self.node(n, device)?;
        }
        std::mem::forget(self);
        Ok(())
    }
}
