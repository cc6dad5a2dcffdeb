//! The bundle as the runtime finds it: the root file system, mounted where only the runtime and its container see it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::spec::plan::{ImageVolume, LaunchPlan, RuntimePlan, image_path, mapped_path};

use super::super::error::{During, LaunchError, Step};
use super::super::idmap::IdMaps;
use super::super::mounts::Sources;
use super::super::path::file_type;
use super::super::scratch::{self, Scratch};
use super::super::{image_volume, rootfs};

/// In a mount namespace just made: mounts the container's root file system on `rootfs` in the bundle, and beside it what
/// the runtime is to bind from there.
///
/// Nothing that is mounted here shows up on the node, but for what is mounted below the sources that are to propagate
/// there: those are put back in the peer groups they were in.
pub(super) fn mount(plan: &RuntimePlan) -> Step {
    let held: Vec<OwnedFd> = plan.bidirectional.iter().map(|s| hold(s)).collect::<Step<_>>()?;
    let mapped = Sources::open(&plan.mapped, &mut IdMaps::default())?;
    let user = plan.user_namespace.as_deref().map(namespace).transpose()?;
    let user = user.as_ref().map(AsFd::as_fd);
    if user.is_some() {
        check_reach(&plan.bundle)?;
    }
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
        mount_image(volume, &place, &workplace, user).map_err(image_volume::failed)?;
    }
    for (number, (volume, tree)) in plan.mapped.iter().zip(mapped).enumerate() {
        let Some(tree) = tree else { continue };
        put(&tree, &mapped_path(&plan.bundle, number), || {
            volume.destination.display().to_string()
        })?;
    }
    if !plan.devices.is_empty() {
        let directory = plan.bundle.join("devices");
        std::fs::create_dir_all(&directory).during("create", || directory.display())?;
        Scratch::mount(&directory, &plan.mount_label)?.keep_devices(&plan.devices)?;
    }
    let root = scratch::root(&plan.rootfs, &plan.mount_label, &target, user)?;
    rootfs::attach(&root, &target).during("mount", || "the root file system")
}

fn namespace(path: &Path) -> Step<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during("open", || format!("the pod's user namespace {}", path.display()))
}

/// The runtime's first process in the container finds the root file system by its path, as a user who is nobody on the
/// node.
fn check_reach(bundle: &Path) -> Step {
    for directory in bundle.ancestors() {
        let look = || directory.display();
        let mode = std::fs::metadata(directory)
            .during("look at", look)?
            .permissions()
            .mode();
        if mode & 0o001 == 0 {
            return Err(LaunchError::new(
                "reach",
                bundle.display(),
                format!(
                    "nobody but its owner may search the directory {} (mode {:o}), and who is root in a user namespace \
                     is somebody else",
                    directory.display(),
                    mode & 0o7777
                ),
            )
            .advise("allow it (chmod o+x), or give husk another run directory"));
        }
    }
    Ok(())
}

/// Mounts an image at `place`. The mount point of `workplace`, an empty directory, is used for a moment.
fn mount_image(
    volume: &ImageVolume,
    place: &Path,
    workplace: &LaunchPlan,
    user: Option<BorrowedFd<'_>>,
) -> Step {
    let tree = image_volume::open(volume, workplace, user)?;
    put(&tree, place, || format!("image {}", volume.image))
}

/// Mounts a tree at `place`, which becomes a directory or a file as the tree is.
fn put(tree: &OwnedFd, place: &Path, object: impl Fn() -> String) -> Step {
    let object = || object();
    let is_directory = file_type(tree).during("look at", object)? == FileType::Directory;
    let parent = if is_directory { Some(place) } else { place.parent() };
    if let Some(parent) = parent {
        std::fs::create_dir_all(parent).during("create", || parent.display())?;
    }
    if !is_directory {
        std::fs::File::create(place).during("create", || place.display())?;
    }
    move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during("mount", object)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_closed_to_others_is_named() {
        let Ok(closed) = tempfile::tempdir() else {
            panic!("no directory");
        };
        let bundle = closed.path().join("pods/bundle");
        assert!(std::fs::create_dir_all(&bundle).is_ok());
        for (mode, named) in [(0o700, true), (0o711, false)] {
            let mode = std::fs::Permissions::from_mode(mode);
            assert!(std::fs::set_permissions(closed.path(), mode).is_ok());
            let error = check_reach(&bundle).err().map(|e| e.to_string());
            let own = format!("directory {} (mode 700)", closed.path().display());
            assert_eq!(error.is_some_and(|e| e.contains(&own)), named);
        }
    }
}
