//! One run of an OCI runtime's command: its arguments, its time limit, and what it says when it fails.
//!
//! The command dies with the helper that runs it. Its standard streams are the helper's, which are the container's; so
//! it has to complain into a log file.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getpid, pidfd_send_signal};

use crate::spec::plan::{RuntimePlan, image_path};
use crate::sys::clone::{Child, clone_process};
use crate::sys::process::die_with;

use super::super::error::{Cause, During, LaunchError, NOT_EXECUTABLE, NOT_FOUND, Step, describe};
use super::reap;

/// Most bytes read of a log's end.
const MAX_LOG: u64 = 64 * 1024;
/// Longest complaint passed on, in characters.
const MAX_COMPLAINT: usize = 1024;
/// Where programs are looked for by a runtime whose environment has no `PATH`.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command of an OCI runtime.
pub(super) struct Call<'a> {
    plan: &'a RuntimePlan,
    id: &'a str,
    verb: &'static str,
    arguments: Vec<OsString>,
    limit: Duration,
}

impl<'a> Call<'a> {
    /// `verb` for the container `id`, to end within `limit`.
    pub fn new(plan: &'a RuntimePlan, id: &'a str, verb: &'static str, limit: Duration) -> Self {
        Self {
            plan,
            id,
            verb,
            arguments: Vec::new(),
            limit,
        }
    }

    /// Adds an argument behind the verb.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds an option with its value behind the verb.
    #[must_use]
    pub fn option(self, name: &str, value: impl Into<OsString>) -> Self {
        self.arg(name).arg(value)
    }

    /// Runs the command with the id, and `last` behind that, and waits for its end.
    ///
    /// # Errors
    /// What it wrote to `log`, or that it could not be run, or that its time ran out and it was killed.
    pub fn run(&self, log: &Path, last: Option<&str>) -> Step {
        let _ = std::fs::remove_file(log);
        let (said, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .during("make", || "a pipe for the OCI runtime")?;
        let argv = self.argv(log, last)?;
        let env = environment()?;
        let helper = getpid();
        let child = clone_process(0, None, || execute(helper, &argv, &env, &say))
            .map_err(|e| LaunchError::errno("clone", self.object(), e.number()))?;
        drop(say);
        self.wait(&child)?;
        let status = reap(&child)?;
        if let Some(errno) = exec_error(said) {
            return Err(
                LaunchError::new("run", self.plan.program.display(), describe(errno))
                    .advise("see the path of the pod's runtime handler in husk's configuration"),
            );
        }
        if status.exit_status() == Some(0) {
            return Ok(());
        }
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("it ended with status {code} and gave no reason"),
            (_, Some(signal)) => format!("it was killed by signal {signal}"),
            _ => "it ended".to_owned(),
        };
        Err(self.failed(complaint(log).unwrap_or(how)))
    }

    fn object(&self) -> String {
        format!("container {} with {}", self.id, self.plan.program.display())
    }

    fn failed(&self, reason: String) -> LaunchError {
        let (reason, is_image) = name_images(self.plan, reason);
        let mut error = LaunchError::new(self.verb, self.object(), reason);
        if is_image && self.verb == "create" {
            error = error.of_image_volume();
        }
        match exit_code(&error.reason) {
            Some(code) if matches!(self.verb, "create" | "start" | "exec") => error.exit(code),
            _ => error,
        }
    }

    fn argv(&self, log: &Path, last: Option<&str>) -> Step<Vec<CString>> {
        let program = self.plan.program.clone().into_os_string();
        let global = self.plan.args.iter().map(OsString::from);
        let log = [
            "--log".into(),
            log.as_os_str().to_owned(),
            "--log-format".into(),
            "json".into(),
        ];
        std::iter::once(program)
            .chain(global)
            .chain(log)
            .chain(std::iter::once(self.verb.into()))
            .chain(self.arguments.iter().cloned())
            .chain(std::iter::once(self.id.into()))
            .chain(last.map(OsString::from))
            .map(c_string)
            .collect()
    }

    /// Waits until the command has ended, and kills it when its time is over.
    fn wait(&self, child: &Child) -> Step {
        let deadline = Instant::now() + self.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) if left.is_zero() => break,
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(LaunchError::errno("wait for", self.object(), e.raw_os_error())),
            }
        }
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        reap(child)?;
        Err(LaunchError::new(
            self.verb,
            self.object(),
            format!("it did not end within {} s and was killed", self.limit.as_secs()),
        ))
    }
}

/// A runtime knows images only by the places where husk has mounted them. Puts their names there, and says whether there
/// was one.
fn name_images(plan: &RuntimePlan, mut reason: String) -> (String, bool) {
    let mut found = false;
    // The last one first: the beginning of its place is another's.
    for (number, volume) in plan.image_volumes.iter().enumerate().rev() {
        let place = image_path(&plan.bundle, number).display().to_string();
        if reason.contains(&place) {
            reason = reason.replace(&place, &format!("image {}", volume.image));
            found = true;
        }
    }
    (reason, found)
}

