//! The supervisor's event loop.
//!
//! Owns connections, containers and the order of things; one event is handled to its end before the next. Nothing here
//! blocks but the wait itself, local disk writes and the kill of a cgroup.

mod exits;
mod launches;
mod orders;
mod requests;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use rustix::net::SocketFlags;
use rustix::process::PidfdFlags;

use crate::types::error::Context as _;
use crate::types::{ContainerId, Error, PodId, Result};

use super::connection::Connection;
use super::container::{Container, Ticket};
use super::cri_log::{Stream, Trouble};
use super::pidns;
use super::poll::{Interest, Poller, Ready, SERIAL_LIMIT, Token, Watched};
use super::protocol::{Event, Failure, Greeting, OLDEST, PROTOCOL, Reply};
use super::runner::Runner;
use super::setup::{Pod, SOCKET};
use super::wire::{Descriptors, Message};

/// Most connections at once. A daemon has one; a second is its successor.
const MAX_CONNECTIONS: usize = 8;
/// Packets taken from one connection before others get their turn.
const PACKETS_AT_ONCE: usize = 16;
/// Bytes of output read at once.
const CHUNK: usize = 32 * 1024;

/// How long to wait for an announced OOM kill to be counted, and how often to look.
const OOM_CHECK_EVERY: Duration = Duration::from_millis(20);
const OOM_CHECKS: u8 = 100;

/// A supervisor at work.
pub struct Engine {
    poller: Poller,
    runner: Box<dyn Runner>,
    pod_id: PodId,
    run_dir: PathBuf,
    pidns_init: Option<pidns::Init>,
    shm: Option<OwnedFd>,
    user: Option<OwnedFd>,
    listener: Watched,
    /// Kept open for its registration; what it delivers is only a hint to reap.
    signals: SignalFd,
    _signals_watch: Watched,
    connections: BTreeMap<u32, Connection>,
    containers: BTreeMap<u32, Container>,
    orders: BTreeMap<u32, orders::Errand>,
    next_serial: u32,
    buffer: Box<[u8]>,
    /// Who asked to shut down, while containers still die.
    shutdown: Vec<Ticket>,
    finished: bool,
    /// An OOM kill was announced and is not counted yet: how often to look again.
    oom_checks: u8,
    /// A daemon has said Hello: somebody knows of this supervisor.
    known: bool,
    /// Accepting failed for want of descriptors; waits until some are given back.
    listener_paused: bool,
    /// A launch has ended: the heap may be full of holes.
    trim_due: bool,
}

impl Engine {
    /// For a pod that is set up.
    ///
    /// # Errors
    /// If the supervisor is out of descriptors.
    pub fn new(pod: Pod, runner: Box<dyn Runner>) -> Result<Self> {
        let what = "set up the event loop";
        let poller = Poller::new().context(what)?;
        let listener = poller
            .watch(pod.listener, Token::Listener, Interest::Read)
            .context(what)?;
        let duplicate = pod.signals.as_fd().try_clone_to_owned().context(what)?;
        let signals_watch = poller
            .watch(duplicate, Token::Signals, Interest::Read)
            .context(what)?;
        Ok(Self {
            poller,
            runner,
            pod_id: pod.spawn.pod_id,
            run_dir: pod.spawn.run_dir,
            pidns_init: pod.pidns_init,
            shm: pod.shm,
            user: pod.user,
            listener,
            signals: pod.signals,
            _signals_watch: signals_watch,
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            orders: BTreeMap::new(),
            next_serial: 0,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            shutdown: Vec::new(),
            finished: false,
            oom_checks: 0,
            known: false,
            listener_paused: false,
            trim_due: false,
        })
    }

    /// Runs until Shutdown, beginning with the daemon's `first` connection.
    ///
    /// # Errors
    /// If the kernel refuses to wait: nothing can be supervised any more.
    pub fn run(mut self, first: OwnedFd) -> Result<()> {
        self.connect(first);
        while !self.finished {
            let limit = (self.oom_checks > 0).then_some(OOM_CHECK_EVERY);
            for ready in self.poller.wait(limit).context("wait for events")? {
                self.handle(ready);
            }
            self.check_oom();
            self.drop_broken_connections();
            if std::mem::take(&mut self.trim_due) {
                crate::sys::heap::trim();
            }
        }
        let _ = std::fs::remove_file(self.run_dir.join(SOCKET));
        Ok(())
    }

    fn handle(&mut self, ready: Ready) {
        match ready.token {
            Token::Listener => self.accept(),
            Token::Signals => self.reap(),
            Token::Connection(serial) => self.serve(serial, ready.writable),
            Token::Launch(container) => self.launch_moves(container, ready.gone),
            Token::ExecLaunch(container, exec) => self.exec_moves(container, exec),
            Token::Output(container, 0) => self.output(container, Stream::Stdout),
            Token::Output(container, _) => self.output(container, Stream::Stderr),
            Token::Sink(container, sink) => self.sink_ready(container, sink, ready),
            Token::Oom(container) => self.oom_moved(container),
            Token::Order(order) => self.order_moves(order),
        }
    }

