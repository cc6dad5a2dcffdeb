//! The daemon's end of a supervisor: requests, answers and events over one connection.
//!
//! Owns request numbers and who waits for which answer. A [`Client`] is cheap to clone; the connection closes when the
//! last clone is gone, which does the supervisor no harm. A caller that goes away does not take its request back.
//! Must not know what the answers mean.

mod operations;
pub(super) mod packets;
mod takeover;

#[cfg(test)]
pub(in crate::pod) mod tests;

pub use operations::{Attached, ExecStdio};

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::supervisor;
use crate::supervisor::protocol::{Event, Failure, Greeting, OLDEST, Op, PROTOCOL, Reply};
use crate::supervisor::wire::{Descriptors, Message};
use crate::types::error::Context as _;
use crate::types::{Error, Kind, Result};

/// Requests waiting to be sent; more callers wait.
const MAX_WAITING: usize = 64;
/// Events nobody has taken yet. When there are more the connection is closed: whoever then reconnects and asks for the
/// state has missed nothing.
const MAX_EVENTS: usize = 1024;
/// A supervisor greets as soon as it is set up; setting up takes milliseconds.
const GREETING_LIMIT: Duration = Duration::from_secs(20);

/// One operation on its way. Boxed where it waits: a queue sets room for dozens aside at once, for every pod.
pub(super) struct Call {
    op: Op,
    descriptors: Descriptors,
    answer: oneshot::Sender<Answer>,
}

type Answer = std::result::Result<(Reply, Descriptors), Failure>;

struct Shared {
    /// What it said of itself, or is taken to be until it says so.
    greeting: Greeting,
    late: Arc<takeover::Late>,
    pidfd: OwnedFd,
    calls: mpsc::Sender<Box<Call>>,
    events: Mutex<Option<Events>>,
    /// Without a receiver once the events are dropped.
    heard: watch::Sender<()>,
}

/// What a supervisor tells unasked.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Box<Event>>,
    /// Tells by its end.
    _hearing: watch::Receiver<()>,
}

impl Events {
    /// Whether none waits now.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next event; `None` once the connection is closed. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        self.queue.recv().await.map(|event| *event)
    }
}

/// A connection to the supervisor of a pod.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("greeting", self.greeting())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the supervisor of the pod with this run directory, after a restart of the daemon.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no supervisor; [`Kind::FailedPrecondition`] if it speaks no protocol this daemon
    /// knows.
    pub async fn connect(run_dir: &Path) -> Result<Self> {
        let socket = connect(run_dir).map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Kind::NotFound,
                _ => Kind::Internal,
            };
            Error::new(
                kind,
                format!("connect to the supervisor in {}: {e}", run_dir.display()),
            )
        })?;
        Self::over(socket).await.map_err(Error::from)
    }

    /// Over a connected, non-blocking socket: waits for the supervisor's greeting.
    ///
    /// # Errors
    /// The supervisor's reason why it could not be set up, or that it went away or is silent.
    pub(super) async fn over(socket: OwnedFd) -> std::result::Result<Self, Failure> {
        let what = "greet a supervisor";
        let socket = packets::register(socket).context(what)?;
        let greeted = tokio::time::timeout(GREETING_LIMIT, greeting(&socket)).await;
        let (greeting, pidfd) = greeted.map_err(|_| {
            Failure::new(
                Kind::DeadlineExceeded,
                format!("{what}: it is silent for {GREETING_LIMIT:?}"),
            )
        })??;
        packets::send(&socket, &Message::hello(), &[])
            .await
            .context(what)?;
        let (calls, waiting) = mpsc::channel(MAX_WAITING);
        let (teller, queue) = mpsc::channel(MAX_EVENTS);
        tokio::spawn(packets::run(socket, waiting, teller));
        let late = takeover::Late::found();
        let _ = late.greeting.set(greeting.clone());
        Ok(Self::new(greeting, late, pidfd, calls, queue))
    }

    fn new(
        greeting: Greeting,
        late: takeover::Late,
        pidfd: OwnedFd,
        calls: mpsc::Sender<Box<Call>>,
        queue: mpsc::Receiver<Box<Event>>,
    ) -> Self {
        let (heard, _hearing) = watch::channel(());
        Self {
            shared: Arc::new(Shared {
                greeting,
                late: Arc::new(late),
                pidfd,
                calls,
                events: Mutex::new(Some(Events { queue, _hearing })),
                heard,
            }),
        }
    }

    /// What the supervisor said of itself. Of one that was taken over and has said nothing yet: its pod, its process id,
    /// and the least that a supervisor can.
    pub fn greeting(&self) -> &Greeting {
        let shared = &self.shared;
        shared.late.greeting.get().unwrap_or(&shared.greeting)
    }

    /// The supervisor's pidfd: readable once it is dead.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.shared.pidfd.as_fd()
    }

    /// Whether the supervisor's process lives, whatever became of the connection.
    pub fn is_alive(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.shared.pidfd, PollFlags::IN)];
        !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(n) if n > 0)
    }

    /// The events of this connection. There is one receiver, for whoever asks first; it ends with the connection.
    pub fn events(&self) -> Option<Events> {
        self.shared
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Comes back when the connection is closed: the supervisor is dead, or let a daemon go that did not read
    /// ([`Client::is_alive`] tells).
    pub async fn closed(&self) {
        self.shared.calls.closed().await;
    }

    /// Comes back when the connection is closed and whoever took its events has dropped them, for it has handled them all.
    pub async fn heard(&self) {
        self.closed().await;
        let untaken = self
            .shared
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        if !untaken {
            self.shared.heard.closed().await;
        }
    }

    async fn call(&self, op: Op, descriptors: Descriptors) -> Answer {
        let (answer, answered) = oneshot::channel();
        let call = Box::new(Call {
            op,
            descriptors,
            answer,
        });
        self.shared.calls.send(call).await.map_err(|_| self.lost())?;
        answered.await.map_err(|_| self.lost())?
    }

    fn lost(&self) -> Failure {
        let greeting = self.greeting();
        Failure::new(
            Kind::Unavailable,
            format!(
                "the connection to supervisor {} of pod {} is closed",
                greeting.pid, greeting.pod_id
            ),
        )
    }
}

fn connect(run_dir: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let (_dir, address) = supervisor::address(run_dir)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

async fn greeting(socket: &packets::Socket) -> std::result::Result<(Greeting, OwnedFd), Failure> {
    loop {
        let (message, mut descriptors) = packets::receive(socket)
            .await
            .context("receive a supervisor's greeting")?
            .ok_or_else(|| Failure::new(Kind::Unavailable, "the supervisor went away before it greeted"))?;
        if let Message::Greeting(greeting) = message {
            let greeting = greeting?;
            let pidfd = (!descriptors.is_empty()).then(|| descriptors.swap_remove(0));
            let pidfd = pidfd
                .ok_or_else(|| Failure::new(Kind::Internal, "a supervisor greeted without its pidfd"))?;
            // A supervisor may be older than this daemon, or newer after a downgrade.
            if greeting.protocol < OLDEST || greeting.oldest > PROTOCOL {
                return Err(Failure::new(
                    Kind::FailedPrecondition,
                    format!(
                        "supervisor {} of pod {} (husk {}) speaks protocols {} to {}, this daemon {OLDEST} to {PROTOCOL}: \
                         drain the pod with the version of husk that started it",
                        greeting.pid, greeting.pod_id, greeting.software, greeting.oldest, greeting.protocol
                    ),
                ));
            }
            return Ok((greeting, pidfd));
        }
    }
}
