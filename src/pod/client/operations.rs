//! One method per operation.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::supervisor::protocol::{
    CreateContainer, Created, Exec, ExecStarted, Failure, Op, Reply, Started, State,
};
use crate::supervisor::wire::Descriptors;
use crate::types::error::Context as _;
use crate::types::{ContainerId, Error, Kind, Result};

use super::Client;

/// How long a supervisor may take to answer what takes it microseconds. It is one thread, and whatever stops it, such as
/// a log on a server that does not answer, must not stop the daemon's calls for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Ends of pipes that the supervisor gives to an exec.
#[derive(Debug, Default)]
pub struct ExecStdio {
    /// Read end of a pipe, or anything else to read from.
    pub stdin: Option<OwnedFd>,
    /// Write end of a pipe, or anything else to write to.
    pub stdout: Option<OwnedFd>,
    /// Write end of a pipe, or anything else to write to.
    pub stderr: Option<OwnedFd>,
}

/// What an attached client holds.
#[derive(Debug)]
pub struct Attached {
    /// The container runs on a terminal: all output comes on stdout.
    pub tty: bool,
    /// The container's stdin: a pipe, or the master of its terminal (to be written to only). Non-blocking.
    pub stdin: Option<OwnedFd>,
}

impl Client {
    /// Makes a container up to the gate. Comes back when its process waits there.
    ///
    /// # Errors
    /// With the step of the plan that failed; nothing is left of the container then.
    pub async fn create(&self, id: &ContainerId, config: CreateContainer) -> Result<Created, Failure> {
        match self.call(Op::Create(id.clone(), config), Vec::new()).await? {
            (Reply::Created(created), _) => Ok(created),
            other => Err(surprise(&other.0).into()),
        }
    }

    /// Lets a created container run. Comes back when its program runs.
    ///
    /// # Errors
    /// If the program cannot be run the container has exited, with an exit record that says why.
    pub async fn start(&self, id: &ContainerId) -> Result<Started, Failure> {
        match self.call(Op::Start(id.clone()), Vec::new()).await? {
            (Reply::Started(started), _) => Ok(started),
            other => Err(surprise(&other.0).into()),
        }
    }

    /// Sends a signal to a container's first process, or with `all` to every process of its cgroup. A process that is
    /// gone by then is no error.
    ///
    /// # Errors
    /// [`crate::types::Kind::FailedPrecondition`] if the container is known to have exited.
    pub async fn signal(&self, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
        self.done(
            Op::Signal {
                container: id.clone(),
                signal,
                all,
            },
            Vec::new(),
        )
        .await
    }

    /// Runs one more process in a running container. With `tty` the master of its terminal comes back (non-blocking is
    /// for the caller to set), and `stdio` is ignored. Its end comes as an event; output may still be in the pipes then.
    ///
    /// # Errors
    /// With the exit code a shell would give, if the program cannot be run.
    pub async fn exec(
        &self,
        id: &ContainerId,
        mut exec: Exec,
        stdio: ExecStdio,
    ) -> Result<(ExecStarted, Option<OwnedFd>), Failure> {
        let given = if exec.tty {
            [None, None, None]
        } else {
            [stdio.stdin, stdio.stdout, stdio.stderr]
        };
        exec.stdio = [given[0].is_some(), given[1].is_some(), given[2].is_some()];
        let descriptors = given.into_iter().flatten().collect();
        match self.call(Op::Exec(id.clone(), exec), descriptors).await? {
            (Reply::ExecStarted(started), descriptors) => Ok((started, descriptors.into_iter().next())),
            other => Err(surprise(&other.0).into()),
        }
    }

    /// Kills an exec with all its descendants. One that has ended is no error.
    ///
    /// # Errors
    /// If the cgroup cannot be killed.
    pub async fn kill_exec(&self, id: &ContainerId, exec_id: &str) -> Result<()> {
        self.done(
            Op::KillExec {
                container: id.clone(),
                exec_id: exec_id.into(),
            },
            Vec::new(),
        )
        .await
    }

    /// Sets the window size of the container's terminal, or of an exec's if `exec_id` is not empty.
    ///
    /// # Errors
    /// [`crate::types::Kind::FailedPrecondition`] if there is no such terminal.
    pub async fn resize_tty(&self, id: &ContainerId, exec_id: &str, rows: u16, columns: u16) -> Result<()> {
        let op = Op::ResizeTty {
            container: id.clone(),
            exec_id: exec_id.into(),
            rows,
            columns,
        };
        self.done(op, Vec::new()).await
    }

