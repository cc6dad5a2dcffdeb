//! Lets a container go on from a checkpoint, with criu.
//!
//! ```text
//! supervisor ──clones──> helper: cgroup, mounts, gate ──clones──> criu swrk ──> the container's processes
//!      <──"ready"──┘                        │                                          │
//!      ──"go on"──────────────────────────>─┘                                          │
//!      <──"the process is 42, here is its pidfd"──────────────── becomes its parent when the helper ends
//! ```
//!
//! The helper lives in the pod's namespaces and a mount namespace of its own, in which it makes all mounts of the
//! container as if it were its first process. criu then makes the container's mount namespace from what the images say,
//! and takes from the helper's whatever came from outside the container: that is how the restored one gets the new pod's
//! files and volumes.

mod helper;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::spec::plan::{LaunchPlan, RestorePlan};
use crate::sys::clone::{Child, clone_process};

use super::error::{Cause, LaunchError};
use super::message::{self, Channel, Message, Received};
use super::streams::Stdio;

/// How far it is.
#[derive(Debug)]
pub enum RestoreProgress {
    /// Nothing to report yet.
    Pending,
    /// All is in place; [`Restore::go_on`] lets criu make the processes.
    Ready {
        /// What could not be done but did not matter enough to fail.
        notes: Vec<String>,
    },
    /// The container goes on. [`Restore::take_process`] has its first process.
    Running,
}

/// A container on its way back. Until it runs, its process is the helper; dropping this ends nothing once it does.
#[derive(Debug)]
pub struct Restore {
    helper: Child,
    sync: Channel,
    process: Option<(i32, OwnedFd)>,
}

/// Begins to restore the container of `plan` and returns at once.
///
/// The caller must be single-threaded, and a subreaper, to become the parent of what is restored.
///
/// # Errors
/// If nothing could be cloned. All else is told by [`Restore::advance`].
pub fn restore(plan: &LaunchPlan, restore: &RestorePlan, stdio: &Stdio) -> Result<Restore, LaunchError> {
    let (sync, theirs) = message::pair()?;
    let flags = u64::from(libc::CLONE_NEWNS.cast_unsigned());
    let helper = clone_process(flags, None, || helper::main(plan, restore, stdio, &theirs)).map_err(|e| {
        LaunchError::errno("clone", "a helper for criu", e.number())
            .advise("a limit of processes or memory may be reached")
    })?;
    Ok(Restore {
        helper,
        sync,
        process: None,
    })
}

impl Restore {
    /// The helper's id as the caller counts.
    pub fn pid(&self) -> i32 {
        self.helper.pid
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.helper.pidfd.as_fd()
    }

    /// Becomes readable when [`Restore::advance`] has something to say.
    pub fn sync_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// Lets criu make the processes.
    ///
    /// # Errors
    /// If the helper is gone.
    pub fn go_on(&self) -> Result<(), LaunchError> {
        self.sync
            .send_go_on()
            .map_err(|e| LaunchError::errno("let go", "the helper for criu", e.raw_os_error()))
    }

    /// Finds out how far it is, without blocking.
    ///
    /// # Errors
    /// The step that failed, or what criu said.
    pub fn advance(&mut self) -> Result<RestoreProgress, LaunchError> {
        loop {
            return match self.sync.receive()? {
                Received::Message(Message::Process { pid }, Some(pidfd)) => {
                    self.process = Some((pid, pidfd));
                    continue;
                }
                Received::Message(Message::Ready { notes }, _) => Ok(RestoreProgress::Ready { notes }),
                Received::Message(Message::Done, _) => Ok(RestoreProgress::Running),
                Received::Message(Message::Failed(error), _) => Err(*error),
                Received::Message(..) => continue,
                Received::Nothing => Ok(RestoreProgress::Pending),
                Received::Closed => {
                    Err(
                        LaunchError::new("restore", "the container", "the process that ran criu was killed")
                            .advise("look at the container's memory limit and the kernel log"),
                    )
                }
            };
        }
    }

    /// The first process that was restored, with its pidfd. It is or becomes a child of the caller.
    pub fn take_process(&mut self) -> Option<(i32, OwnedFd)> {
        self.process.take()
    }
}
