//! Images that a container sees besides its own: layers merged without anything on top, or a part of them.
//!
//! Mounted in the container's own mount namespace, like its root, so that nothing of it ever shows on the node and the
//! kernel frees it with the last process. Containers that mount the same image share its files' cached pages all the
//! same: overlayfs has none of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, open as open_file};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};

use crate::spec::plan::{ImageVolume, LaunchPlan};

use super::error::{During, LaunchError, Step};
use super::path::{Root, file_type, shown};
use super::rootfs::{self, Overlay};
use super::{idmap, scratch};

/// Makes the mount, attached nowhere, with the owners that the user namespace `namespace` gives the files. The plan's
/// mount point is used for a moment; nobody else may see what is on it.
pub(super) fn open(
    volume: &ImageVolume,
    plan: &LaunchPlan,
    namespace: Option<BorrowedFd<'_>>,
) -> Step<OwnedFd> {
    prepare(volume, plan, namespace).map_err(failed)
}

/// Marks a failure as one of an image volume.
pub(super) fn failed(error: LaunchError) -> LaunchError {
    error.of_image_volume()
}

fn prepare(volume: &ImageVolume, plan: &LaunchPlan, namespace: Option<BorrowedFd<'_>>) -> Step<OwnedFd> {
    let workplace = plan.mount_point.as_path();
    // overlayfs wants two layers at least.
    if let [single] = volume.layers.as_slice() {
        let tree = part(single, volume)?;
        if let Some(namespace) = namespace {
            idmap::map(tree.as_fd(), namespace, false, || shown(&volume.destination))?;
        }
        return Ok(tree);
    }
    let mapped = match namespace {
        Some(namespace) => Some(scratch::layers(&volume.layers, workplace, namespace)?),
        None => None,
    };
    let lower = mapped.as_ref().map_or(&volume.layers, |(_, lower)| lower);
    let merged = Overlay {
        lower,
        upper: None,
        label: &plan.mount_label,
    }
    .detached(workplace)?;
    rootfs::attach(&merged, workplace).during("mount", || shown(&volume.destination))?;
    let tree = part(workplace, volume);
    // What was cloned of it lives on.
    unmount(workplace, UnmountFlags::DETACH).during("take off again", || shown(&volume.destination))?;
    tree
}

/// A mount of what the sub path leads to, within the image at `root`.
fn part(root: &Path, volume: &ImageVolume) -> Step<OwnedFd> {
    let object = || {
        format!(
            "sub path {:?} of image {} for {}",
            shown(&volume.sub_path),
            volume.image,
            shown(&volume.destination)
        )
    };
    let wanted = match volume.sub_path.as_os_str().is_empty() {
        true => Path::new("."),
        false => &volume.sub_path,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open_file(root, flags, Mode::empty()).during("open", object)?;
    let found = Root::new(root)
        .find(wanted)
        .during("find", object)
        .map_err(|e| match e.errno {
            Some(libc::ENOENT) => e.advise("the image has nothing there").blame_request(),
            Some(libc::ENOTDIR) => e
                .advise("a part of it is not a directory in the image")
                .blame_request(),
            Some(libc::ELOOP) => e
                .advise("it leads through symbolic links of the image that go in a circle")
                .blame_request(),
            Some(libc::ENAMETOOLONG | libc::EINVAL) => e.blame_request(),
            _ => e,
        })?;
    match file_type(&found).during("look at", object)? {
        FileType::Directory | FileType::RegularFile => {}
        other => {
            return Err(LaunchError::new(
                "mount",
                object(),
                format!("it is neither a directory nor a regular file ({other:?})"),
            )
            .blame_request());
        }
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&found, "", flags).map_err(|e: Errno| LaunchError::errno("clone", object(), e.raw_os_error()))
}
