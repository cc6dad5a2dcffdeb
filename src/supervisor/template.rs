//! The template: a small process that becomes the pods' supervisors by forking.
//!
//! Started once by the daemon with a socket as its stdin, it lives as long as the daemon and does nothing but fork: the
//! pages it has touched, relocations above all, are then shared by every supervisor. Whatever can go wrong for a pod
//! goes wrong in the fork and is told on the pod's own connection.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::sys::fork::{Forked, fork};
use crate::types::error::Context as _;
use crate::types::{CgroupJoin, Error, Kind, Result};

use super::engine::Engine;
use super::protocol::{Failure, Op, PodSpawn};
use super::runner::{Executor, Runner};
use super::setup;
use super::wire::{self, Descriptors, Message, Received};

/// Runs the template; the personality `husk supervisor-template`. Returns the exit status of this process, which by then
/// may be a supervisor. Standard input has to be one end of a SOCK_SEQPACKET socket pair.
pub fn main() -> i32 {
    if let Err(e) = crate::sys::fds::close_inherited() {
        eprintln!("supervisor template: close inherited descriptors: {e}");
    }
    run(Box::new(Executor))
}

/// As [`main`], with a runner of the caller's choice.
pub fn run(runner: Box<dyn Runner>) -> i32 {
    let stdin = io::stdin();
    let outcome = set_up().and_then(|()| serve(stdin.as_fd()));
    match outcome {
        Ok(None) => 0,
        Ok(Some((spawn, connection))) => supervise(spawn, connection, runner),
        Err(e) => {
            eprintln!("supervisor template: {e}");
            1
        }
    }
}

fn set_up() -> Result<()> {
    let what = "set up the supervisor template";
    // Fails if this process leads a group already; then it has a session to itself as it is.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").context(what)?;
    rustix::thread::set_name(c"husk-template").context(what)?;
    // A node without CAP_SYS_RESOURCE refuses; the supervisors then are as likely victims as anybody.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    crate::sys::signal::ignore(Signal::SIGPIPE).context(what)?;
    // The kernel reaps supervisors; their end is watched by pidfd.
    crate::sys::signal::ignore(Signal::SIGCHLD).context(what)
}

/// Serves until the daemon is gone (`None`), or, in a fork, comes back with what to become.
fn serve(socket: BorrowedFd<'_>) -> Result<Option<(PodSpawn, OwnedFd)>> {
    loop {
        let (message, descriptors) = match wire::receive(socket).context("receive from the daemon")? {
            Received::Message(message, descriptors) => (message, descriptors),
            Received::Closed => return Ok(None),
        };
        match message {
            Message::Request(id, Ok(Op::Prepare(cgroup))) => prepare(socket, id, cgroup.as_ref())?,
            Message::Request(id, Ok(Op::TryIdMaps(directory))) => {
                let tried = crate::executor::try_id_maps(&directory).map_err(Error::from);
                answer(socket, id, tried.map_err(Failure::from))?;
            }
            Message::Request(_, Ok(Op::Spawn(spawn))) => {
                if let Some(work) = spawn_one(spawn, descriptors) {
                    return Ok(Some(work));
                }
            }
            Message::Request(id, _) => {
                let failure = Failure::new(
                    Kind::Unimplemented,
                    "the template only prepares, probes and spawns",
                );
                answer(socket, id, Err(failure))?;
            }
            _ => {}
        }
    }
}

fn prepare(socket: BorrowedFd<'_>, id: u64, cgroup: Option<&CgroupJoin>) -> Result<()> {
    let outcome = cgroup.map_or(Ok(()), join);
    answer(socket, id, outcome.map_err(Failure::from))
}

fn join(cgroup: &CgroupJoin) -> Result<()> {
    let dirs: &[PathBuf] = match cgroup {
        CgroupJoin::V1(dirs) => dirs,
        CgroupJoin::V2(dir) => std::slice::from_ref(dir),
    };
    for dir in dirs {
        let procs = dir.join("cgroup.procs");
        std::fs::write(&procs, "0")
            .with_context(|| format!("move the supervisor template into {}", procs.display()))?;
    }
    Ok(())
}

fn answer(socket: BorrowedFd<'_>, id: u64, outcome: std::result::Result<(), Failure>) -> Result<()> {
    let message = Message::Response(id, outcome.map(|()| super::protocol::Reply::Done));
    wire::send(socket, &message.encode(), &[]).context("answer the daemon")
}

/// Forks; in the child, what it has to become. The daemon's end of a connection that is dropped here says enough.
fn spawn_one(spawn: PodSpawn, mut descriptors: Descriptors) -> Option<(PodSpawn, OwnedFd)> {
    let connection = descriptors.pop()?;
    match fork() {
        Ok(Forked::Child) => return Some((spawn, connection)),
        Ok(Forked::Parent(_)) => {}
        Err(e) => refuse(&connection, Error::internal(format!("fork a supervisor: {e}"))),
    }
    None
}

fn refuse(connection: &OwnedFd, error: Error) {
    let message = Message::Greeting(Err(error.into()));
    let _ = wire::send(connection, &message.encode(), &[]);
}

fn supervise(spawn: PodSpawn, connection: OwnedFd, runner: Box<dyn Runner>) -> i32 {
    let engine = match setup::set_up(spawn) {
        Ok(pod) => Engine::new(pod, runner),
        Err(e) => {
            refuse(&connection, e);
            return 1;
        }
    };
    match engine.and_then(|engine| engine.run(connection)) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("supervisor ends: {e}");
            1
        }
    }
}
