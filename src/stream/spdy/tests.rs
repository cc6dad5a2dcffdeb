//! Frames and header blocks, there and back and in pieces; and a connection with a peer that is written by hand.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::connection::MAX_STREAMS;
use super::dictionary::DICTIONARY;
use super::frame::{self, Control, Frame, FrameError, HEAD, Head, MAX_CONTROL, Reset, data_head};
use super::header::{self, Deflater, HeaderError, Headers, Inflater, MAX_BLOCK};
use super::{Connection, Stream};
use crate::stream::activity::Activity;
use crate::stream::queue::{CAPACITY, End};

/// A control frame that owns its block.
#[derive(Debug, Clone)]
struct Owned(Control<'static>);

fn any_control() -> impl Strategy<Value = Owned> {
    let id = 1..=frame::MAX_WINDOW;
    let block = || prop::collection::vec(any::<u8>(), 0..200).prop_map(|b| &*Box::leak(b.into_boxed_slice()));
    prop_oneof![
        (id.clone(), any::<bool>(), any::<bool>(), block()).prop_map(
            |(stream, fin, unidirectional, block)| {
                Control::SynStream {
                    stream,
                    fin,
                    unidirectional,
                    block,
                }
            }
        ),
        (id.clone(), any::<bool>(), block()).prop_map(|(stream, fin, block)| Control::SynReply {
            stream,
            fin,
            block
        }),
        (id.clone(), any::<bool>(), block()).prop_map(|(stream, fin, block)| Control::Headers {
            stream,
            fin,
            block
        }),
        (id.clone(), 1..20u32).prop_map(|(stream, status)| Control::RstStream { stream, status }),
        prop::option::of(0..=frame::MAX_WINDOW)
            .prop_map(|initial_window| Control::Settings { initial_window }),
        (1..u32::MAX).prop_map(Control::Ping),
        id.clone().prop_map(|last| Control::GoAway { last }),
        (0..=frame::MAX_WINDOW, id).prop_map(|(stream, delta)| Control::WindowUpdate { stream, delta }),
    ]
    .prop_map(Owned)
}

proptest! {
    #[test]
    fn control_frames_come_back_whole_and_wait_for_their_end(Owned(control) in any_control(), tail in any::<[u8; 3]>()) {
        let mut bytes = control.encode();
        let length = bytes.len();
        for cut in 0..length {
            prop_assert_eq!(frame::parse(&bytes[..cut]).unwrap(), None);
        }
        bytes.extend_from_slice(&tail);
        prop_assert_eq!(frame::parse(&bytes).unwrap(), Some((Frame::Control(control), length)));
    }

    #[test]
    fn data_frames_come_back_whole(stream in 1..=frame::MAX_WINDOW, fin: bool, data in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = data_head(stream, fin, data.len()).to_vec();
        bytes.extend_from_slice(&data);
        let found = frame::parse(&bytes).unwrap();
        prop_assert_eq!(found, Some((Frame::Data { stream, fin, data: &data }, bytes.len())));
    }

    #[test]
    fn no_bytes_are_too_strange_for_the_parser(mut bytes in prop::collection::vec(any::<u8>(), 0..100), control: bool) {
        if control && bytes.len() > 4 {
            // Random bytes are hardly ever of the right version.
            bytes[..3].copy_from_slice(&[0x80, 3, 0]);
            bytes[3] %= 12;
        }
        let _ = frame::parse(&bytes);
        let _ = header::decode(&bytes);
        let _ = Headers::parse(&bytes);
    }

    #[test]
    fn headers_come_back_through_one_compression_after_the_other(
        blocks in prop::collection::vec(prop::collection::btree_map("[a-z-]{1,20}", "\\PC{0,40}", 0..10), 1..5)
    ) {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::default());
        for pairs in blocks {
            let headers = Headers::new(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let block = deflater.write(&headers).unwrap();
            prop_assert_eq!(inflater.read(&block).unwrap(), headers);
        }
    }

    #[test]
    fn a_header_block_that_is_cut_or_bent_is_an_error_or_other_headers(at in 0..60usize, bit in 0..8u32) {
        let headers = Headers::new([("streamtype", "error"), ("port", "80"), ("requestid", "17")]);
        let block = Deflater::new().unwrap().write(&headers).unwrap();
        let at = at % block.len();
        // The last bytes only tell that a block ends.
        if let Ok(found) = header::decode(&block[..at]) {
            prop_assert!(found == headers && at + 5 >= block.len(), "cut at {at} of {}", block.len());
        }
        let mut bent = block.clone();
        bent[at] ^= 1 << bit;
        let _ = header::decode(&bent);
    }
}

#[test]
fn the_dictionary_is_the_one_of_the_specification() {
    assert_eq!(DICTIONARY.len(), 1423);
    let (mut a, mut b) = (1u32, 0u32);
    for byte in DICTIONARY.iter() {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!(
        b << 16 | a,
        0xe3c6_a7c2,
        "the checksum in the head of every SPDY/3 connection"
    );
}

#[test]
fn a_block_of_another_implementation_is_understood() {
    // {"streamtype": "stdin"}, deflated by zlib at its best level with the dictionary.
    let block = deflate(&Headers::new([("streamtype", "stdin")]).encode());
    assert_eq!(block[..6], [0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2]);
    assert_eq!(header::decode(&block).unwrap().get("streamtype"), Some("stdin"));
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), true);
    compress.set_dictionary(&DICTIONARY).unwrap();
    let mut out = Vec::with_capacity(text.len() + 1024);
    compress
        .compress_vec(text, &mut out, FlushCompress::Sync)
        .unwrap();
    out
}

