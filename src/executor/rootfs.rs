//! The root file system: mounted in the container's own mount namespace, then made the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount, mount_change, mount_move, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use crate::spec::plan::Rootfs;
use crate::spec::selinux::mount_options;
use crate::sys::mount::{MountAttr, set_attributes};

use super::error::{Cause, During, LaunchError, Step};
use super::path::{Root, by_fd, shown};

/// fsconfig(2) takes strings of less than this.
const MAX_CONFIG: usize = 256;

/// Cuts the new mount namespace off: what is mounted in it never shows up on the node.
pub(super) fn cut_propagation() -> Step {
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )
    .during("make slave", || "all mounts of the new mount namespace")
}

/// Mounts the root file system on `mount_point` and returns a handle on its root.
pub(super) fn mount_rootfs(rootfs: &Rootfs, label: &str, mount_point: &Path) -> Step<Root> {
    let tree = detached(rootfs, label, mount_point)?;
    attach(&tree, mount_point).during("mount", || "the root file system")?;
    Ok(Root::new(tree))
}

/// The root file system, attached nowhere; an overlay gets the SELinux label `label`, if any. Old kernels have to mount it on `mount_point` on the way.
pub(super) fn detached(rootfs: &Rootfs, label: &str, mount_point: &Path) -> Step<OwnedFd> {
    match rootfs {
        Rootfs::Overlay {
            lower,
            upper,
            work,
            volatile,
        } => Overlay {
            lower,
            upper: Some(Upper {
                changes: upper,
                work,
                volatile: *volatile,
            }),
            label,
        }
        .detached(mount_point),
        Rootfs::Directory(path) => clone_directory(path),
    }
}

/// Mounts a root file system on the working directory and returns a handle on its root.
pub(super) fn attach_here(tree: OwnedFd) -> Step<Root> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", CWD, "", flags).during("mount", || "the root file system")?;
    Ok(Root::new(tree))
}

fn clone_directory(path: &Path) -> Step<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let object = || format!("root file system {}", shown(path));
    let tree = open_tree(CWD, path, flags).during("open", object)?;
    // The root must not be in a peer group with the node's mount, or pivot_root and mounts in it would show there.
    let attributes = MountAttr {
        propagation: libc::MS_SLAVE,
        ..MountAttr::default()
    };
    set_attributes(tree.as_fd(), true, &attributes).during("make slave", object)?;
    Ok(tree)
}

/// Puts a detached tree on a path.
pub(super) fn attach(tree: &OwnedFd, mount_point: &Path) -> rustix::io::Result<()> {
    move_mount(
        tree,
        "",
        CWD,
        mount_point,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Layers merged, the topmost first.
pub(super) struct Overlay<'a> {
    pub lower: &'a [PathBuf],
    /// Without it nothing can be written.
    pub upper: Option<Upper<'a>>,
    /// SELinux label of all files; empty for none.
    pub label: &'a str,
}

/// Where an overlay keeps changes.
pub(super) struct Upper<'a> {
    changes: &'a Path,
    work: &'a Path,
    volatile: bool,
}

