//! Ends: of containers, execs, orphans, and of the supervisor itself.
//!
//! The order at the end of a container is the contract: output drained, OOM counter read, exit record on disk, what is
//! left of the container killed, and only then told.

use std::os::fd::AsFd as _;

use rustix::process::{WaitOptions, WaitStatus};

use crate::cgroup::Cgroup;
use crate::types::time::now_nanos;
use crate::types::{Error, Kind, Result};

use super::super::container::{self, Container, Ticket};
use super::super::oom;
use super::super::protocol::{Event, ExecExit, Failure, Phase, Reply};
use super::super::record::ExitRecord;
use super::{Engine, OOM_CHECKS};

/// What the reaper learns of a process.
#[derive(Debug, Clone, Copy)]
struct End {
    exit_code: i32,
    signal: Option<i32>,
}

/// Exit code of a container whose program could not be started, unless a better one is known.
const START_FAILED: i32 = 128;

impl Engine {
    /// Reaps all that can be reaped, orphans that came by way of the subreaper included.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(end) = end(status) {
                self.ended(pid.as_raw_pid(), end);
            }
        }
    }

    fn ended(&mut self, pid: i32, end: End) {
        if self.owner_told(pid, end) {
            return;
        }
        // A process that an OCI runtime made becomes a child of this one just after it was announced: the announcement
        // may be unread. And if it is the runtime's helper that ended, it may have died without a word.
        self.hear_launches();
        self.owner_told(pid, end);
    }

    /// Finds whose process it was. `false`: nobody's that is known.
    fn owner_told(&mut self, pid: i32, end: End) -> bool {
        let container = self
            .containers
            .values()
            .find(|c| c.pid == pid && c.phase != Phase::Exited)
            .map(|c| c.serial);
        if let Some(serial) = container {
            self.container_ended(serial, pid, end);
            return true;
        }
        let exec = self.containers.values().find_map(|c| {
            c.execs
                .iter()
                .find(|(_, e)| e.pid == pid)
                .map(|(serial, _)| (c.serial, *serial))
        });
        if let Some((container, serial)) = exec {
            self.exec_ended(container, serial, pid, end);
            return true;
        }
        if let Some(serial) = self.orders.iter().find(|(_, o)| o.pid == pid).map(|(s, _)| *s) {
            self.order_moves(serial);
            return true;
        }
        if self.pidns_init.as_ref().is_some_and(|init| init.pid == pid) {
            eprintln!("the init of the pod's pid namespace is gone, and its containers with it");
            self.pidns_init = None;
            return true;
        }
        false
    }

    /// Reads what launches have to say, at an occasion that their sockets may not have told of.
    fn hear_launches(&mut self) {
        let launching: Vec<u32> = self
            .containers
            .values()
            .filter(|c| c.pending.is_some())
            .map(|c| c.serial)
            .collect();
        for serial in launching {
            self.launch_moves(serial, false);
        }
        let execs: Vec<(u32, u32)> = self
            .containers
            .values()
            .flat_map(|c| c.execs.iter().map(|(serial, exec)| (c.serial, *serial, exec)))
            .filter(|(.., exec)| exec.pending.is_some())
            .map(|(container, serial, _)| (container, serial))
            .collect();
        for (container, serial) in execs {
            self.exec_moves(container, serial);
        }
    }

    fn container_ended(&mut self, serial: u32, pid: i32, end: End) {
        // What the process said last may still be unread.
        self.launch_moves(serial, false);
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        if container.pid != pid {
            // It was the helper that had an OCI runtime make the container.
            return;
        }
        match container.phase {
            Phase::Exited => {}
            // Its runtime is still about to say that it runs, or why it does not.
            Phase::Starting if !container.config.runtime_json.is_empty() => {
                container.early_end = Some((end.exit_code, end.signal));
            }
            Phase::Creating | Phase::Starting => self.launch_failed(serial, died_in_launch(end)),
            Phase::Created | Phase::Running => {
                let record = ExitRecord {
                    exit_code: end.exit_code,
                    signal: end.signal,
                    ..Default::default()
                };
                self.finish(serial, record, None);
            }
        }
    }

    /// A container had ended before its OCI runtime said that it runs.
    pub(super) fn ended_early(&mut self, serial: u32, (exit_code, signal): (i32, Option<i32>)) {
        let record = ExitRecord {
            exit_code,
            signal,
            ..Default::default()
        };
        self.finish(serial, record, None);
    }

    /// The program could not be started: the container has exited, with the reason in its record.
    pub(super) fn start_failed(&mut self, serial: u32, failure: Failure) {
        let record = ExitRecord {
            exit_code: failure.exit_code.unwrap_or(START_FAILED),
            start_error: failure.error.message().into(),
            ..Default::default()
        };
        self.finish(serial, record, Some(failure));
    }

    fn finish(&mut self, serial: u32, mut record: ExitRecord, failure: Option<Failure>) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        let id = container.id.clone();
        let trouble = container.drain(&mut self.buffer);
        complete(container, &mut record);
        store(container, &record);
        kill_rest(container);
        container.phase = Phase::Exited;
        container.exit = Some(record.clone());
        container.let_go();
        let ticket = container.ticket.take();
        self.trim_due = true;
        self.tell_trouble(&id, trouble);
        if let Some(ticket) = ticket {
            let failure =
                failure.unwrap_or_else(|| Failure::new(Kind::FailedPrecondition, "the container ended"));
            self.respond(ticket, Err(failure), Vec::new());
        }
        self.tell(Event::ContainerExited(id, record));
        self.delete_from_runtime(serial);
        self.shut_down_if_empty();
    }

    fn exec_ended(&mut self, container: u32, serial: u32, pid: i32, end: End) {
        // What the process said last may still be unread: its launch may have succeeded.
        for _ in 0..2 {
            self.exec_moves(container, serial);
        }
        let Some(container) = self.containers.get_mut(&container) else {
            return;
        };
        if container.execs.get(&serial).is_none_or(|exec| exec.pid != pid) {
            // It was the helper that had an OCI runtime make the process.
            return;
        }
        let Some(exec) = container.execs.remove(&serial) else {
            return;
        };
        container.leftovers.add(exec.cgroup);
        let exit = ExecExit {
            container: container.id.clone(),
            exec_id: exec.exec_id,
            pid: exec.pid,
            exit_code: end.exit_code,
            signal: end.signal,
            finished_at: now_nanos().max(exec.started_at),
        };
        if let Some(ticket) = exec.ticket {
            self.respond(ticket, Err(died_in_launch(end)), Vec::new());
        } else if exec.started_at != 0 {
            self.tell(Event::ExecExited(exit));
        }
        self.trim_due = true;
    }

    /// The kernel may have killed a process of a container.
    pub(super) fn oom_moved(&mut self, serial: u32) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        let Some(watch) = &container.oom_watch else { return };
        let path = container.config.oom_counter_path.as_deref();
        let early = oom::announces_early(path);
        if !oom::acknowledge(watch.as_fd(), path) {
            container.oom_watch = None;
            return;
        }
        if !self.count_oom(serial) && early {
            self.oom_checks = OOM_CHECKS;
        }
    }

    /// Looks again after an announced kill.
    pub(super) fn check_oom(&mut self) {
        if self.oom_checks == 0 {
            return;
        }
        self.oom_checks -= 1;
        let watched: Vec<u32> = self
            .containers
            .values()
            .filter(|c| c.oom_watch.is_some())
            .map(|c| c.serial)
            .collect();
        for serial in watched {
            if self.count_oom(serial) {
                self.oom_checks = 0;
            }
        }
    }

    /// Tells of kills not told yet. `false` if there are none.
    fn count_oom(&mut self, serial: u32) -> bool {
        let Some(container) = self.containers.get_mut(&serial) else {
            return false;
        };
        let kills = oom::kills(container.config.oom_counter_path.as_deref());
        let more = kills > container.oom_kills;
        if more {
            let event = Event::OomSeen {
                container: container.id.clone(),
                kills,
            };
            container.oom_kills = kills;
            container.oom_seen = true;
            self.tell(event);
        }
        more
    }

    /// Ends the supervisor if no container lives, or with `force` when all have been killed.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] if a container lives and is not to be killed.
    pub(super) fn begin_shutdown(&mut self, ticket: Ticket, force: bool) -> Result<()> {
        let alive: Vec<&Container> = self
            .containers
            .values()
            .filter(|c| c.phase != Phase::Exited)
            .collect();
        if let Some(first) = alive.first()
            && !force
        {
            return Err(Error::precondition(format!(
                "{} containers of the pod have not exited, among them {}: stop them first",
                alive.len(),
                first.id
            )));
        }
        for container in alive {
            if let Some(join) = &container.config.cgroup
                && let Err(e) = Cgroup::from_join(join).kill()
            {
                eprintln!("kill container {}: {e}", container.id.short());
            }
            container::signal(&container.pidfd, 9, "a container of a pod that shuts down")?;
        }
        self.shutdown.push(ticket);
        self.shut_down_if_empty();
        Ok(())
    }

    pub(super) fn shut_down_if_empty(&mut self) {
        let empty = self.containers.values().all(|c| c.phase == Phase::Exited) && self.orders.is_empty();
        if self.shutdown.is_empty() || !empty {
            return;
        }
        if let Some(init) = self.pidns_init.take() {
            let _ = container::signal(&init.pidfd, 9, "the init of the pod's pid namespace");
        }
        for ticket in std::mem::take(&mut self.shutdown) {
            self.respond(ticket, Ok(Reply::Done), Vec::new());
        }
        self.finished = true;
    }
}

