//! The parent's view of a process on its way from clone3 to execve.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, setsid, waitid,
};

use crate::spec::plan::{Hook, Hooks};
use crate::sys::clone::{Child, clone_process};
use crate::sys::process::reset_signals;

use super::error::{self, During, LaunchError, Step};
use super::message::{Channel, Message, Received, bounded_error};
use super::{hooks, streams};

/// How far a launch is.
#[derive(Debug)]
pub enum Progress {
    /// Nothing to report yet.
    Pending,
    /// The mounts are made and the root is not changed yet. Only if the plan asks to pause here; [`Launch::resume`]
    /// goes on.
    BeforePivot,
    /// All is set up. A container's first process now waits at its gate; an exec goes on by itself.
    Ready {
        /// Master of the process's terminal, if it has one.
        console: Option<OwnedFd>,
        /// What could not be done but did not matter enough to fail.
        notes: Vec<String>,
    },
    /// The program runs. There is nothing more to come: stop watching the socket.
    Running,
}

impl Drop for Launch {
    /// A supplier that is still there supplies nobody, and hooks that still run are of no use to anybody. They may hang,
    /// so they are not waited for.
    fn drop(&mut self) {
        self.end_hooks();
        if let Some(pidfd) = self.supplier.take() {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = waitid(
                WaitId::PidFd(pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            );
        }
    }
}

/// A process on its way to its program.
///
/// Dropping it before the gate is open ends the process. It is the caller's child either way and has to be reaped.
#[derive(Debug)]
pub struct Launch {
    /// Its id as the caller counts.
    pub pid: i32,
    /// Refers to it for good.
    pub pidfd: OwnedFd,
    sync: Channel,
    console: Option<OwnedFd>,
    executing: bool,
    /// The process that supplies it with what it may not open itself.
    supplier: Option<OwnedFd>,
    /// The process that runs hooks of the runtime.
    hooks: Option<Child>,
}

impl Launch {
    pub(super) fn new(pid: i32, pidfd: OwnedFd, sync: Channel) -> Self {
        Self {
            pid,
            pidfd,
            sync,
            console: None,
            executing: false,
            supplier: None,
            hooks: None,
        }
    }

    /// Waits until the process has gone on as another one, inside the namespaces that this one entered, and takes that
    /// one for it. It takes microseconds: nothing of a file system is touched on the way.
    pub(super) fn follow(&mut self) -> Step {
        match self.sync.wait()? {
            Received::Message(Message::Moved { pid }, Some(pidfd)) => {
                let old = std::mem::replace(&mut self.pidfd, pidfd);
                self.pid = pid;
                let _ = waitid(WaitId::PidFd(old.as_fd()), WaitIdOptions::EXITED);
                Ok(())
            }
            Received::Message(Message::Failed(error), _) => Err(*error),
            Received::Message(..) => Err(LaunchError::new(
                "launch",
                format!("process {}", self.pid),
                "it went on before it had moved",
            )),
            Received::Nothing | Received::Closed => Err(self.ended_early()),
        }
    }

    /// Notes who supplies the process.
    pub(super) fn supplied_by(&mut self, pidfd: OwnedFd) {
        self.supplier = Some(pidfd);
    }

