//! Turns a fork of the template into the supervisor of a pod.
//!
//! Owns the order of the steps: detach, namespaces, their settings, the pid namespace's init, the socket. Any failure is
//! told on the first connection and ends the process, and the kernel undoes the rest.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::types::Result;
use crate::types::error::Context as _;
use crate::types::security::IdMapping;

use super::protocol::PodSpawn;
use super::sysctl;
use super::{pidns, shm, user_namespace};

/// Name of the socket in the pod's run directory.
pub const SOCKET: &str = "supervisor.sock";
/// Name of the supervisor's own log in the pod's run directory.
const LOG: &str = "supervisor.log";

/// A supervisor that is set up and owns nothing yet but its pod.
#[derive(Debug)]
pub struct Pod {
    /// What it was asked to be.
    pub spawn: PodSpawn,
    /// Where a restarted daemon connects.
    pub listener: OwnedFd,
    /// Delivers SIGCHLD.
    pub signals: SignalFd,
    /// Init of the pod's own pid namespace.
    pub pidns_init: Option<pidns::Init>,
    /// The pod's user namespace, if it has one of its own.
    pub user: Option<OwnedFd>,
    /// The pod's `/dev/shm`, attached nowhere.
    pub shm: Option<OwnedFd>,
}

/// All steps.
///
/// # Errors
/// The step that failed.
pub fn set_up(spawn: PodSpawn) -> Result<Pod> {
    detach(&spawn)?;
    let signals = take_signals()?;
    enter_network(&spawn)?;
    let (user, pidns_init) = if spawn.uids.is_empty() {
        new_namespaces(&spawn)?;
        sysctl::apply(&spawn)?;
        (None, spawn.shared_pid.then(|| pidns::start(&spawn)).transpose()?)
    } else {
        let made = user_namespace::make(&spawn)?;
        (Some(made.user), made.pidns_init)
    };
    let shm = if spawn.shm_bytes > 0 {
        let root = |ids| IdMapping::to_host(ids, 0).unwrap_or(0);
        let owner = (root(&spawn.uids), root(&spawn.gids));
        shm::make(spawn.shm_bytes, owner, &spawn.mount_label)?
    } else {
        None
    };
    let listener = listen(&spawn.run_dir)?;
    Ok(Pod {
        user,
        shm,
        spawn,
        listener,
        signals,
        pidns_init,
    })
}

/// Own session, own name, nothing of the template's but its memory.
fn detach(spawn: &PodSpawn) -> Result<()> {
    let what = "detach supervisor from its template";
    rustix::process::setsid().context(what)?;
    rustix::process::chdir("/").context(what)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Any pid but none switches it on.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context(what)?;
    let name = CString::new(format!("husk-sup:{:.6}", spawn.pod_id.short())).context(what)?;
    rustix::thread::set_name(&name).context(what)?;
    standard_streams(&spawn.run_dir)
}

fn standard_streams(run_dir: &Path) -> Result<()> {
    let path = run_dir.join(LOG);
    let what = || format!("open supervisor log {}", path.display());
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .with_context(what)?;
    nix::unistd::dup2_stdin(&null).context("replace stdin")?;
    nix::unistd::dup2_stdout(&null).context("replace stdout")?;
    nix::unistd::dup2_stderr(&log).context("replace stderr")
}

/// Only SIGKILL ends a supervisor from outside: what ends pods is the daemon's decision, told by Shutdown.
fn take_signals() -> Result<SignalFd> {
    let what = "set up signals";
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
    ] {
        crate::sys::signal::ignore(signal).context(what)?;
    }
    // The template lets the kernel reap its children; here their ends matter.
    crate::sys::signal::restore(Signal::SIGCHLD).context(what)?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().context(what)?;
    SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context(what)
}

fn enter_network(spawn: &PodSpawn) -> Result<()> {
    if let Some(path) = &spawn.netns {
        let what = || format!("enter network namespace {}", path.display());
        let netns =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).with_context(what)?;
        nix::sched::setns(&netns, CloneFlags::CLONE_NEWNET).with_context(what)?;
    }
    Ok(())
}

fn new_namespaces(spawn: &PodSpawn) -> Result<()> {
    let mut fresh = CloneFlags::empty();
    fresh.set(CloneFlags::CLONE_NEWNET, spawn.new_net);
    fresh.set(CloneFlags::CLONE_NEWIPC, spawn.new_ipc);
    fresh.set(CloneFlags::CLONE_NEWUTS, spawn.new_uts);
    if !fresh.is_empty() {
        nix::sched::unshare(fresh).with_context(|| format!("make namespaces {fresh:?}"))?;
    }
    if spawn.new_uts && !spawn.hostname.is_empty() {
        nix::unistd::sethostname(&spawn.hostname)
            .with_context(|| format!("set host name {:?}", spawn.hostname))?;
    }
    Ok(())
}

fn listen(run_dir: &Path) -> Result<OwnedFd> {
    let what = || format!("listen on {}/{SOCKET}", run_dir.display());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .with_context(what)?;
    let _ = std::fs::remove_file(run_dir.join(SOCKET));
    // The mask in force while binding is what keeps others out from the first moment.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = address(run_dir).and_then(|(_dir, address)| rustix::net::bind(&socket, &address));
    rustix::process::umask(mask);
    bound.with_context(what)?;
    rustix::net::listen(&socket, 8).with_context(what)?;
    Ok(socket)
}

/// The socket's address, by way of a descriptor of its directory, which has to stay open until it is used: an address
/// has 107 bytes and a run directory may be longer than that.
///
/// # Errors
/// If the directory cannot be opened.
pub fn address(run_dir: &Path) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(run_dir, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
    Ok((dir, address))
}
