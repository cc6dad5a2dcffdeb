//! Launches: from a request to a running program, one step per event.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::cgroup::Cgroup;
use crate::types::error::Context as _;
use crate::types::time::now_nanos;
use crate::types::{ContainerId, Error, Kind};

use super::super::container::{Container, ExecProcess, Pending, Ticket, signal};
use super::super::cri_log::{Log, Stream};
use super::super::oom;
use super::super::poll::{Interest, Token};
use super::super::protocol::{
    CreateContainer, Created, DEFAULT_MAX_LOG_LINE, Exec, ExecStarted, Failure, Phase, Reply, Started,
};
use super::super::runner::{Progress, Stdio, Target};
use super::super::stdio;
use super::super::wire::Descriptors;
use super::Engine;

/// Most containers of a pod, the exited ones not yet removed included.
const MAX_CONTAINERS: usize = 1024;
/// Most execs of a container at once.
const MAX_EXECS: usize = 1024;

impl Engine {
    /// Clones a container's first process; the answer comes when it is ready.
    pub(super) fn create(
        &mut self,
        ticket: Ticket,
        id: ContainerId,
        mut config: CreateContainer,
    ) -> Result<(), Failure> {
        self.check_new(&id)?;
        let plan = std::mem::take(&mut config.plan_json);
        let log = open_log(&config)?;
        let (child, ends) = if config.tty {
            Default::default()
        } else {
            stdio::pipes(config.stdin)?
        };
        let serial = self.serial();
        let checkpoint = std::mem::take(&mut config.restore_json);
        let launch = if !checkpoint.is_empty() {
            self.runner.restore(&plan, &checkpoint, child)?
        } else if config.runtime_json.is_empty() {
            self.runner.launch(&plan, child)?
        } else {
            self.runner
                .create_by_runtime(&config.runtime_json, &id, config.tty, child)?
        };
        self.trim_due = true;
        let what = || format!("watch container {id}");
        let pidfd = launch.pidfd().try_clone_to_owned().with_context(what)?;
        let oom_kills = oom::kills(config.oom_counter_path.as_deref());
        let mut container = Container {
            serial,
            phase: Phase::Creating,
            pid: launch.pid(),
            pidfd,
            pending: Some(Pending::new(launch, &self.poller, Token::Launch(serial))?),
            ticket: Some(ticket),
            notes: Vec::new(),
            created_at: now_nanos(),
            started_at: 0,
            log,
            stdin: ends.stdin,
            console: None,
            outputs: [None, None],
            sinks: Default::default(),
            execs: Default::default(),
            leftovers: Default::default(),
            exit: None,
            oom_kills,
            oom_seen: false,
            oom_watch: None,
            early_end: None,
            deleting: false,
            removal: Vec::new(),
            config,
            id,
        };
        self.watch_outputs(&mut container, ends.outputs)?;
        self.containers.insert(serial, container);
        Ok(())
    }

