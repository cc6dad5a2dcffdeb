//! A runner for tests: plain processes instead of containers, with the same gate and the same reports.
#![allow(clippy::unwrap_used)]

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::sys::fork::{Forked, fork};
use crate::types::{CgroupJoin, Error, Kind};

use super::protocol::Failure;
use super::runner::{Launching, Progress, Runner, Stdio, Target};

/// What to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Program and arguments.
    pub args: Vec<String>,
    /// On a terminal.
    pub tty: bool,
    /// Cgroup directories to enter.
    pub cgroup: Vec<PathBuf>,
    /// Die before the gate.
    pub die: bool,
    /// Makes the plan long.
    pub padding: String,
}

impl Plan {
    /// A shell script.
    pub fn shell(script: &str) -> Self {
        Self {
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            ..Self::default()
        }
    }

    /// As the supervisor takes it.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap()
    }
}

/// The runner.
pub struct Fake;

impl Runner for Fake {
    fn launch(&self, plan_json: &[u8], stdio: Stdio) -> Result<Box<dyn Launching>, Failure> {
        start(plan_json, stdio, None, true)
    }

    fn exec(
        &self,
        plan_json: &[u8],
        target: &Target<'_>,
        stdio: Stdio,
    ) -> Result<Box<dyn Launching>, Failure> {
        start(plan_json, stdio, target.cgroup.as_ref(), false)
    }
}

struct FakeLaunch {
    pid: i32,
    pidfd: OwnedFd,
    sync: OwnedFd,
    console: Option<OwnedFd>,
    opened: bool,
    ready: bool,
}

fn start(
    plan_json: &[u8],
    stdio: Stdio,
    cgroup: Option<&CgroupJoin>,
    gated: bool,
) -> Result<Box<dyn Launching>, Failure> {
    let mut plan: Plan =
        serde_json::from_slice(plan_json).map_err(|e| Error::invalid(format!("plan: {e}")))?;
    match cgroup {
        Some(CgroupJoin::V1(dirs)) => plan.cgroup.extend(dirs.iter().cloned()),
        Some(CgroupJoin::V2(dir)) => plan.cgroup.push(dir.clone()),
        None => {}
    }
    let (sync, theirs) = super::wire::pair().unwrap();
    let (master, slave) = terminal(plan.tty);
    match fork().unwrap() {
        Forked::Child => {
            drop((sync, master));
            child(&plan, stdio, slave, theirs, gated);
        }
        Forked::Parent(pid) => {
            let pidfd =
                rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
            Ok(Box::new(FakeLaunch {
                pid,
                pidfd,
                sync,
                console: master,
                opened: !gated,
                ready: false,
            }))
        }
    }
}

fn terminal(wanted: bool) -> (Option<OwnedFd>, Option<OwnedFd>) {
    if !wanted {
        return (None, None);
    }
    let pair = nix::pty::openpty(None, None).unwrap();
    for end in [&pair.master, &pair.slave] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    (Some(pair.master), Some(pair.slave))
}

fn child(plan: &Plan, stdio: Stdio, slave: Option<OwnedFd>, sync: OwnedFd, gated: bool) -> ! {
    rustix::process::setsid().unwrap();
    for dir in &plan.cgroup {
        std::fs::write(dir.join("cgroup.procs"), "0").unwrap();
    }
    if plan.die {
        std::process::exit(9);
    }
    let null = || {
        OwnedFd::from(
            std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap(),
        )
    };
    let stream = |given: Option<OwnedFd>| match (&slave, given) {
        (Some(slave), _) => slave.try_clone().unwrap(),
        (None, given) => given.unwrap_or_else(null),
    };
    nix::unistd::dup2_stdin(stream(stdio.stdin)).unwrap();
    nix::unistd::dup2_stdout(stream(stdio.stdout)).unwrap();
    nix::unistd::dup2_stderr(stream(stdio.stderr)).unwrap();
    if slave.is_some() {
        rustix::process::ioctl_tiocsctty(std::io::stdin()).unwrap();
    }
    drop(slave);
    rustix::io::write(&sync, b"ready").unwrap();
    rustix::io::ioctl_fionbio(&sync, false).unwrap();
    let mut gate = [0; 8];
    if gated && rustix::io::read(&sync, &mut gate).unwrap() == 0 {
        std::process::exit(9);
    }
    for signal in nix::sys::signal::Signal::iterator() {
        let _ = crate::sys::signal::restore(signal);
    }
    nix::sys::signal::SigSet::empty().thread_set_mask().unwrap();
    let args: Vec<CString> = plan
        .args
        .iter()
        .map(|a| CString::new(a.as_str()).unwrap())
        .collect();
    let error = nix::unistd::execv(&args[0], &args).unwrap_err();
    let _ = rustix::io::write(&sync, error.to_string().as_bytes());
    std::process::exit(127);
}

impl Launching for FakeLaunch {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn sync_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    fn advance(&mut self) -> Result<Progress, Failure> {
        let mut report = [0; 200];
        let failed = |message: &str, exit_code| {
            Err(Failure {
                error: Error::new(Kind::Internal, message),
                step: "exec".into(),
                exit_code,
            })
        };
        match rustix::io::read(&self.sync, &mut report) {
            Err(_) => Ok(Progress::Pending),
            Ok(0) if self.opened && self.ready => Ok(Progress::Running),
            Ok(0) => failed("died before the gate", None),
            Ok(_) if self.ready => failed("no such program", Some(127)),
            Ok(_) => {
                self.ready = true;
                Ok(Progress::Ready {
                    console: self.console.take(),
                    notes: vec!["fake".into()],
                    process: None,
                })
            }
        }
    }

    fn open_gate(&mut self) -> Result<(), Failure> {
        self.opened = true;
        rustix::io::write(&self.sync, b"go").map_err(|e| Error::internal(format!("open the gate: {e}")))?;
        Ok(())
    }
}

/// Not a test: the process that [`crate::pod::launcher`]'s tests start as their template.
#[test]
#[ignore = "started by other tests as the supervisors' template"]
fn template_process() {
    if std::env::var_os(TEMPLATE).is_some() {
        crate::sys::fds::close_inherited().unwrap();
        std::process::exit(super::template::run(Box::new(Fake)));
    }
}

/// Environment variable that turns the test above into a template.
pub const TEMPLATE: &str = "HUSK_TEST_TEMPLATE";