    fn serial(&mut self) -> u32 {
        self.next_serial = (self.next_serial + 1) % SERIAL_LIMIT;
        self.next_serial
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => return self.pause_listener(),
            // Whoever it was has changed its mind.
            Err(_) => return,
        };
        let owner = rustix::process::geteuid();
        let allowed = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == owner);
        if allowed && self.connections.len() < MAX_CONNECTIONS {
            self.connect(socket);
        } else {
            eprintln!("a connection was refused: it is one too many, or another user's");
        }
    }

    /// Without a descriptor to accept with, the listener would be reported for ever.
    fn pause_listener(&mut self) {
        eprintln!("out of descriptors: no connection is accepted until some are free");
        self.listener_paused = self.listener.set_interest(Interest::Hangup).is_ok();
    }

    fn resume_listener(&mut self) {
        if std::mem::take(&mut self.listener_paused) {
            let _ = self.listener.set_interest(Interest::Read);
        }
    }

    fn connect(&mut self, socket: OwnedFd) {
        let serial = self.serial();
        let watched = match self
            .poller
            .watch(socket, Token::Connection(serial), Interest::Read)
        {
            Ok(watched) => watched,
            Err(e) => return eprintln!("watch a connection: {e}"),
        };
        let mut connection = Connection::new(watched);
        let own = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(own, PidfdFlags::empty());
        connection.send(
            &Message::Greeting(Ok(self.greeting())),
            pidfd.into_iter().collect(),
        );
        self.connections.insert(serial, connection);
    }

    fn greeting(&self) -> Greeting {
        Greeting {
            protocol: PROTOCOL,
            oldest: OLDEST,
            software: env!("CARGO_PKG_VERSION").into(),
            pod_id: self.pod_id.clone(),
            pid: rustix::process::getpid().as_raw_pid(),
            pidns_init_pid: self.pidns_init.as_ref().map(|init| init.pid),
            shm_fd: self.shm.as_ref().map(AsRawFd::as_raw_fd),
            userns_fd: self.user.as_ref().map(AsRawFd::as_raw_fd),
        }
    }

    fn serve(&mut self, serial: u32, writable: bool) {
        if writable && let Some(connection) = self.connections.get_mut(&serial) {
            connection.flush();
        }
        for _ in 0..PACKETS_AT_ONCE {
            let Some((message, descriptors)) =
                self.connections.get_mut(&serial).and_then(Connection::receive)
            else {
                break;
            };
            match message {
                Message::Hello { .. } => self.known = true,
                Message::Request(request, op) => {
                    let ticket = Ticket {
                        connection: serial,
                        request,
                    };
                    match op {
                        Ok(op) => self.request(ticket, op, descriptors),
                        Err(failure) => self.respond(ticket, Err(failure), Vec::new()),
                    }
                }
                _ => {}
            }
        }
    }

    fn drop_broken_connections(&mut self) {
        let broken: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, c)| c.is_broken())
            .map(|(serial, _)| *serial)
            .collect();
        for serial in broken {
            self.connections.remove(&serial);
            self.abandon_execs(serial);
            self.resume_listener();
        }
        if !self.known && self.connections.is_empty() {
            eprintln!("the daemon that asked for this supervisor is gone before it knew: nobody else does");
            self.finished = true;
        }
    }

    fn respond(
        &mut self,
        ticket: Ticket,
        result: std::result::Result<Reply, Failure>,
        descriptors: Descriptors,
    ) {
        if let Some(connection) = self.connections.get_mut(&ticket.connection) {
            connection.send(&Message::Response(ticket.request, result), descriptors);
        }
    }

    fn tell(&mut self, event: Event) {
        let message = Message::Event(Some(event));
        for connection in self.connections.values_mut() {
            connection.send(&message, Vec::new());
        }
    }

    fn tell_trouble(&mut self, container: &ContainerId, trouble: Option<Trouble>) {
        if let Some(Trouble { dropped, reason }) = trouble {
            self.tell(Event::LogTrouble {
                container: container.clone(),
                dropped,
                reason,
            });
        }
    }

    fn find(&mut self, id: &ContainerId) -> Result<&mut Container> {
        self.containers.values_mut().find(|c| c.id == *id).ok_or_else(|| {
            Error::not_found(format!(
                "container {id} is not known to the supervisor of its pod"
            ))
        })
    }

    fn output(&mut self, serial: u32, stream: Stream) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        let (_, trouble) = container.pump(stream, &mut self.buffer);
        let id = container.id.clone();
        self.tell_trouble(&id, trouble);
    }

    fn sink_ready(&mut self, serial: u32, sink_serial: u32, ready: Ready) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        let Some(sink) = container.sinks.get_mut(&sink_serial) else {
            return;
        };
        if ready.gone || !sink.flush() {
            container.sinks.remove(&sink_serial);
        }
    }
}
