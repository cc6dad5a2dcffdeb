//! Has an OCI runtime make, enter, signal and delete containers, where a runtime handler names one.
//!
//! A runtime's command takes its time, and the caller must not block. So each is run by a helper: a clone of the caller
//! that prepares what the runtime needs, runs it, waits, and reports over the same kind of socket as a process that runs
//! a plan.
//!
//! ```text
//! supervisor ──clones──> helper ──clones──> runc create ──> container's first process
//!      <──"the process is 42, here is its pidfd"──┘                     │
//!      <──────────── becomes its parent, when the helper ends ──────────┘
//! ```
//!
//! The helper is a subreaper: what its runtime leaves behind stays its child, and so keeps its id, until the caller has
//! been told of it. What can hang has a time limit here, so that the caller needs none.

mod bundle;
mod command;
mod console;
mod helper;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::spec::plan::RuntimePlan;
use crate::sys::clone::{Child, clone_process};
use crate::types::CgroupJoin;

use super::error::{Cause, LaunchError, Step};
use super::message::{self, Channel, Message, Received};
use super::streams::{self, Stdio};

/// What an exec by an OCI runtime needs besides the container.
#[derive(Debug, Clone)]
pub struct RuntimeExec<'a> {
    /// Its name, safe as a file name.
    pub exec_id: &'a str,
    /// The OCI process as JSON.
    pub process_json: &'a [u8],
    /// Run on a terminal.
    pub tty: bool,
    /// A cgroup of its own below the container's.
    pub cgroup: Option<CgroupJoin>,
}

/// How far a runtime is.
#[derive(Debug)]
pub enum RuntimeProgress {
    /// Nothing to report yet.
    Pending,
    /// The process exists. A container's waits for `start`; an exec's runs.
    Ready {
        /// Its id as the caller counts, and its pidfd. It is or becomes a child of the caller.
        process: (i32, OwnedFd),
        /// Master of its terminal, if it has one.
        console: Option<OwnedFd>,
        /// What could not be done but did not matter enough to fail.
        notes: Vec<String>,
    },
    /// All that was asked for is done.
    Done,
}

/// Something that an OCI runtime is doing.
///
/// Dropping it does not end it. The helper is the caller's child and has to be reaped.
#[derive(Debug)]
pub struct RuntimeLaunch {
    plan: RuntimePlan,
    id: String,
    helper: Child,
    sync: Channel,
    /// Kept open between `create` and `start`, so that the socket has one life.
    helpers: Channel,
    console: Option<OwnedFd>,
    process: Option<(i32, OwnedFd)>,
    /// An exec goes on by itself; a container waits for `start`.
    is_exec: bool,
    /// Nobody is at work: the container is created and not started.
    idle: bool,
}

/// Makes the container `id`. Comes to [`RuntimeProgress::Ready`]; [`RuntimeLaunch::start`] goes on from there.
///
/// # Errors
/// If the helper could not be cloned. All else is told by [`RuntimeLaunch::advance`].
pub fn create(plan: RuntimePlan, id: &str, tty: bool, stdio: &Stdio) -> Result<RuntimeLaunch, LaunchError> {
    // What the runtime mounts for the container is nobody else's business.
    let flags = u64::from(libc::CLONE_NEWNS.cast_unsigned());
    RuntimeLaunch::begin(plan, id, flags, stdio, |plan, id, sync| {
        helper::create(plan, id, tty, sync)
    })
}

/// Runs one more process in the container `id`. Comes to [`RuntimeProgress::Ready`] and then
/// [`RuntimeProgress::Done`].
///
/// # Errors
/// As [`create`].
pub fn exec(
    plan: RuntimePlan,
    id: &str,
    exec: &RuntimeExec<'_>,
    stdio: &Stdio,
) -> Result<RuntimeLaunch, LaunchError> {
    let mut launch = RuntimeLaunch::begin(plan, id, 0, stdio, |plan, id, sync| {
        helper::exec(plan, id, exec, sync)?;
        done(sync)
    })?;
    launch.is_exec = true;
    Ok(launch)
}

/// Sends a signal to the first process of the container `id`. That it has ended is no error.
///
/// # Errors
/// As [`create`].
pub fn kill(plan: RuntimePlan, id: &str, signal: i32) -> Result<RuntimeLaunch, LaunchError> {
    RuntimeLaunch::begin(plan, id, 0, &Stdio::default(), |plan, id, sync| {
        helper::kill(plan, id, signal)?;
        done(sync)
    })
}

/// Makes the runtime forget the container `id`, and kill what is left of it. That it knows none is no error.
///
/// # Errors
/// As [`create`].
pub fn delete(plan: RuntimePlan, id: &str) -> Result<RuntimeLaunch, LaunchError> {
    RuntimeLaunch::begin(plan, id, 0, &Stdio::default(), |plan, id, sync| {
        helper::delete(plan, id)?;
        done(sync)
    })
}

