//! What the helper does. It is a process of its own and may block.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, setsid, umask, waitid,
};

use crate::spec::plan::{LaunchPlan, NamespaceKind, RestorePlan};
use crate::sys::clone::{Child, clone_process};
use crate::sys::mount::{MountAttr, set_attributes};
use crate::sys::process::{die_with, reset_signals, set_no_new_privileges};
use crate::sys::{fd, namespace};
use crate::types::MountLine;

use super::super::child::{join_cgroup, report};
use super::super::criu::rpc::{CGROUPS_IGNORED, InheritFd, JoinNamespace, Options, Request, Response, Type};
use super::super::criu::{self, NETWORK, PIDS, Session};
use super::super::error::{Cause, During, LaunchError, NOT_FOUND, Step};
use super::super::idmap::IdMaps;
use super::super::message::{Channel, Message, bounded};
use super::super::mounts::{Mounter, Sources};
use super::super::path::Root;
use super::super::streams::{self, Kept, Stdio};
use super::super::{mask, namespaces, rootfs};

/// criu's log in the work directory.
const LOG: &str = "restore.log";
/// How long criu may take from one stage to the next: it reads as much as the container had memory.
const ANSWER: Duration = Duration::from_secs(600);
/// Number of criu's end of the socket; the container's streams and the namespaces follow.
const SOCKET: i32 = 3;
/// Above all numbers that criu is given.
const FREE: i32 = 16;

/// Does it all. Returns the exit code.
pub(super) fn main(plan: &LaunchPlan, restore: &RestorePlan, stdio: &Stdio, sync: &Channel) -> i32 {
    match begin(sync, stdio) {
        Ok(sync) => match work(plan, restore, &sync) {
            Ok(()) => 0,
            Err(error) => report(&sync, error),
        },
        // The way to say so is lost; the parent sees the socket close.
        Err(error) => error.exit_code,
    }
}

fn begin(sync: &Channel, stdio: &Stdio) -> Step<Channel> {
    reset_signals();
    let object = || "the helper for criu";
    setsid().during("set up", object)?;
    umask(Mode::empty());
    // What criu makes stays a child of this process until the caller has been told of it.
    set_child_subreaper(Some(getpid())).during("set up", object)?;
    let sync = sync.as_fd().try_clone_to_owned().during("set up", object)?;
    let kept = Kept {
        sync: sync.into(),
        extra: None,
        supplies: None,
    };
    streams::arrange(stdio, kept, 0).map(|kept| kept.sync)
}

fn work(plan: &LaunchPlan, restore: &RestorePlan, sync: &Channel) -> Step {
    let mut notes = Vec::new();
    let cgroups = join_cgroup(plan, false)?;
    namespaces::join(&plan.namespaces)?;
    if namespaces::is_new(&plan.namespaces, NamespaceKind::Cgroup) {
        namespace::unshare(NamespaceKind::Cgroup.clone_flag()).during("create", || "cgroup namespace")?;
    }
    let mut sources = Sources::open(&plan.mounts, &mut IdMaps::default())?;
    rootfs::cut_propagation()?;
    sources.open_images(plan, None)?;
    let root = rootfs::mount_rootfs(&plan.rootfs, &plan.mount_label, &plan.mount_point)?;
    let mut mounter = Mounter {
        root: &root,
        cgroups,
        label: &plan.mount_label,
        own_ipc: plan.namespaces.iter().any(|n| n.kind == NamespaceKind::Ipc),
        readonly_later: Vec::new(),
        notes: &mut notes,
    };
    mounter.mount_all(&plan.mounts, sources)?;
    mounter.finish()?;
    mask::mask(&root, &plan.masked_paths, &plan.mount_label)?;
    let place = bare_root(&root, restore)?;
    let external = external(&plan.mount_point)?;

    sync.send(
        &Message::Ready {
            notes: bounded(notes),
        },
        None,
    )?;
    sync.wait_permission("to restore the container")?;
    let pid = run_criu(plan, restore, &place, external)?;
    let pidfd = Pid::from_raw(pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .during("open", || format!("restored process {pid}"))?;
    sync.send(&Message::Process { pid }, Some(pidfd.as_fd()))?;
    sync.send(&Message::Done, None)
}

/// A mount of the root file system alone, without the mounts in it: criu makes those.
fn bare_root(root: &Root, restore: &RestorePlan) -> Step<PathBuf> {
    let place = restore.work.join("root");
    let object = || format!("the root file system on {}", place.display());
    std::fs::create_dir_all(&place).during("create", || place.display())?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(root, "", flags).during("clone", object)?;
    let private = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    set_attributes(tree.as_fd(), false, &private).during("make private", object)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", CWD, &place, flags).during("mount", object)?;
    Ok(place)
}

/// Every mount below `root`, as the source of the one at the same place that the images may call external.
fn external(root: &Path) -> Step<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").during("read", || "/proc/self/mountinfo")?;
    let mut found: Vec<String> = MountLine::all(&table)
        .filter_map(|m| {
            let below = m.point.strip_prefix(root).ok()?;
            let inside = Path::new("/").join(below);
            (inside != Path::new("/")).then(|| format!("mnt[{}]:{}", inside.display(), m.point.display()))
        })
        .collect();
    found.dedup();
    Ok(found)
}

