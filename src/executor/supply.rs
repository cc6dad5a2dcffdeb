//! What a process in a user namespace cannot open itself: layers, bind mounts, devices.
//!
//! A supplier, a child of the same parent that stays outside, opens them in a mount namespace of its own and hands them
//! in as mounts that are attached nowhere: first those of the plan's binds and images in order, then the root file system,
//! then the devices. It may hang on a dead network file system; the parent does not.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{WaitId, WaitIdOptions, umask, waitid};

use crate::spec::plan::{LaunchPlan, MountKind, NamespaceKind, Rootfs};
use crate::sys::clone::clone_process;
use crate::sys::fd;
use crate::sys::process::reset_signals;

use super::error::{During, LaunchError, Step};
use super::idmap::IdMaps;
use super::message::{Channel, Message, Received, bounded_error};
use super::mounts::Sources;
use super::path::shown;
use super::scratch::{self, Scratch};
use super::{dev, rootfs, streams};

/// All that a container was supplied with.
pub(super) struct Supplies {
    pub sources: Sources,
    pub root: OwnedFd,
    pub devices: Vec<OwnedFd>,
}

impl Supplies {
    /// Takes them all from the supplier.
    pub fn receive(plan: &LaunchPlan, from: &Channel) -> Step<Self> {
        let binds = plan.mounts.iter().map(|m| match m.kind {
            MountKind::Bind { .. } | MountKind::Image(_) => next(from).map(Some),
            _ => Ok(None),
        });
        Ok(Self {
            sources: Sources::new(binds.collect::<Step<_>>()?),
            root: next(from)?,
            devices: dev::needing_nodes(&plan.devices)
                .map(|_| next(from))
                .collect::<Step<_>>()?,
        })
    }
}

fn next(from: &Channel) -> Step<OwnedFd> {
    match from.wait()? {
        Received::Message(Message::Tree, Some(tree)) => Ok(tree),
        Received::Message(Message::Failed(error), _) => Err(*error),
        _ => Err(LaunchError::new(
            "wait",
            "for the container's mounts",
            "the process that opens them is gone",
        )
        .advise("look at the kernel log: it may have been killed for want of memory")),
    }
}

/// Starts the supplier of a container in the user namespace `namespace`, and returns its pidfd. It ends by itself.
pub(super) fn start(plan: &LaunchPlan, to: Channel, namespace: BorrowedFd<'_>) -> Step<OwnedFd> {
    let child = clone_process(NamespaceKind::Mount.clone_flag(), None, || {
        match arrange(&to, namespace) {
            Ok((to, namespace)) => {
                if let Err(error) = supply(plan, &to, namespace.as_fd()) {
                    let _ = to.send(&Message::Failed(Box::new(bounded_error(error))), None);
                }
                0
            }
            // The other end sees the socket close.
            Err(error) => error.exit_code,
        }
    })
    .during("clone", || "the process that opens the container's mounts")?;
    Ok(child.pidfd)
}

/// Lets go of all that belongs to the parent: pipes of other containers must not stay open here.
fn arrange(to: &Channel, namespace: BorrowedFd<'_>) -> Step<(Channel, OwnedFd)> {
    const TO: i32 = 3;
    const NAMESPACE: i32 = 4;
    reset_signals();
    let object = || "descriptors";
    let to = fd::dup_above(to.as_fd(), NAMESPACE + 1).during("arrange", object)?;
    let namespace = fd::dup_above(namespace, NAMESPACE + 1).during("arrange", object)?;
    let to = fd::move_to(to, TO).during("arrange", object)?;
    let namespace = fd::move_to(namespace, NAMESPACE).during("arrange", object)?;
    streams::close_behind(namespace.as_raw_fd())?;
    umask(Mode::empty());
    Ok((to.into(), namespace))
}

fn supply(plan: &LaunchPlan, to: &Channel, namespace: BorrowedFd<'_>) -> Step {
    let give = |tree: OwnedFd| to.send(&Message::Tree, Some(tree.as_fd()));
    let mut maps = IdMaps::of_container(namespace, &plan.uid_mappings, &plan.gid_mappings);
    let mut sources = Sources::open(&plan.mounts, &mut maps)?;
    rootfs::cut_propagation()?;
    let mapped = plan.rootfs_id_map.then_some(namespace);
    sources.open_images(plan, mapped)?;
    sources.into_iter().flatten().try_for_each(give)?;
    let label = &plan.mount_label;
    give(scratch::root(&plan.rootfs, label, &plan.mount_point, mapped)?)?;
    if dev::needing_nodes(&plan.devices).next().is_some() {
        let scratch = Scratch::mount(&plan.mount_point, label)?;
        for (n, device) in dev::needing_nodes(&plan.devices).enumerate() {
            give(scratch.device(n, device)?)?;
        }
    }
    Ok(())
}

/// Tries whether layers in `directory` can be shown through a user namespace, with all that a container would need:
/// makes a layer, mounts it, looks. Leaves nothing behind.
///
/// The caller must be single-threaded.
///
/// # Errors
/// The step that the kernel or the file system refuses.
pub fn try_id_maps(directory: &Path) -> Result<(), LaunchError> {
    let place = directory.join(".idmap-probe");
    let object = || shown(&place);
    // What a process that was killed here left.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir(&place).during("make directory", object)?;
    let result = try_in(&place);
    let _ = fs::remove_dir_all(&place);
    result
}

fn try_in(place: &Path) -> Step {
    let (mine, childs) = super::message::pair()?;
    let child = clone_process(NamespaceKind::Mount.clone_flag(), None, || {
        let outcome = match try_layer(place) {
            Ok(()) => Message::Ready { notes: Vec::new() },
            Err(error) => Message::Failed(Box::new(bounded_error(error))),
        };
        let _ = childs.send(&outcome, None);
        0
    })
    .during("clone", || "a process to try id-mapped layers")?;
    drop(childs);
    let told = mine.wait();
    // Its mounts go with it. Where the kernel reaps the caller's children this waits all the same, and then fails.
    let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    match told? {
        Received::Message(Message::Failed(error), _) => Err(*error),
        Received::Message(Message::Ready { .. }, _) => Ok(()),
        _ => Err(LaunchError::new("try", "id-mapped layers", "the attempt died")),
    }
}

fn try_layer(place: &Path) -> Step {
    use crate::types::security::IdMapping;
    use std::os::unix::fs::MetadataExt;
    const FIRST: u32 = 1 << 20;
    let [layer, upper, work, merged] = ["layer", "upper", "work", "merged"].map(|name| place.join(name));
    for dir in [&layer, &upper, &work, &merged] {
        fs::create_dir(dir).during("make directory", || shown(dir))?;
    }
    fs::write(layer.join("file"), "").during("make file in", || shown(&layer))?;
    let map = [IdMapping {
        host_id: FIRST,
        container_id: 0,
        length: 1 << 16,
    }];
    let namespace = super::user_namespace::with_maps(&map, &map)?;
    rootfs::cut_propagation()?;
    let tree = scratch::root(
        &Rootfs::Overlay {
            lower: vec![layer],
            upper,
            work,
            volatile: true,
        },
        "",
        &merged,
        Some(namespace.as_fd()),
    )?;
    rootfs::attach(&tree, &merged).during("mount", || "overlay")?;
    let file = fs::metadata(merged.join("file")).during("look at", || "a file of a mapped layer")?;
    if file.uid() == FIRST {
        Ok(())
    } else {
        let why = format!("its owner is {}, not {FIRST}", file.uid());
        Err(LaunchError::new("look at", "a file of a mapped layer", why))
    }
}