impl RuntimeLaunch {
    fn begin(
        plan: RuntimePlan,
        id: &str,
        flags: u64,
        stdio: &Stdio,
        work: impl FnOnce(&RuntimePlan, &str, &Channel) -> Step,
    ) -> Result<Self, LaunchError> {
        let (sync, helpers) = message::pair()?;
        if let Some(owner) = plan.stdio_owner {
            streams::give_early(stdio, owner);
        }
        let helper = spawn(flags, &helpers, stdio, |sync| work(&plan, id, sync))?;
        Ok(Self {
            plan,
            id: id.to_owned(),
            helper,
            sync,
            helpers,
            console: None,
            process: None,
            is_exec: false,
            idle: false,
        })
    }

    /// The process that counts now: the one the runtime made, or the helper until there is one.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().map_or(self.helper.pid, |(pid, _)| *pid)
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process
            .as_ref()
            .map_or(self.helper.pidfd.as_fd(), |(_, pidfd)| pidfd.as_fd())
    }

    /// Becomes readable when [`RuntimeLaunch::advance`] has something to say. It has, too, when a child of the caller
    /// has ended that the caller does not know: the helper may have died without a word.
    pub fn sync_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// Starts the container that [`create`] made. Comes to [`RuntimeProgress::Done`].
    ///
    /// # Errors
    /// If the helper could not be cloned.
    pub fn start(&mut self) -> Result<(), LaunchError> {
        self.helper = spawn(0, &self.helpers, &Stdio::default(), |sync| {
            helper::start(&self.plan, &self.id)?;
            done(sync)
        })?;
        self.idle = false;
        Ok(())
    }

    /// Finds out how far the runtime is, without blocking.
    ///
    /// # Errors
    /// What the runtime said, or that it could not be run.
    pub fn advance(&mut self) -> Result<RuntimeProgress, LaunchError> {
        // In this order: a helper speaks before it ends.
        let ended = !self.idle && has_ended(&self.helper);
        loop {
            return match self.sync.receive()? {
                Received::Message(Message::Console, fd) => {
                    self.console = fd;
                    continue;
                }
                Received::Message(Message::Process { pid }, Some(pidfd)) => {
                    self.process = Some((pid, pidfd));
                    continue;
                }
                Received::Message(Message::Ready { notes }, _) => self.ready(notes),
                Received::Message(Message::Done, _) => Ok(RuntimeProgress::Done),
                Received::Message(Message::Failed(error), _) => Err(*error),
                Received::Message(..) => continue,
                Received::Nothing if ended => Err(self.helper_died()),
                Received::Nothing => Ok(RuntimeProgress::Pending),
                Received::Closed => Err(self.helper_died()),
            };
        }
    }

    fn ready(&mut self, notes: Vec<String>) -> Result<RuntimeProgress, LaunchError> {
        let object = || format!("container {}", self.id);
        let Some((pid, pidfd)) = &self.process else {
            return Err(LaunchError::new(
                "create",
                object(),
                "the runtime made no process",
            ));
        };
        let pidfd = pidfd
            .try_clone()
            .map_err(|e| LaunchError::errno("duplicate", "the pidfd of the process", e.number()))?;
        let process = (*pid, pidfd);
        self.idle = !self.is_exec;
        Ok(RuntimeProgress::Ready {
            process,
            console: self.console.take(),
            notes,
        })
    }

    fn helper_died(&self) -> LaunchError {
        LaunchError::new(
            "run",
            self.plan.program.display(),
            "the process that ran it was killed, and the runtime with it",
        )
        .advise("look for a lack of memory in the kernel log")
    }
}

/// Clones a helper that does `work` and reports how it went.
fn spawn(flags: u64, sync: &Channel, stdio: &Stdio, work: impl FnOnce(&Channel) -> Step) -> Step<Child> {
    let body = || match helper::begin(sync, stdio) {
        Ok(sync) => match work(&sync) {
            Ok(()) => 0,
            Err(error) => super::child::report(&sync, error),
        },
        // The way to say so is lost; the parent sees the helper end.
        Err(error) => error.exit_code,
    };
    clone_process(flags, None, body).map_err(|e| {
        LaunchError::errno("clone", "a helper for the OCI runtime", e.number())
            .advise("a limit of processes or memory may be reached")
    })
}

fn done(sync: &Channel) -> Step {
    sync.send(&Message::Done, None)
}

fn has_ended(child: &Child) -> bool {
    let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

/// Waits for a child of the calling helper.
fn reap(child: &Child) -> Step<rustix::process::WaitIdStatus> {
    loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(LaunchError::errno(
                    "wait for",
                    "the OCI runtime",
                    e.raw_os_error(),
                ));
            }
        }
    }
}
