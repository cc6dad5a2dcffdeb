//! One connection of a daemon: packets in, a bounded queue of packets out.
//!
//! A daemon that does not read loses its connection, never the supervisor its memory: it can come back and ask for the
//! state, which holds whatever the lost events said.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::poll::{Interest, Watched};
use super::wire::{self, Descriptors, Message, Received};

/// Most packets waiting to be sent.
const MAX_QUEUED: usize = 1024;
/// Most bytes waiting to be sent.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: Watched,
    queue: VecDeque<(Vec<u8>, Descriptors)>,
    queued_bytes: usize,
    interest: Interest,
    broken: bool,
}

impl Connection {
    /// Over a non-blocking socket that is watched for reading.
    pub fn new(socket: Watched) -> Self {
        Self {
            socket,
            queue: VecDeque::new(),
            queued_bytes: 0,
            interest: Interest::Read,
            broken: false,
        }
    }

    /// The other side is gone, misbehaved or too slow: drop the connection.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Sends or queues a packet. Failure shows in [`Connection::is_broken`].
    pub fn send(&mut self, message: &Message, descriptors: Descriptors) {
        let bytes = message.encode();
        if self.queue.len() >= MAX_QUEUED || self.queued_bytes + bytes.len() > MAX_QUEUED_BYTES {
            eprintln!(
                "a daemon does not read its {} packets: closing its connection",
                self.queue.len()
            );
            self.broken = true;
            return;
        }
        self.queued_bytes += bytes.len();
        self.queue.push_back((bytes, descriptors));
        self.flush();
    }

    /// Sends what is queued, as far as the socket takes it.
    pub fn flush(&mut self) {
        let was_waiting = self.queue.len() > 1;
        while let Some((bytes, descriptors)) = self.queue.front() {
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
            match wire::send(&self.socket, bytes, &borrowed) {
                Ok(()) => {
                    self.queued_bytes -= bytes.len();
                    self.queue.pop_front();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for(Interest::ReadWrite);
                    return;
                }
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
        if was_waiting {
            self.queue = VecDeque::new();
        }
        self.wait_for(Interest::Read);
    }

    fn wait_for(&mut self, interest: Interest) {
        if self.interest == interest {
            return;
        }
        self.interest = interest;
        self.broken |= self.socket.set_interest(interest).is_err();
    }

    /// The next packet; `None` if there is none now.
    pub fn receive(&mut self) -> Option<(Message, Descriptors)> {
        match wire::receive(&self.socket) {
            Ok(Received::Message(message, descriptors)) => return Some((message, descriptors)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                eprintln!("a connection is of no use any more: {e}");
                self.broken = true;
            }
            Ok(Received::Closed) => self.broken = true,
        }
        None
    }
}