/// Has criu make the processes; the id of the first one.
fn run_criu(plan: &LaunchPlan, restore: &RestorePlan, root: &Path, external: Vec<String>) -> Step<i32> {
    let log = restore.work.join(LOG);
    let _ = std::fs::remove_file(&log);
    let images = directory(&restore.images)?;
    let work = directory(&restore.work)?;
    let given = Given::open(plan)?;
    let (session, theirs) = Session::new(ANSWER)?;
    let criu = spawn(&restore.program, theirs, &given, plan.process.no_new_privileges)?;
    let own = getpid().as_raw_pid();
    let request = Request {
        kind: Type::Restore as i32,
        options: Some(Options {
            images_dir_fd: images.as_raw_fd(),
            work_dir_fd: Some(work.as_raw_fd()),
            log_level: Some(4),
            log_file: Some(LOG.to_owned()),
            root: Some(root.display().to_string()),
            rst_sibling: Some(true),
            notify_scripts: Some(true),
            manage_cgroups_mode: Some(CGROUPS_IGNORED),
            inherit_fd: given.keys(&restore.streams),
            external,
            join_ns: [NamespaceKind::Ipc, NamespaceKind::Uts]
                .iter()
                .map(|kind| JoinNamespace {
                    kind: kind.proc_name().to_owned(),
                    file: format!("/proc/{own}/ns/{}", kind.proc_name()),
                })
                .collect(),
            tcp_close: Some(true),
            lsm_profile: label(plan),
            lsm_mount_context: Some(plan.mount_label.clone()).filter(|label| !label.is_empty()),
            ext_unix_sk: Some(true),
            file_locks: Some(true),
            ..Options::default()
        }),
        notify_success: None,
    };
    // Images of other runtimes hold the old pod's names; the new pod has its own.
    let name = nix::unistd::gethostname().during("read", || "host name")?;
    let outcome = session.ask(&request, |stage| match stage {
        "post-restore" => nix::unistd::sethostname(&name).during("set", || "host name"),
        _ => Ok(()),
    });
    drop(session);
    let status = reap(&criu);
    let object = || format!("the checkpoint in {}", restore.images.display());
    match outcome {
        Ok(Response {
            restored: Some(restored),
            ..
        }) if restored.pid > 0 => Ok(restored.pid),
        Ok(_) => Err(LaunchError::new(
            "restore",
            object(),
            "criu did not say what it made",
        )),
        Err(error) => {
            let reason = criu::complaints(&log).unwrap_or_else(|| match status {
                Some(code) if code != 0 => format!("{error} (criu ended with status {code})"),
                _ => error.to_string(),
            });
            Err(LaunchError::new("restore", object(), reason)
                .advise(format!("criu's log is {}", log.display())))
        }
    }
}

/// The label of the new container in criu's words; the images have that of the old one.
fn label(plan: &LaunchPlan) -> Option<String> {
    let apparmor = plan
        .process
        .apparmor
        .as_ref()
        .map(|name| format!("apparmor:{name}"));
    apparmor.or_else(|| {
        plan.process
            .selinux
            .as_ref()
            .map(|label| format!("selinux:{label}"))
    })
}

