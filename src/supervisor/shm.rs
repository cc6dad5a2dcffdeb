//! The `/dev/shm` that a pod's containers share, as a mount that is nowhere.
//!
//! The supervisor makes a tmpfs and holds it by its descriptor, unattached; each container attaches a clone of it in its
//! own mount namespace. Nothing shows on the node, and the kernel frees it with the last holder. Kernels before 6.15 do not
//! clone mounts that are attached nowhere; there the daemon has to mount one at a path.

use std::os::fd::OwnedFd;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};

use crate::types::Result;
use crate::types::error::Context as _;

/// Makes the tmpfs, which belongs to user and group `owner` of the node and has SELinux label `label`; `None` where the
/// kernel could not give it to containers.
///
/// # Errors
/// It cannot be made at all.
pub fn make(bytes: u64, owner: (u32, u32), label: &str) -> Result<Option<OwnedFd>> {
    let what = "make the pod's /dev/shm";
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).context(what)?;
    fsconfig_set_string(&context, "source", "shm").context(what)?;
    fsconfig_set_string(&context, "mode", "1777").context(what)?;
    fsconfig_set_string(&context, "size", bytes.to_string()).context(what)?;
    fsconfig_set_string(&context, "uid", owner.0.to_string()).context(what)?;
    fsconfig_set_string(&context, "gid", owner.1.to_string()).context(what)?;
    if !label.is_empty() {
        fsconfig_set_string(&context, "context", label).context(what)?;
    }
    fsconfig_create(&context).context(what)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context(what)?;
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&mount, "", clone).is_ok().then_some(mount))
}
