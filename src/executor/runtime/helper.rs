//! What a helper does, from its clone to its report. All of this runs in a process of its own and may block.

use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open, set_child_subreaper, setsid, umask};
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::spec::plan::{ExecCgroup, RuntimePlan};
use crate::sys::process::reset_signals;
use crate::types::CgroupJoin;

use super::super::error::{Cause, During, LaunchError, NOT_EXECUTABLE, NOT_FOUND, Step};
use super::super::message::{Channel, Message};
use super::super::streams::{self, Kept, Stdio};
use super::RuntimeExec;
use super::bundle::{self, CallFile};
use super::command::Call;
use super::console::ConsoleSocket;

/// How long each verb may take. Clients give up on the calls behind them no later.
const CREATE: Duration = Duration::from_secs(100);
const START: Duration = Duration::from_secs(60);
const EXEC: Duration = Duration::from_secs(60);
const KILL: Duration = Duration::from_secs(20);
const DELETE: Duration = Duration::from_secs(60);
/// Longest command that is named, in characters.
const MAX_COMMAND: usize = 256;
/// How often to look for children of a command that had to be moved.
const MOVE_ROUNDS: usize = 32;

/// Makes a process of its own of a copy of the caller: default signals, own session, no descriptor of the caller's but
/// the streams and the socket.
pub(super) fn begin(sync: &Channel, stdio: &Stdio) -> Step<Channel> {
    reset_signals();
    let object = || "the helper for the OCI runtime";
    setsid().during("set up", object)?;
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    // What the runtime leaves behind stays a child of this process while it is being told of.
    set_child_subreaper(Some(getpid())).during("set up", object)?;
    let sync = sync.as_fd().try_clone_to_owned().during("set up", object)?;
    let kept = Kept {
        sync: sync.into(),
        extra: None,
        supplies: None,
    };
    streams::arrange(stdio, kept, 0).map(|kept| kept.sync)
}

pub(super) fn create(plan: &RuntimePlan, id: &str, tty: bool, sync: &Channel) -> Step {
    bundle::mount(plan)?;
    let pid_file = CallFile::new(plan, "init.pid");
    // Left for people.
    let log = plan.bundle.join("runtime.log");
    let console = tty
        .then(|| ConsoleSocket::listen(&plan.bundle, "console.sock"))
        .transpose()?;
    let mut command = Call::new(plan, id, "create", CREATE)
        .option("--bundle", &plan.bundle)
        .option("--pid-file", pid_file.path());
    if let Some(console) = &console {
        command = command.option("--console-socket", console.path());
    }
    let made = command
        .run(&log, None)
        .map_err(|e| name_command(e, || container_process(plan)))
        .and_then(|()| tell(&pid_file, console.as_ref(), Vec::new(), sync));
    if made.is_err() {
        // A runtime that failed half-way may keep the id.
        let _ = delete(plan, id);
    }
    made
}

pub(super) fn start(plan: &RuntimePlan, id: &str) -> Step {
    Call::new(plan, id, "start", START).run(&plan.bundle.join("runtime.log"), None)
}

pub(super) fn exec(plan: &RuntimePlan, id: &str, exec: &RuntimeExec<'_>, sync: &Channel) -> Step {
    let name = |suffix: &str| format!("exec-{}.{suffix}", exec.exec_id);
    let process = CallFile::new(plan, &name("json"));
    let pid_file = CallFile::new(plan, &name("pid"));
    let log = CallFile::new(plan, &name("log"));
    write_private(&process, exec.process_json)?;
    let console = exec
        .tty
        .then(|| ConsoleSocket::listen(&plan.bundle, &name("sock")))
        .transpose()?;
    let mut command = Call::new(plan, id, "exec", EXEC)
        .option("--process", process.path())
        .option("--pid-file", pid_file.path())
        .arg("--detach");
    if let Some(console) = &console {
        command = command.option("--console-socket", console.path());
    }
    let own = exec
        .cgroup
        .as_ref()
        .and_then(|join| sub_cgroup(plan.exec_cgroup, join));
    if let Some(own) = &own {
        command = command.option("--cgroup", own);
    }
    command
        .run(log.path(), None)
        .map_err(|e| name_command(e, || serde_json::from_slice(exec.process_json).ok()))?;
    let notes = match &exec.cgroup {
        Some(join) if own.is_none() => move_late(&pid_file, join),
        _ => Vec::new(),
    };
    tell(&pid_file, console.as_ref(), notes, sync)
}

