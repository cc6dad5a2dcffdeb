//! The mounts of a container, each put on a descriptor of its destination.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_remount, move_mount, open_tree};

use crate::spec::plan::{Attributes, LaunchPlan, Mount, MountKind};
use crate::sys::mount::{MountAttr, attr, set_attributes};
use crate::types::security::SELINUX_ATTRIBUTE;

use super::cgroup::OwnCgroups;
use super::copy_up;
use super::error::{During, LaunchError, Step};
use super::idmap::IdMaps;
use super::image_volume;
use super::path::{Root, Want, by_fd, file_type, shown};

/// Sources of the bind mounts and the images, by the position of the mount.
pub(super) struct Sources(Vec<Option<OwnedFd>>);

impl Sources {
    /// Opens those on the node, and gives them ids, propagation and attributes before anybody can see them. To be called
    /// before propagation is cut, so that a mount that is to be shared with the node still is.
    pub fn open(mounts: &[Mount], maps: &mut IdMaps<'_>) -> Step<Self> {
        mounts
            .iter()
            .map(|m| match &m.kind {
                MountKind::Bind { source, recursive } => open_source(m, source, *recursive, maps).map(Some),
                _ => Ok(None),
            })
            .collect::<Step<_>>()
            .map(Self)
    }

    /// Mounts the images, each on the plan's mount point for a moment, and with mapped ids through `namespace`. To be called when propagation is cut, so that the node sees nothing of it.
    pub fn open_images(&mut self, plan: &LaunchPlan, namespace: Option<BorrowedFd<'_>>) -> Step {
        for (m, source) in plan.mounts.iter().zip(&mut self.0) {
            if let MountKind::Image(volume) = &m.kind {
                let tree = image_volume::open(volume, plan, namespace)?;
                adjust_tree(m, &tree)
                    .during("set flags of", || format!("image on {}", shown(&m.destination)))
                    .map_err(image_volume::failed)?;
                *source = Some(tree);
            }
        }
        Ok(())
    }

    /// Opened by somebody else.
    pub fn new(trees: Vec<Option<OwnedFd>>) -> Self {
        Self(trees)
    }
}

impl IntoIterator for Sources {
    type Item = Option<OwnedFd>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

fn open_source(m: &Mount, source: &Path, recursive: bool, maps: &mut IdMaps<'_>) -> Step<OwnedFd> {
    let tree = clone_tree(source, recursive).map_err(|e| source_failed(e, source, m))?;
    maps.apply(m, tree.as_fd())?;
    adjust_tree(m, &tree).during("set flags of", || format!("bind on {}", shown(&m.destination)))?;
    Ok(tree)
}

fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

fn source_failed(errno: Errno, source: &Path, m: &Mount) -> LaunchError {
    let object = format!("{} for {}", shown(source), shown(&m.destination));
    let error = LaunchError::errno("open mount source", object, errno.raw_os_error());
    match errno {
        Errno::NOENT => error.advise("create it on the node"),
        _ => error,
    }
}

/// What the mounts of one container share while they are made.
pub(super) struct Mounter<'a> {
    pub root: &'a Root,
    pub cgroups: Option<OwnCgroups>,
    /// SELinux label of the container's files; empty for none.
    pub label: &'a str,
    /// Its IPC namespace is not the node's.
    pub own_ipc: bool,
    /// Mounts that become read-only when nothing more has to be made in them.
    pub readonly_later: Vec<OwnedFd>,
    pub notes: &'a mut Vec<String>,
}

