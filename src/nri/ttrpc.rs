//! ttrpc messages: a header of ten bytes, then a protobuf request or response. Pure: bytes in, messages out.
//!
//! Only calls with one request and one response are spoken; NRI has no others. A message of a type that is not known is
//! skipped, as the protocol wants.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::types::error::{Error, Kind, Result};

/// Bytes before the data: length, stream id (both big-endian), type, flags.
pub const HEADER_BYTES: usize = 10;
/// Most data of one message; the protocol's own limit.
pub const MAX_DATA_BYTES: usize = 4 << 20;

/// gRPC status codes that this module gives or acts on.
pub mod code {
    /// Success.
    pub const OK: i32 = 0;
    /// The other side says nothing more exact.
    pub const UNKNOWN: i32 = 2;
    /// The request is wrong.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// The time of the call ran out.
    pub const DEADLINE_EXCEEDED: i32 = 4;
    /// Not in a state that allows the call.
    pub const FAILED_PRECONDITION: i32 = 9;
    /// No such method.
    pub const UNIMPLEMENTED: i32 = 12;
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// Opens a stream.
    Request,
    /// Ends a stream.
    Response,
    /// Data of a stream, or something that came later than this build.
    Other(u8),
}

impl MessageType {
    fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Other(n) => n,
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The stream; odd for those that the caller opened.
    pub stream: u32,
    /// What it is.
    pub kind: MessageType,
    /// Flags; zero for calls with one request and one response.
    pub flags: u8,
    /// The protobuf message.
    pub data: Bytes,
}

/// Takes a message off the front of a connection's stream; `None` until one is complete.
///
/// # Errors
/// `InvalidArgument` for one above [`MAX_DATA_BYTES`]. The stream is not worth reading on then.
pub fn take_message(buffer: &mut BytesMut) -> Result<Option<Message>> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let mut header = header.as_slice();
    let (length, stream) = (header.get_u32() as usize, header.get_u32());
    let (number, flags) = (header.get_u8(), header.get_u8());
    if length > MAX_DATA_BYTES {
        return Err(Error::invalid(format!(
            "ttrpc message: {length} bytes on stream {stream}, more than {MAX_DATA_BYTES}"
        )));
    }
    if buffer.len() - HEADER_BYTES < length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some(Message {
        stream,
        kind: match number {
            1 => MessageType::Request,
            2 => MessageType::Response,
            n => MessageType::Other(n),
        },
        flags,
        data: buffer.split_to(length).freeze(),
    }))
}

/// The bytes of a request or response.
///
/// # Errors
/// `ResourceExhausted` if it is above [`MAX_DATA_BYTES`].
pub fn encode(stream: u32, kind: MessageType, message: &impl prost::Message) -> Result<Bytes> {
    let length = message.encoded_len();
    if length > MAX_DATA_BYTES {
        return Err(Error::new(
            Kind::ResourceExhausted,
            format!("ttrpc message: {length} bytes are more than the protocol's {MAX_DATA_BYTES}"),
        ));
    }
    let mut out = BytesMut::with_capacity(HEADER_BYTES + length);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_u32(stream);
    out.put_u8(kind.number());
    out.put_u8(0);
    message.encode_raw(&mut out);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::nri::proto::ttrpc::{Request, Response};

    fn request() -> Request {
        Request {
            service: "s".into(),
            method: "m".into(),
            payload: vec![1, 2, 3],
            timeout_nano: 5,
        }
    }

    #[test]
    fn the_header_is_as_the_protocol_says() {
        let bytes = encode(0x0102_0305, MessageType::Request, &request()).unwrap();
        let length = u8::try_from(bytes.len() - HEADER_BYTES).unwrap();
        assert_eq!(&bytes[..HEADER_BYTES], [0, 0, 0, length, 1, 2, 3, 5, 1, 0]);
    }

    #[test]
    fn round_trip_byte_by_byte() {
        let bytes = encode(3, MessageType::Request, &request()).unwrap();
        let mut buffer = BytesMut::new();
        for (at, byte) in bytes.iter().enumerate() {
            buffer.put_u8(*byte);
            let taken = take_message(&mut buffer).unwrap();
            assert_eq!(taken.is_some(), at + 1 == bytes.len());
            if let Some(message) = taken {
                assert_eq!((message.stream, message.kind), (3, MessageType::Request));
                assert_eq!(Request::decode(message.data).unwrap(), request());
            }
        }
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let header = |length: u32| {
            let mut b = BytesMut::new();
            b.put_u32(length);
            b.put_slice(&[0, 0, 0, 1, 1, 0]);
            b
        };
        assert!(take_message(&mut header(u32::MAX)).is_err());
        assert!(take_message(&mut header((4 << 20) + 1)).is_err());
        assert_eq!(take_message(&mut header(4 << 20)), Ok(None));
    }

    #[test]
    fn what_is_too_large_is_never_sent() {
        let large = Response {
            status: None,
            payload: vec![0; MAX_DATA_BYTES],
        };
        let error = encode(1, MessageType::Response, &large).unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(message)) = take_message(&mut buffer) {
                let _ = Request::decode(message.data.clone());
                let _ = Response::decode(message.data);
            }
        }
    }
}
