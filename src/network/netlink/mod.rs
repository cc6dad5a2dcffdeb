//! A synchronous netlink socket: many requests in one datagram, one answer for each.
//!
//! A socket belongs to the network namespace of the thread that opened it, for its whole life. Nothing here knows pods,
//! bridges or rules; `route` and `nla` build the messages.

pub mod nla;
pub mod route;

use std::io;
use std::time::Duration;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket as RawSocket, SocketAddr};
use rustix::event::{PollFd, PollFlags, poll};

/// The request is answered with success or failure.
pub const ACK: u16 = libc::NLM_F_ACK as u16;
/// Make the object if it is not there.
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// Fail if the object is there.
pub const EXCL: u16 = libc::NLM_F_EXCL as u16;
/// Add at the end of a list.
pub const APPEND: u16 = libc::NLM_F_APPEND as u16;
/// List all objects.
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;

const HEADER: usize = 16;
/// The kernel answers at once, or after the routing lock is free; ten seconds of silence mean that it never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for one datagram from the kernel: dumps come in pieces of at most 32 KiB.
const DATAGRAM: usize = 64 << 10;
/// Bound on what one dump may bring.
const MAX_DUMP: usize = 16 << 20;

/// One netlink message, header included. The sequence number is set when it is sent.
#[derive(Debug, Clone)]
pub struct Request(Vec<u8>);

impl Request {
    /// A request of type `kind` with `flags` (`REQUEST` is added) and its payload.
    pub fn new(kind: u16, flags: u16, payload: &[u8]) -> Self {
        let length = HEADER + payload.len();
        let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
        bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(payload);
        bytes.resize(length.next_multiple_of(4), 0);
        Self(bytes)
    }

    fn wants_ack(&self) -> bool {
        u16::from_ne_bytes([self.0[6], self.0[7]]) & ACK != 0
    }