impl Mounter<'_> {
    /// Makes all mounts in order.
    pub fn mount_all(&mut self, mounts: &[Mount], sources: Sources) -> Step {
        for (m, source) in mounts.iter().zip(sources) {
            self.mount_one(m, source)?;
        }
        Ok(())
    }

    /// Call when everything inside the mounts is in place.
    pub fn finish(self) -> Step {
        for fd in &self.readonly_later {
            set_flags(fd, attr::RDONLY).during("make read-only", || "a tmpfs")?;
        }
        Ok(())
    }

    fn mount_one(&mut self, m: &Mount, source: Option<OwnedFd>) -> Step {
        match (&m.kind, source) {
            (MountKind::Bind { .. }, Some(tree)) => self.bind(m, &tree),
            (MountKind::Image(_), Some(tree)) => self.bind(m, &tree).map_err(image_volume::failed),
            (MountKind::Bind { .. } | MountKind::Image(_), None) => {
                Err(LaunchError::new("mount", shown(&m.destination), "no source"))
            }
            (
                MountKind::Filesystem {
                    fstype,
                    source,
                    flags,
                    data,
                    copy_up,
                },
                _,
            ) => self.filesystem(
                m,
                &Filesystem {
                    fstype,
                    source,
                    flags: *flags,
                    data,
                    copy_up: *copy_up,
                },
            ),
            (MountKind::Cgroup, _) => self.cgroup(m),
            (MountKind::Remount { flags, data }, _) => self.remount(m, *flags, data),
        }
    }

    fn bind(&mut self, m: &Mount, tree: &OwnedFd) -> Step {
        let object = || format!("bind on {}", shown(&m.destination));
        let want = match file_type(tree).during("look at source of", object)? {
            FileType::Directory => Want::Directory,
            _ => Want::File,
        };
        let target = self.target(&m.destination, want)?;
        attach(tree, &target).map_err(|e| {
            let error = LaunchError::errno("mount", object(), e.raw_os_error());
            // The kernel has one number for this and for much else.
            match (want, file_type(&target)) {
                (Want::Directory, Ok(kind)) if kind != FileType::Directory => {
                    error.advise("the source is a directory, the destination is not")
                }
                (Want::File, Ok(FileType::Directory)) => {
                    error.advise("the destination is a directory, the source is not")
                }
                _ => error,
            }
        })
    }

    fn target(&self, destination: &Path, want: Want) -> Step<OwnedFd> {
        self.root
            .find_or_make(destination, want)
            .during("make mount point", || shown(destination))
            .map_err(|e| match e.errno {
                Some(libc::EROFS) => {
                    e.advise("it does not exist and its file system is read-only: create it in the image")
                }
                Some(libc::ELOOP) => e.advise("the image has symbolic links there that lead nowhere"),
                _ => e,
            })
    }

    fn filesystem(&mut self, m: &Mount, fs: &Filesystem<'_>) -> Step {
        let object = || format!("{} on {}", fs.fstype, shown(&m.destination));
        let target = if matches!(fs.fstype, "proc" | "sysfs") {
            self.plain_target(&m.destination, fs.fstype)?
        } else {
            self.target(&m.destination, Want::Directory)?
        };
        // A tmpfs may have to take further mount points and devices before it becomes read-only.
        let readonly_later = fs.fstype == "tmpfs" && fs.flags & libc::MS_RDONLY != 0;
        let flags = if readonly_later {
            fs.flags & !libc::MS_RDONLY
        } else {
            fs.flags
        };
        if fs.copy_up {
            copy_up::mount_over(&target, fs.source, flags, fs.data).map_err(|e| e.advise(object()))?;
        } else {
            self.mount_filesystem(fs, flags, &target, &m.destination)
                .during("mount", object)?;
        }
        let late_label = fs.fstype == "mqueue" && self.own_ipc && !self.label.is_empty();
        let wants_more = !m.recursive.is_empty() || m.propagation.iter().any(|p| p & libc::MS_PRIVATE == 0);
        if readonly_later || wants_more || late_label {
            let mounted = self.root.find(&m.destination).during("open", object)?;
            if late_label {
                label_queues(&mounted, self.label).during("label for SELinux", object)?;
            }
            if wants_more {
                adjust(&mounted, m, Attributes::default()).during("set flags of", object)?;
            }
            if readonly_later {
                self.readonly_later.push(mounted);
            }
        }
        Ok(())
    }

    /// `/proc` and `/sys` have to be where programs and later steps look for them: no link is followed.
    fn plain_target(&self, destination: &Path, fstype: &str) -> Step<OwnedFd> {
        match self.root.find_without_links(destination) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT) => self.target(destination, Want::Directory),
            Err(Errno::LOOP) => Err(LaunchError::new(
                "mount",
                format!("{fstype} on {}", shown(destination)),
                "the image has a symbolic link there",
            )
            .advise("an image must have a real directory there, or none")),
            Err(e) => Err(LaunchError::errno("open", shown(destination), e.raw_os_error())),
        }
    }

    fn mount_filesystem(
        &mut self,
        fs: &Filesystem<'_>,
        flags: u64,
        target: &OwnedFd,
        destination: &Path,
    ) -> Result<(), Errno> {
        match mount_new(fs, flags, fs.data, target) {
            // Group 5 need not exist in the container's user namespace.
            Err(Errno::INVAL) if fs.fstype == "devpts" && fs.data.contains("gid=") => {
                let data: Vec<&str> = fs.data.split(',').filter(|o| !o.starts_with("gid=")).collect();
                mount_new(fs, flags, &data.join(","), target)
            }
            // A user namespace that does not own the network namespace may not mount sysfs.
            Err(Errno::PERM) if fs.fstype == "sysfs" => {
                let tree = clone_tree(Path::new("/sys"), true)?;
                let attributes = MountAttr {
                    set: attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
                    propagation: libc::MS_SLAVE,
                    ..MountAttr::default()
                };
                set_attributes(tree.as_fd(), true, &attributes).map_err(raw)?;
                self.notes.push(format!(
                    "{} shows the node's network devices, read-only: the container's user namespace may not mount sysfs",
                    shown(destination)
                ));
                attach(&tree, target)
            }
            result => result,
        }
    }

    fn cgroup(&mut self, m: &Mount) -> Step {
        let target = self.target(&m.destination, Want::Directory)?;
        match &self.cgroups {
            Some(cgroups) => cgroups.mount(self.root, &m.destination, &target, m.attributes.set),
            None => Err(LaunchError::new(
                "mount",
                "cgroup",
                "the node's cgroups were not looked up",
            )),
        }
    }

    fn remount(&mut self, m: &Mount, flags: u64, data: &str) -> Step {
        let object = || shown(&m.destination);
        let target = self.root.find(&m.destination).during("open", object)?;
        let data = std::ffi::CString::new(data)
            .map_err(|_| LaunchError::new("remount", object(), "the options contain a NUL byte"))?;
        mount_remount(by_fd(&target), mount_flags(flags), data.as_c_str()).during("remount", object)
    }
}