/// Puts the command in front of a complaint about it. Not every runtime says what it could not execute.
fn name_command(mut error: LaunchError, process: impl FnOnce() -> Option<Value>) -> LaunchError {
    if !matches!(error.exit_code, NOT_FOUND | NOT_EXECUTABLE) {
        return error;
    }
    let process = process().unwrap_or_default();
    match process["args"][0].as_str() {
        Some(command) if !error.reason.contains(command) => {
            let command: String = command.chars().take(MAX_COMMAND).collect();
            error.reason = format!("{command:?}: {}", error.reason);
            error
        }
        _ => error,
    }
}

/// The process of the specification in the bundle.
fn container_process(plan: &RuntimePlan) -> Option<Value> {
    let text = std::fs::read(plan.bundle.join("config.json")).ok()?;
    let mut spec: Value = serde_json::from_slice(&text).ok()?;
    Some(spec["process"].take())
}

pub(super) fn kill(plan: &RuntimePlan, id: &str, signal: i32) -> Step {
    let log = CallFile::new(plan, &format!("kill-{}.log", getpid().as_raw_pid()));
    let outcome = Call::new(plan, id, "kill", KILL).run(log.path(), Some(&signal.to_string()));
    match outcome {
        Err(e) if is_gone(&e.reason) => Ok(()),
        outcome => outcome,
    }
}

pub(super) fn delete(plan: &RuntimePlan, id: &str) -> Step {
    // The bundle may be gone already.
    let log = CallFile::new(plan, "delete.log");
    let outcome = Call::new(plan, id, "delete", DELETE)
        .arg("--force")
        .run(log.path(), None);
    match outcome {
        Err(e) if is_gone(&e.reason) => Ok(()),
        outcome => outcome,
    }
}