    fn set_sequence(&mut self, sequence: u32) {
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A request the kernel refused.
#[derive(Debug)]
pub struct Refused {
    /// Position of the request in its batch.
    pub index: usize,
    /// Why.
    pub error: io::Error,
    /// The kernel's own words, often empty.
    pub text: String,
}

impl Refused {
    /// The error number, 0 if there is none.
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.error)?;
        if !self.text.is_empty() {
            write!(f, " (kernel: {})", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// A netlink socket of the network namespace it was opened in.
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
}

impl Socket {
    /// Links, addresses, routes.
    pub fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// Packet filter tables.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut raw = RawSocket::new(protocol)?;
        raw.bind_auto()?;
        raw.connect(&SocketAddr::new(0, 0))?;
        // Both only shape the answers: without them errors are longer and have no words.
        let _ = raw.set_cap_ack(true);
        let _ = raw.set_ext_ack(true);
        Ok(Self { raw, sequence: 1 })
    }

    /// Sends all `requests` in one datagram and waits for the answer to each that asks for one.
    ///
    /// Returns the refusals in the order of the requests. The kernel goes on after a refusal.
    ///
    /// # Errors
    /// The socket fails or the kernel stays silent.
    pub fn batch(&mut self, mut requests: Vec<Request>) -> io::Result<Vec<Refused>> {
        let first = self.sequence;
        let mut datagram = Vec::new();
        for request in &mut requests {
            request.set_sequence(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend_from_slice(&request.0);
        }
        self.send(&datagram)?;
        let mut answered: Vec<bool> = requests.iter().map(|r| !r.wants_ack()).collect();
        let mut refused = Vec::new();
        while answered.contains(&false) {
            let mut fatal = false;
            self.receive(|message| {
                let index = message.sequence().wrapping_sub(first) as usize;
                let (Some(seen), Some((errno, text))) = (answered.get_mut(index), message.error()) else {
                    return;
                };
                // A refusal of what asked for no answer is one of the frame around a batch: nothing else will come.
                fatal |= *seen && errno != 0;
                *seen = true;
                if errno != 0 {
                    let error = io::Error::from_raw_os_error(errno);
                    refused.push(Refused { index, error, text });
                }
            })?;
            if fatal {
                break;
            }
        }
        refused.sort_by_key(|r| r.index);
        Ok(refused)
    }

    /// As [`Socket::batch`], with the first refusal as the error.
    ///
    /// # Errors
    /// Also when the kernel refuses a request.
    pub fn run(&mut self, requests: Vec<Request>) -> Result<(), Refused> {
        let refused = self.batch(requests).map_err(|error| Refused {
            index: 0,
            error,
            text: String::new(),
        })?;
        refused.into_iter().next().map_or(Ok(()), Err)
    }

    /// Sends one dump request and returns the answers, headers included.
    ///
    /// # Errors
    /// The kernel refuses, stays silent or answers without bound.
    pub fn dump(&mut self, mut request: Request) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.sequence;
        request.set_sequence(sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&request.0)?;
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut total = 0;
        let mut end = None;
        while end.is_none() {
            self.receive(|message| {
                if message.sequence() != sequence {
                    return;
                }
                if let Some((errno, _)) = message.error() {
                    end = Some(errno);
                } else if message.is_done() {
                    end = Some(0);
                } else {
                    total += message.0.len();
                    found.push(message.0.to_vec());
                }
            })?;
            if total > MAX_DUMP {
                return Err(io::Error::other("the kernel's answer has no end"));
            }
        }
        match end {
            Some(0) | None => Ok(found),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = self.raw.send(datagram, 0)?;
        if sent == datagram.len() {
            Ok(())
        } else {
            Err(io::Error::other("netlink took only a part of the message"))
        }
    }

    /// Waits for one datagram and hands out the messages in it.
    fn receive(&self, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.wait()?;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        self.raw.recv(&mut buffer, 0)?;
        let mut rest = buffer.as_slice();
        while let Some((message, after)) = Message::split(rest) {
            each(message);
            rest = after;
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let timeout = PATIENCE.try_into().map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(&self.raw, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "no answer from the kernel",
                    ));
                }
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// One message within a datagram.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = u32_at(bytes, 0)? as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((Self(&bytes[..length]), after))
    }

    fn kind(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.0[4], self.0[5]]))
    }

    fn flags(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.0[6], self.0[7]]))
    }

    fn sequence(&self) -> u32 {
        u32_at(self.0, 8).unwrap_or(0)
    }

    fn is_done(&self) -> bool {
        self.kind() == libc::NLMSG_DONE
    }

    /// Error number (0 for success) and the kernel's words, if this is an answer to a request.
    fn error(&self) -> Option<(i32, String)> {
        if self.kind() != libc::NLMSG_ERROR {
            return None;
        }
        let code = u32_at(self.0, HEADER)?.cast_signed();
        Some((code.wrapping_neg(), self.words().unwrap_or_default()))
    }

    /// The text attribute behind the echoed request (`NETLINK_EXT_ACK`).
    fn words(&self) -> Option<String> {
        const CAPPED: i32 = 0x100;
        const TLVS: i32 = 0x200;
        const TEXT: u16 = 1;
        if self.flags() & TLVS == 0 {
            return None;
        }
        let echoed = u32_at(self.0, HEADER + 4)? as usize;
        let echo = if self.flags() & CAPPED != 0 {
            HEADER
        } else {
            echoed.next_multiple_of(4)
        };
        let attributes = self.0.get(HEADER + 4 + echo..)?;
        let text = nla::find(attributes, TEXT)?;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn truncated_and_lying_messages_end_the_datagram() {
        assert!(Message::split(&[]).is_none());
        assert!(Message::split(&[1, 2, 3]).is_none());
        let mut lying = Request::new(2, 0, &[0; 4]).0;
        lying[0] = 200;
        assert!(Message::split(&lying).is_none());
        lying[0] = 4;
        assert!(Message::split(&lying).is_none());
    }

    #[test]
    fn the_kernel_names_what_it_refuses() {
        let mut socket = Socket::route().unwrap();
        let refused = socket.batch(vec![route::delete_link("husk-no-such")]).unwrap();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].errno(), libc::ENODEV);
    }
}
