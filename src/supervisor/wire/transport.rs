//! Packets and descriptors on a socket.
//!
//! The socket's buffer bounds a datagram, so a packet above [`INLINE`] bytes goes into a sealed memory file whose
//! descriptor travels last. The receiver asks for a datagram's length first and allocates just that: an idle connection
//! holds no buffer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message as _;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::proto::{Large, Packet, packet};
use super::{Descriptors, Message};

/// Most descriptors beside one packet, the memory file of a large packet included.
pub const MAX_DESCRIPTORS: usize = 8;
/// Longest packet sent as a datagram, in bytes.
const INLINE: usize = 64 * 1024;
/// Longest packet taken at all, in bytes: a launch plan of a container with thousands of mounts is far below.
const LARGEST: usize = 8 * 1024 * 1024;

/// What came.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // It lives on the stack for a moment; a box would be one allocation more for each packet.
pub enum Received {
    /// A packet.
    Message(Message, Descriptors),
    /// The other side closed.
    Closed,
}

/// A fresh connection: two ends, close-on-exec and non-blocking.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Sends a packet's bytes as made by [`Message::encode`] with descriptors beside it: whole or not at all.
///
/// # Errors
/// `WouldBlock` if the socket is non-blocking and full, `BrokenPipe` if nobody listens any more, `InvalidInput` if the
/// other side would not take so long a packet; the connection is as good as before then.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.len() <= INLINE {
        return send_datagram(socket.as_fd(), bytes, descriptors);
    }
    if bytes.len() > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("packet of {} bytes; the limit is {LARGEST}", bytes.len()),
        ));
    }
    let file = memory_file(bytes)?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let stub = Packet {
        body: Some(packet::Body::Large(Large { length })),
    }
    .encode_to_vec();
    let mut all = descriptors.to_vec();
    all.push(file.as_fd());
    send_datagram(socket.as_fd(), &stub, &all)
}

fn send_datagram(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other(format!(
            "more than {MAX_DESCRIPTORS} descriptors beside a packet"
        )));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A file of `bytes` that nobody can change or truncate any more: safe to read without trusting the sender's patience.
fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("husk-packet", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::pwrite(&file, &bytes[at..], at as u64)?;
    }
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file)
}

/// Takes one packet off the socket.
///
/// # Errors
/// `WouldBlock` if there is none and the socket is non-blocking; `InvalidData` if what came is not a packet: the
/// connection is of no use any more.
pub fn receive(socket: impl AsFd) -> io::Result<Received> {
    let socket = socket.as_fd();
    let length = match next_length(socket) {
        Ok(0) | Err(Errno::CONNRESET) => return Ok(Received::Closed),
        length => length?,
    };
    let (bytes, mut descriptors) = receive_datagram(socket, length)?;
    let packet = Packet::decode(bytes.as_slice()).map_err(|e| bad(format!("decode packet: {e}")))?;
    let Some(packet::Body::Large(Large { length })) = packet.body else {
        return Ok(Received::Message(
            super::decode::packet(packet).map_err(bad)?,
            descriptors,
        ));
    };
    drop(bytes);
    let file = descriptors
        .pop()
        .ok_or_else(|| bad("large packet without its file"))?;
    let message = Message::decode(&read_memory_file(&file, length)?).map_err(bad)?;
    Ok(Received::Message(message, descriptors))
}

fn next_length(socket: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut nothing = [0u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
    rustix::net::recv(socket, nothing.as_mut_slice(), flags).map(|(_, length)| length)
}

fn receive_datagram(socket: BorrowedFd<'_>, length: usize) -> io::Result<(Vec<u8>, Descriptors)> {
    let mut bytes = vec![0u8; length.min(2 * INLINE)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    bytes.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    Ok((bytes, descriptors))
}

fn read_memory_file(file: &OwnedFd, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= LARGEST)
        .ok_or_else(|| bad(format!("packet of {length} bytes; the limit is {LARGEST}")))?;
    let mut bytes = vec![0u8; length];
    let mut at = 0;
    while at < length {
        match rustix::io::pread(file, &mut bytes[at..], at as u64)? {
            0 => return Err(bad("large packet is shorter than announced")),
            n => at += n,
        }
    }
    Ok(bytes)
}

fn bad(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
