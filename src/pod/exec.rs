//! ExecSync: a command in a running container, its output and its exit code.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task;
use std::time::Duration;

use futures_util::FutureExt as _;
use oci_spec::runtime::{Process, Spec};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tracing::warn;

use crate::spec::plan;
use crate::supervisor::protocol::{Exec, Failure};
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::time::now_nanos;
use crate::types::{ContainerId, ContainerState};

use super::Runtime;
use super::client::{Client, ExecStdio};
use super::container::Container;
use super::create::compiled_seccomp;

/// How long output may still come after the command itself has ended: a child may hold the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(500);

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote to stdout, cut at the configured length.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, cut at the configured length.
    pub stderr: Vec<u8>,
    /// Exit code; 126 or 127 if it could not be executed, with the reason in `stderr`.
    pub exit_code: i32,
}

/// What became of a command.
enum Ended {
    Exited(i32, (Output, Output)),
    Unstarted(Failure),
    /// Nobody is left who could know.
    Unknown,
}

impl Runtime {
    /// Runs `cmd` in a running container and waits for it, `timeout` at most.
    ///
    /// If the caller goes away or the time runs out, the command is killed with all its descendants.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless the container runs; `DeadlineExceeded` when the time runs out.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        cmd: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let container = self.find_container(id)?;
        if container.state() != ContainerState::Running {
            return Err(Error::precondition(format!("container {id} is not running")));
        }
        let client = self.client_of(&container)?;
        let plan = self.exec_plan(&container, cmd.clone(), false).await?;
        let (stdout, stdout_write) = output_pipe()?;
        let (stderr, stderr_write) = output_pipe()?;
        let exec_id = self.execs.fresh_id();
        // Before the exec starts, or its end could come first.
        let mut wait = self.execs.expect(&exec_id);
        // Kills the command if this call ends before it does, whatever the reason.
        let guard = KillOnDrop::new(client.clone(), container.id().clone(), exec_id.clone());
        let limit = self.parts.config.container.exec_output_bytes;
        let run = async {
            let started = client
                .exec(
                    container.id(),
                    Exec {
                        exec_id: exec_id.clone(),
                        plan_json: plan,
                        own_cgroup: true,
                        kill_on_disconnect: true,
                        ..Default::default()
                    },
                    ExecStdio {
                        stdin: None,
                        stdout: Some(stdout_write),
                        stderr: Some(stderr_write),
                    },
                )
                .await;
            if let Err(failure) = started {
                return Ended::Unstarted(failure);
            }
            let output = (Output::collect(stdout, limit), Output::collect(stderr, limit));
            match wait.or_lost(&client).await {
                Some(code) => Ended::Exited(code, output),
                None => Ended::Unknown,
            }
        };
        // Its start counts too: a file system or an OCI runtime that does not answer must not hold up a probe for ever.
        let ended = match timeout {
            None => run.await,
            Some(time) => match tokio::time::timeout(time, run).await {
                Ok(ended) => ended,
                Err(_) => {
                    guard.kill_now().await;
                    return Err(Error::new(
                        Kind::DeadlineExceeded,
                        format!(
                            "command {cmd:?} in container {id} timed out after {} s",
                            time.as_secs()
                        ),
                    ));
                }
            },
        };
        let (exit_code, (out, err)) = match ended {
            Ended::Exited(code, output) => (code, output),
            Ended::Unstarted(failure) => {
                guard.disarm();
                return not_executable(failure);
            }
            Ended::Unknown => {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("the supervisor of container {id} ended during the command"),
                ));
            }
        };
        guard.disarm();
        let (stdout, stderr) = tokio::join!(out.finish(), err.finish());
        Ok(ExecOutput {
            stdout,
            stderr,
            exit_code,
        })
    }

    /// What the supervisor needs to run `cmd` in `container`.
    pub(super) async fn exec_plan(
        &self,
        container: &Container,
        cmd: Vec<String>,
        tty: bool,
    ) -> Result<Vec<u8>> {
        super::bounds::command(&cmd)?;
        let spec = self.container_spec(container).await?;
        let mut process: Process = spec.process().clone().unwrap_or_default();
        process.set_args(Some(cmd)).set_terminal(Some(tty));
        if tty {
            name_terminal(&mut process);
        }
        if container.facts.runtime.is_some() {
            return serde_json::to_vec(&process).context("encode process");
        }
        let plan = plan::exec(
            &spec,
            &process,
            &plan::ExecOptions {
                seccomp: compiled_seccomp(&spec)?,
                ..Default::default()
            },
        )?;
        serde_json::to_vec(&plan).context("encode exec plan")
    }

    /// The OCI spec a container was made from.
    ///
    /// # Errors
    /// The file is gone or damaged.
    pub async fn container_spec(&self, container: &Container) -> Result<Spec> {
        let path = self.paths.spec(&container.facts.pod, container.id());
        let text = tokio::fs::read(&path)
            .await
            .with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("spec {}", path.display()))
    }
}