fn directory(path: &Path) -> Step<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).during("open", || path.display())
}

/// What criu gets beside the socket.
struct Given {
    /// The pod's network namespace, and the process id namespace that its containers share, if they do.
    namespaces: Vec<(&'static str, OwnedFd)>,
}

impl Given {
    fn open(plan: &LaunchPlan) -> Step<Self> {
        let network = open(
            "/proc/self/ns/net",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .during("open", || "network namespace")?;
        let mut namespaces = vec![(NETWORK, network)];
        if let Some(pids) = namespaces::to_join(&plan.namespaces, NamespaceKind::Pid)? {
            namespaces.push((PIDS, pids));
        }
        Ok(Self { namespaces })
    }

    /// How criu is to know them. `streams` are the names of the container's standard streams, which come first.
    fn keys(&self, streams: &[String]) -> Vec<InheritFd> {
        let first = SOCKET + 1;
        let pipes = (first..first + 3)
            .zip(streams)
            .filter(|(_, name)| name.starts_with("pipe:["))
            .map(|(fd, key)| InheritFd { key: key.clone(), fd });
        let namespaces = (first + 3..)
            .zip(&self.namespaces)
            .map(|(fd, (key, _))| InheritFd {
                key: (*key).to_owned(),
                fd,
            });
        pipes.chain(namespaces).collect()
    }

    /// Everything in the order of the numbers from [`SOCKET`] on.
    fn in_order<'a>(&'a self, socket: BorrowedFd<'a>, streams: [BorrowedFd<'a>; 3]) -> Vec<BorrowedFd<'a>> {
        std::iter::once(socket)
            .chain(streams)
            .chain(self.namespaces.iter().map(|(_, fd)| fd.as_fd()))
            .collect()
    }
}

fn spawn(program: &Path, socket: OwnedFd, given: &Given, no_new_privileges: bool) -> Step<Child> {
    let c_string = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| LaunchError::new("run", program.display(), "it contains a NUL byte"))
    };
    let path = c_string(program.as_os_str().as_bytes())?;
    let argv = [
        path.clone(),
        c_string(b"swrk")?,
        c_string(SOCKET.to_string().as_bytes())?,
    ];
    // It runs tar for the contents of a tmpfs.
    let env = [c_string(
        b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )?];
    let parent = getpid();
    let child = clone_process(0, None, || {
        if !die_with(parent) {
            return super::super::error::NOT_STARTED;
        }
        // criu before 3.19 does not take it along; what it makes inherits it, and nobody can lose it again.
        let kept = !no_new_privileges || set_no_new_privileges().is_ok();
        if !kept || arrange(socket.as_fd(), given).is_err() {
            return super::super::error::NOT_STARTED;
        }
        let Err(_) = nix::unistd::execve(&path, &argv, &env);
        NOT_FOUND
    });
    child.map_err(|e| LaunchError::errno("clone", program.display(), e.number()))
}

/// Puts everything where criu has been told that it is. Its own streams are the null device.
fn arrange(socket: BorrowedFd<'_>, given: &Given) -> Step {
    let object = || "criu's descriptors";
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let order = given.in_order(socket, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    let held: Vec<OwnedFd> = order
        .into_iter()
        .map(|fd| fd::dup_above(fd, FREE).during("arrange", object))
        .collect::<Step<_>>()?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .and_then(|null| rustix::io::fcntl_dupfd_cloexec(&null, FREE))
        .during("open", || "/dev/null")?;
    for number in 0..SOCKET {
        fd::dup_to(null.as_fd(), number).during("arrange", object)?;
    }
    for (number, source) in (SOCKET..).zip(&held) {
        fd::dup_to(source.as_fd(), number).during("arrange", object)?;
    }
    // Their owners never run again: this process executes criu or exits.
    std::mem::forget((held, null));
    Ok(())
}

/// Waits for criu, which has answered and has nothing left to do.
fn reap(criu: &Child) -> Option<i32> {
    let status = |options| waitid(WaitId::PidFd(criu.pidfd.as_fd()), options);
    for _ in 0..50 {
        match status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => return status.exit_status(),
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    let _ = pidfd_send_signal(&criu.pidfd, Signal::KILL);
    status(WaitIdOptions::EXITED).ok()??.exit_status()
}
