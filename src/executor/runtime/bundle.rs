//! The bundle as the runtime finds it: the root file system, mounted where only the runtime and its container see it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::spec::plan::{ImageVolume, LaunchPlan, RuntimePlan, image_path};

use super::super::error::{During, LaunchError, Step};
use super::super::image_volume;
use super::super::path::file_type;
use super::super::rootfs;

/// In a mount namespace just made: mounts the container's root file system on `rootfs` in the bundle.
///
/// Nothing that is mounted here shows up on the node, but for what is mounted below the sources that are to propagate
/// there: those are put back in the peer groups they were in.
pub(super) fn mount(plan: &RuntimePlan) -> Step {
    let held: Vec<OwnedFd> = plan.bidirectional.iter().map(|s| hold(s)).collect::<Step<_>>()?;
    rootfs::cut_propagation()?;
    for (source, tree) in plan.bidirectional.iter().zip(&held) {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", CWD, source.as_path(), flags)
            .during("mount", || format!("{}, which is to propagate", source.display()))?;
    }
    let target = plan.bundle.join("rootfs");
    std::fs::create_dir_all(&target).during("create", || target.display())?;
    let workplace = LaunchPlan {
        mount_point: target.clone(),
        mount_label: plan.mount_label.clone(),
        ..LaunchPlan::default()
    };
    for (number, volume) in plan.image_volumes.iter().enumerate() {
        let place = image_path(&plan.bundle, number);
        mount_image(volume, &place, &workplace).map_err(image_volume::failed)?;
    }
    rootfs::mount_rootfs(&plan.rootfs, &plan.mount_label, &target).map(drop)
}

/// Mounts an image at `place`, which becomes a directory or a file as the image has it. The mount point of
/// `workplace`, an empty directory, is used for a moment.
fn mount_image(volume: &ImageVolume, place: &Path, workplace: &LaunchPlan) -> Step {
    let object = || format!("image {}", volume.image);
    let tree = image_volume::open(volume, workplace, None)?;
    let is_directory = file_type(&tree).during("look at", object)? == FileType::Directory;
    let parent = if is_directory { Some(place) } else { place.parent() };
    if let Some(parent) = parent {
        std::fs::create_dir_all(parent).during("create", || parent.display())?;
    }
    if !is_directory {
        std::fs::File::create(place).during("create", || place.display())?;
    }
    move_mount(&tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during("mount", object)
}

/// A copy of what is mounted at `source`, a peer of it.
fn hold(source: &Path) -> Step<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, source, flags).during("open", || format!("mount source {}", source.display()))
}

/// A file of one call, removed when dropped.
#[derive(Debug)]
pub(super) struct CallFile(PathBuf);

impl CallFile {
    /// `name` in the bundle; what an earlier call left there goes.
    pub fn new(plan: &RuntimePlan, name: &str) -> Self {
        let path = plan.bundle.join(name);
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the process id that a runtime wrote there.
    pub fn read_pid(&self) -> Step<i32> {
        let object = || format!("pid file {}", self.0.display());
        let text = std::fs::read_to_string(&self.0).during("read", object)?;
        match text.trim().parse::<i32>() {
            Ok(pid) if pid > 0 => Ok(pid),
            _ => Err(LaunchError::new(
                "read",
                object(),
                format!("{:?} is no process id", text.chars().take(40).collect::<String>()),
            )),
        }
    }
}

impl Drop for CallFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