/// Programs ask `TERM` what the terminal can do; a container without one of its own does not set it.
fn name_terminal(process: &mut Process) {
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
        process.set_env(Some(env));
    }
}

/// A probe whose command is missing has failed; an error would leave its result unknown.
fn not_executable(failure: Failure) -> Result<ExecOutput> {
    match failure.exit_code {
        Some(exit_code) => Ok(ExecOutput {
            stdout: Vec::new(),
            stderr: format!("{}\n", failure.error).into_bytes(),
            exit_code,
        }),
        None => Err(failure.error),
    }
}

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("make a pipe")?;
    let read = pipe::Receiver::from_owned_fd(read).context("watch a pipe")?;
    Ok((read, write))
}

type Waiting = Mutex<HashMap<String, oneshot::Sender<i32>>>;

/// Commands in flight and who waits for them.
#[derive(Default)]
pub struct Execs {
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

impl Execs {
    /// A name for a command, unlike those of this and of earlier daemons.
    pub(super) fn fresh_id(&self) -> String {
        format!("{:x}-{}", now_nanos(), self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The end of a command; to be asked for before the command starts, or its end could come first.
    pub(super) fn expect(&self, exec_id: &str) -> Expected {
        let (tell, told) = oneshot::channel();
        lock(&self.waiting).insert(exec_id.to_owned(), tell);
        Expected {
            told,
            waiting: Arc::clone(&self.waiting),
            exec_id: exec_id.to_owned(),
        }
    }

    /// A command has ended.
    pub(super) fn ended(&self, exec_id: &str, exit_code: i32) {
        let waiter = lock(&self.waiting).remove(exec_id);
        if let Some(waiter) = waiter {
            // Whoever asked may have gone.
            let _ = waiter.send(exit_code);
        }
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<i32>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The exit code of a command, once it has ended. Dropped, nobody waits for it any more: a command that never started, or
/// whose supervisor is gone, has no end that would be told.
pub(super) struct Expected {
    told: oneshot::Receiver<i32>,
    waiting: Arc<Waiting>,
    exec_id: String,
}

impl Expected {
    /// Waits for the end; `None` if the supervisor at the other end of `client` is gone and has not told of it. Cancel safe.
    pub(super) async fn or_lost(&mut self, client: &Client) -> Option<i32> {
        tokio::select! {
            biased;
            exit = &mut *self => exit.ok(),
            // What it told last may have waited behind other events, and is handled by now.
            () = client.heard() => self.now_or_never()?.ok(),
        }
    }
}

impl Future for Expected {
    type Output = Result<i32, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<Self::Output> {
        Pin::new(&mut self.told).poll(cx)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.exec_id);
    }
}

/// Output of a command, collected in the background.
struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Output {
    /// Reads to the end, keeping the first `limit` bytes: a command that writes more is neither blocked nor remembered.
    fn collect(mut from: pipe::Receiver, limit: usize) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = limit.saturating_sub(kept.len()).min(n);
                kept.extend_from_slice(&buffer[..room]);
            }
        });
        Self { kept, reader }
    }

    /// What came until the end of the output, or until [`DRAIN`] ran out.
    async fn finish(mut self) -> Vec<u8> {
        let _ = tokio::time::timeout(DRAIN, &mut self.reader).await;
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Kills an exec unless it is known to have ended.
pub(super) struct KillOnDrop {
    client: Client,
    container: ContainerId,
    exec_id: Option<String>,
}

impl KillOnDrop {
    /// For an exec that is about to start.
    pub(super) fn new(client: Client, container: ContainerId, exec_id: String) -> Self {
        Self {
            client,
            container,
            exec_id: Some(exec_id),
        }
    }

    /// The exec has ended.
    pub(super) fn disarm(mut self) {
        self.exec_id = None;
    }

    async fn kill_now(mut self) {
        if let Some(exec_id) = self.exec_id.take()
            && let Err(error) = self.client.kill_exec(&self.container, &exec_id).await
        {
            warn!(%exec_id, %error, "command that timed out could not be killed");
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(exec_id) = self.exec_id.take() {
            let (client, container) = (self.client.clone(), self.container.clone());
            tokio::spawn(async move { client.kill_exec(&container, &exec_id).await });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn whoever_gives_up_waiting_leaves_nothing() {
        let execs = Execs::default();
        let (first, mut second) = (execs.expect("1"), execs.expect("2"));
        drop(first);
        assert_eq!(lock(&execs.waiting).len(), 1);
        // Nobody waits for it any more.
        execs.ended("1", 1);
        execs.ended("2", 2);
        assert_eq!((&mut second).await, Ok(2));
        drop(second);
        assert!(lock(&execs.waiting).is_empty());
    }
}
