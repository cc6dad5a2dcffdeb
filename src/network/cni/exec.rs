//! Runs one plugin once: bounded in time and output, killed with everything it started.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until};

/// Bound on what a plugin may print as its result.
const MAX_OUTPUT: usize = 1 << 20;
/// Bound on what is kept of its error output: the end of it.
const MAX_STDERR: usize = 64 << 10;
/// Bound on what of a plugin's words goes into an error.
const MAX_WORDS: usize = 2 << 10;
/// How long output is awaited after the plugin itself is gone: something it left behind may hold the pipe.
const GRACE: Duration = Duration::from_secs(1);
const WRITE_BUSY_RETRIES: u32 = 5;

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Say whether ADD would work.
    Status,
    /// Remove all attachments that are not listed.
    Gc,
    /// Say which versions of the specification it knows.
    Version,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        })
    }
}

/// One run of a plugin.
pub struct Run<'a> {
    /// What to do.
    pub verb: Verb,
    /// The binary.
    pub binary: &'a Path,
    /// Directories for `CNI_PATH`: plugins call other plugins.
    pub bin_dirs: &'a [PathBuf],
    /// `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME`, `CNI_ARGS`; absent for verbs that concern no pod.
    pub attachment: Option<Target<'a>>,
    /// Configuration on standard input.
    pub stdin: &'a [u8],
    /// Time allowed.
    pub limit: Duration,
}

/// The attachment a run concerns.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Container id.
    pub container: &'a str,
    /// Path of the namespace; empty on DEL once it is gone.
    pub netns: &'a str,
    /// Interface name.
    pub ifname: &'a str,
    /// Joined arguments.
    pub args: &'a str,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The binary is missing or cannot be executed.
    #[error("{0}")]
    Missing(String),
    /// It could not be started.
    #[error("cannot start {path}: {error}")]
    Start {
        /// Binary.
        path: PathBuf,
        /// Reason.
        error: std::io::Error,
    },
    /// It did not finish.
    #[error("it did not finish within {} s and was killed{stderr}", limit.as_secs_f32())]
    TimedOut {
        /// Time allowed.
        limit: Duration,
        /// Its last words.
        stderr: Words,
    },
    /// It printed without end.
    #[error("it printed more than {MAX_OUTPUT} bytes and was killed")]
    TooMuchOutput,
    /// It failed and said so.
    #[error("{message}{stderr}")]
    Failed {
        /// CNI error code, if it gave one.
        code: Option<u64>,
        /// Its message.
        message: String,
        /// Its last words.
        stderr: Words,
    },
    /// It succeeded with something that is no result.
    #[error("{0}")]
    BadResult(String),
}

impl Failure {
    /// The CNI error code the plugin gave.
    pub fn code(&self) -> Option<u64> {
        match self {
            Self::Failed { code, .. } => *code,
            _ => None,
        }
    }
}

/// The end of a plugin's error output, shown in parentheses if there is any.
#[derive(Debug, Default)]
pub struct Words(String);

impl Words {
    fn from_stderr(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        Self(last(text.trim(), MAX_WORDS).to_owned())
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " (stderr: {})", self.0)
        }
    }
}