#[test]
fn blocks_that_unfold_without_end_are_cut_off() {
    let bomb = deflate(&vec![0; 4 << 20]);
    assert!(bomb.len() < MAX_CONTROL, "{} bytes", bomb.len());
    assert_eq!(header::decode(&bomb), Err(HeaderError::TooLong));
    let fits = vec![0; MAX_BLOCK - 1];
    assert_eq!(header::decode(&deflate(&fits)), Err(HeaderError::Truncated));
}

#[test]
fn hostile_header_blocks_are_refused() {
    let text = |name: &str, value: &str| Headers::new([(name, value)]).encode();
    let mut long = text("name", "value");
    long[7] = 200;
    let mut many = text("name", "value");
    many[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut more = text("name", "value");
    more.push(0);
    let mut bad_text = text("name", "value");
    *bad_text.last_mut().unwrap() = 0xff;
    let twice = Headers::new([("a", "1"), ("a", "2")]).encode();
    for (block, error) in [
        (long, HeaderError::Truncated),
        (many, HeaderError::TooMany(u32::MAX)),
        (more, HeaderError::Truncated),
        (bad_text, HeaderError::Text),
        (twice, HeaderError::Name),
        (text("Name", "value"), HeaderError::Name),
        (text("", "value"), HeaderError::Name),
        (vec![], HeaderError::Truncated),
    ] {
        assert_eq!(Headers::parse(&block), Err(error));
    }
}

#[test]
fn hostile_frames_are_refused() {
    let control =
        |kind: u8, flags: u8, length: [u8; 3]| [0x80, 3, 0, kind, flags, length[0], length[1], length[2]];
    assert_eq!(
        Head::parse(control(1, 0, [1, 0, 0])),
        Err(FrameError::TooLong(1 << 16))
    );
    assert_eq!(
        Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]),
        Err(FrameError::Version(2))
    );
    assert_eq!(Head::parse([0; HEAD]), Err(FrameError::NoStream(0)));
    // Data may be long: it is read in pieces.
    let long = Head::parse([0, 0, 0, 1, 0, 0xff, 0xff, 0xff]).unwrap();
    assert_eq!(long.length(), (1 << 24) - 1);
    let zeros = [0; 16];
    for (kind, body) in [
        (1, &zeros[..10]),
        (2, &zeros[..4]),
        (3, &zeros[..8]),
        (6, &zeros[..4]),
        (9, &zeros[..8]),
        (1, &[0, 0, 0, 1, 0][..]),
        (7, &zeros[..4]),
        // 536,870,912 settings, and one that is not there.
        (4, &[0x20, 0, 0, 0][..]),
        (4, &[0, 0, 0, 1][..]),
        (4, &[0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff][..]),
    ] {
        assert!(Control::parse(kind, 0, body).is_err(), "kind {kind}: {body:?}");
    }
    assert_eq!(Control::parse(10, 0, b"credential"), Ok(Control::Unknown(10)));
}

/// The client's end of a connection, which speaks in frames.
struct Peer {
    io: DuplexStream,
    deflater: Deflater,
    inflater: Inflater,
}

impl Peer {
    fn connect() -> (Self, Connection) {
        let (io, theirs) = tokio::io::duplex(16 * 1024);
        let connection = Connection::start(theirs, Arc::new(|| false), Activity::start()).unwrap();
        let peer = Self {
            io,
            deflater: Deflater::new().unwrap(),
            inflater: Inflater::default(),
        };
        (peer, connection)
    }

