//! Commands and containers whose standard streams a client holds: exec and attach.
//!
//! Owns the far ends of the streams. Must not know how bytes reach the client.

use std::sync::Arc;

use crate::supervisor::protocol::Exec;
use crate::types::error::{Error, Kind, Result};
use crate::types::{ContainerId, ContainerState};

use super::Runtime;
use super::client::{Client, ExecStdio};
use super::container::Container;
use super::exec::{Expected, KillOnDrop};
use super::pipe::Pipe;

/// Which standard streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// It sends input.
    pub stdin: bool,
    /// It takes output.
    pub stdout: bool,
    /// It takes error output.
    pub stderr: bool,
    /// On a terminal.
    pub tty: bool,
}

/// A terminal of a container or of a command in it.
#[derive(Debug, Clone)]
pub struct Terminal {
    client: Client,
    container: ContainerId,
    /// Empty: the container's own.
    exec_id: String,
}

impl Terminal {
    /// Sets its size in characters.
    ///
    /// # Errors
    /// `FailedPrecondition` if it is gone.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.client
            .resize_tty(&self.container, &self.exec_id, rows, columns)
            .await
    }
}

/// A running command. Dropped before its end, it is killed with all its descendants.
pub struct Session {
    /// Its input, if wanted. Closing it tells the command so, but on a terminal.
    pub stdin: Option<Pipe>,
    /// Its output, or everything its terminal shows.
    pub stdout: Option<Pipe>,
    /// Its error output.
    pub stderr: Option<Pipe>,
    /// Its terminal.
    pub terminal: Option<Terminal>,
    /// Its end.
    pub end: End,
}

/// The end of a command.
pub struct End {
    exit: Expected,
    guard: Option<KillOnDrop>,
    client: Client,
    container: ContainerId,
}

impl End {
    /// Waits for the command to end, and tells its exit code. Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` if nobody is left who could know.
    pub async fn wait(&mut self) -> Result<i32> {
        let code = self.exit.or_lost(&self.client).await.ok_or_else(|| {
            Error::new(
                Kind::Unavailable,
                format!(
                    "the supervisor of container {} ended during the command",
                    self.container
                ),
            )
        })?;
        if let Some(guard) = self.guard.take() {
            guard.disarm();
        }
        Ok(code)
    }
}

/// An attached container.
pub struct Attachment {
    /// Its input: with `stdin_once` the only way to it, so closing it ends the input.
    pub stdin: Option<Pipe>,
    /// Its output, or everything its terminal shows.
    pub stdout: Option<Pipe>,
    /// Its error output.
    pub stderr: Option<Pipe>,
    /// Its terminal.
    pub terminal: Option<Terminal>,
    /// The container.
    pub container: Arc<Container>,
}

impl Runtime {
    /// A container in which commands can run, by id or unique prefix.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it runs.
    pub fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.find_container(id)?;
        if container.state() != ContainerState::Running {
            return Err(Error::precondition(format!(
                "container {id} is not running, it is {:?}",
                container.state()
            )));
        }
        Ok(container)
    }

    /// Starts `cmd` in a running container.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless the container runs; why the command cannot be executed.
    pub async fn exec(self: &Arc<Self>, id: &str, cmd: Vec<String>, want: Streams) -> Result<Session> {
        let container = self.running(id)?;
        let client = self.client_of(&container)?;
        let plan_json = self.exec_plan(&container, cmd, want.tty).await?;
        let mut session = SessionPipes::default();
        let stdio = if want.tty {
            ExecStdio::default()
        } else {
            session.open(want)?
        };
        let exec_id = self.execs.fresh_id();
        let exit = self.execs.expect(&exec_id);
        let guard = KillOnDrop::new(client.clone(), container.id().clone(), exec_id.clone());
        let exec = Exec {
            exec_id: exec_id.clone(),
            plan_json,
            tty: want.tty,
            own_cgroup: true,
            kill_on_disconnect: true,
            ..Default::default()
        };
        let console = match client.exec(container.id(), exec, stdio).await {
            Ok((_, console)) => console,
            Err(failure) => {
                guard.disarm();
                return Err(failure.error);
            }
        };
        let mut terminal = None;
        if want.tty {
            let master = console.ok_or_else(|| Error::internal("the supervisor gave no terminal"))?;
            session.split(Pipe::new(master)?, want)?;
            terminal = Some(Terminal {
                client: client.clone(),
                container: container.id().clone(),
                exec_id,
            });
        }
        Ok(Session {
            stdin: session.stdin,
            stdout: session.stdout,
            stderr: session.stderr,
            terminal,
            end: End {
                exit,
                guard: Some(guard),
                client,
                container: container.id().clone(),
            },
        })
    }

    /// Takes part in the streams of a running container from now on, until the returned ends are closed.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless the container runs.
    pub async fn attach_streams(self: &Arc<Self>, id: &str, want: Streams) -> Result<Attachment> {
        let container = self.running(id)?;
        let client = self.client_of(&container)?;
        let tty = container.facts.config.tty;
        let mut ours = SessionPipes::default();
        let stdio = ours.open(Streams {
            stdin: false,
            // All output of a terminal comes on one stream.
            stderr: want.stderr && !tty,
            ..want
        })?;
        let attached = client
            .attach(container.id(), stdio.stdout, stdio.stderr, want.stdin)
            .await?;
        Ok(Attachment {
            stdin: attached.stdin.map(Pipe::new).transpose()?,
            stdout: ours.stdout,
            stderr: ours.stderr,
            terminal: attached.tty.then(|| Terminal {
                client,
                container: container.id().clone(),
                exec_id: String::new(),
            }),
            container,
        })
    }
}

/// The daemon's ends.
#[derive(Default)]
struct SessionPipes {
    stdin: Option<Pipe>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
}

impl SessionPipes {
    /// Makes pipes for what is wanted, and returns the other ends.
    fn open(&mut self, want: Streams) -> Result<ExecStdio> {
        let mut theirs = ExecStdio::default();
        if want.stdin {
            let (ours, end) = Pipe::input()?;
            (self.stdin, theirs.stdin) = (Some(ours), Some(end));
        }
        if want.stdout {
            let (ours, end) = Pipe::output()?;
            (self.stdout, theirs.stdout) = (Some(ours), Some(end));
        }
        if want.stderr {
            let (ours, end) = Pipe::output()?;
            (self.stderr, theirs.stderr) = (Some(ours), Some(end));
        }
        Ok(theirs)
    }

    /// Makes both directions of a terminal's master.
    fn split(&mut self, master: Pipe, want: Streams) -> Result<()> {
        if want.stdin {
            self.stdin = Some(master.try_clone()?);
        }
        // Read in any case: a terminal that nobody reads holds its process up.
        self.stdout = Some(master);
        Ok(())
    }
}
