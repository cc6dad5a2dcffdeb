//! `delete`: removing what is left of a container.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::executor::hooks;
use crate::spec::plan;
use crate::sys::process::send_signal;
use crate::types::error::Context;
use crate::types::{Error, Kind, Result};

use super::cgroups;
use super::log::Log;
use super::state::{Home, State, Status};

/// How long the kernel gets to end a process that was sent SIGKILL.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Deletes container `id`. A created one is ended first, a running one only with `force`.
pub(super) fn delete(root: &Path, id: &str, force: bool, log: &Log) -> Result<()> {
    let home = match Home::find(root, id) {
        Err(e) if force && e.kind() == Kind::NotFound => return Ok(()),
        result => result?,
    };
    let state = match home.load() {
        // It was never finished: there is no process to speak of.
        Err(_) if force => return home.remove(),
        result => result?,
    };
    let status = home.status(&state);
    if matches!(status, Status::Running | Status::Creating) && !force {
        return Err(Error::precondition(format!(
            "container {id:?} is {}: stop it first, or use --force",
            status.as_str()
        )));
    }
    if let Some(process) = state.process() {
        end(&process, id)?;
    }
    remove(&home, &state, log)
}

fn end(process: &OwnedFd, id: &str) -> Result<()> {
    match send_signal(process, libc::SIGKILL) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
            return Err(Error::internal(format!("kill container {id:?}: {e}")));
        }
        _ => {}
    }
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&PATIENCE))
        .context("wait for the container's end")?;
    if ended == 0 {
        return Err(Error::internal(format!(
            "container {id:?} did not end within {} s of SIGKILL: it may hang in a system call",
            PATIENCE.tv_sec
        )));
    }
    Ok(())
}

/// Removes the cgroup and the state of a container that has ended, and runs its poststop hooks.
pub(super) fn remove(home: &Home, state: &State, log: &Log) -> Result<()> {
    if let Some(cgroup) = &state.cgroup {
        cgroups::kill(cgroup)?;
        cgroups::remove(cgroup)?;
    }
    let spec = home.load_spec();
    home.remove()?;
    let Some(list) = spec
        .as_ref()
        .ok()
        .and_then(|s| s.hooks().as_ref()?.poststop().as_ref())
    else {
        return Ok(());
    };
    let state = state.to_oci(Status::Stopped);
    // All of them run, whatever becomes of the others.
    for hook in plan::hooks(list)? {
        if let Err(e) = hooks::run("poststop", &[hook], &state) {
            log.warn(&e.to_string());
        }
    }
    Ok(())
}