struct Filesystem<'a> {
    fstype: &'a str,
    source: &'a str,
    flags: u64,
    data: &'a str,
    copy_up: bool,
}

fn mount_new(fs: &Filesystem<'_>, flags: u64, data: &str, target: &OwnedFd) -> Result<(), Errno> {
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    if data.as_bytes().len() >= 4096 {
        return Err(Errno::TOOBIG);
    }
    mount(
        fs.source,
        by_fd(target),
        fs.fstype,
        mount_flags(flags),
        data.as_c_str(),
    )
}

fn mount_flags(flags: u64) -> MountFlags {
    // MS_* bits that mount(2) takes are all below 2^32.
    MountFlags::from_bits_retain(flags as u32)
}

/// All containers of a pod see the same file system of message queues, which therefore takes no label when it is mounted,
/// and keeps that of the first of them: another would shut the first one out.
fn label_queues(mounted: &OwnedFd, label: &str) -> Result<(), Errno> {
    let mut now = [0; 4096];
    let length = rustix::fs::getxattr(by_fd(mounted), SELINUX_ATTRIBUTE, &mut now).unwrap_or(0);
    let kind = |label: &[u8]| label.split(|b| *b == b':').nth(2).map(<[u8]>::to_vec);
    if kind(now.get(..length).unwrap_or_default()) == kind(label.as_bytes()) {
        return Ok(());
    }
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(by_fd(mounted), SELINUX_ATTRIBUTE, label.as_bytes(), flags) {
        // A policy may say that these have no labels of their own; and in a user namespace they belong to somebody else.
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        result => result,
    }
}

/// Puts a detached tree on what `target` refers to.
pub(super) fn attach(tree: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Sets `bits` on one mount.
pub(super) fn set_flags(mount: &OwnedFd, bits: u64) -> Result<(), Errno> {
    let attributes = MountAttr {
        set: bits,
        ..MountAttr::default()
    };
    set_attributes(mount.as_fd(), false, &attributes).map_err(raw)
}

/// Propagation and attributes of a bind mount before anybody can see it. Without a wish it follows the node's mounts
/// but does not feed back.
fn adjust_tree(m: &Mount, tree: &OwnedFd) -> Result<(), Errno> {
    if m.propagation.is_empty() {
        let slave = MountAttr {
            propagation: libc::MS_SLAVE,
            ..MountAttr::default()
        };
        set_attributes(tree.as_fd(), true, &slave).map_err(raw)?;
    }
    adjust(tree, m, m.attributes)
}

fn adjust(mount: &OwnedFd, m: &Mount, attributes: Attributes) -> Result<(), Errno> {
    for propagation in &m.propagation {
        let change = MountAttr {
            propagation: propagation & !libc::MS_REC,
            ..MountAttr::default()
        };
        set_attributes(mount.as_fd(), propagation & libc::MS_REC != 0, &change).map_err(raw)?;
    }
    change(mount, false, attributes)?;
    change(mount, true, m.recursive)
}

fn change(mount: &OwnedFd, recursive: bool, wanted: Attributes) -> Result<(), Errno> {
    if wanted.is_empty() {
        return Ok(());
    }
    let both = MountAttr {
        set: wanted.set,
        clear: wanted.clear,
        ..MountAttr::default()
    };
    match set_attributes(mount.as_fd(), recursive, &both).map_err(raw) {
        // Flags that a user namespace has locked cannot be cleared; "rw" then means "as it is".
        Err(Errno::PERM) if wanted.clear & !attr::ATIME_MASK != 0 => {
            let set_only = MountAttr {
                set: wanted.set & !attr::ATIME_MASK,
                ..MountAttr::default()
            };
            set_attributes(mount.as_fd(), recursive, &set_only).map_err(raw)
        }
        result => result,
    }
}

fn raw(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}