    async fn send(&mut self, control: Control<'_>) {
        self.io.write_all(&control.encode()).await.unwrap();
    }

    async fn open(&mut self, stream: u32) {
        let headers = Headers::new([("streamtype", "data")]);
        let block = self.deflater.write(&headers).unwrap();
        self.send(Control::SynStream {
            stream,
            fin: false,
            unidirectional: false,
            block: &block,
        })
        .await;
    }

    async fn data(&mut self, stream: u32, fin: bool, data: &[u8]) {
        self.io
            .write_all(&data_head(stream, fin, data.len()))
            .await
            .unwrap();
        self.io.write_all(data).await.unwrap();
    }

    /// The next frame; `None` when the connection is closed.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HEAD];
        self.io.read_exact(&mut bytes).await.ok()?;
        let length = Head::parse(bytes[..].try_into().unwrap()).unwrap().length();
        bytes.resize(HEAD + length, 0);
        self.io.read_exact(&mut bytes[HEAD..]).await.ok()?;
        Some(bytes)
    }

    async fn expect_control(&mut self, expected: Control<'_>) {
        let bytes = self.frame().await.unwrap();
        assert_eq!(frame::parse(&bytes).unwrap().unwrap().0, Frame::Control(expected));
    }

    async fn expect_reply(&mut self, expected: u32) {
        let bytes = self.frame().await.unwrap();
        match frame::parse(&bytes).unwrap().unwrap().0 {
            Frame::Control(Control::SynReply { stream, block, .. }) => {
                assert_eq!(stream, expected);
                assert_eq!(self.inflater.read(block).unwrap(), Headers::default());
            }
            other => panic!("no reply, but {other:?}"),
        }
    }

    async fn expect_data(&mut self, expected: u32, fin: bool) -> Vec<u8> {
        let bytes = self.frame().await.unwrap();
        match frame::parse(&bytes).unwrap().unwrap().0 {
            Frame::Data { stream, fin: f, data } => {
                assert_eq!((stream, f), (expected, fin));
                data.to_vec()
            }
            other => panic!("no data, but {other:?}"),
        }
    }
}

async fn opened(peer: &mut Peer, connection: &mut Connection, id: u32) -> Stream {
    peer.open(id).await;
    let stream = connection.accept().await.unwrap();
    assert_eq!(
        (stream.id(), stream.headers().get("streamtype")),
        (id, Some("data"))
    );
    stream.accept();
    peer.expect_reply(id).await;
    stream
}

fn reset(stream: u32, why: Reset) -> Control<'static> {
    Control::RstStream {
        stream,
        status: why as u32,
    }
}

#[tokio::test]
async fn streams_carry_data_both_ways_and_end_by_halves() {
    let (mut peer, mut connection) = Peer::connect();
    let stream = opened(&mut peer, &mut connection, 1).await;
    peer.data(1, false, b"to us").await;
    peer.data(1, true, b", the end").await;
    assert_eq!(stream.recv().await.unwrap(), "to us");
    assert_eq!(stream.recv().await.unwrap(), ", the end");
    assert_eq!(stream.recv().await, Err(End::Finished));
    stream.send(Bytes::from_static(b"to them")).await.unwrap();
    assert_eq!(peer.expect_data(1, false).await, b"to them");
    stream.finish().await;
    assert_eq!(peer.expect_data(1, true).await, b"");
    drop(stream);
    // A stream that is finished both ways goes without a word; the next frame is the answer to this.
    peer.send(Control::Ping(7)).await;
    peer.expect_control(Control::Ping(7)).await;
}

#[tokio::test]
async fn what_is_not_wanted_is_refused_and_what_is_dropped_is_reset() {
    let (mut peer, mut connection) = Peer::connect();
    peer.open(1).await;
    drop(connection.accept().await.unwrap());
    peer.expect_control(reset(1, Reset::RefusedStream)).await;
    let stream = opened(&mut peer, &mut connection, 3).await;
    drop(stream);
    peer.expect_control(reset(3, Reset::Cancel)).await;
    // Data for what is gone is thrown away, but the window of the connection is given back.
    peer.data(3, false, b"late").await;
    peer.expect_control(Control::WindowUpdate { stream: 0, delta: 4 })
        .await;
    // Data for what never was is not.
    peer.data(9, false, b"").await;
    peer.expect_control(reset(9, Reset::InvalidStream)).await;
    let stream = opened(&mut peer, &mut connection, 11).await;
    peer.send(reset(11, Reset::Cancel)).await;
    assert_eq!(stream.recv().await, Err(End::Reset));
    assert!(stream.send(Bytes::from_static(b"nobody")).await.is_err());
}