    fn check_new(&mut self, id: &ContainerId) -> Result<(), Error> {
        if self.find(id).is_ok() {
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("container {id} exists in its pod"),
            ));
        }
        if !self.shutdown.is_empty() {
            return Err(Error::precondition("the pod is shutting down"));
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!("the pod has {MAX_CONTAINERS} containers already: remove exited ones"),
            ));
        }
        Ok(())
    }

    fn watch_outputs(&self, container: &mut Container, outputs: [Option<OwnedFd>; 2]) -> Result<(), Error> {
        for (stream, output) in [Stream::Stdout, Stream::Stderr].into_iter().zip(outputs) {
            let Some(output) = output else { continue };
            let token = Token::Output(container.serial, stream as u8);
            let watched = self
                .poller
                .watch(output, token, Interest::Read)
                .context("watch a container's output")?;
            container.outputs[stream as usize] = Some(watched);
        }
        Ok(())
    }

    /// Opens a container's gate; the answer comes when its program runs, or cannot.
    pub(super) fn start(&mut self, ticket: Ticket, id: &ContainerId) -> Result<(), Failure> {
        let container = self.find(id)?;
        if container.phase != Phase::Created {
            let message = format!(
                "container {id} is {:?}, not created: it can be started once",
                container.phase
            );
            return Err(Error::precondition(message).into());
        }
        let Some(pending) = &mut container.pending else {
            return Err(Error::precondition(format!(
                "the process of container {id} died before it was started"
            ))
            .into());
        };
        pending.launch.open_gate()?;
        container.phase = Phase::Starting;
        container.ticket = Some(ticket);
        Ok(())
    }

    /// A container's launch has something to say.
    pub(super) fn launch_moves(&mut self, serial: u32, gone: bool) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        let Some(pending) = &mut container.pending else {
            return;
        };
        match pending.launch.advance() {
            // At the gate there is nothing to hear but the process's death, which the reaper sees to.
            Ok(Progress::Pending) if gone && container.phase == Phase::Created => container.pending = None,
            Ok(Progress::Pending) => {}
            Ok(Progress::Ready {
                console,
                notes,
                process,
            }) => {
                if let Some(process) = process {
                    (container.pid, container.pidfd) = process;
                }
                self.container_ready(serial, console, notes);
            }
            Ok(Progress::Running) => {
                if let Some(process) = pending.launch.take_process() {
                    (container.pid, container.pidfd) = process;
                }
                self.container_runs(serial);
            }
            Err(failure) => self.launch_failed(serial, failure),
        }
    }

    fn container_ready(&mut self, serial: u32, console: Option<OwnedFd>, notes: Vec<String>) {
        let poller = self.poller.clone();
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        if let Some(console) = console
            && let Err(e) = container.set_console(console, &poller)
        {
            return self.launch_failed(serial, e.into());
        }
        container.phase = Phase::Created;
        container.notes.clone_from(&notes);
        let created = Created {
            pid: container.pid,
            notes,
            created_at: container.created_at,
        };
        if let Some(ticket) = container.ticket.take() {
            self.respond(ticket, Ok(Reply::Created(created)), Vec::new());
        }
    }

    fn container_runs(&mut self, serial: u32) {
        let poller = self.poller.clone();
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        container.phase = Phase::Running;
        container.pending = None;
        container.started_at = now_nanos().max(container.created_at);
        container.oom_watch = oom::watch(container.config.oom_counter_path.as_deref())
            .and_then(|fd| poller.watch(fd, Token::Oom(serial), Interest::Read).ok());
        let started = Started {
            pid: container.pid,
            started_at: container.started_at,
        };
        let early_end = container.early_end.take();
        if let Some(ticket) = container.ticket.take() {
            self.respond(ticket, Ok(Reply::Started(started)), Vec::new());
        }
        if let Some(end) = early_end {
            self.ended_early(serial, end);
        }
    }

    /// A launch failed: before the gate there never was a container, after it there is one that has exited.
    pub(super) fn launch_failed(&mut self, serial: u32, failure: Failure) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        container.pending = None;
        let _ = signal(&container.pidfd, 9, "a process that failed to launch");
        match container.phase {
            Phase::Creating => {
                if let Some(container) = self.containers.remove(&serial)
                    && let Some(ticket) = container.ticket
                {
                    self.respond(ticket, Err(failure), Vec::new());
                }
                self.trim_due = true;
                self.shut_down_if_empty();
            }
            Phase::Created => {}
            _ => self.start_failed(serial, failure),
        }
    }

    /// Clones a process into a running container; the answer comes when its program runs, or cannot.
    pub(super) fn exec(
        &mut self,
        ticket: Ticket,
        id: &ContainerId,
        exec: Exec,
        descriptors: Descriptors,
    ) -> Result<(), Failure> {
        let serial = self.serial();
        let stdio = take_stdio(&exec, descriptors)?;
        let found = self.find(id)?.serial;
        let Some(container) = self.containers.get_mut(&found) else {
            return Ok(());
        };
        check_exec(container, &exec)?;
        container.leftovers.sweep();
        let own = exec
            .own_cgroup
            .then_some(container.config.cgroup.as_ref())
            .flatten();
        let cgroup = own
            .map(|join| Cgroup::from_join(join).exec_child(&exec.exec_id))
            .transpose()?;
        let target = Target {
            pid: container.pid,
            pidfd: container.pidfd.as_fd(),
            cgroup: cgroup
                .as_ref()
                .map(Cgroup::join)
                .or_else(|| container.config.cgroup.clone()),
        };
        self.trim_due = true;
        let launch = if container.config.runtime_json.is_empty() {
            self.runner.exec(&exec.plan_json, &target, stdio)
        } else {
            let own = cgroup.as_ref().map(Cgroup::join);
            self.runner
                .exec_by_runtime(&container.config.runtime_json, id, &exec, own, stdio)
        };
        let launched = launch.and_then(|launch| {
            let pidfd = launch.pidfd().try_clone_to_owned().context("watch an exec")?;
            let pid = launch.pid();
            let token = Token::ExecLaunch(container.serial, serial);
            Ok((pid, pidfd, Pending::new(launch, &self.poller, token)?))
        });
        let (pid, pidfd, pending) = match launched {
            Ok(launched) => launched,
            Err(failure) => {
                container.leftovers.add(cgroup);
                return Err(failure);
            }
        };
        let process = ExecProcess {
            exec_id: exec.exec_id,
            pid,
            pidfd,
            pending: Some(pending),
            ticket: Some(ticket),
            owner: ticket.connection,
            kill_on_disconnect: exec.kill_on_disconnect,
            doomed: false,
            cgroup,
            console: None,
            notes: Vec::new(),
            started_at: 0,
        };
        if let Some(container) = self.containers.get_mut(&found) {
            container.execs.insert(serial, process);
        }
        Ok(())
    }

    /// An exec's launch has something to say.
    pub(super) fn exec_moves(&mut self, container: u32, serial: u32) {
        let Some(exec) = self
            .containers
            .get_mut(&container)
            .and_then(|c| c.execs.get_mut(&serial))
        else {
            return;
        };
        let Some(pending) = &mut exec.pending else { return };
        let failure = match pending.launch.advance() {
            Ok(Progress::Pending) => return,
            Ok(Progress::Ready {
                console,
                notes,
                process,
            }) => {
                // There is no gate: it goes on by itself.
                (exec.console, exec.notes) = (console, notes);
                if let Some(process) = process {
                    (exec.pid, exec.pidfd) = process;
                }
                return;
            }
            Ok(Progress::Running) => return self.exec_runs(container, serial),
            Err(failure) => failure,
        };
        // The process itself is forgotten when it is reaped.
        exec.pending = None;
        let _ = signal(&exec.pidfd, 9, "an exec that failed to launch");
        if let Some(ticket) = exec.ticket.take() {
            self.respond(ticket, Err(failure), Vec::new());
        }
    }

    fn exec_runs(&mut self, container: u32, serial: u32) {
        let Some(exec) = self
            .containers
            .get_mut(&container)
            .and_then(|c| c.execs.get_mut(&serial))
        else {
            return;
        };
        exec.pending = None;
        if exec.doomed
            && let Err(e) = exec.kill()
        {
            eprintln!("kill exec {}, which was to die before it ran: {e}", exec.exec_id);
        }
        exec.started_at = now_nanos();
        let started = ExecStarted {
            pid: exec.pid,
            started_at: exec.started_at,
            notes: std::mem::take(&mut exec.notes),
        };
        let console = exec.console.as_ref().and_then(|c| c.try_clone().ok());
        if let Some(ticket) = exec.ticket.take() {
            self.respond(
                ticket,
                Ok(Reply::ExecStarted(started)),
                console.into_iter().collect(),
            );
        }
    }

    /// The connection that asked for some execs is gone.
    pub(super) fn abandon_execs(&mut self, connection: u32) {
        for exec in self.containers.values_mut().flat_map(|c| c.execs.values_mut()) {
            if exec.owner != connection {
                continue;
            }
            exec.console = None;
            if exec.kill_on_disconnect
                && let Err(e) = exec.kill()
            {
                eprintln!("kill abandoned exec {}: {e}", exec.exec_id);
            }
        }
    }
}

