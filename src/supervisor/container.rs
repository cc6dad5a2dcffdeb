//! One container as its supervisor sees it: process, streams, log, attached clients, execs.
//!
//! Owns what can be done to a container without regard to anything else; [`super::engine`] decides when.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::cgroup::Cgroup;
use crate::types::error::Context as _;
use crate::types::time::now_nanos;
use crate::types::{ContainerId, Error, Result};

use super::attach::Sink;
use super::cri_log::{Log, Stream, Trouble};
use super::leftovers::Leftovers;
use super::poll::{Interest, Poller, Token, Watched};
use super::protocol::{ContainerStatus, CreateContainer, ExecStatus, Phase};
use super::record::ExitRecord;
use super::runner::Launching;
use super::stdio::{self, Chunk};

/// Who asked for something that is answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Serial number of the connection.
    pub connection: u32,
    /// Number of the request on it.
    pub request: u64,
}

/// A process between clone and exec.
pub struct Pending {
    /// The launch.
    pub launch: Box<dyn Launching>,
    /// Its synchronisation descriptor, waited for.
    _watch: Watched,
}

impl Pending {
    /// Waits for `launch` to move.
    ///
    /// # Errors
    /// If the supervisor is out of descriptors.
    pub fn new(launch: Box<dyn Launching>, poller: &Poller, token: Token) -> Result<Self> {
        let what = "watch a launch";
        let sync = launch.sync_fd().try_clone_to_owned().context(what)?;
        let watch = poller.watch(sync, token, Interest::Read).context(what)?;
        Ok(Self {
            launch,
            _watch: watch,
        })
    }
}

/// A process running beside a container's first one.
pub struct ExecProcess {
    /// Its name.
    pub exec_id: String,
    /// Its first process, as the node counts.
    pub pid: i32,
    /// And its pidfd.
    pub pidfd: OwnedFd,
    /// While it is launched.
    pub pending: Option<Pending>,
    /// Who waits for the launch.
    pub ticket: Option<Ticket>,
    /// The connection that asked for it.
    pub owner: u32,
    /// Kill it when that goes away.
    pub kill_on_disconnect: bool,
    /// It was to be killed while it was launched, and is to be as soon as it runs.
    pub doomed: bool,
    /// Its own cgroup.
    pub cgroup: Option<Cgroup>,
    /// Master of its terminal, for resizing; given up with the owner, so that the terminal hangs up.
    pub console: Option<OwnedFd>,
    /// Notes of its launch.
    pub notes: Vec<String>,
    /// Nanoseconds since the epoch; 0 until it runs.
    pub started_at: i64,
}

impl ExecProcess {
    /// Kills it with all descendants, as far as it has a cgroup to find them in.
    pub fn kill(&mut self) -> Result<()> {
        if self.pending.is_some() {
            // What is still being made may not be in there yet, or be another process in the end: see `doomed`.
            self.doomed = true;
            signal(&self.pidfd, 9, &format!("exec {}", self.exec_id))?;
        }
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => signal(&self.pidfd, 9, &format!("exec {}", self.exec_id)),
        }
    }
}

/// A container.
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its number in tokens.
    pub serial: u32,
    /// What was asked for; the plan itself is let go after the launch.
    pub config: CreateContainer,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its first process, as the node counts.
    pub pid: i32,
    /// And its pidfd.
    pub pidfd: OwnedFd,
    /// While it is launched.
    pub pending: Option<Pending>,
    /// Who waits for the launch.
    pub ticket: Option<Ticket>,
    /// Notes of its launch.
    pub notes: Vec<String>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 until it runs.
    pub started_at: i64,
    /// Its log.
    pub log: Option<Log>,
    /// Write end of its stdin.
    pub stdin: Option<OwnedFd>,
    /// Master of its terminal.
    pub console: Option<OwnedFd>,
    /// What its output is read from.
    pub outputs: [Option<Watched>; 2],
    /// Attached clients, by serial number.
    pub sinks: BTreeMap<u32, Sink>,
    /// Execs, by serial number.
    pub execs: BTreeMap<u32, ExecProcess>,
    /// Cgroups of ended execs that are not empty yet.
    pub leftovers: Leftovers,
    /// How it ended.
    pub exit: Option<ExitRecord>,
    /// OOM kills already told.
    pub oom_kills: u64,
    /// At least one kill was told.
    pub oom_seen: bool,
    /// Tells when the OOM counter may have moved.
    pub oom_watch: Option<Watched>,
    /// How it ended while its OCI runtime had not yet said that it runs: exit code and signal.
    pub early_end: Option<(i32, Option<i32>)>,
    /// Its OCI runtime is deleting it.
    pub deleting: bool,
    /// Who waits for it to be forgotten after that.
    pub removal: Vec<Ticket>,
}