impl Overlay<'_> {
    pub fn detached(&self, mount_point: &Path) -> Step<OwnedFd> {
        match self.assemble() {
            // Before Linux 6.7 layers cannot be given one by one.
            Err(e) if e.is(libc::EINVAL) || e.is(libc::ENOSYS) => self
                .detached_by_options(mount_point)
                .map_err(|old| match old.advice {
                    Some(_) => old,
                    None => e.advise(old.reason),
                }),
            result => result,
        }
    }

    fn detached_by_options(&self, mount_point: &Path) -> Step<OwnedFd> {
        self.mount_by_options(mount_point)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, mount_point, flags).during("open", || "overlay")?;
        unmount(mount_point, UnmountFlags::DETACH).during("detach", || "overlay")?;
        Ok(tree)
    }

    /// With the new interface: no limit on the number of layers, no escaping, errors in words.
    fn assemble(&self) -> Step<OwnedFd> {
        let context =
            fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during("open", || "overlay file system")?;
        let mut held = Vec::new();
        let result = self.configure(&context, &mut held);
        result.map_err(|e| explain(e, &context))?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .during("mount", || "overlay")
            .map_err(|e| explain(e, &context))
    }

    fn configure(&self, context: &OwnedFd, held: &mut Vec<OwnedFd>) -> Step {
        let mut set = |key: &str, path: &Path| -> Step {
            let value = short(path, held)?;
            fsconfig_set_string(context, key, value.as_path())
                .during("configure", || format!("overlay {key}={}", shown(path)))
        };
        fsconfig_set_string(context, "source", "overlay").during("configure", || "overlay source")?;
        for layer in self.lower {
            set("lowerdir+", layer)?;
        }
        if let Some(upper) = &self.upper {
            set("upperdir", upper.changes)?;
            set("workdir", upper.work)?;
        }
        // With an index an upper directory could not be used again by another mount of the same layers.
        fsconfig_set_string(context, "index", "off").during("configure", || "overlay index=off")?;
        if !self.label.is_empty() {
            fsconfig_set_string(context, "context", self.label)
                .during("configure", || format!("overlay context={}", self.label))?;
        }
        if self.upper.as_ref().is_some_and(|u| u.volatile) {
            fsconfig_set_flag(context, "volatile").during("configure", || "overlay volatile")?;
        }
        fsconfig_create(context).during("create", || {
            let layers = format!("overlay of {} layers", self.lower.len());
            match &self.upper {
                Some(upper) => format!("{layers} with upper {}", shown(upper.changes)),
                None => layers,
            }
        })
    }

    /// Options that do not depend on how layers are named.
    fn first_options(&self) -> String {
        mount_options("index=off", self.label)
    }

    fn mount_by_options(&self, mount_point: &Path) -> Step {
        let mut held = Vec::new();
        let mut data = format!("{},lowerdir=", self.first_options()).into_bytes();
        for (n, layer) in self.lower.iter().enumerate() {
            if n > 0 {
                data.push(b':');
            }
            escape(layer, &mut data);
        }
        if let Some(upper) = &self.upper {
            for (key, path) in [(",upperdir=", upper.changes), (",workdir=", upper.work)] {
                data.extend_from_slice(key.as_bytes());
                escape(path, &mut data);
            }
            if upper.volatile {
                data.extend_from_slice(b",volatile");
            }
        }
        // mount(2) reads one page.
        if data.len() >= 4096 {
            data = self.by_descriptors(&mut held)?;
        }
        let data = std::ffi::CString::new(data)
            .map_err(|_| LaunchError::new("mount", "overlay", "a layer's path contains a NUL byte"))?;
        mount(
            "overlay",
            mount_point,
            "overlay",
            MountFlags::empty(),
            data.as_c_str(),
        )
        .during("mount", || "overlay")
    }

    /// As short as the options can be: every layer by descriptor.
    fn by_descriptors(&self, held: &mut Vec<OwnedFd>) -> Step<Vec<u8>> {
        let mut short_path = |path: &Path| -> Step<String> {
            let fd = handle(path)?;
            let text = by_fd(&fd);
            held.push(fd);
            Ok(text)
        };
        let lower: Vec<String> = self.lower.iter().map(|l| short_path(l)).collect::<Step<_>>()?;
        let mut text = format!("{},lowerdir={}", self.first_options(), lower.join(":"));
        if let Some(upper) = &self.upper {
            text += &format!(
                ",upperdir={},workdir={}{}",
                short_path(upper.changes)?,
                short_path(upper.work)?,
                if upper.volatile { ",volatile" } else { "" }
            );
        }
        if text.len() >= 4096 {
            return Err(LaunchError::new(
                "mount",
                "overlay",
                format!(
                    "{} layers do not fit mount(2)'s page of options",
                    self.lower.len()
                ),
            )
            .advise("use Linux 6.7 or newer, or an image with fewer layers"));
        }
        Ok(text.into_bytes())
    }
}

fn handle(path: &Path) -> Step<OwnedFd> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .during("open", || format!("layer {}", shown(path)))
}

/// The path itself if fsconfig takes it, else a short one through a descriptor that `held` keeps open.
fn short(path: &Path, held: &mut Vec<OwnedFd>) -> Step<PathBuf> {
    if path.as_os_str().len() < MAX_CONFIG {
        return Ok(path.to_owned());
    }
    let fd = handle(path)?;
    let text = by_fd(&fd);
    held.push(fd);
    Ok(text.into())
}

/// Escapes what overlayfs and the option parser would take for separators.
fn escape(path: &Path, out: &mut Vec<u8>) {
    use std::os::unix::ffi::OsStrExt;
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

/// Adds what the file system itself logged about the failure.
fn explain(error: LaunchError, context: &OwnedFd) -> LaunchError {
    let mut log = [0u8; 1024];
    match rustix::io::read(context, &mut log) {
        Ok(n) if n > 0 => {
            let text = String::from_utf8_lossy(&log[..n]);
            let text = text.trim();
            error.advise(format!(
                "the kernel says: {}",
                text.strip_prefix("e ").unwrap_or(text)
            ))
        }
        _ => error,
    }
}

/// Makes `root` the root of the mount namespace and drops everything else from it.
pub(super) fn change_root(root: &Root, no_pivot: bool) -> Step {
    fchdir(root).during("enter", || "the container's root")?;
    if no_pivot {
        mount_move(".", "/").during("move", || "the container's root to /")?;
        chroot(".").during("chroot", || "to the container's root")?;
    } else {
        // The old root ends up on top of the new one at the same place, and is taken off again from there.
        pivot_root(".", ".").map_err(pivot_failed)?;
        unmount(".", UnmountFlags::DETACH).during("detach", || "the node's file systems")?;
    }
    chdir("/").during("enter", || "/")
}

fn pivot_failed(errno: rustix::io::Errno) -> LaunchError {
    let error = LaunchError::errno("pivot_root", "to the container's root", errno.number());
    if errno == rustix::io::Errno::INVAL {
        error.advise("if the node runs from an initramfs, use --no-pivot")
    } else {
        error
    }
}

/// The last touches on the root mount, once nothing more has to be made in it.
pub(super) fn finish_root(root: &Root, readonly: bool, propagation: u64) -> Step {
    let attributes = MountAttr {
        set: if readonly {
            crate::sys::mount::attr::RDONLY
        } else {
            0
        },
        propagation: propagation & !libc::MS_REC,
        ..MountAttr::default()
    };
    if attributes.set == 0 && attributes.propagation == 0 {
        return Ok(());
    }
    set_attributes(root.as_fd(), false, &attributes).during("set", || "flags of the container's root")
}