    /// The supplier is done once the process is ready. Somebody else may have reaped it.
    fn reap_supplier(&mut self) {
        if let Some(pidfd) = self.supplier.take() {
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }

    /// Ends the process that runs hooks, and the hook that it runs, which is in its process group.
    fn end_hooks(&mut self) {
        let Some(runner) = self.hooks.take() else { return };
        // As long as it is not reaped, the number of the group is nobody else's. If it is, no hook is left.
        if pidfd_send_signal(&runner.pidfd, Signal::KILL).is_err() {
            return;
        }
        if let Some(group) = Pid::from_raw(runner.pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = waitid(
            WaitId::PidFd(runner.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }

    /// Becomes readable when [`Launch::advance`] has something to say.
    pub fn sync_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// Finds out how far the process is, without blocking. Call when [`Launch::sync_fd`] is readable.
    ///
    /// # Errors
    /// The step that failed. The process is ending; it still has to be reaped.
    pub fn advance(&mut self) -> Result<Progress, LaunchError> {
        loop {
            return match self.sync.receive()? {
                Received::Nothing => Ok(Progress::Pending),
                Received::Message(Message::Console, fd) => {
                    self.console = fd;
                    continue;
                }
                Received::Message(Message::BeforePivot, _) => Ok(Progress::BeforePivot),
                Received::Message(Message::Ready { notes }, _) => {
                    self.reap_supplier();
                    // They are done: it would not be ready otherwise.
                    self.hooks = None;
                    Ok(Progress::Ready {
                        console: self.console.take(),
                        notes,
                    })
                }
                Received::Message(Message::Moved { .. } | Message::Tree, _) => continue,
                Received::Message(Message::Executing, _) => {
                    self.executing = true;
                    continue;
                }
                // Not said by a process that runs a plan.
                Received::Message(Message::Process { .. } | Message::Done, _) => continue,
                Received::Message(Message::Failed(error), _) => Err(*error),
                // The socket is closed by execve, or by the end of the process.
                Received::Closed if self.executing => Ok(Progress::Running),
                Received::Closed => Err(self.ended_early()),
            };
        }
    }

    /// Goes on after [`Progress::BeforePivot`].
    ///
    /// # Errors
    /// If the process is gone.
    pub fn resume(&mut self) -> Result<(), LaunchError> {
        self.go_on()
    }

    /// Runs the plan's hooks of the runtime after [`Progress::BeforePivot`], in a process of their own, and goes on if
    /// they succeed. Comes back at once. That process ends with the launch: when the container is killed meanwhile, and
    /// when the launch is dropped.
    ///
    /// # Errors
    /// If that process cannot be cloned.
    pub fn resume_after_hooks(&mut self, list: &Hooks) -> Result<(), LaunchError> {
        let state = hooks::with_status(list.state.as_ref(), "creating", self.pid);
        let sync = &self.sync;
        let runner = clone_process(0, None, || {
            reset_signals();
            // A process group of its own, by which its hooks are found.
            if setsid().is_err() {
                return error::NOT_STARTED;
            }
            let Ok(sync) = streams::keep_only(sync.as_fd()) else {
                return error::NOT_STARTED;
            };
            let sync = Channel::from(sync);
            let run = |(stage, hook): &(String, Hook)| hooks::run(stage, std::slice::from_ref(hook), &state);
            match list.runtime.iter().try_for_each(run) {
                Ok(()) => drop(sync.send_go_on()),
                Err(error) => sync.send_refusal(&bounded_error(error)),
            }
            0
        })
        .during("clone", || "the process that runs hooks")?;
        self.hooks = Some(runner);
        Ok(())
    }

    /// Lets a process that waits at its gate run its program.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn open_gate(&mut self) -> Result<(), LaunchError> {
        self.go_on()
    }

    /// Ends the process and reaps it, for a caller that never gets to know of it.
    pub(super) fn abandon(self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }

    pub(super) fn go_on(&self) -> Step {
        self.sync
            .send_go_on()
            .during("let go", || "the process")
            .map_err(|e| match e.errno {
                Some(libc::EPIPE | libc::ECONNRESET) => self.ended_early(),
                _ => e,
            })
    }

    fn ended_early(&self) -> LaunchError {
        // Left in place for the caller to reap.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let how = match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => match (status.terminating_signal(), status.exit_status()) {
                (Some(9), _) => "it was killed (SIGKILL), perhaps for want of memory".to_owned(),
                (Some(signal), _) => format!("it was ended by signal {signal}"),
                (_, Some(code)) => format!("it exited with {code} without a word"),
                _ => "it ended".to_owned(),
            },
            _ => "it closed its socket".to_owned(),
        };
        LaunchError::new(
            "launch",
            format!("process {}", self.pid),
            format!("{how} before it ran its program"),
        )
        .advise("look at the container's memory limit and the kernel log")
    }
}
