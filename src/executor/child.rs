//! The first process of a container, from clone3 to execve.
//!
//! All of this runs in a copy of the caller's only thread. Until the gate it is the node's root in a new set of
//! namespaces; nothing the image brings is executed or trusted before [`tail::run`].

use std::convert::Infallible;

use rustix::process::{setsid, umask};

use crate::spec::plan::{LaunchPlan, MountKind, NamespaceKind};
use crate::sys::process;

use super::cgroup::{self, OwnCgroups};
use super::error::{During, LaunchError, Step};
use super::idmap::IdMaps;
use super::message::{Channel, Message, bounded_error};
use super::mounts::{Mounter, Sources};
use super::path::{Root, Want};
use super::streams::{self, Kept, Stdio};
use super::supply::Supplies;
use super::tail::{self, Tail};
use super::user_namespace::{self, Wanted};
use super::{console, dev, hooks, labels, mask, namespaces, rootfs};

/// What the child gets besides the plan.
pub(super) struct Start<'a> {
    pub stdio: &'a Stdio,
    pub kept: Kept,
    /// Descriptors from 3 on that the program inherits.
    pub inherited: u16,
    /// The child was cloned into its cgroup.
    pub in_cgroup: bool,
}

/// Runs the plan. Returns only if it fails, with the exit code.
pub(super) fn main(plan: &LaunchPlan, start: Start<'_>) -> i32 {
    let given = start.stdio.given();
    match streams::arrange(start.stdio, start.kept, start.inherited) {
        Ok(mut kept) => {
            let Err(error) = steps(plan, &mut kept, given, start.in_cgroup);
            report(&kept.sync, error)
        }
        // The way to say so is lost; the parent sees the socket close.
        Err(error) => error.exit_code,
    }
}

/// Tells the parent what went wrong.
pub(super) fn report(sync: &Channel, error: LaunchError) -> i32 {
    let code = error.exit_code;
    let _ = sync.send(&Message::Failed(Box::new(bounded_error(error))), None);
    code
}

fn steps(plan: &LaunchPlan, kept: &mut Kept, given: [bool; 3], in_cgroup: bool) -> Step<Infallible> {
    let mut notes = Vec::new();
    begin()?;
    let cgroups = join_cgroup(plan, in_cgroup)?;
    namespaces::join(&plan.namespaces)?;
    let user = Wanted::of(plan)?;
    if let Wanted::Joined(namespace) = &user {
        labels::set(&plan.process, plan.keep_keyring, &mut notes)?;
        let rest = |kept: &mut Kept| {
            namespaces::unshare_late(plan)?;
            inside(plan, kept, given, cgroups, notes)
        };
        return user_namespace::move_in(plan, namespace, kept, rest, |kept, error| {
            report(&kept.sync, error)
        });
    }
    namespaces::unshare_late(plan)?;
    labels::set(&plan.process, plan.keep_keyring, &mut notes)?;
    if matches!(user, Wanted::New) {
        user_namespace::enter_mount_point(&plan.mount_point)?;
        become_root_inside(&kept.sync)?;
    }
    inside(plan, kept, given, cgroups, notes)
}

/// Everything once the process is in all of its namespaces.
fn inside(
    plan: &LaunchPlan,
    kept: &mut Kept,
    given: [bool; 3],
    cgroups: Option<OwnCgroups>,
    mut notes: Vec<String>,
) -> Step<Infallible> {
    namespaces::set_up(plan)?;

    let (sources, root, nodes) = match kept.supplies.take() {
        Some(from) => {
            let supplies = Supplies::receive(plan, &from)?;
            let root = rootfs::attach_here(supplies.root)?;
            (supplies.sources, root, Some(supplies.devices))
        }
        None => {
            let mut sources = Sources::open(&plan.mounts, &mut IdMaps::default())?;
            rootfs::cut_propagation()?;
            sources.open_images(plan, None)?;
            let root = rootfs::mount_rootfs(&plan.rootfs, &plan.mount_label, &plan.mount_point)?;
            (sources, root, None)
        }
    };
    let mut mounter = Mounter {
        root: &root,
        cgroups,
        label: &plan.mount_label,
        own_ipc: plan.namespaces.iter().any(|n| n.kind == NamespaceKind::Ipc),
        readonly_later: Vec::new(),
        notes: &mut notes,
    };
    mounter.mount_all(&plan.mounts, sources)?;
    match nodes {
        Some(nodes) => dev::place_nodes(&root, &plan.devices, nodes)?,
        None => dev::make_nodes(&root, &plan.devices)?,
    }
    if plan.dev_links {
        dev::make_links(&root)?;
    }
    let console = match plan.process.terminal {
        true => Some(console::open(&root, &plan.process)?),
        false => None,
    };
    if let Some(console) = &console {
        console::bind_to_dev_console(&root, console)?;
    }
    mounter.finish()?;
    make_cwd(&root, plan);
    run_hooks(plan, &kept.sync)?;
    labels::confine(&plan.process)?;
    mask::make_readonly(&root, &plan.readonly_paths)?;
    mask::mask(&root, &plan.masked_paths, &plan.mount_label)?;
    rootfs::change_root(&root, plan.no_pivot)?;
    rootfs::finish_root(&root, plan.readonly_root, plan.root_propagation)?;

    tail::run(Tail {
        process: &plan.process,
        root,
        kept,
        given,
        console,
        notes,
        gate: true,
        check_early: plan.check_command_early,
        hooks: &plan.hooks,
    })
}

/// Makes the copy of the caller a process of its own.
pub(super) fn begin() -> Step {
    process::reset_signals();
    process::set_undumpable().during("hide", || "the process from others")?;
    setsid().during("start", || "session")?;
    umask(rustix::fs::Mode::empty());
    Ok(())
}

pub(super) fn join_cgroup(plan: &LaunchPlan, in_cgroup: bool) -> Step<Option<OwnCgroups>> {
    if let Some(join) = &plan.cgroup
        && !in_cgroup
    {
        cgroup::join(join, 0)?;
    }
    match plan.mounts.iter().any(|m| m.kind == MountKind::Cgroup) {
        true => OwnCgroups::find().map(Some),
        false => Ok(None),
    }
}

/// In a new user namespace: waits for the parent to write the maps, then takes the root user there.
fn become_root_inside(sync: &Channel) -> Step {
    if !sync.wait_go_on() {
        return Err(LaunchError::new(
            "wait",
            "for the user namespace's maps",
            "the parent is gone",
        ));
    }
    tail::become_root()
}

/// The working directory is made if the image lacks it. If that fails, entering it will say why.
fn make_cwd(root: &Root, plan: &LaunchPlan) {
    let _ = root.find_or_make(&plan.process.cwd, Want::Directory);
}

fn run_hooks(plan: &LaunchPlan, sync: &Channel) -> Step {
    if plan.pause_before_pivot || !plan.hooks.runtime.is_empty() {
        sync.send(&Message::BeforePivot, None)?;
        sync.wait_permission("for the runtime's hooks")?;
    }
    if plan.hooks.create_container.is_empty() {
        return Ok(());
    }
    let state = hooks::with_status(plan.hooks.state.as_ref(), "creating", own_pid());
    hooks::run("createContainer", &plan.hooks.create_container, &state)
}

/// The id in the process's own pid namespace.
pub(super) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
