//! How the protocol travels: protobuf packets over SOCK_SEQPACKET with descriptors beside them.
//!
//! Owns the generated types and the conversion from and to [`super::protocol`]; nobody else sees the former.
//! Used by both ends, so it must not know an event loop: sockets may be blocking or not.

mod decode;
mod encode;
mod transport;

#[cfg(test)]
mod tests;

/// Generated from `proto/husk/supervisor/v1.proto`.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub(super) mod proto {
    include!(concat!(env!("OUT_DIR"), "/husk.supervisor.v1.rs"));
}

use std::os::fd::OwnedFd;

use crate::types::Error;

use super::protocol::{Event, Failure, Greeting, Op, Reply};

pub use transport::{MAX_DESCRIPTORS, Received, pair, receive, send};

/// One packet, decoded.
#[derive(Debug)]
pub enum Message {
    /// The daemon or the template greets.
    Hello {
        /// Highest protocol number the other side speaks.
        protocol: u32,
        /// Lowest protocol number the other side still speaks.
        oldest: u32,
    },
    /// A supervisor greets, or says why it could not be set up.
    Greeting(Result<Greeting, Failure>),
    /// An operation. `Err` if it is not understood: answer with that.
    Request(u64, Result<Op, Failure>),
    /// An answer.
    Response(u64, Result<Reply, Failure>),
    /// An event; `None` if it is of a kind that came later than this build.
    Event(Option<Event>),
}

impl Message {
    /// The greeting of a side that is not a supervisor.
    pub fn hello() -> Self {
        Self::Hello {
            protocol: super::protocol::PROTOCOL,
            oldest: super::protocol::OLDEST,
        }
    }

    /// The packet's bytes.
    pub fn encode(&self) -> Vec<u8> {
        use prost::Message as _;
        encode::packet(self).encode_to_vec()
    }

    /// Reads a packet's bytes.
    ///
    /// # Errors
    /// [`crate::types::Kind::InvalidArgument`] if they are not a packet of this protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        use prost::Message as _;
        let packet = proto::Packet::decode(bytes)
            .map_err(|e| Error::invalid(format!("decode packet of {} bytes: {e}", bytes.len())))?;
        decode::packet(packet)
    }
}

/// Descriptors that travel beside a packet, in the order the packet's documentation says.
pub type Descriptors = Vec<OwnedFd>;
