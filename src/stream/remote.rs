//! The client of an exec or attach: its channels, whatever they travel over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::queue::{End, Queue};
use super::spdy::{self, Closed};
use super::status::{Format, Outcome};
use super::websocket::{self, Channels};
use crate::pod::interactive::Streams;
use crate::types::error::{Error, Kind, Result};

/// How long a client may take to close the connection once all is said. It may be a slow reader with a good deal of output
/// still on its way; if we closed first, whatever it still sends would make the kernel throw that output away.
pub(super) const LINGER: Duration = Duration::from_secs(15 * 60);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// The protocol of an exec or attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// How the outcome is told.
    pub format: Format,
    /// There is a channel for terminal sizes.
    pub resizes: bool,
}

/// A channel from the client.
pub enum Input {
    /// A SPDY stream.
    Stream(Arc<spdy::Stream>),
    /// A WebSocket channel.
    Channel(Arc<Queue>),
}

impl Input {
    /// What comes next. Cancel safe.
    ///
    /// # Errors
    /// Nothing comes any more.
    pub async fn recv(&self) -> Result<Bytes, End> {
        match self {
            Self::Stream(stream) => stream.recv().await,
            Self::Channel(queue) => queue.pop().await,
        }
    }

    /// Throws away what the client has sent and will send.
    pub fn discard(&self) {
        match self {
            Self::Stream(stream) => stream.discard(),
            Self::Channel(queue) => {
                queue.discard();
            }
        }
    }
}

/// A channel to the client.
pub enum Output {
    /// A SPDY stream.
    Stream(Arc<spdy::Stream>),
    /// A WebSocket channel.
    Channel(websocket::Sender),
}

impl Output {
    /// Sends `data`, and waits until the connection has taken it.
    ///
    /// # Errors
    /// The client does not want it.
    pub async fn send(&self, data: Bytes) -> Result<(), Closed> {
        match self {
            Self::Stream(stream) => stream.send(data).await,
            Self::Channel(sender) => sender.send(data).await,
        }
    }

    /// Tells the client that nothing more comes, where the protocol has words for that.
    pub async fn finish(&self) {
        if let Self::Stream(stream) = self {
            stream.finish().await;
        }
    }

    /// Tells the client that something went wrong, where the protocol has words for that.
    pub async fn reset(&self) {
        if let Self::Stream(stream) = self {
            stream.reset().await;
        }
    }
}

enum Link {
    Spdy(spdy::Connection),
    WebSocket(Channels),
}

/// A client with all its channels open.
pub struct Remote {
    /// Its input.
    pub stdin: Option<Input>,
    /// Where output goes.
    pub stdout: Option<Output>,
    /// Where error output goes.
    pub stderr: Option<Output>,
    /// Sizes of its terminal.
    pub resize: Option<Input>,
    error: Output,
    format: Format,
    closed: watch::Receiver<bool>,
    link: Link,
}

impl Remote {
    /// Waits until a client has opened what `want` lets it, `limit` at most.
    ///
    /// # Errors
    /// It does not, or goes away.
    pub async fn over_spdy(
        mut connection: spdy::Connection,
        want: Streams,
        version: Version,
        limit: Duration,
    ) -> Result<Self> {
        let mut opened = Opened::default();
        let wait = async {
            while !opened.complete(want, version) {
                let Some(stream) = connection.accept().await else {
                    return Err(Error::new(
                        Kind::Cancelled,
                        "the client went away before it opened its streams",
                    ));
                };
                opened.add(stream);
            }
            Ok(())
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(done) => done?,
            Err(_) => {
                return Err(Error::new(
                    Kind::DeadlineExceeded,
                    format!("the client did not open its streams within {} s", limit.as_secs()),
                ));
            }
        }
        let error = opened
            .error
            .ok_or_else(|| Error::internal("the client opened no error stream"))?;
        Ok(Self {
            stdin: opened.stdin.map(Arc::new).map(Input::Stream),
            stdout: opened.stdout.map(Arc::new).map(Output::Stream),
            stderr: opened.stderr.map(Arc::new).map(Output::Stream),
            resize: opened.resize.map(Arc::new).map(Input::Stream),
            error: Output::Stream(Arc::new(error)),
            format: version.format,
            closed: connection.watch(),
            link: Link::Spdy(connection),
        })
    }