    /// Opens the container's log anew, after rotation. On failure the old file stays in use.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        self.done(Op::ReopenLog(id.clone()), Vec::new()).await
    }

    /// Copies the container's output from now on to the given pipes, which end with it, and hands over its stdin if
    /// `stdin`. To detach, close the pipes' other ends.
    ///
    /// # Errors
    /// [`crate::types::Kind::FailedPrecondition`] if the container has no live process;
    /// [`crate::types::Kind::Unavailable`] if the supervisor does not answer.
    pub async fn attach(
        &self,
        id: &ContainerId,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        stdin: bool,
    ) -> Result<Attached> {
        self.attach_within(id, [stdout, stderr], stdin, ANSWER_LIMIT)
            .await
    }

    pub(super) async fn attach_within(
        &self,
        id: &ContainerId,
        [stdout, stderr]: [Option<OwnedFd>; 2],
        stdin: bool,
        limit: Duration,
    ) -> Result<Attached> {
        let op = Op::Attach {
            container: id.clone(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
            stdin,
        };
        let descriptors = stdout.into_iter().chain(stderr).collect();
        match self.answer_within(op, descriptors, limit).await? {
            (Reply::Attached { tty, .. }, descriptors) => Ok(Attached {
                tty,
                stdin: descriptors.into_iter().next(),
            }),
            other => Err(surprise(&other.0)),
        }
    }

    /// Closes the supervisor's hold on the container's stdin: the end of input once no attached client holds it either.
    ///
    /// # Errors
    /// If the container is not known.
    pub async fn close_stdin(&self, id: &ContainerId) -> Result<()> {
        self.done(Op::CloseStdin(id.clone()), Vec::new()).await
    }

    /// Makes the supervisor forget an exited container.
    ///
    /// # Errors
    /// [`crate::types::Kind::FailedPrecondition`] if it has not exited.
    pub async fn remove(&self, id: &ContainerId) -> Result<()> {
        self.done(Op::Remove(id.clone()), Vec::new()).await
    }

    /// Everything the supervisor knows.
    ///
    /// # Errors
    /// [`crate::types::Kind::Unavailable`] if the supervisor is gone or does not answer in time.
    pub async fn state(&self) -> Result<State> {
        self.state_within(ANSWER_LIMIT).await
    }

    pub(super) async fn state_within(&self, limit: Duration) -> Result<State> {
        match self.answer_within(Op::State, Vec::new(), limit).await?.0 {
            Reply::State(state) => Ok(state),
            other => Err(surprise(&other)),
        }
    }

    /// Ends the supervisor. With `force` it kills what still runs first, and is itself killed if it does not answer.
    ///
    /// # Errors
    /// [`crate::types::Kind::FailedPrecondition`] if a container has not exited and is not to be killed.
    pub async fn shutdown(&self, force: bool) -> Result<()> {
        self.shutdown_within(force, ANSWER_LIMIT).await
    }

    pub(super) async fn shutdown_within(&self, force: bool, limit: Duration) -> Result<()> {
        match self.done_within(Op::Shutdown { force }, Vec::new(), limit).await {
            Err(error)
                if force
                    && error.kind() == Kind::Unavailable
                    && self.shared.late.proven()
                    && self.is_alive() =>
            {
                tracing::warn!(%error, "supervisor is killed");
                let killed = rustix::process::pidfd_send_signal(self.pidfd(), rustix::process::Signal::KILL);
                killed.with_context(|| format!("{error}; kill it"))
            }
            done => done,
        }
    }

    async fn done(&self, op: Op, descriptors: Descriptors) -> Result<()> {
        self.done_within(op, descriptors, ANSWER_LIMIT).await
    }

    /// # Errors
    /// [`crate::types::Kind::Unavailable`] if no answer comes within `limit`; besides what the answer says.
    pub(super) async fn done_within(&self, op: Op, descriptors: Descriptors, limit: Duration) -> Result<()> {
        match self.answer_within(op, descriptors, limit).await? {
            (Reply::Done, _) => Ok(()),
            other => Err(surprise(&other.0)),
        }
    }

    async fn answer_within(
        &self,
        op: Op,
        descriptors: Descriptors,
        limit: Duration,
    ) -> Result<(Reply, Descriptors)> {
        match tokio::time::timeout(limit, self.call(op, descriptors)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(self.hangs(limit)),
        }
    }

    /// Says what a supervisor that does not answer is doing, as far as the kernel tells.
    fn hangs(&self, limit: Duration) -> Error {
        let greeting = self.greeting();
        let read =
            |file| std::fs::read_to_string(format!("/proc/{}/{file}", greeting.pid)).unwrap_or_default();
        let (status, channel) = (read("status"), read("wchan"));
        let state = status
            .lines()
            .find_map(|l| l.strip_prefix("State:"))
            .unwrap_or("gone");
        Error::new(
            Kind::Unavailable,
            format!(
                "supervisor {} of pod {} has not answered for {limit:?}: its state is {}, it waits in {:?}; the file system \
                 that holds a log of the pod may not answer",
                greeting.pid,
                greeting.pod_id,
                state.trim(),
                channel.trim()
            ),
        )
    }
}

fn surprise(reply: &Reply) -> Error {
    Error::internal(format!(
        "the supervisor gave an answer to another question: {reply:?}"
    ))
}