fn end(status: WaitStatus) -> Option<End> {
    if let Some(exit_code) = status.exit_status() {
        return Some(End {
            exit_code,
            signal: None,
        });
    }
    status.terminating_signal().map(|signal| End {
        exit_code: 128 + signal,
        signal: Some(signal),
    })
}

fn died_in_launch(end: End) -> Failure {
    let how = match end.signal {
        Some(signal) => format!("was killed by signal {signal}"),
        None => format!("ended with status {}", end.exit_code),
    };
    Failure::new(
        Kind::Internal,
        format!("the process {how} before its program ran"),
    )
}

/// Adds what only the supervisor knows.
fn complete(container: &Container, record: &mut ExitRecord) {
    let kills = oom::kills(container.config.oom_counter_path.as_deref());
    record.pid = container.pid;
    record.oom_killed = container.oom_seen || kills > container.oom_kills;
    record.started_at = container.started_at;
    record.finished_at = now_nanos().max(container.started_at).max(container.created_at);
}

/// Failing to write is not a reason to keep the end from a daemon that listens; the state has it, too.
fn store(container: &Container, record: &ExitRecord) {
    if let Some(path) = &container.config.exit_record_path
        && let Err(e) = record.write(path)
    {
        eprintln!("container {}: {e}", container.id.short());
    }
}

/// With a pid namespace of its own the kernel has killed the rest already.
fn kill_rest(container: &mut Container) {
    if !container.config.kill_cgroup_on_exit {
        return;
    }
    for exec in container.execs.values_mut().filter(|e| e.cgroup.is_some()) {
        if let Err(e) = exec.kill() {
            eprintln!(
                "container {}: kill exec {}: {e}",
                container.id.short(),
                exec.exec_id
            );
        }
    }
    if let Some(join) = &container.config.cgroup
        && let Err(e) = Cgroup::from_join(join).kill()
    {
        eprintln!("container {}: kill what is left of it: {e}", container.id.short());
    }
}
