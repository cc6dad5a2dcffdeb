//! What the supervisor needs of the executor, as a narrow trait.
//!
//! Owns the seam only: plans stay opaque JSON here, so the event loop can be tested with a runner that starts plain
//! processes, and nothing but [`Executor`] knows how plans look.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::executor::{self, ExecTarget};
use crate::spec::plan::{ExecPlan, Hooks, LaunchPlan};
use crate::types::{CgroupJoin, Error};

use super::protocol::Failure;

/// The child's ends of its standard streams; what is `None` becomes `/dev/null`, or the terminal.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// The container an exec goes into.
#[derive(Debug)]
pub struct Target<'a> {
    /// The container's first process.
    pub pid: i32,
    /// And its pidfd.
    pub pidfd: BorrowedFd<'a>,
    /// The cgroup to run in.
    pub cgroup: Option<CgroupJoin>,
}

/// How far a launch is.
#[derive(Debug)]
pub enum Progress {
    /// Nothing to report yet.
    Pending,
    /// The process is set up. A container's waits at its gate now.
    Ready {
        /// Master of its terminal.
        console: Option<OwnedFd>,
        /// What could not be done but did not matter enough to fail.
        notes: Vec<String>,
    },
    /// The program runs.
    Running,
}

/// A process on its way from clone to exec.
pub trait Launching {
    /// Its id, as the node counts.
    fn pid(&self) -> i32;
    /// Its pidfd.
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// Readable when [`Launching::advance`] has something to say.
    fn sync_fd(&self) -> BorrowedFd<'_>;
    /// Moves on without blocking.
    ///
    /// # Errors
    /// The step that failed. The process is gone or going; it still has to be reaped.
    fn advance(&mut self) -> Result<Progress, Failure>;
    /// Lets a process that is ready run its program.
    ///
    /// # Errors
    /// If the process is gone.
    fn open_gate(&mut self) -> Result<(), Failure>;
}

/// Starts processes from plans.
pub trait Runner {
    /// Clones the first process of a container.
    ///
    /// # Errors
    /// If the plan makes no sense or nothing could be cloned.
    fn launch(&self, plan_json: &[u8], stdio: Stdio) -> Result<Box<dyn Launching>, Failure>;
    /// Clones a process into a running container. It has no gate: once ready it goes on by itself.
    ///
    /// # Errors
    /// As [`Runner::launch`].
    fn exec(
        &self,
        plan_json: &[u8],
        target: &Target<'_>,
        stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure>;
}

/// The real runner.
#[derive(Debug, Default)]
pub struct Executor;

impl Runner for Executor {
    fn launch(&self, plan_json: &[u8], stdio: Stdio) -> Result<Box<dyn Launching>, Failure> {
        let plan: LaunchPlan = parse(plan_json, "launch plan")?;
        let launch = executor::launch(&plan, stdio.into()).map_err(failure)?;
        Ok(Box::new(Launched {
            launch,
            hooks: plan.hooks,
        }))
    }

    fn exec(
        &self,
        plan_json: &[u8],
        target: &Target<'_>,
        stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        let plan: ExecPlan = parse(plan_json, "exec plan")?;
        let target = ExecTarget {
            pid: target.pid,
            pidfd: Some(target.pidfd),
            cgroup: target.cgroup.clone(),
        };
        let launch = executor::exec(&plan, &target, stdio.into()).map_err(failure)?;
        Ok(Box::new(Launched {
            launch,
            hooks: Hooks::default(),
        }))
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8], what: &str) -> Result<T, Failure> {
    serde_json::from_slice(json).map_err(|e| Error::invalid(format!("read {what}: {e}")).into())
}

/// A launch and the hooks that it will ask for.
struct Launched {
    launch: executor::Launch,
    hooks: Hooks,
}

impl Launching for Launched {
    fn pid(&self) -> i32 {
        self.launch.pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.launch.pidfd.as_fd()
    }

    fn sync_fd(&self) -> BorrowedFd<'_> {
        self.launch.sync_fd()
    }

    fn advance(&mut self) -> Result<Progress, Failure> {
        Ok(match self.launch.advance().map_err(failure)? {
            executor::Progress::Pending => Progress::Pending,
            executor::Progress::BeforePivot => {
                self.launch.resume_after_hooks(&self.hooks).map_err(failure)?;
                Progress::Pending
            }
            executor::Progress::Ready { console, notes } => Progress::Ready { console, notes },
            executor::Progress::Running => Progress::Running,
        })
    }

    fn open_gate(&mut self) -> Result<(), Failure> {
        self.launch.open_gate().map_err(failure)
    }
}

impl From<Stdio> for executor::Stdio {
    fn from(stdio: Stdio) -> Self {
        Self {
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
        }
    }
}

fn failure(e: executor::LaunchError) -> Failure {
    let step = e.step.clone();
    let exit_code = (e.exit_code != executor::NOT_STARTED).then_some(e.exit_code);
    Failure {
        error: e.into(),
        step,
        exit_code,
    }
}
