//! The task behind a client: one per connection, woken by requests and packets only. It holds no buffers while idle.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::supervisor::protocol::{Event, Failure};
use crate::supervisor::wire::{self, Descriptors, Message, Received};
use crate::types::Kind;

use super::{Answer, Call};

/// Registers a non-blocking socket with the runtime. The runtime knows no sequential-packet sockets; as only readiness is
/// asked of this type and no byte goes through it, its stream type serves.
///
/// # Errors
/// If the runtime is out of descriptors.
pub fn register(socket: OwnedFd) -> io::Result<Socket> {
    UnixStream::from_std(socket.into())
}

/// A socket that the runtime waits for.
pub type Socket = UnixStream;

/// Runs until the supervisor closes, misbehaves, or the last client is gone. Requests without an answer by then are
/// failed by the drop of their senders.
pub async fn run(socket: Socket, mut calls: mpsc::Receiver<Box<Call>>, events: mpsc::Sender<Box<Event>>) {
    let mut waiting: HashMap<u64, oneshot::Sender<Answer>> = HashMap::new();
    let mut next = 0u64;
    loop {
        tokio::select! {
            call = calls.recv() => {
                let Some(call) = call else { return };
                next += 1;
                if let Err(e) = request(&socket, next, call, &mut waiting).await {
                    return tracing::debug!("send to a supervisor: {e}");
                }
            }
            received = receive(&socket) => match received {
                Ok(Some((message, descriptors))) => {
                    if !dispatch(message, descriptors, &mut waiting, &events) {
                        return tracing::warn!("too many events of a supervisor wait to be handled: closing");
                    }
                }
                Ok(None) => return,
                Err(e) => return tracing::debug!("receive from a supervisor: {e}"),
            }
        }
    }
}

async fn request(
    socket: &Socket,
    id: u64,
    call: Box<Call>,
    waiting: &mut HashMap<u64, oneshot::Sender<Answer>>,
) -> io::Result<()> {
    let Call {
        op,
        descriptors,
        answer,
    } = *call;
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
    match send(socket, &Message::Request(id, Ok(op)), &borrowed).await {
        // The request is at fault, not the connection, on which the whole pod depends.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let what =
                format!("send the request to the supervisor: {e}: ask for fewer mounts or shorter arguments");
            let _ = answer.send(Err(Failure::new(Kind::InvalidArgument, what)));
            Ok(())
        }
        sent => {
            waiting.insert(id, answer);
            sent
        }
    }
}

fn dispatch(
    message: Message,
    descriptors: Descriptors,
    waiting: &mut HashMap<u64, oneshot::Sender<Answer>>,
    events: &mpsc::Sender<Box<Event>>,
) -> bool {
    match message {
        Message::Response(id, result) => {
            if let Some(answer) = waiting.remove(&id) {
                // Whoever asked may have stopped waiting; what was done is done.
                let _ = answer.send(result.map(|reply| (reply, descriptors)));
            }
            true
        }
        Message::Event(Some(event)) => !matches!(
            events.try_send(Box::new(event)),
            Err(mpsc::error::TrySendError::Full(_))
        ),
        _ => true,
    }
}

/// Sends one packet.
///
/// # Errors
/// If the other side is gone.
pub async fn send(socket: &Socket, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = message.encode();
    socket
        .async_io(Interest::WRITABLE, || wire::send(socket, &bytes, descriptors))
        .await
}

/// Receives one packet; `None` if the other side closed.
///
/// # Errors
/// If what came is no packet.
pub async fn receive(socket: &Socket) -> io::Result<Option<(Message, Descriptors)>> {
    match socket
        .async_io(Interest::READABLE, || wire::receive(socket))
        .await?
    {
        Received::Message(message, descriptors) => Ok(Some((message, descriptors))),
        Received::Closed => Ok(None),
    }
}
