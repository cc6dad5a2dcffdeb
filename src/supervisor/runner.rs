//! What the supervisor needs of the executor, as a narrow trait.
//!
//! Owns the seam only: plans stay opaque JSON here, so the event loop can be tested with a runner that starts plain
//! processes, and nothing but [`Executor`] knows how plans look.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::executor::restore::{self, Restore, RestoreProgress};
use crate::executor::runtime::{self, RuntimeExec, RuntimeLaunch, RuntimeProgress};
use crate::executor::{self, ExecTarget};
use crate::spec::plan::{ExecPlan, Hooks, LaunchPlan, RestorePlan, RuntimePlan};
use crate::types::{CgroupJoin, ContainerId, Error, Kind};

use super::protocol::{Exec, Failure};

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
        /// The process that counts from now on, with its pidfd, if it is another than the one that was launched.
        process: Option<(i32, OwnedFd)>,
    },
    /// The program runs; an order is carried out.
    Running,
}

/// What a supervisor has an OCI runtime do with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Send a signal to the container's first process.
    Kill(i32),
    /// Forget the container.
    Delete,
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
    /// The process that counts once the program runs, with its pidfd, if it is another than the one that was ready.
    fn take_process(&mut self) -> Option<(i32, OwnedFd)> {
        None
    }
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
    /// Lets a container go on from a checkpoint. The launched process is a helper until [`Progress::Running`].
    ///
    /// # Errors
    /// As [`Runner::launch`].
    fn restore(
        &self,
        _plan_json: &[u8],
        _restore_json: &[u8],
        _stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        Err(Failure::new(
            Kind::Unimplemented,
            "this runner restores no checkpoints",
        ))
    }
    /// Has an OCI runtime make a container. The launched process is a helper until [`Progress::Ready`].
    ///
    /// # Errors
    /// As [`Runner::launch`].
    fn create_by_runtime(
        &self,
        _runtime_json: &[u8],
        _id: &ContainerId,
        _tty: bool,
        _stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        Err(no_runtimes())
    }
    /// Has an OCI runtime run one more process in a container; the plan of `exec` is an OCI process, and the cgroup is
    /// one of its own.
    ///
    /// # Errors
    /// As [`Runner::launch`].
    fn exec_by_runtime(
        &self,
        _runtime_json: &[u8],
        _id: &ContainerId,
        _exec: &Exec,
        _cgroup: Option<CgroupJoin>,
        _stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        Err(no_runtimes())
    }
    /// Gives an OCI runtime an order. It is carried out at [`Progress::Running`]; the launched process is a helper.
    ///
    /// # Errors
    /// As [`Runner::launch`].
    fn order_runtime(
        &self,
        _runtime_json: &[u8],
        _id: &ContainerId,
        _order: Order,
    ) -> Result<Box<dyn Launching>, Failure> {
        Err(no_runtimes())
    }
}

fn no_runtimes() -> Failure {
    Failure::new(Kind::Unimplemented, "this runner knows no OCI runtimes")
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

    fn restore(
        &self,
        plan_json: &[u8],
        restore_json: &[u8],
        stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        let plan: LaunchPlan = parse(plan_json, "launch plan")?;
        let checkpoint: RestorePlan = parse(restore_json, "plan to restore a checkpoint")?;
        let launch = restore::restore(&plan, &checkpoint, &stdio.into()).map_err(failure)?;
        Ok(Box::new(launch))
    }

    fn create_by_runtime(
        &self,
        runtime_json: &[u8],
        id: &ContainerId,
        tty: bool,
        stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        let launch = runtime::create(runtime_plan(runtime_json)?, id.as_str(), tty, &stdio.into());
        Ok(Box::new(launch.map_err(failure)?))
    }

    fn exec_by_runtime(
        &self,
        runtime_json: &[u8],
        id: &ContainerId,
        exec: &Exec,
        cgroup: Option<CgroupJoin>,
        stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        let exec = RuntimeExec {
            exec_id: &exec.exec_id,
            process_json: &exec.plan_json,
            tty: exec.tty,
            cgroup,
        };
        let launch = runtime::exec(runtime_plan(runtime_json)?, id.as_str(), &exec, &stdio.into());
        Ok(Box::new(launch.map_err(failure)?))
    }

    fn order_runtime(
        &self,
        runtime_json: &[u8],
        id: &ContainerId,
        order: Order,
    ) -> Result<Box<dyn Launching>, Failure> {
        let plan = runtime_plan(runtime_json)?;
        let launch = match order {
            Order::Kill(signal) => runtime::kill(plan, id.as_str(), signal),
            Order::Delete => runtime::delete(plan, id.as_str()),
        };
        Ok(Box::new(launch.map_err(failure)?))
    }
}

fn runtime_plan(json: &[u8]) -> Result<RuntimePlan, Failure> {
    parse(json, "plan for an OCI runtime")
}

impl Launching for RuntimeLaunch {
    fn pid(&self) -> i32 {
        RuntimeLaunch::pid(self)
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        RuntimeLaunch::pidfd(self)
    }

    fn sync_fd(&self) -> BorrowedFd<'_> {
        RuntimeLaunch::sync_fd(self)
    }

    fn advance(&mut self) -> Result<Progress, Failure> {
        Ok(match RuntimeLaunch::advance(self).map_err(failure)? {
            RuntimeProgress::Pending => Progress::Pending,
            RuntimeProgress::Ready {
                process,
                console,
                notes,
            } => Progress::Ready {
                console,
                notes,
                process: Some(process),
            },
            RuntimeProgress::Done => Progress::Running,
        })
    }

    fn open_gate(&mut self) -> Result<(), Failure> {
        self.start().map_err(failure)
    }
}

impl Launching for Restore {
    fn pid(&self) -> i32 {
        Restore::pid(self)
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        Restore::pidfd(self)
    }

    fn sync_fd(&self) -> BorrowedFd<'_> {
        Restore::sync_fd(self)
    }

    fn advance(&mut self) -> Result<Progress, Failure> {
        Ok(match Restore::advance(self).map_err(failure)? {
            RestoreProgress::Pending => Progress::Pending,
            RestoreProgress::Ready { notes } => Progress::Ready {
                console: None,
                notes,
                process: None,
            },
            RestoreProgress::Running => Progress::Running,
        })
    }

    fn open_gate(&mut self) -> Result<(), Failure> {
        self.go_on().map_err(failure)
    }

    fn take_process(&mut self) -> Option<(i32, OwnedFd)> {
        Restore::take_process(self)
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
            executor::Progress::Ready { console, notes } => Progress::Ready {
                console,
                notes,
                process: None,
            },
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
