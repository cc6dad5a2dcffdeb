//! Taking over a supervisor of an earlier daemon, which need not be quick to answer.
//!
//! It is one thread, and a log on a server that does not answer holds it up. It is no less alive for that, and its
//! containers run: so a [`Client`] is made of it as soon as somebody listens, and its greeting is waited for afterwards,
//! for as long as it takes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::mpsc;

use crate::supervisor::protocol::{Event, Failure, Greeting, OLDEST};
use crate::supervisor::wire::Message;
use crate::types::error::Context as _;
use crate::types::{Error, Kind, PodId, Result};

use super::{Call, Client, MAX_EVENTS, MAX_WAITING, connect, greeting, packets};

/// Pause between two attempts to connect to a supervisor whose queue of connections is full.
const RETRY: Duration = Duration::from_secs(1);

/// What is found out of a supervisor once there is a client of it.
pub(super) struct Late {
    /// What it said of itself.
    pub greeting: OnceLock<Greeting>,
    /// Somebody listens on the socket of the process that the client holds, which is thereby the supervisor.
    proven: AtomicBool,
}

impl Late {
    /// Of a supervisor that is known by its own word.
    pub fn found() -> Self {
        Self {
            greeting: OnceLock::new(),
            proven: AtomicBool::new(true),
        }
    }

    /// Whether the process that the client holds is known to be the supervisor.
    pub fn proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

impl Client {
    /// A connection to the supervisor of `pod` that an earlier daemon knew as process `pid`, without a wait for its
    /// greeting. Requests wait until it greets.
    ///
    /// Needs a runtime around it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no supervisor any more; anything else says nothing about it.
    pub fn take_over(run_dir: &Path, pod: &PodId, pid: i32) -> Result<Self> {
        let what = || format!("take over supervisor {pid} in {}", run_dir.display());
        let failed = |e: Errno, kind| Error::new(kind, format!("{}: {e}", what()));
        let gone = || Error::not_found(format!("{}: it is gone", what()));
        // Before the socket: if somebody listens there now, the number has not been given to another process yet.
        let pidfd = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(pidfd)) => pidfd,
            None | Some(Err(Errno::SRCH)) => return Err(gone()),
            Some(Err(e)) => return Err(failed(e, Kind::Unavailable)),
        };
        let (socket, proven) = match connect(run_dir) {
            Ok(socket) => (Some(socket), true),
            Err(e) if is_absence(e) => return Err(gone()),
            // Its queue of connections is full, as of one that has accepted none for long.
            Err(Errno::AGAIN) => (None, true),
            Err(e) => {
                tracing::warn!(%pod, "{}: {e}; trying again", what());
                (None, false)
            }
        };
        let assumed = Greeting {
            protocol: OLDEST,
            oldest: OLDEST,
            software: String::new(),
            pod_id: pod.clone(),
            pid,
            pidns_init_pid: None,
            shm_fd: None,
            userns_fd: None,
        };
        let late = Late {
            greeting: OnceLock::new(),
            proven: AtomicBool::new(proven),
        };
        let (calls, waiting) = mpsc::channel(MAX_WAITING);
        let (teller, events) = mpsc::channel(MAX_EVENTS);
        let client = Self::new(assumed, late, pidfd, calls, events);
        let late = Arc::clone(&client.shared.late);
        let (dir, pod) = (run_dir.to_owned(), pod.clone());
        tokio::spawn(async move {
            if let Err(failure) = follow(dir, socket, &late, waiting, teller).await {
                tracing::warn!(%pod, pid, error = %failure.error, "supervisor cannot be talked to");
            }
        });
        Ok(client)
    }

    /// Whether the supervisor has said anything yet.
    pub fn has_greeted(&self) -> bool {
        self.shared.late.greeting.get().is_some()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.shared.calls.is_closed()
    }
}

fn is_absence(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::CONNREFUSED)
}

/// Waits for the greeting, then serves the connection to its end. The end of the channels tells of any failure.
async fn follow(
    dir: PathBuf,
    mut socket: Option<OwnedFd>,
    late: &Late,
    calls: mpsc::Receiver<Box<Call>>,
    events: mpsc::Sender<Box<Event>>,
) -> std::result::Result<(), Failure> {
    let what = "greet a supervisor";
    let socket = loop {
        if let Some(socket) = socket.take() {
            break socket;
        }
        if calls.is_closed() {
            return Ok(());
        }
        tokio::time::sleep(RETRY).await;
        match connect(&dir) {
            Ok(connected) => socket = Some(connected),
            Err(e) if is_absence(e) => return Ok(()),
            Err(_) => {}
        }
    };
    late.proven.store(true, Ordering::Relaxed);
    let socket = packets::register(socket).context(what)?;
    let (greeting, _) = greeting(&socket).await?;
    packets::send(&socket, &Message::hello(), &[])
        .await
        .context(what)?;
    let _ = late.greeting.set(greeting);
    packets::run(socket, calls, events).await;
    Ok(())
}