#[tokio::test]
async fn streams_are_bounded() {
    let (mut peer, mut connection) = Peer::connect();
    let mut kept = Vec::new();
    for n in 0..MAX_STREAMS as u32 {
        kept.push(opened(&mut peer, &mut connection, 2 * n + 1).await);
    }
    let next = 2 * MAX_STREAMS as u32 + 1;
    peer.open(next).await;
    peer.expect_control(reset(next, Reset::RefusedStream)).await;
    drop(kept.pop());
    peer.expect_control(reset(next - 2, Reset::Cancel)).await;
    kept.push(opened(&mut peer, &mut connection, next + 2).await);
    // Nor after the client has said that it is going.
    peer.send(Control::GoAway { last: 0 }).await;
    kept.pop();
    peer.expect_control(reset(next + 2, Reset::Cancel)).await;
    peer.open(next + 4).await;
    peer.expect_control(reset(next + 4, Reset::RefusedStream)).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_sender_up() {
    let (mut peer, mut connection) = Peer::connect();
    let stream = opened(&mut peer, &mut connection, 1).await;
    let chunk = vec![5; 16 * 1024];
    let total = 64 * chunk.len();
    let sender = tokio::spawn(async move {
        for _ in 0..64 {
            peer.data(1, false, &chunk).await;
        }
        peer.data(1, true, b"").await;
        // Kept open: a connection that ends throws away nothing that was sent before.
        while let Some(frame) = peer.frame().await {
            drop(frame);
        }
    });
    // As nobody consumes, the sender cannot finish: more than the queue and the pipe between hold is on its way.
    assert!(total > 2 * CAPACITY);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!(!sender.is_finished());
    let mut received = 0;
    while let Ok(data) = stream.recv().await {
        assert!(data.iter().all(|b| *b == 5));
        received += data.len();
    }
    assert_eq!(received, total);
    drop((stream, connection));
    sender.await.unwrap();
}

#[tokio::test]
async fn windows_bind_once_the_peer_shows_that_it_keeps_them() {
    let (mut peer, mut connection) = Peer::connect();
    let stream = opened(&mut peer, &mut connection, 1).await;
    peer.send(Control::Settings {
        initial_window: Some(10),
    })
    .await;
    peer.send(Control::Ping(1)).await;
    peer.expect_control(Control::Ping(1)).await;
    let sending = tokio::spawn(async move {
        let sent = stream.send(Bytes::from_static(b"0123456789abcdefghij!")).await;
        (stream, sent)
    });
    assert_eq!(peer.expect_data(1, false).await, b"0123456789");
    peer.send(Control::Ping(3)).await;
    peer.expect_control(Control::Ping(3)).await;
    assert!(!sending.is_finished(), "the window is used up");
    peer.send(Control::WindowUpdate { stream: 1, delta: 10 }).await;
    assert_eq!(peer.expect_data(1, false).await, b"abcdefghij");
    // A smaller window for streams to come takes from those that are, down to less than nothing.
    peer.send(Control::Settings {
        initial_window: Some(5),
    })
    .await;
    peer.send(Control::WindowUpdate { stream: 1, delta: 5 }).await;
    peer.send(Control::Ping(5)).await;
    peer.expect_control(Control::Ping(5)).await;
    assert!(!sending.is_finished(), "5 too few and 5 more make 0");
    peer.send(Control::WindowUpdate { stream: 1, delta: 1 }).await;
    assert_eq!(peer.expect_data(1, false).await, b"!");
    let (stream, sent) = sending.await.unwrap();
    sent.unwrap();
    drop(stream);
}

#[tokio::test]
async fn whoever_keeps_windows_is_told_what_was_consumed() {
    let (mut peer, mut connection) = Peer::connect();
    let stream = opened(&mut peer, &mut connection, 1).await;
    let half = vec![0; 32 * 1024];
    tokio::join!(
        async {
            peer.data(1, false, &half).await;
            for stream in [1, 0] {
                let delta = 32 * 1024;
                peer.expect_control(Control::WindowUpdate { stream, delta }).await;
            }
        },
        async {
            let mut left = half.len();
            while left > 0 {
                left -= stream.recv().await.unwrap().len();
            }
        }
    );
}

#[tokio::test]
async fn the_window_of_the_connection_does_not_dry_up_over_many_small_streams() {
    let (mut peer, mut connection) = Peer::connect();
    let part = vec![0; 8 * 1024];
    let told = Control::WindowUpdate {
        stream: 0,
        delta: 32 * 1024,
    };
    let mut streams = Vec::new();
    // What each has consumed is too little to be told of.
    for id in [1, 3, 5, 7] {
        let stream = opened(&mut peer, &mut connection, id).await;
        peer.data(id, true, &part).await;
        while stream.recv().await.is_ok() {}
        streams.push(stream);
    }
    peer.send(Control::Ping(1)).await;
    peer.expect_control(told.clone()).await;
    peer.expect_control(Control::Ping(1)).await;
    // Neither does what nobody consumes get lost.
    for id in [9, 11, 13, 15] {
        let stream = opened(&mut peer, &mut connection, id).await;
        peer.data(id, true, &part).await;
        peer.send(Control::Ping(id)).await;
        peer.expect_control(Control::Ping(id)).await;
        stream.discard();
        streams.push(stream);
    }
    peer.send(Control::Ping(17)).await;
    peer.expect_control(told).await;
    peer.expect_control(Control::Ping(17)).await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_is_let_go() {
    let block = Deflater::new().unwrap().write(&Headers::default()).unwrap();
    let open = |stream, block| Control::SynStream {
        stream,
        fin: false,
        unidirectional: false,
        block,
    };
    let wide = Control::WindowUpdate {
        stream: 0,
        delta: frame::MAX_WINDOW,
    };
    let breaches = [
        open(2, &block).encode(),
        open(1, &[1, 2, 3, 4, 5, 6, 7, 8]).encode(),
        wide.encode(),
        vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        vec![0xff; 64],
    ];
    for breach in breaches {
        let (mut peer, mut connection) = Peer::connect();
        peer.io.write_all(&breach).await.unwrap();
        assert!(connection.accept().await.is_none(), "{breach:?}");
        assert!(*connection.watch().borrow(), "{breach:?}");
    }
}

#[tokio::test]
async fn pings_without_end_are_not_answered_without_end() {
    let (mut peer, connection) = Peer::connect();
    let mut closed = connection.watch();
    let ping = Control::Ping(1).encode();
    // The peer writes and never reads. It is let go before it has written everything.
    for _ in 0..1_000_000 {
        if peer.io.write_all(&ping).await.is_err() || *closed.borrow() {
            break;
        }
    }
    closed.wait_for(|closed| *closed).await.unwrap();
}

/// Has a peer that never reads open streams, and take each back if it is `accepted`, until the connection is closed.
async fn open_without_reading(accepted: bool) {
    let (mut peer, mut connection) = Peer::connect();
    let closed = connection.watch();
    for n in 0..5000 {
        let id = 2 * n + 1;
        peer.open(id).await;
        let stream = connection.accept().await.unwrap();
        if accepted {
            peer.send(reset(id, Reset::Cancel)).await;
            stream.accept();
            assert!(matches!(stream.recv().await, Err(End::Reset | End::Lost)));
        }
        drop(stream);
        if *closed.borrow() {
            // Nor does the reader go on.
            assert!(connection.accept().await.is_none());
            return;
        }
    }
    panic!("the connection is still open");
}

#[tokio::test]
async fn replies_and_refusals_are_not_kept_without_end() {
    open_without_reading(true).await;
    open_without_reading(false).await;
}

#[tokio::test]
async fn a_lost_connection_ends_every_stream() {
    let (mut peer, mut connection) = Peer::connect();
    let stream = opened(&mut peer, &mut connection, 1).await;
    drop(peer);
    assert_eq!(stream.recv().await, Err(End::Lost));
    assert!(stream.send(Bytes::from_static(b"nobody")).await.is_err());
    assert!(connection.accept().await.is_none());
}

#[tokio::test]
async fn a_frame_larger_than_all_buffers_arrives_whole() {
    let (mut peer, mut connection) = Peer::connect();
    let stream = opened(&mut peer, &mut connection, 1).await;
    let sender = tokio::spawn(async move {
        peer.data(1, true, &vec![3; (1 << 24) - 1]).await;
        while peer.frame().await.is_some() {}
    });
    let mut received = 0;
    while let Ok(data) = stream.recv().await {
        received += data.len();
    }
    assert_eq!(received, (1 << 24) - 1);
    drop((stream, connection));
    sender.await.unwrap();
}
