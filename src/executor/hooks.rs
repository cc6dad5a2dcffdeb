//! OCI hooks: programs that are told the container's state on stdin and must succeed in time.

use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::spec::plan::Hook;

use super::error::{During, LaunchError, Step};

/// As much of a hook's complaint as is kept.
const MAX_COMPLAINT: usize = 2048;

/// Runs hooks one after the other; the first that fails ends it.
///
/// # Errors
/// Which hook, and its exit status with what it wrote to stderr, or that its time ran out.
pub fn run(stage: &str, hooks: &[Hook], state: &serde_json::Value) -> Step {
    hooks.iter().try_for_each(|hook| run_one(stage, hook, state))
}

/// The state with `status` and `pid` filled in.
pub fn with_status(state: Option<&serde_json::Value>, status: &str, pid: i32) -> serde_json::Value {
    let mut state = state.cloned().unwrap_or_else(|| serde_json::json!({}));
    state["status"] = status.into();
    state["pid"] = pid.into();
    state
}

fn run_one(stage: &str, hook: &Hook, state: &serde_json::Value) -> Step {
    let step = format!("run {stage} hook");
    let object = || hook.path.display().to_string();
    let mut child = spawn(hook, state).during(&step, object)?;
    let deadline = hook.timeout.map(|s| Instant::now() + Duration::from_secs(s));
    match watch(&mut child, deadline).during(&step, object)? {
        Outcome::Exited { success: true, .. } => Ok(()),
        Outcome::Exited {
            status, complaint, ..
        } => {
            let reason = match complaint.trim() {
                "" => status,
                text => format!("{status}: {text}"),
            };
            Err(LaunchError::new(&step, object(), reason))
        }
        Outcome::TimedOut => {
            let _ = child.kill();
            let _ = child.wait();
            let seconds = hook.timeout.unwrap_or_default();
            Err(LaunchError::new(
                &step,
                object(),
                format!("it did not end within {seconds} s and was killed"),
            ))
        }
    }
}

fn spawn(hook: &Hook, state: &serde_json::Value) -> std::io::Result<Child> {
    // A file instead of a pipe: a hook need not read it.
    let mut input = std::fs::File::from(memfd_create("hook-state", MemfdFlags::CLOEXEC)?);
    input.write_all(state.to_string().as_bytes())?;
    input.rewind()?;

    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for entry in &hook.env {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    command.spawn()
}

enum Outcome {
    Exited {
        success: bool,
        status: String,
        complaint: String,
    },
    TimedOut,
}

fn watch(child: &mut Child, deadline: Option<Instant>) -> std::io::Result<Outcome> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH))?;
    let exited = pidfd_open(pid, PidfdFlags::empty())?;
    let mut stderr = child.stderr.take();
    let mut complaint = Vec::new();
    loop {
        let left = match deadline {
            Some(d) => match d.checked_duration_since(Instant::now()) {
                Some(left) => Some(left),
                None => return Ok(Outcome::TimedOut),
            },
            None => None,
        };
        let ended = wait_for_either(&exited, &mut stderr, left, &mut complaint)?;
        if ended {
            let status = child.wait()?;
            return Ok(Outcome::Exited {
                success: status.success(),
                status: status.to_string(),
                complaint: String::from_utf8_lossy(&complaint).into_owned(),
            });
        }
    }
}

/// Reads what the hook wrote, or finds that it ended.
fn wait_for_either(
    exited: &OwnedFd,
    stderr: &mut Option<std::process::ChildStderr>,
    left: Option<Duration>,
    complaint: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let timeout = left.map(|d| Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: d.subsec_nanos().into(),
    });
    let mut fds = vec![PollFd::new(exited, PollFlags::IN)];
    if let Some(pipe) = stderr.as_ref() {
        fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
    }
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let ended = !fds[0].revents().is_empty();
    let readable = fds.get(1).is_some_and(|f| !f.revents().is_empty());
    drop(fds);
    if readable && let Some(pipe) = stderr {
        let mut buffer = [0u8; 2 * MAX_COMPLAINT];
        match pipe.read(&mut buffer)? {
            0 => *stderr = None,
            n => {
                let room = MAX_COMPLAINT.saturating_sub(complaint.len());
                complaint.extend_from_slice(&buffer[..n.min(room)]);
            }
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str, timeout: Option<u64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["WHO=hook".into()],
            timeout,
        }
    }

    #[test]
    fn a_hook_gets_state_and_environment() {
        let state = with_status(Some(&serde_json::json!({"id": "x"})), "creating", 42);
        let script = r#"read -r s; [ "$WHO" = hook ] && case "$s" in *'"pid":42'*) exit 0;; esac; exit 1"#;
        run("createRuntime", &[shell(script, None)], &state).unwrap();
    }

    #[test]
    fn what_a_failing_hook_says_is_told() {
        let error = run(
            "poststart",
            &[shell("echo broken >&2; exit 3", None)],
            &serde_json::json!({}),
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("poststart") && text.contains("exit status: 3") && text.contains("broken"),
            "{text}"
        );
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let error = run(
            "prestart",
            &[shell("exec sleep 1000", Some(1))],
            &serde_json::json!({}),
        )
        .unwrap_err();
        assert!(error.to_string().contains("within 1 s"), "{error}");
    }

    #[test]
    fn a_chatty_hook_does_not_block() {
        let script = "head -c 1000000 /dev/zero >&2; exit 1";
        let error = run("prestart", &[shell(script, Some(60))], &serde_json::json!({})).unwrap_err();
        assert!(error.reason.len() < 2 * MAX_COMPLAINT);
    }
}