/// Most bytes read from a stream at the end of a container before its end is told. More than any pipe holds: what the
/// container itself wrote is in the log by then, and a survivor that writes for ever cannot hold the news up.
const DRAIN: usize = 1024 * 1024;

impl Container {
    /// Reads one chunk of a stream into the log and to attached clients. `None`: nothing more for now.
    pub fn pump(&mut self, stream: Stream, buffer: &mut [u8]) -> (Option<usize>, Option<Trouble>) {
        let slot = &mut self.outputs[stream as usize];
        let Some(output) = slot else { return (None, None) };
        match stdio::read(&*output, buffer) {
            Chunk::Empty => (None, None),
            Chunk::Data(n) => {
                let data = &buffer[..n];
                self.sinks
                    .retain(|_, sink| sink.stream != stream as u8 || sink.push(data));
                let trouble = self
                    .log
                    .as_mut()
                    .and_then(|log| log.write(stream, data, now_nanos()));
                (Some(n), trouble)
            }
            Chunk::End => {
                *slot = None;
                self.sinks
                    .retain(|_, sink| sink.stream != stream as u8 || sink.end());
                (
                    None,
                    self.log.as_mut().and_then(|log| log.flush(stream, now_nanos())),
                )
            }
        }
    }

    /// Reads what an ended container left behind, and logs unfinished lines.
    pub fn drain(&mut self, buffer: &mut [u8]) -> Option<Trouble> {
        let mut trouble = None;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut total = 0;
            while total < DRAIN {
                let (read, news) = self.pump(stream, buffer);
                trouble = news.or(trouble);
                match read {
                    Some(n) => total += n,
                    None => break,
                }
            }
            let flushed = self.log.as_mut().and_then(|log| log.flush(stream, now_nanos()));
            trouble = flushed.or(trouble);
        }
        trouble
    }

    /// Takes over the master of the container's terminal.
    ///
    /// # Errors
    /// If the supervisor is out of descriptors.
    pub fn set_console(&mut self, console: OwnedFd, poller: &Poller) -> Result<()> {
        let what = || format!("watch the terminal of container {}", self.id.short());
        rustix::io::ioctl_fionbio(&console, true).with_context(what)?;
        let read = console.try_clone().with_context(what)?;
        let token = Token::Output(self.serial, Stream::Stdout as u8);
        self.outputs[0] = Some(poller.watch(read, token, Interest::Read).with_context(what)?);
        self.console = Some(console);
        Ok(())
    }

    /// The container's stdin for an attached client, if it has one that is still open.
    ///
    /// # Errors
    /// If the supervisor is out of descriptors.
    pub fn lend_stdin(&mut self) -> Result<Option<OwnedFd>> {
        if !self.config.stdin {
            return Ok(None);
        }
        if self.config.stdin_once && !self.config.tty {
            // The client holds the only copy: when it is done, the container sees the end.
            return Ok(self.stdin.take());
        }
        let source = if self.config.tty {
            &self.console
        } else {
            &self.stdin
        };
        source
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .context("duplicate the container's stdin")
    }

    /// Lets go of everything that an ended container does not need.
    pub fn let_go(&mut self) {
        self.pending = None;
        self.stdin = None;
        self.oom_watch = None;
        // Those that are still in use go with the container's own.
        self.leftovers.sweep();
        self.leftovers = Leftovers::default();
    }

    /// What the daemon gets to know.
    pub fn status(&self) -> ContainerStatus {
        let execs = self
            .execs
            .values()
            .filter(|e| e.started_at != 0)
            .map(|e| ExecStatus {
                exec_id: e.exec_id.clone(),
                pid: e.pid,
                started_at: e.started_at,
            });
        ContainerStatus {
            id: self.id.clone(),
            phase: self.phase,
            pid: self.pid,
            created_at: self.created_at,
            started_at: self.started_at,
            tty: self.config.tty,
            exit: self.exit.clone(),
            execs: execs.collect(),
            log_dropped: self.log.as_ref().map_or(0, Log::dropped),
            notes: self.notes.clone(),
        }
    }
}

/// Signals the process behind `pidfd`; that it is gone already is no error, its end is told anyway.
///
/// # Errors
/// [`crate::types::Kind::InvalidArgument`] for a number that is no signal.
pub fn signal(pidfd: &OwnedFd, number: i32, whom: &str) -> Result<()> {
    if !(1..=64).contains(&number) {
        return Err(Error::invalid(format!(
            "signal {number} to {whom}: signals are numbered 1 to 64"
        )));
    }
    match crate::sys::signal::send_by_pidfd(pidfd.as_fd(), number) {
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => Ok(()),
        outcome => outcome.with_context(|| format!("send signal {number} to {whom}")),
    }
}
