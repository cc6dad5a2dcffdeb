//! The multiplexer of an NRI connection: two logical connections over one socket.
//!
//! Each frame is a header of eight bytes, connection id and length of the payload, both big-endian, and the payload. The
//! payloads of one connection, put together, are a stream of ttrpc messages. Pure: bytes in, frames out.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::types::error::{Error, Result};

use super::ttrpc;

/// The connection on which the runtime calls the plugin.
pub const PLUGIN_SERVICE: u32 = 1;
/// The connection on which the plugin calls the runtime.
pub const RUNTIME_SERVICE: u32 = 2;

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 8;
/// Largest payload: one whole ttrpc message.
pub const MAX_PAYLOAD_BYTES: usize = ttrpc::HEADER_BYTES + ttrpc::MAX_DATA_BYTES;

/// Size of the buffer that ttrpc of the Go world reads with. A frame must fit into what is left to read of a message or
/// into this buffer, or that reader gives up.
const READER_BUFFER_BYTES: usize = 4096;

/// A piece of one connection's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which connection.
    pub connection: u32,
    /// Its bytes.
    pub payload: Bytes,
}

/// Takes a frame off the front of what was read; `None` until one is complete.
///
/// # Errors
/// `InvalidArgument` for connection 0, which is reserved, and for a payload above [`MAX_PAYLOAD_BYTES`]. The stream has
/// lost its meaning then.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let mut header = header.as_slice();
    let (connection, length) = (header.get_u32(), header.get_u32() as usize);
    if connection == 0 {
        return Err(Error::invalid("NRI frame: connection id 0 is reserved"));
    }
    if length > MAX_PAYLOAD_BYTES {
        return Err(Error::invalid(format!(
            "NRI frame: {length} bytes on connection {connection}, more than {MAX_PAYLOAD_BYTES}"
        )));
    }
    if buffer.len() - HEADER_BYTES < length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some(Frame {
        connection,
        payload: buffer.split_to(length).freeze(),
    }))
}

/// Puts a whole ttrpc message into frames: its beginning as far as it fits into the reader's buffer, then the rest.
pub fn put_message(connection: u32, message: &[u8], out: &mut BytesMut) {
    let (head, tail) = message.split_at(message.len().min(READER_BUFFER_BYTES));
    put_frame(connection, head, out);
    if !tail.is_empty() {
        put_frame(connection, tail, out);
    }
}

fn put_frame(connection: u32, payload: &[u8], out: &mut BytesMut) {
    out.reserve(HEADER_BYTES + payload.len());
    out.put_u32(connection);
    // A message is bounded by MAX_PAYLOAD_BYTES where it is made.
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_slice(payload);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn all(buffer: &mut BytesMut) -> Vec<Frame> {
        std::iter::from_fn(|| take_frame(buffer).unwrap()).collect()
    }

    #[test]
    fn the_header_is_big_endian() {
        let mut out = BytesMut::new();
        put_message(2, b"abc", &mut out);
        assert_eq!(&out[..], b"\0\0\0\x02\0\0\0\x03abc");
    }

    #[test]
    fn a_frame_is_taken_only_when_whole() {
        let mut whole = BytesMut::new();
        put_message(PLUGIN_SERVICE, b"hello", &mut whole);
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(take_frame(&mut part).unwrap(), None, "{cut} bytes");
            assert_eq!(part.len(), cut);
        }
        assert_eq!(all(&mut whole).len(), 1);
    }

    #[test]
    fn long_messages_fit_a_reader_with_a_small_buffer() {
        let message = vec![7; 10_000];
        let mut out = BytesMut::new();
        put_message(1, &message, &mut out);
        let frames = all(&mut out);
        let sizes: Vec<_> = frames.iter().map(|f| f.payload.len()).collect();
        assert_eq!(sizes, [READER_BUFFER_BYTES, 10_000 - READER_BUFFER_BYTES]);
        assert!(out.is_empty());
    }

    #[test]
    fn hostile_headers_are_refused_before_anything_is_kept() {
        for header in [
            [0, 0, 0, 0, 0, 0, 0, 1],
            [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
            [0, 0, 0, 1, 0, 0x40, 0, 11],
        ] {
            assert!(
                take_frame(&mut BytesMut::from(&header[..])).is_err(),
                "{header:?}"
            );
        }
        // The largest one is waited for.
        assert_eq!(
            take_frame(&mut BytesMut::from(&[0, 0, 0, 1, 0, 0x40, 0, 10][..])),
            Ok(None)
        );
    }

    proptest! {
        #[test]
        fn any_cut_of_a_stream_gives_the_same_bytes(
            messages in prop::collection::vec((1u32..5, prop::collection::vec(any::<u8>(), 0..9000)), 0..6),
            step in 1usize..5000,
        ) {
            let mut stream = BytesMut::new();
            for (connection, message) in &messages {
                put_message(*connection, message, &mut stream);
            }
            let mut buffer = BytesMut::new();
            let mut got: Vec<(u32, Vec<u8>)> = Vec::new();
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                got.extend(all(&mut buffer).into_iter().map(|f| (f.connection, f.payload.to_vec())));
            }
            prop_assert!(buffer.is_empty());
            for id in 1..5 {
                let sent: Vec<u8> = messages.iter().filter(|m| m.0 == id).flat_map(|m| m.1.clone()).collect();
                let read: Vec<u8> = got.iter().filter(|m| m.0 == id).flat_map(|m| m.1.clone()).collect();
                prop_assert_eq!(sent, read);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_frame(&mut buffer) {}
        }
    }
}