fn open_log(config: &CreateContainer) -> Result<Option<Log>, Error> {
    let max = if config.max_log_line == 0 {
        DEFAULT_MAX_LOG_LINE
    } else {
        config.max_log_line
    };
    config
        .log_path
        .as_ref()
        .map(|path| Log::open(path, max))
        .transpose()
}

fn take_stdio(exec: &Exec, descriptors: Descriptors) -> Result<Stdio, Error> {
    let mut given = descriptors.into_iter();
    let mut next = |wanted: bool| match (wanted, wanted.then(|| given.next()).flatten()) {
        (true, None) => Err(Error::invalid("exec without the descriptors it announces")),
        (_, descriptor) => Ok(descriptor),
    };
    Ok(Stdio {
        stdin: next(exec.stdio[0])?,
        stdout: next(exec.stdio[1])?,
        stderr: next(exec.stdio[2])?,
    })
}

fn check_exec(container: &Container, exec: &Exec) -> Result<(), Error> {
    let id = &container.id;
    if container.phase != Phase::Running {
        return Err(Error::precondition(format!(
            "exec in container {id}: it is not running"
        )));
    }
    if container.execs.values().any(|e| e.exec_id == exec.exec_id) {
        return Err(Error::new(
            Kind::AlreadyExists,
            format!("exec {} runs in container {id}", exec.exec_id),
        ));
    }
    if container.execs.len() >= MAX_EXECS {
        let message = format!("container {id} has {MAX_EXECS} execs running already");
        return Err(Error::new(Kind::ResourceExhausted, message));
    }
    Ok(())
}
