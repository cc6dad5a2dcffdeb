//! One plugin's socket: calls to the plugin on one logical connection, its calls to husk on the other.
//!
//! Two tasks own the two halves of the socket. Everything between is bounded: messages by the protocol, the queue out
//! and the requests in by number. What breaks the protocol closes the connection; every call then ends with the reason.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::types::error::{Error, Kind, Result};

use super::proto::ttrpc::{Request, Response, Status};
use super::ttrpc::{self, Message, MessageType, code};
use super::{mux, service};

/// Messages that wait to be written.
const OUTGOING: usize = 16;
/// Requests of the plugin that wait to be worked on; further ones wait in the socket.
const INCOMING: usize = 16;
/// How much is read at once.
const READ_BYTES: usize = 16 << 10;

/// Why a call has no answer.
#[derive(Debug)]
pub enum CallError {
    /// The plugin answered with an error.
    Refused {
        /// gRPC status code.
        code: i32,
        /// What it said.
        message: String,
    },
    /// The request cannot be sent.
    Unsendable(Error),
    /// The plugin cannot be talked to any more, or does not keep to the protocol.
    Broken(String),
}

/// A connection; cheap to clone. It is closed by [`Connection::close`] or by what the other side does.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    outgoing: mpsc::Sender<Bytes>,
    /// The next stream id. Held while a request is queued, because ids must arrive in ascending order.
    stream: tokio::sync::Mutex<u32>,
    pending: Mutex<HashMap<u32, oneshot::Sender<Response>>>,
    closed: CancellationToken,
    reason: Mutex<Option<String>>,
}

impl Connection {
    /// Takes over a socket. `requests` gets what the plugin asks; each request is answered through
    /// [`Connection::respond`].
    pub fn start(stream: UnixStream) -> (Self, mpsc::Receiver<(u32, Request)>) {
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let (requests, incoming) = mpsc::channel(INCOMING);
        let connection = Self {
            shared: Arc::new(Shared {
                outgoing,
                stream: tokio::sync::Mutex::new(1),
                pending: Mutex::default(),
                closed: CancellationToken::new(),
                reason: Mutex::default(),
            }),
        };
        let (input, output) = stream.into_split();
        tokio::spawn(write(connection.clone(), output, queue));
        tokio::spawn(read(connection.clone(), input, requests));
        (connection, incoming)
    }

