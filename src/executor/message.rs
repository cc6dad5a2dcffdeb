//! What child and parent tell each other over the sync socket: one packet a message, a descriptor beside it at times.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::error::{During, LaunchError, Step};

/// From the child.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The first process went on as another one, whose pidfd comes along. `pid` is its id as the parent counts.
    Moved { pid: i32 },
    /// A mount that is attached nowhere comes along (see [`super::supply`]).
    Tree,
    /// The mounts are made, the root is not changed yet; the child waits.
    BeforePivot,
    /// The pty master comes along.
    Console,
    /// All is set up, and a container's first process waits at its gate.
    Ready { notes: Vec<String> },
    /// The next thing is execve: if the socket closes now, it worked.
    Executing,
    /// An OCI runtime has made a process, whose pidfd comes along.
    Process { pid: i32 },
    /// What was asked of an OCI runtime is done.
    Done,
    /// It is over.
    Failed(Box<LaunchError>),
}

/// To the child: go on. There is nothing else to say.
const GO_ON: &[u8] = b"G";

/// No message is longer. Notes and reasons are cut to fit.
const MAX_MESSAGE: usize = 64 * 1024;
const MAX_NOTES: usize = 16;
const MAX_TEXT: usize = 512;

/// One end of the sync socket.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// What the parent got.
#[derive(Debug)]
pub(super) enum Received {
    Message(Message, Option<OwnedFd>),
    Nothing,
    Closed,
}

