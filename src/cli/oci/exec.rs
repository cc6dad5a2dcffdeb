//! `exec`: a further process in a container.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, Spec, User};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::executor::{self, ExecTarget, Launch, Progress, Stdio};
use crate::spec::plan::{self, ExecOptions};
use crate::types::{CapSet, Error, Result};

use super::args::Exec;
use super::create::{inherited_fds, own_stdio, seccomp, wait_for, write_pid};
use super::log::Log;
use super::state::{Home, Status};
use super::{bundle, console, foreground};

/// runc's exit code for an exec that did not come about.
const NO_EXEC: i32 = 255;

/// `exec`. Returns the exit code of the process, or 0 if it is left alone.
pub(super) fn exec(root: &Path, args: &Exec, log: &Log) -> Result<i32> {
    let inherited = inherited_fds(args.preserve_fds)?;
    let home = Home::find(root, &args.id)?;
    let state = home.load()?;
    let pidfd = match home.status(&state) {
        Status::Running | Status::Created => state.process(),
        _ => None,
    };
    let Some(pidfd) = pidfd else {
        return Err(Error::precondition(format!(
            "container {:?} is not running",
            args.id
        )));
    };
    let spec = home.load_spec()?;
    let process = process(args, &spec, log)?;
    let terminal = process.terminal().unwrap_or(false);
    console::check(terminal, args.detach, args.console_socket.as_deref())?;
    let options = ExecOptions {
        seccomp: seccomp(&spec)?,
        ..ExecOptions::default()
    };
    let mut plan = plan::exec(&spec, &process, &options)?;

    let watch = match args.detach {
        true => None,
        false => Some(foreground::Watch::begin(false)?),
    };
    if watch.is_some() {
        foreground::take_size(&mut plan.process);
    }
    let stdio = if terminal { Stdio::default() } else { own_stdio()? };
    let target = ExecTarget {
        pid: state.pid,
        pidfd: Some(pidfd.as_fd()),
        cgroup: state.cgroup.clone(),
    };
    let mut launch = executor::exec_with(&plan, &target, stdio, inherited)?;
    let mut master = None;
    loop {
        match wait_for(&mut launch) {
            Ok(Progress::Ready { console, notes }) => {
                master = console;
                notes.iter().for_each(|n| log.warn(n));
                write_pid(args.pid_file.as_deref(), launch.pid)?;
            }
            Ok(Progress::Running) => break,
            Ok(_) => {}
            Err(e) => return Ok(failed(&launch, &e, log)),
        }
    }
    if let (Some(socket), Some(master)) = (&args.console_socket, &master) {
        console::send(socket, master.as_fd())?;
    }
    match watch {
        Some(watch) => watch.until_end(launch.pid, &launch.pidfd, master),
        None => Ok(0),
    }
}

/// The process tells by its own exit code whether its command was missing or could not be executed.
fn failed(launch: &Launch, error: &Error, log: &Log) -> i32 {
    log.error(&error.to_string());
    let status =
        Pid::from_raw(launch.pid).and_then(|pid| waitpid(Some(pid), WaitOptions::empty()).ok().flatten());
    match status.and_then(|(_, s)| s.exit_status()) {
        Some(code @ (executor::NOT_FOUND | executor::NOT_EXECUTABLE)) => code,
        _ => NO_EXEC,
    }
}

fn process(args: &Exec, spec: &Spec, log: &Log) -> Result<Process> {
    if let Some(path) = &args.process {
        return bundle::load_process(path, log);
    }
    if args.command.is_empty() {
        return Err(Error::invalid(
            "no command is given: add one after the container, or use --process",
        ));
    }
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| Error::invalid("the container has no process"))?;
    process
        .set_args(Some(args.command.clone()))
        .set_terminal(Some(args.tty))
        .set_console_size(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if !args.env.is_empty() {
        process
            .env_mut()
            .get_or_insert_default()
            .extend(args.env.iter().cloned());
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    if !args.cap.is_empty() {
        process.set_capabilities(Some(with_caps(process.capabilities().as_ref(), &args.cap)?));
    }
    set_user(process.user_mut(), args)?;
    Ok(process)
}

fn set_user(user: &mut User, args: &Exec) -> Result<()> {
    if let Some(text) = &args.user {
        let number = |n: &str| {
            n.parse::<u32>()
                .map_err(|_| Error::invalid(format!("--user {text:?}: expected UID or UID:GID in numbers")))
        };
        let (uid, gid) = text
            .split_once(':')
            .map_or((text.as_str(), None), |(u, g)| (u, Some(g)));
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    if !args.additional_gids.is_empty() {
        user.additional_gids_mut()
            .get_or_insert_default()
            .extend(&args.additional_gids);
    }
    Ok(())
}

fn with_caps(have: Option<&LinuxCapabilities>, add: &[String]) -> Result<LinuxCapabilities> {
    let add = CapSet::parse(add)?.to_oci();
    let join = |set: Option<&Option<Capabilities>>| {
        let mut set = set.cloned().flatten().unwrap_or_default();
        set.extend(add.iter().copied());
        Some(set)
    };
    let mut caps = LinuxCapabilities::default();
    caps.set_bounding(join(have.map(LinuxCapabilities::bounding)))
        .set_effective(join(have.map(LinuxCapabilities::effective)))
        .set_permitted(join(have.map(LinuxCapabilities::permitted)))
        .set_inheritable(have.and_then(|h| h.inheritable().clone()))
        .set_ambient(have.and_then(|h| h.ambient().clone()));
    Ok(caps)
}