    /// Calls a method of the plugin's service.
    ///
    /// # Errors
    /// See [`CallError`]; a call that takes longer than `limit` is `Broken`, for its answer may come at any time.
    pub async fn call<A: prost::Message, B: prost::Message + Default>(
        &self,
        method: &str,
        request: &A,
        limit: Duration,
    ) -> Result<B, CallError> {
        let envelope = Request {
            service: service::PLUGIN.into(),
            method: method.into(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        };
        let exchange = self.exchange(&envelope);
        let response = tokio::select! {
            answer = tokio::time::timeout(limit, exchange) => match answer {
                Ok(answer) => answer?,
                Err(_) => return Err(CallError::Broken(format!("no answer to {method} within {limit:?}"))),
            },
            () = self.shared.closed.cancelled() => return Err(CallError::Broken(self.reason())),
        };
        match response.status {
            Some(Status { code, message }) if code == code::DEADLINE_EXCEEDED => Err(CallError::Broken(
                format!("{method} took it longer than {limit:?}: {message}"),
            )),
            Some(Status { code, message }) if code != code::OK => Err(CallError::Refused { code, message }),
            _ => B::decode(response.payload.as_slice())
                .map_err(|e| CallError::Broken(format!("its answer to {method} cannot be decoded: {e}"))),
        }
    }

    async fn exchange(&self, envelope: &Request) -> Result<Response, CallError> {
        let (answer, answered) = oneshot::channel();
        let pending = {
            let mut next = self.shared.stream.lock().await;
            let stream = *next;
            *next = stream
                .checked_add(2)
                .ok_or_else(|| CallError::Broken("stream ids are used up".into()))?;
            let message =
                ttrpc::encode(stream, MessageType::Request, envelope).map_err(CallError::Unsendable)?;
            let pending = Pending::new(&self.shared, stream, answer);
            self.send(mux::PLUGIN_SERVICE, &message)
                .await
                .map_err(|e| CallError::Broken(e.to_string()))?;
            pending
        };
        let response = answered.await.map_err(|_| CallError::Broken(self.reason()));
        drop(pending);
        response
    }

    /// Answers a request of the plugin.
    pub async fn respond(&self, stream: u32, outcome: Result<Vec<u8>, Status>) {
        let response = match outcome {
            Ok(payload) => Response {
                status: None,
                payload,
            },
            Err(status) => Response {
                status: Some(status),
                payload: Vec::new(),
            },
        };
        match ttrpc::encode(stream, MessageType::Response, &response) {
            // A closed connection needs no answer.
            Ok(message) => drop(self.send(mux::RUNTIME_SERVICE, &message).await),
            Err(e) => self.close(e.message()),
        }
    }

    async fn send(&self, connection: u32, message: &[u8]) -> Result<()> {
        let mut bytes = BytesMut::new();
        mux::put_message(connection, message, &mut bytes);
        tokio::select! {
            sent = self.shared.outgoing.send(bytes.freeze()) => sent.map_err(|_| self.gone()),
            () = self.shared.closed.cancelled() => Err(self.gone()),
        }
    }

    fn gone(&self) -> Error {
        Error::new(Kind::Unavailable, self.reason())
    }

    /// Closes the connection, if it is open, for this reason.
    pub fn close(&self, reason: &str) {
        locked(&self.shared.reason).get_or_insert_with(|| reason.to_owned());
        self.shared.closed.cancel();
        locked(&self.shared.pending).clear();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// Why it was closed.
    pub fn reason(&self) -> String {
        locked(&self.shared.reason)
            .clone()
            .unwrap_or_else(|| "the connection is closed".into())
    }

    fn deliver(&self, message: Message) -> Result<()> {
        // An answer that nobody waits for any more is late, not wrong.
        let Some(waiter) = locked(&self.shared.pending).remove(&message.stream) else {
            return Ok(());
        };
        let response = Response::decode(message.data)
            .map_err(|e| Error::invalid(format!("response on stream {}: {e}", message.stream)))?;
        let _ = waiter.send(response);
        Ok(())
    }
}

/// Forgets a call when its caller does.
struct Pending<'a> {
    shared: &'a Shared,
    stream: u32,
}

impl<'a> Pending<'a> {
    fn new(shared: &'a Shared, stream: u32, waiter: oneshot::Sender<Response>) -> Self {
        locked(&shared.pending).insert(stream, waiter);
        Self { shared, stream }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        locked(&self.shared.pending).remove(&self.stream);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(connection: Connection, mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Bytes>) {
    loop {
        // What is queued goes first: an answer that says why the connection is closed should arrive.
        let bytes = tokio::select! {
            biased;
            next = queue.recv() => match next {
                Some(bytes) => bytes,
                None => return,
            },
            () = connection.closed() => return,
        };
        let written = tokio::select! {
            biased;
            written = socket.write_all(&bytes) => written,
            () = connection.closed() => return,
        };
        if let Err(e) = written {
            connection.close(&format!("write to the plugin: {e}"));
        }
    }
}

async fn read(connection: Connection, socket: OwnedReadHalf, requests: mpsc::Sender<(u32, Request)>) {
    let reason = tokio::select! {
        ended = receive(&connection, socket, requests) => match ended {
            Ok(()) => "the plugin closed the connection".to_owned(),
            Err(e) => e.message().to_owned(),
        },
        () = connection.closed() => return,
    };
    connection.close(&reason);
}

/// Reads until the other side closes. Each logical connection has its own unfinished message.
async fn receive(
    connection: &Connection,
    mut socket: OwnedReadHalf,
    requests: mpsc::Sender<(u32, Request)>,
) -> Result<()> {
    let mut raw = BytesMut::new();
    let (mut answers, mut asked) = (BytesMut::new(), BytesMut::new());
    loop {
        raw.reserve(READ_BYTES);
        let count = socket
            .read_buf(&mut raw)
            .await
            .map_err(|e| Error::new(Kind::Unavailable, format!("read from the plugin: {e}")))?;
        if count == 0 {
            return Ok(());
        }
        while let Some(frame) = mux::take_frame(&mut raw)? {
            match frame.connection {
                mux::PLUGIN_SERVICE => {
                    answers.extend_from_slice(&frame.payload);
                    while let Some(message) = ttrpc::take_message(&mut answers)? {
                        if message.kind == MessageType::Response {
                            connection.deliver(message)?;
                        }
                    }
                }
                mux::RUNTIME_SERVICE => {
                    asked.extend_from_slice(&frame.payload);
                    while let Some(message) = ttrpc::take_message(&mut asked)? {
                        if message.kind == MessageType::Request {
                            let request = Request::decode(message.data)
                                .map_err(|e| Error::invalid(format!("ttrpc request: {e}")))?;
                            // Nobody works on them: the plugin is being let go.
                            let _ = requests.send((message.stream, request)).await;
                        }
                    }
                }
                // Connections that later versions may add.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::nri::proto::{Empty, RegisterPluginRequest};

    const LONG: Duration = Duration::from_secs(60);

    /// The plugin's end, by hand.
    struct Peer(UnixStream, BytesMut);

    impl Peer {
        async fn next(&mut self) -> (u32, Message) {
            let mut message = BytesMut::new();
            loop {
                while let Some(frame) = mux::take_frame(&mut self.1).unwrap() {
                    message.extend_from_slice(&frame.payload);
                    if let Some(message) = ttrpc::take_message(&mut message).unwrap() {
                        return (frame.connection, message);
                    }
                }
                assert!(self.0.read_buf(&mut self.1).await.unwrap() > 0);
            }
        }

        async fn send(
            &mut self,
            connection: u32,
            stream: u32,
            kind: MessageType,
            message: &impl prost::Message,
        ) {
            let mut out = BytesMut::new();
            mux::put_message(
                connection,
                &ttrpc::encode(stream, kind, message).unwrap(),
                &mut out,
            );
            self.0.write_all(&out).await.unwrap();
        }
    }

    fn pair() -> (Connection, mpsc::Receiver<(u32, Request)>, Peer) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (connection, requests) = Connection::start(ours);
        (connection, requests, Peer(theirs, BytesMut::new()))
    }

    fn answer(name: &str) -> Response {
        Response {
            status: None,
            payload: RegisterPluginRequest {
                plugin_name: name.into(),
                ..Default::default()
            }
            .encode_to_vec(),
        }
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order() {
        let (connection, _requests, mut peer) = pair();
        let call = |method: &'static str| {
            let connection = connection.clone();
            tokio::spawn(async move {
                connection
                    .call::<_, RegisterPluginRequest>(method, &Empty {}, LONG)
                    .await
                    .unwrap()
                    .plugin_name
            })
        };
        let first = call("One");
        let (id, one) = peer.next().await;
        let second = call("Two");
        let (_, two) = peer.next().await;
        assert_eq!((id, one.stream, two.stream), (mux::PLUGIN_SERVICE, 1, 3));
        assert_eq!(Request::decode(one.data).unwrap().method, "One");
        peer.send(1, 3, MessageType::Response, &answer("two")).await;
        peer.send(1, 1, MessageType::Response, &answer("one")).await;
        assert_eq!(
            (first.await.unwrap(), second.await.unwrap()),
            ("one".into(), "two".into())
        );
    }

    #[tokio::test]
    async fn an_error_of_the_plugin_is_told_apart_from_a_broken_one() {
        let (connection, _requests, mut peer) = pair();
        let other = connection.clone();
        let call = tokio::spawn(async move { other.call::<_, Empty>("M", &Empty {}, LONG).await });
        peer.next().await;
        let refusal = Response {
            status: Some(Status {
                code: 2,
                message: "no".into(),
            }),
            payload: Vec::new(),
        };
        peer.send(1, 1, MessageType::Response, &refusal).await;
        assert!(
            matches!(call.await.unwrap(), Err(CallError::Refused { code: 2, message }) if message == "no")
        );

        let other = connection.clone();
        let call = tokio::spawn(async move { other.call::<_, Empty>("M", &Empty {}, LONG).await });
        peer.next().await;
        drop(peer);
        assert!(matches!(call.await.unwrap(), Err(CallError::Broken(_))));
        assert!(connection.is_closed());
    }

    #[tokio::test]
    async fn a_call_without_an_answer_ends() {
        let (connection, _requests, _peer) = pair();
        let call = connection.call::<_, Empty>("M", &Empty {}, Duration::from_millis(1));
        assert!(matches!(call.await, Err(CallError::Broken(why)) if why.contains("no answer to M")));
        assert!(locked(&connection.shared.pending).is_empty());
    }

    #[tokio::test]
    async fn requests_of_the_plugin_are_answered_on_their_connection() {
        let (connection, mut requests, mut peer) = pair();
        let request = Request {
            method: "RegisterPlugin".into(),
            ..Default::default()
        };
        peer.send(2, 1, MessageType::Request, &request).await;
        let (stream, got) = requests.recv().await.unwrap();
        assert_eq!((stream, got.method.as_str()), (1, "RegisterPlugin"));
        connection.respond(stream, Ok(vec![1])).await;
        let (id, message) = peer.next().await;
        assert_eq!((id, message.kind), (mux::RUNTIME_SERVICE, MessageType::Response));
        assert_eq!(Response::decode(message.data).unwrap().payload, [1]);
    }

    #[tokio::test]
    async fn garbage_closes_the_connection_and_says_why() {
        let (connection, _requests, mut peer) = pair();
        peer.0.write_all(&[0xff; 64]).await.unwrap();
        connection.closed().await;
        assert!(
            connection.reason().contains("NRI frame"),
            "{}",
            connection.reason()
        );
    }
}