/// Whether a runtime complains that there is nothing to do.
fn is_gone(reason: &str) -> bool {
    let text = reason.to_ascii_lowercase();
    [
        "does not exist",
        "not running",
        "no such process",
        "process already finished",
        "stopped",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// The process JSON holds the environment, which may hold secrets.
fn write_private(file: &CallFile, bytes: &[u8]) -> Step {
    use std::io::Write;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file.path())
        .and_then(|mut f| f.write_all(bytes))
        .during("write", || file.path().display())
}

/// The exec's own cgroup in the words of the runtime's `--cgroup`.
fn sub_cgroup(known: ExecCgroup, join: &CgroupJoin) -> Option<String> {
    let name = |dir: &std::path::Path| Some(dir.file_name()?.to_str()?.to_owned());
    match (known, join) {
        (ExecCgroup::Unified | ExecCgroup::PerController, CgroupJoin::V2(dir)) => name(dir),
        // On version 1 only the last directory is the exec's own, in the freezer's hierarchy.
        (ExecCgroup::PerController, CgroupJoin::V1(dirs)) => {
            let dir = dirs.last()?;
            let freezer = dir.iter().any(|part| part == "freezer");
            freezer.then(|| Some(format!("freezer:{}", name(dir)?)))?
        }
        _ => None,
    }
}

/// For a runtime that cannot do it: moves what runs already.
fn move_late(pid_file: &CallFile, join: &CgroupJoin) -> Vec<String> {
    let moved = pid_file
        .read_pid()
        .map_err(Into::into)
        .and_then(|pid| move_family(pid, join));
    match moved {
        Ok(()) => Vec::new(),
        // It may have ended; then there is nothing to kill either.
        Err(e) => vec![format!("the command has no cgroup of its own: {e}")],
    }
}

/// Moves a process, and what it has started by now: what it starts from then on is born in the right place.
fn move_family(pid: i32, join: &CgroupJoin) -> crate::types::Result<()> {
    let cgroup = Cgroup::from_join(join);
    cgroup.add_process(pid)?;
    let own = match join {
        CgroupJoin::V1(dirs) => dirs.last(),
        CgroupJoin::V2(dir) => Some(dir),
    };
    let Some(procs) = own
        .and_then(|dir| dir.parent())
        .map(|dir| dir.join("cgroup.procs"))
    else {
        return Ok(());
    };
    let mut family = vec![pid];
    // A process that forks while it is being moved leaves a child behind, which the next round finds.
    for _ in 0..MOVE_ROUNDS {
        let left = std::fs::read_to_string(&procs).unwrap_or_default();
        let left = left.lines().filter_map(|line| line.parse().ok());
        let strays: Vec<i32> = left
            .filter(|pid| parent(*pid).is_some_and(|parent| family.contains(&parent)))
            .collect();
        if strays.is_empty() {
            break;
        }
        for stray in strays {
            // It may have ended.
            let _ = cgroup.add_process(stray);
            family.push(stray);
        }
    }
    Ok(())
}

/// The id of a process's parent, while it lives.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Tells the caller of the process that a runtime made.
fn tell(pid_file: &CallFile, console: Option<&ConsoleSocket>, notes: Vec<String>, sync: &Channel) -> Step {
    let pid = pid_file.read_pid()?;
    let pidfd = Pid::from_raw(pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|e| {
            LaunchError::errno("open", format!("process {pid} of the container"), e.number())
                .advise("the runtime's process has to stay a child of its caller")
        })?;
    if let Some(console) = console {
        sync.send(&Message::Console, Some(console.receive()?.as_fd()))?;
    }
    sync.send(&Message::Process { pid }, Some(pidfd.as_fd()))?;
    sync.send(&Message::Ready { notes }, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_cgroups_in_the_words_of_each_runtime() {
        let v1 = CgroupJoin::V1(vec![
            "/sys/fs/cgroup/cpu/p/c".into(),
            "/sys/fs/cgroup/freezer/p/c/exec-1".into(),
        ]);
        let v2 = CgroupJoin::V2("/sys/fs/cgroup/p/c/exec-1".into());
        assert_eq!(
            sub_cgroup(ExecCgroup::PerController, &v1).as_deref(),
            Some("freezer:exec-1")
        );
        assert_eq!(sub_cgroup(ExecCgroup::Unified, &v1), None);
        assert_eq!(sub_cgroup(ExecCgroup::Unified, &v2).as_deref(), Some("exec-1"));
        assert_eq!(
            sub_cgroup(ExecCgroup::PerController, &v2).as_deref(),
            Some("exec-1")
        );
        assert_eq!(sub_cgroup(ExecCgroup::Unknown, &v2), None);
    }

    #[test]
    fn a_command_is_named_where_the_runtime_does_not() {
        let process = || Some(serde_json::json!({"args": ["/etc/passwd", "x"]}));
        let named = |reason: &str, code| {
            let error = LaunchError::new("exec", "c", reason).exit(code);
            name_command(error, process).reason
        };
        assert_eq!(
            named("open executable: Permission denied", NOT_EXECUTABLE),
            "\"/etc/passwd\": open executable: Permission denied"
        );
        for (reason, code) in [
            ("exec \"/etc/passwd\": permission denied", NOT_EXECUTABLE),
            ("no memory", super::super::super::error::NOT_STARTED),
        ] {
            assert_eq!(named(reason, code), reason);
        }
        let error = LaunchError::new("exec", "c", "gone").exit(NOT_FOUND);
        assert_eq!(name_command(error, || None).reason, "gone");
    }

    #[test]
    fn a_process_knows_its_parent() {
        let own = i32::try_from(std::process::id()).ok();
        let parents = own.and_then(parent);
        assert_eq!(parents, Some(nix::unistd::getppid().as_raw()));
        assert_eq!(parent(i32::MAX), None);
    }

    #[test]
    fn what_is_gone_need_not_be_killed() {
        for words in [
            "container not running",
            "container does not exist",
            "kill container: No such process",
        ] {
            assert!(is_gone(words), "{words}");
        }
        assert!(!is_gone("permission denied"));
    }
}