/// Becomes the program; comes back only if that fails.
fn execute(helper: Pid, argv: &[CString], env: &[CString], say: &OwnedFd) -> i32 {
    // For a helper that is gone nothing is to be made.
    if !die_with(helper) {
        return NOT_FOUND;
    }
    let Some(program) = argv.first() else {
        return NOT_FOUND;
    };
    let Err(errno) = nix::unistd::execve(program, argv, env);
    let _ = rustix::io::write(say, &(errno as i32).to_ne_bytes());
    NOT_FOUND
}

/// Closed by a successful exec: then there is nothing to read.
fn exec_error(said: OwnedFd) -> Option<i32> {
    let mut bytes = [0; 4];
    File::from(said).read_exact(&mut bytes).ok()?;
    Some(i32::from_ne_bytes(bytes))
}

fn environment() -> Step<Vec<CString>> {
    let mut all = Vec::new();
    let mut path = false;
    for (name, value) in std::env::vars_os() {
        path |= name == "PATH";
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        all.push(c_string(entry)?);
    }
    if !path {
        all.push(c_string(DEFAULT_PATH.into())?);
    }
    Ok(all)
}

fn c_string(text: OsString) -> Step<CString> {
    CString::new(text.into_vec()).map_err(|e| {
        LaunchError::new(
            "run",
            String::from_utf8_lossy(&e.into_vec()),
            "it contains a NUL byte",
        )
    })
}

/// The last complaint in a log of one JSON object a line, or its last line.
fn complaint(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut bytes).ok()?;
    reason(&String::from_utf8_lossy(&bytes))
}

fn reason(log: &str) -> Option<String> {
    let grave = |line: &&str| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = entry["level"].as_str()?;
        let text = entry["msg"].as_str()?.trim();
        matches!(level, "error" | "fatal" | "panic").then(|| text.to_owned())
    };
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    let found = lines.iter().rev().find_map(grave);
    let text = found.or_else(|| lines.last().map(|l| l.trim().to_owned()))?;
    Some(text.chars().take(MAX_COMPLAINT).collect()).filter(|t: &String| !t.is_empty())
}

/// What a shell would exit with for a command that cannot be executed: runtimes say it in words only.
fn exit_code(reason: &str) -> Option<i32> {
    let text = reason.to_ascii_lowercase();
    // The words are about the command only where the command is named.
    if !text.contains("exec") {
        return None;
    }
    if text.contains("executable file") && text.contains("not found") || text.contains("no such file") {
        Some(NOT_FOUND)
    } else if text.contains("permission denied")
        || text.contains("exec format error")
        // What crun says of a directory.
        || text.contains("open executable: operation not permitted")
    {
        Some(NOT_EXECUTABLE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::plan::ImageVolume;

    #[test]
    fn the_last_grave_line_of_a_log_counts() {
        let log = r#"{"level":"info","msg":"fine","time":"t"}
{"level":"error","msg":"first","time":"t"}
{"level":"error","msg":"runc create failed: no","time":"t"}
{"level":"warning","msg":"later","time":"t"}
"#;
        assert_eq!(reason(log).as_deref(), Some("runc create failed: no"));
        assert_eq!(reason("not json\nlast words \n\n").as_deref(), Some("last words"));
        assert_eq!(reason("\n"), None);
        assert_eq!(reason(&"x".repeat(10_000)).map(|t| t.len()), Some(MAX_COMPLAINT));
    }

    #[test]
    fn images_are_called_by_their_names() {
        let volume = |name: &str| ImageVolume {
            image: name.into(),
            ..Default::default()
        };
        let plan = RuntimePlan {
            bundle: "/run/b".into(),
            image_volumes: (0..12).map(|n| volume(&format!("data:{n}"))).collect(),
            ..Default::default()
        };
        for (said, wanted, is_image) in [
            (
                r#"mounting "/run/b/images/11" to rootfs: mount /run/b/images/11:/etc/passwd: not a directory"#,
                r#"mounting "image data:11" to rootfs: mount image data:11:/etc/passwd: not a directory"#,
                true,
            ),
            (
                "mount `/run/b/images/1` failed",
                "mount `image data:1` failed",
                true,
            ),
            ("mount /run/b/rootfs failed", "mount /run/b/rootfs failed", false),
        ] {
            assert_eq!(name_images(&plan, said.into()), (wanted.into(), is_image));
        }
    }

    #[test]
    fn commands_that_cannot_be_executed_are_told_from_other_failures() {
        for (text, code) in [
            (
                r#"exec failed: unable to start container process: exec: "nope": executable file not found in $PATH"#,
                Some(127),
            ),
            (
                r#"runc create failed: unable to start container process: exec: "/nope": stat /nope: no such file or directory"#,
                Some(127),
            ),
            (
                "executable file `nope` not found in $PATH: No such file or directory",
                Some(127),
            ),
            (
                r#"unable to start container process: exec: "/etc": permission denied"#,
                Some(126),
            ),
            ("open executable: Operation not permitted", Some(126)),
            ("exec failed: operation not permitted", None),
            ("cannot set limits: no such file or directory", None),
            ("mkdir /run/x: permission denied", None),
        ] {
            assert_eq!(exit_code(text), code, "{text}");
        }
    }

    #[test]
    fn a_nul_byte_is_refused_in_words() {
        let error = c_string(OsString::from_vec(b"a\0b".to_vec()))
            .map_err(|e| e.to_string())
            .err();
        assert!(error.is_some_and(|e| e.contains("NUL")));
    }
}
