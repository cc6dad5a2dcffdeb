//! Requests: what each does, or to whom it is passed on.

use std::os::fd::OwnedFd;

use crate::cgroup::Cgroup;
use crate::types::error::Context as _;
use crate::types::{CgroupJoin, ContainerId, Error, Kind, Result};

use super::super::attach::Sink;
use super::super::container::{self, Container, Ticket};
use super::super::poll::{Interest, Token};
use super::super::protocol::{Failure, Op, Phase, Reply, State};
use super::super::runner::Order;
use super::super::wire::Descriptors;
use super::Engine;

impl Engine {
    /// Answers at once or, for what takes time, later.
    pub(super) fn request(&mut self, ticket: Ticket, op: Op, descriptors: Descriptors) {
        let outcome = match op {
            Op::Create(id, config) => match self.create(ticket, id, config) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Op::Start(id) => match self.start(ticket, &id) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Op::Exec(id, exec) => match self.exec(ticket, &id, exec, descriptors) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Op::Shutdown { force } => match self.begin_shutdown(ticket, force) {
                Ok(()) => return,
                Err(e) => Err(e.into()),
            },
            Op::Attach {
                container,
                stdout,
                stderr,
                stdin,
            } => match self.attach(&container, [stdout, stderr], stdin, descriptors) {
                Ok((reply, stdin)) => return self.respond(ticket, Ok(reply), stdin.into_iter().collect()),
                Err(e) => Err(e.into()),
            },
            Op::Signal {
                container,
                signal,
                all,
            } => match self.signal(ticket, &container, signal, all) {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => return,
                Err(failure) => Err(failure),
            },
            Op::KillExec { container, exec_id } => done(self.kill_exec(&container, &exec_id)),
            Op::ResizeTty {
                container,
                exec_id,
                rows,
                columns,
            } => done(self.resize(&container, &exec_id, rows, columns)),
            Op::ReopenLog(id) => done(self.reopen_log(&id)),
            Op::CloseStdin(id) => done(self.find(&id).map(|c| c.stdin = None)),
            Op::Remove(id) => match self.remove(ticket, &id) {
                Ok(()) => return,
                Err(e) => Err(e.into()),
            },
            Op::State => Ok(Reply::State(self.state())),
            Op::Prepare(_) | Op::TryIdMaps(_) | Op::Spawn(_) => Err(Failure::new(
                Kind::Unimplemented,
                "only the template prepares, probes and spawns",
            )),
        };
        self.respond(ticket, outcome, Vec::new());
    }

    /// `None`: the answer comes later, from an OCI runtime.
    fn signal(
        &mut self,
        ticket: Ticket,
        id: &ContainerId,
        number: i32,
        all: bool,
    ) -> std::result::Result<Option<Reply>, Failure> {
        let container = self.find(id)?;
        match container.phase {
            Phase::Creating => {
                return Err(Error::precondition(format!("container {id} is still being created")).into());
            }
            Phase::Exited => return Err(Error::precondition(format!("container {id} has exited")).into()),
            Phase::Created | Phase::Starting | Phase::Running => {}
        }
        // Its first process may be a sandbox that has to be asked to pass a signal on. SIGKILL needs nobody's help.
        if !container.config.runtime_json.is_empty() && !all && number != 9 {
            let serial = container.serial;
            self.order(serial, Order::Kill(number), Some(ticket))?;
            return Ok(None);
        }
        self.signal_directly(id, number, all)?;
        Ok(Some(Reply::Done))
    }

    fn signal_directly(&mut self, id: &ContainerId, number: i32, all: bool) -> Result<()> {
        let container = self.find(id)?;
        match (&container.config.cgroup, all) {
            (Some(join), true) if number == 9 => Cgroup::from_join(join).kill(),
            (Some(join), true) => signal_members(join, number),
            _ => container::signal(&container.pidfd, number, &format!("container {id}")),
        }
    }

    fn kill_exec(&mut self, id: &ContainerId, exec_id: &str) -> Result<()> {
        let container = self.find(id)?;
        // One that has ended already is as dead as asked for.
        container
            .execs
            .values_mut()
            .find(|e| e.exec_id == exec_id)
            .map_or(Ok(()), container::ExecProcess::kill)
    }

    fn resize(&mut self, id: &ContainerId, exec_id: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.find(id)?;
        let console = if exec_id.is_empty() {
            container.console.as_ref()
        } else {
            container
                .execs
                .values()
                .find(|e| e.exec_id == exec_id)
                .and_then(|e| e.console.as_ref())
        };
        let console =
            console.ok_or_else(|| Error::precondition(format!("container {id} has no such terminal")))?;
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(console, size)
            .with_context(|| format!("resize a terminal of container {id} to {columns} by {rows}"))
    }

    fn reopen_log(&mut self, id: &ContainerId) -> Result<()> {
        self.find(id)?.log.as_mut().map_or(Ok(()), |log| log.reopen())
    }

    fn attach(
        &mut self,
        id: &ContainerId,
        wanted: [bool; 2],
        stdin: bool,
        descriptors: Descriptors,
    ) -> Result<(Reply, Option<OwnedFd>)> {
        let poller = self.poller.clone();
        let serials = [self.serial(), self.serial()];
        let container = self.find(id)?;
        if !matches!(container.phase, Phase::Created | Phase::Starting | Phase::Running) {
            return Err(Error::precondition(format!("container {id} is not running")));
        }
        let mut pipes = descriptors.into_iter();
        for stream in 0..2u8 {
            if !wanted[usize::from(stream)] {
                continue;
            }
            let pipe = pipes
                .next()
                .ok_or_else(|| Error::invalid("attach without the pipe it announces"))?;
            let serial = serials[usize::from(stream)];
            // What the container does not have ends at once.
            if container.outputs[usize::from(stream)].is_some() {
                let what = || format!("attach to container {id}");
                rustix::io::ioctl_fionbio(&pipe, true).with_context(what)?;
                let token = Token::Sink(container.serial, serial);
                let watched = poller.watch(pipe, token, Interest::Hangup).with_context(what)?;
                container.sinks.insert(serial, Sink::new(watched, stream));
            }
        }
        let stdin = if stdin { container.lend_stdin()? } else { None };
        Ok((
            Reply::Attached {
                tty: container.config.tty,
                has_stdin: stdin.is_some(),
            },
            stdin,
        ))
    }

    fn state(&self) -> State {
        State {
            pod_id: self.pod_id.clone(),
            pid: rustix::process::getpid().as_raw_pid(),
            pidns_init_pid: self.pidns_init.as_ref().map(|init| init.pid),
            containers: self.containers.values().map(Container::status).collect(),
        }
    }
}

fn done(outcome: Result<()>) -> std::result::Result<Reply, Failure> {
    outcome.map(|()| Reply::Done).map_err(Failure::from)
}

/// Signals every member of a cgroup. A process forked meanwhile may be missed, as with any signal but SIGKILL.
fn signal_members(join: &CgroupJoin, number: i32) -> Result<()> {
    let dir = match join {
        CgroupJoin::V1(dirs) => dirs.first(),
        CgroupJoin::V2(dir) => Some(dir),
    };
    let Some(dir) = dir else { return Ok(()) };
    let procs = dir.join("cgroup.procs");
    let members = std::fs::read_to_string(&procs).with_context(|| format!("read {}", procs.display()))?;
    for pid in members
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
    {
        // One that is gone by now needs no signal.
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            container::signal(&pidfd, number, &format!("process {pid}"))?;
        }
    }
    Ok(())
}