    /// Which channels of a WebSocket the client may write to.
    pub fn readable(want: Streams) -> [bool; 5] {
        [want.stdin, false, false, false, want.tty]
    }

    /// Over a WebSocket all channels are there from the start; the client is told that we are, too.
    pub async fn over_websocket(channels: Channels, want: Streams, version: Version) -> Self {
        let greeting = match (want.stdout, want.stderr) {
            (true, _) => STDOUT,
            (false, true) => STDERR,
            (false, false) => ERROR,
        };
        // If it is gone already, that shows soon enough.
        let _ = channels.output(greeting).send(Bytes::new()).await;
        let output = |wanted: bool, channel| wanted.then(|| Output::Channel(channels.output(channel)));
        Self {
            stdin: channels.input(STDIN).map(Input::Channel),
            stdout: output(want.stdout, STDOUT),
            stderr: output(want.stderr, STDERR),
            resize: channels.input(RESIZE).map(Input::Channel),
            error: Output::Channel(channels.output(ERROR)),
            format: version.format,
            closed: channels.watch(),
            link: Link::WebSocket(channels),
        }
    }

    /// Comes back when the client is gone, or does not want to know the outcome any more. Cancel safe.
    pub async fn lost(&self) {
        let mut closed = self.closed.clone();
        let error_reset = async {
            let Output::Stream(stream) = &self.error else {
                return std::future::pending().await;
            };
            loop {
                match stream.recv().await {
                    Ok(_nonsense) => {}
                    // A client says at once that it will send nothing here.
                    Err(End::Finished) => return std::future::pending().await,
                    Err(End::Reset | End::Lost) => return,
                }
            }
        };
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => {}
            () = error_reset => {}
        }
    }

    /// Tells the client how it ended, and gives it time to take in all that was said. Output has to be finished before.
    pub async fn conclude(mut self, outcome: &Outcome) {
        let status = outcome.encode(self.format);
        if !status.is_empty() {
            let _ = self.error.send(status).await;
        }
        // Clients wait for the ends of all outputs, also of those that had nothing to do with a session that failed.
        for output in [&self.stdout, &self.stderr].into_iter().flatten() {
            output.finish().await;
        }
        self.error.finish().await;
        // A client may wait for this to stop reading its own input.
        (self.stdin, self.resize) = (None, None);
        let mut closed = self.closed.clone();
        let closing = async {
            match &self.link {
                Link::Spdy(connection) => connection.flush().await,
                Link::WebSocket(channels) => channels.close().await,
            }
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let _ = tokio::time::timeout(LINGER, closing).await;
    }
}

/// Streams by what they are for.
#[derive(Default)]
struct Opened {
    error: Option<spdy::Stream>,
    stdin: Option<spdy::Stream>,
    stdout: Option<spdy::Stream>,
    stderr: Option<spdy::Stream>,
    resize: Option<spdy::Stream>,
}

impl Opened {
    /// Takes a stream, or refuses it by dropping it.
    fn add(&mut self, stream: spdy::Stream) {
        let place = match stream.headers().get("streamtype") {
            Some("error") => &mut self.error,
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("resize") => &mut self.resize,
            _ => return,
        };
        if place.is_none() {
            stream.accept();
            *place = Some(stream);
        }
    }

    fn complete(&self, want: Streams, version: Version) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !want.stdin)
            && (self.stdout.is_some() || !want.stdout)
            && (self.stderr.is_some() || !want.stderr)
            && (self.resize.is_some() || !(want.tty && version.resizes))
    }
}
