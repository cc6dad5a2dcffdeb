//! Channels over a WebSocket: every message begins with the number of its channel.
//!
//! There is no flow control for a channel, only the connection's: a channel that nobody empties holds up the others, as
//! it does with other servers of this protocol.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tracing::debug;

use super::activity::{Activity, HungUp};
use super::queue::{End, Queue};
use super::socket::Socket;

/// Longest message accepted, in bytes. Kubernetes' clients send 32 KiB at most.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Longest content of a message sent.
const MAX_DATA: usize = 32 * 1024;
/// Messages that may wait to be written.
const MAX_WAITING: usize = 8;
/// How often a reader that waits for room looks whether the peer is still there.
const LOOK: Duration = Duration::from_secs(1);
/// First byte of a message that closes the channel in its second one.
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    /// Text: the channel as a digit, the content in base 64. Else binary.
    pub base64: bool,
    /// The client may close a channel (version 5).
    pub closes: bool,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Data of a channel.
    Data {
        /// Channel.
        channel: u8,
        /// Content; may be empty.
        data: Bytes,
    },
    /// The client sends nothing more on a channel.
    Close(u8),
    /// Nothing.
    Nothing,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// A close message has two bytes.
    #[error("a message that closes a channel names none, or more than one")]
    Close,
    /// Not in base 64.
    #[error("a message is not in base 64")]
    Base64,
}

impl Codec {
    /// Reads a message.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn read(self, message: &Bytes) -> Result<Incoming, MessageError> {
        let Some(&first) = message.first() else {
            return Ok(Incoming::Nothing);
        };
        if self.closes && first == CLOSE {
            return match message[1..] {
                [channel] => Ok(Incoming::Close(channel)),
                _ => Err(MessageError::Close),
            };
        }
        let content = message.slice(1..);
        if !self.base64 {
            return Ok(Incoming::Data {
                channel: first,
                data: content,
            });
        }
        let data = BASE64.decode(&content).map_err(|_| MessageError::Base64)?;
        Ok(Incoming::Data {
            channel: first.wrapping_sub(b'0'),
            data: data.into(),
        })
    }

    /// Writes a message.
    pub fn write(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            text.push(char::from(b'0'.wrapping_add(channel)));
            BASE64.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + data.len());
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(data);
        Message::binary(message.freeze())
    }
}

enum Outgoing {
    Message(Message),
    Mark(oneshot::Sender<()>),
}

/// One channel of a connection, for writing.
#[derive(Clone)]
pub struct Sender {
    out: mpsc::Sender<Outgoing>,
    codec: Codec,
    channel: u8,
}

impl Sender {
    /// Sends `data`, and waits until the connection has taken it. Nothing is sent as an empty message.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send(&self, mut data: Bytes) -> Result<(), super::spdy::Closed> {
        loop {
            let piece = data.split_to(data.len().min(MAX_DATA));
            let message = Outgoing::Message(self.codec.write(self.channel, &piece));
            self.out.send(message).await.map_err(|_| super::spdy::Closed)?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }
}

/// A connection with channels.
pub struct Channels {
    codec: Codec,
    out: mpsc::Sender<Outgoing>,
    queues: Arc<[Option<Arc<Queue>>]>,
    closed: watch::Receiver<bool>,
    tasks: [AbortHandle; 2],
}

impl Channels {
    /// Speaks over `socket`. Channels are numbered from 0; those that are `readable` queue what comes in, on others it is
    /// ignored.
    pub async fn start(socket: Socket, codec: Codec, readable: &[bool], activity: Arc<Activity>) -> Self {
        let hung_up = socket.hung_up();
        let stream = accept(socket).await;
        let (write, read) = stream.split();
        let queues: Arc<[Option<Arc<Queue>>]> = readable.iter().map(|r| r.then(Arc::default)).collect();
        let (out, outgoing) = mpsc::channel(MAX_WAITING);
        let (tell, closed) = watch::channel(false);
        let reader = Reader {
            codec,
            queues: Arc::clone(&queues),
            hung_up,
            out: out.clone(),
            activity: Arc::clone(&activity),
        };
        let broken = tell.clone();
        let tasks = [
            tokio::spawn(async move {
                reader.run(read).await;
                tell.send_replace(true);
            })
            .abort_handle(),
            tokio::spawn(async move {
                write_all(write, outgoing, activity).await;
                broken.send_replace(true);
            })
            .abort_handle(),
        ];
        Self {
            codec,
            out,
            queues,
            closed,
            tasks,
        }
    }