/// A connected pair; both are closed by execve.
pub(super) fn pair() -> Step<(Channel, Channel)> {
    let (a, b) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .during("create", || "sync socket")?;
    Ok((Channel(a), Channel(b)))
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Sends a message. A parent that is gone is no error here: the child learns of it when it waits.
    pub fn send(&self, message: &Message, fd: Option<BorrowedFd<'_>>) -> Step {
        let bytes = serde_json::to_vec(message)
            .map_err(|e| LaunchError::new("encode", "message to the parent", e.to_string()))?;
        self.send_bytes(&bytes, fd)
            .during("send", || "message to the parent")
    }

    fn send_bytes(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Takes the next message without waiting.
    pub fn receive(&self) -> Step<Received> {
        let mut bytes = match self.next_length() {
            Ok(length) => vec![0u8; length.min(MAX_MESSAGE)],
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(e) => {
                return Err(LaunchError::errno(
                    "receive",
                    "message from the child",
                    e.raw_os_error(),
                ));
            }
        };
        if bytes.is_empty() {
            return Ok(Received::Closed);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
            .during("receive", || "message from the child")?;
        let fd = control.drain().find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let message = serde_json::from_slice(&bytes[..got.bytes])
            .map_err(|e| LaunchError::new("decode", "message from the child", e.to_string()))?;
        Ok(Received::Message(message, fd))
    }

    /// Takes the next message, waiting for it.
    pub fn wait(&self) -> Step<Received> {
        loop {
            match self.receive()? {
                Received::Nothing => {}
                other => return Ok(other),
            }
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(LaunchError::errno("wait", "for a message", e.raw_os_error())),
            }
        }
    }

    /// Length of the next message, 0 at the end: most are short, and the caller's memory is to stay small.
    fn next_length(&self) -> Result<usize, Errno> {
        let mut byte = [0u8; 1];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::TRUNC;
        recv(&self.0, &mut byte, flags).map(|(_, length)| length)
    }

    /// Lets the child go on.
    pub fn send_go_on(&self) -> Result<(), Errno> {
        self.send_bytes(GO_ON, None)
    }

    /// Refuses the child's going on.
    pub fn send_refusal(&self, error: &LaunchError) {
        if let Ok(bytes) = serde_json::to_vec(error) {
            let _ = self.send_bytes(&bytes, None);
        }
    }

    /// Waits until the parent, or whoever it has to ask, says to go on or why not.
    pub fn wait_permission(&self, object: &str) -> Step {
        let mut bytes = vec![0u8; MAX_MESSAGE];
        let got = loop {
            match rustix::io::read(&self.0, &mut bytes) {
                Err(Errno::INTR) => {}
                result => break result.during("wait", || object)?,
            }
        };
        match &bytes[..got] {
            GO_ON => Ok(()),
            refusal => Err(serde_json::from_slice(refusal)
                .unwrap_or_else(|_| LaunchError::new("wait", object, "the parent is gone"))),
        }
    }

    /// Waits until the parent says to go on; `false` if it is gone.
    pub fn wait_go_on(&self) -> bool {
        let mut byte = [0u8; 1];
        loop {
            match rustix::io::read(&self.0, &mut byte) {
                Ok(n) => return n == 1 && byte == GO_ON,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Cuts notes so that a message always fits its packet.
pub(super) fn bounded(mut notes: Vec<String>) -> Vec<String> {
    notes.truncate(MAX_NOTES);
    for note in &mut notes {
        cut(note);
    }
    notes
}

/// Cuts the texts of an error likewise.
pub(super) fn bounded_error(mut error: LaunchError) -> LaunchError {
    cut(&mut error.object);
    cut(&mut error.reason);
    if let Some(advice) = &mut error.advice {
        cut(advice);
    }
    error
}

/// Takes the middle out of a long text: what was tried is at its beginning, and what went wrong at its end.
fn cut(text: &mut String) {
    if text.char_indices().nth(MAX_TEXT).is_none() {
        return;
    }
    let mut places = text.char_indices().map(|(at, _)| at);
    let from = places.nth(MAX_TEXT / 2);
    let to = text.char_indices().map(|(at, _)| at).nth_back(MAX_TEXT / 2 - 1);
    if let (Some(from), Some(to)) = (from, to) {
        text.replace_range(from..to, "…");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive() {
        let (parent, child) = pair().unwrap();
        assert!(matches!(parent.receive().unwrap(), Received::Nothing));

        let ready = Message::Ready {
            notes: vec!["a".into()],
        };
        child.send(&ready, Some(child.as_fd())).unwrap();
        child.send(&Message::Executing, None).unwrap();
        let Received::Message(message, Some(_)) = parent.receive().unwrap() else {
            panic!("no descriptor came along");
        };
        assert_eq!(message, ready);
        assert!(matches!(
            parent.receive().unwrap(),
            Received::Message(Message::Executing, None)
        ));

        parent.send_go_on().unwrap();
        assert!(child.wait_go_on());
        drop(child);
        assert!(matches!(parent.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn a_child_learns_that_its_parent_is_gone() {
        let (parent, child) = pair().unwrap();
        drop(parent);
        assert!(!child.wait_go_on());
    }

    #[test]
    fn a_long_text_keeps_its_two_ends() {
        for (text, wanted) in [
            ("ä".repeat(MAX_TEXT), "ä".repeat(MAX_TEXT)),
            (
                format!("{}x{}", "a".repeat(MAX_TEXT / 2), "b".repeat(MAX_TEXT / 2)),
                format!("{}…{}", "a".repeat(MAX_TEXT / 2), "b".repeat(MAX_TEXT / 2)),
            ),
            (
                format!(
                    "{}{}{}",
                    "ä".repeat(MAX_TEXT),
                    "x".repeat(MAX_TEXT),
                    "ö".repeat(MAX_TEXT)
                ),
                format!("{}…{}", "ä".repeat(MAX_TEXT / 2), "ö".repeat(MAX_TEXT / 2)),
            ),
        ] {
            let mut short = text;
            cut(&mut short);
            assert_eq!(short, wanted);
        }
    }

    #[test]
    fn the_longest_messages_fit() {
        let (parent, child) = pair().unwrap();
        let notes = bounded(vec!["\u{1}".repeat(100_000); 1000]);
        child.send(&Message::Ready { notes }, None).unwrap();
        assert!(matches!(parent.receive().unwrap(), Received::Message(..)));
    }
}