/// The last `max` bytes of `text`, or a few less: characters stay whole.
fn last(text: &str, max: usize) -> &str {
    let mut from = text.len().saturating_sub(max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// Runs the plugin and returns what it printed.
///
/// # Errors
/// See [`Failure`].
pub async fn run(run: &Run<'_>) -> Result<Vec<u8>, Failure> {
    let child = start(run).await?;
    let group = Group::of(&child);
    let mut output = Output::default();
    let status = match output.collect(child, run.stdin, run.limit).await {
        Ok(status) => status,
        Err(End::Limit) => {
            group.kill();
            let stderr = Words::from_stderr(&output.stderr);
            return Err(Failure::TimedOut {
                limit: run.limit,
                stderr,
            });
        }
        Err(End::Flood) => {
            group.kill();
            return Err(Failure::TooMuchOutput);
        }
        Err(End::Broken(error)) => {
            group.kill();
            return Err(Failure::Start {
                path: run.binary.to_owned(),
                error,
            });
        }
    };
    group.release();
    if status.success() {
        Ok(output.stdout)
    } else {
        Err(failed(status, &output))
    }
}

/// Starts the plugin in a process group of its own. A binary that is being replaced at this moment is tried again.
async fn start(run: &Run<'_>) -> Result<Child, Failure> {
    let mut tries = 0;
    loop {
        match command(run).spawn() {
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) && tries < WRITE_BUSY_RETRIES => {
                tries += 1;
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => {
                return Err(Failure::Start {
                    path: run.binary.to_owned(),
                    error,
                });
            }
            Ok(child) => return Ok(child),
        }
    }
}

fn command(run: &Run<'_>) -> Command {
    let mut command = Command::new(run.binary);
    let dirs: Vec<String> = run.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    command
        .env("CNI_COMMAND", run.verb.to_string())
        .env("CNI_PATH", dirs.join(":"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true);
    for variable in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
        command.env_remove(variable);
    }
    if let Some(target) = &run.attachment {
        command
            .env("CNI_CONTAINERID", target.container)
            .env("CNI_NETNS", target.netns)
            .env("CNI_IFNAME", target.ifname)
            .env("CNI_ARGS", target.args);
    }
    command
}

/// The plugin's process group; killed when dropped, be it because the caller went away.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(
            child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(Pid::from_raw),
        )
    }

    fn kill(mut self) {
        self.kill_now();
    }

    /// The plugin ended by itself. What it left running on purpose stays.
    fn release(mut self) {
        self.0 = None;
    }

    fn kill_now(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill_now();
    }
}

/// Why collecting output stopped early.
enum End {
    Limit,
    Flood,
    Broken(std::io::Error),
}

#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// Feeds the plugin and listens to it until it is gone and both pipes are closed.
    async fn collect(&mut self, mut child: Child, stdin: &[u8], limit: Duration) -> Result<ExitStatus, End> {
        let (Some(mut to), Some(mut out), Some(mut err)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(End::Broken(std::io::Error::other("its pipes are missing")));
        };
        // A plugin need not read its configuration; a closed pipe is its choice.
        let feed = async move {
            let _ = to.write_all(stdin).await;
        };
        tokio::pin!(feed);
        let mut deadline = Instant::now() + limit;
        let (mut feeding, mut out_open, mut err_open, mut status) = (true, true, true, None);
        loop {
            if let Some(status) = status
                && !out_open
                && !err_open
            {
                return Ok(status);
            }
            tokio::select! {
                () = &mut feed, if feeding => feeding = false,
                read = out.read_buf(&mut self.stdout), if out_open => out_open = read.is_ok_and(|n| n > 0),
                read = err.read_buf(&mut self.stderr), if err_open => err_open = read.is_ok_and(|n| n > 0),
                ended = child.wait(), if status.is_none() => {
                    status = Some(ended.map_err(End::Broken)?);
                    deadline = deadline.min(Instant::now() + GRACE);
                }
                () = sleep_until(deadline) => return status.ok_or(End::Limit),
            }
            self.bound()?;
        }
    }

    fn bound(&mut self) -> Result<(), End> {
        if self.stderr.len() > 2 * MAX_STDERR {
            self.stderr.drain(..self.stderr.len() - MAX_STDERR);
        }
        if self.stdout.len() > MAX_OUTPUT {
            Err(End::Flood)
        } else {
            Ok(())
        }
    }
}

/// What a plugin that failed has to say: the error object of the specification, or whatever it printed.
fn failed(status: ExitStatus, output: &Output) -> Failure {
    let stderr = Words::from_stderr(&output.stderr);
    let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let text = |key: &str| {
        said.as_ref()
            .and_then(|v| v.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .trim()
    };
    let code = said.as_ref().and_then(|v| v.get("code")).and_then(Value::as_u64);
    let mut message = match (text("msg"), text("details")) {
        ("", "") => String::new(),
        (msg, "") => msg.to_owned(),
        ("", details) => details.to_owned(),
        (msg, details) => format!("{msg}; {details}"),
    };
    if message.is_empty() {
        let printed = String::from_utf8_lossy(&output.stdout);
        message = format!(
            "it ended with {status} and printed {:?}",
            last(printed.trim(), MAX_WORDS)
        );
    } else if let Some(code) = code {
        message = format!("{} (code {code})", last(&message, MAX_WORDS));
    }
    Failure::Failed {
        code,
        message,
        stderr,
    }
}