    /// What comes in on a readable channel.
    pub fn input(&self, channel: u8) -> Option<Arc<Queue>> {
        self.queues.get(usize::from(channel)).cloned().flatten()
    }

    /// A channel to write to.
    pub fn output(&self, channel: u8) -> Sender {
        Sender {
            out: self.out.clone(),
            codec: self.codec,
            channel,
        }
    }

    /// Knows when the client is gone.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.closed.clone()
    }

    /// Tells the client that all is said. It answers by closing.
    pub async fn close(&self) {
        // What the client still sends must not keep its answer from being read.
        for queue in self.queues.iter().flatten() {
            queue.discard();
        }
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = self
            .out
            .send(Outgoing::Message(Message::Close(Some(frame))))
            .await;
        let (tell, told) = oneshot::channel();
        if self.out.send(Outgoing::Mark(tell)).await.is_ok() {
            let _ = told.await;
        }
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The WebSocket itself, bounded.
pub async fn accept(socket: Socket) -> WebSocketStream<Socket> {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await
}

async fn write_all(
    mut sink: SplitSink<WebSocketStream<Socket>, Message>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    activity: Arc<Activity>,
) {
    while let Some(next) = outgoing.recv().await {
        match next {
            Outgoing::Message(message) => {
                if let Err(error) = sink.send(message).await {
                    return debug!(%error, "write to a WebSocket client");
                }
                activity.touch();
            }
            Outgoing::Mark(tell) => {
                let _ = tell.send(());
            }
        }
    }
}

struct Reader {
    codec: Codec,
    queues: Arc<[Option<Arc<Queue>>]>,
    hung_up: HungUp,
    out: mpsc::Sender<Outgoing>,
    activity: Arc<Activity>,
}

impl Reader {
    async fn run(&self, mut stream: SplitStream<WebSocketStream<Socket>>) {
        while let Some(message) = stream.next().await {
            self.activity.touch();
            let data = match message {
                Ok(Message::Binary(data)) => data,
                Ok(Message::Text(text)) => Bytes::from(text),
                // Pings are answered by the library; after a close it has nothing more to read.
                Ok(_) => continue,
                Err(error) => {
                    debug!(%error, "read from a WebSocket client");
                    break;
                }
            };
            if !self.take(&data).await {
                break;
            }
        }
        for queue in self.queues.iter().flatten() {
            queue.end(End::Lost);
        }
    }

    /// `false`: the client broke the protocol or is gone.
    async fn take(&self, message: &Bytes) -> bool {
        let (channel, data) = match self.codec.read(message) {
            Ok(Incoming::Data { channel, data }) => (channel, Some(data)),
            Ok(Incoming::Close(channel)) => (channel, None),
            Ok(Incoming::Nothing) => return true,
            Err(error) => {
                debug!(%error, "a WebSocket client broke the protocol");
                return false;
            }
        };
        let Some(Some(queue)) = self.queues.get(usize::from(channel)) else {
            return true;
        };
        match data {
            None => queue.end(End::Finished),
            Some(data) => {
                if !self.room(queue).await {
                    return false;
                }
                queue.push(data);
            }
        }
        true
    }

    /// Says something that needs no answer. If the client is gone, the kernel on its side says so; on our own we would never
    /// know, for its goodbye stands behind what it sent and we do not read.
    fn probe(&self) {
        if self.out.capacity() == MAX_WAITING {
            let _ = self.out.try_send(Outgoing::Message(Message::Pong(Bytes::new())));
        }
    }

    async fn room(&self, queue: &Queue) -> bool {
        loop {
            tokio::select! {
                biased;
                () = queue.room() => return true,
                () = tokio::time::sleep(LOOK) => {
                    if (self.hung_up)() {
                        return false;
                    }
                    self.probe();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
