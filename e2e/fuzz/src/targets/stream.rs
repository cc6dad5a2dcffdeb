//! What clients of the streaming server send: SPDY/3.1, channels over WebSockets, terminal sizes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use husk::stream::activity::Activity;
use husk::stream::resize::Decoder;
use husk::stream::spdy::frame::{self, Control, Frame, MAX_WINDOW};
use husk::stream::spdy::header::{self, Deflater, Headers};
use husk::stream::spdy::{Connection, Stream};
use husk::stream::websocket::{Codec, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "\u{0}\u{0}\u{0}\u{8}",
    "streamtype",
    "stdin",
    "stdout",
    "error",
    "resize",
    "port",
    "requestid",
    "{\"Width\":80,\"Height\":24}",
    "{\"Width\":",
    "65536",
    "AAAA",
    "====",
    "\u{0}\u{0}\u{0}\u{1}",
];

/// Longest that the sessions of a connection may outlive it. Far above what they do.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a client is waited for that waits itself.
const MOMENT: Duration = Duration::from_millis(20);

/// Input: frames, and what is compressed in them.
pub(super) fn frames(data: &[u8]) -> Said {
    let (mut rest, mut said) = (data, Vec::new());
    let mut inflater = header::Inflater::default();
    loop {
        let (frame, length) = match frame::parse(rest) {
            Ok(Some(found)) => found,
            Ok(None) => return said.join(","),
            Err(e) => return format!("{}: {e}", said.join(",")),
        };
        assert!(length <= rest.len());
        rest = &rest[length..];
        let Frame::Control(control) = frame else {
            said.push("data".to_owned());
            continue;
        };
        if let Control::SynStream { block, .. }
        | Control::SynReply { block, .. }
        | Control::Headers { block, .. } = control
        {
            match inflater.read(block) {
                Ok(headers) => said.push(format!("{} headers", same(&headers))),
                Err(e) => return format!("{}: {e}", said.join(",")),
            }
        } else if !matches!(control, Control::Unknown(_)) {
            let bytes = control.encode();
            assert_eq!(
                frame::parse(&bytes),
                Ok(Some((Frame::Control(control), bytes.len())))
            );
            said.push("control".to_owned());
        }
    }
}

/// Input: a block of headers, not compressed.
pub(super) fn headers(data: &[u8]) -> Said {
    match Headers::parse(data) {
        Ok(headers) => {
            // Compressed by us and read by a peer.
            if let Ok(block) = Deflater::new().and_then(|mut deflater| deflater.write(&headers)) {
                assert_eq!(header::decode(&block).as_ref(), Ok(&headers));
            }
            format!("{}", same(&headers))
        }
        Err(e) => e.to_string(),
    }
}

fn same(headers: &Headers) -> usize {
    assert_eq!(Headers::parse(&headers.encode()).as_ref(), Ok(headers));
    headers.iter().count()
}

/// Input: six bytes for each frame that a client sends: kind, stream, flag, length, content. The frames are well formed,
/// their order need not make sense. Every stream is served by an echo, as bodies of sessions would.
pub(super) fn connection(data: &[u8]) -> Said {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.unwrap_or_else(|e| panic!("a runtime: {e}"));
    let wire = wire(data);
    let served = runtime.block_on(async { tokio::time::timeout(PATIENCE, serve(&wire)).await });
    served.unwrap_or_else(|_| panic!("the connection is closed and its sessions go on"))
}

/// What a client would write.
fn wire(script: &[u8]) -> Vec<u8> {
    const DELTAS: [u32; 6] = [1, 100, 65_536, MAX_WINDOW / 2, MAX_WINDOW - 1, MAX_WINDOW];
    let Ok(mut deflater) = Deflater::new() else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for step in script.chunks_exact(6) {
        let [kind, stream, flag, low, high, fill] = [step[0], step[1], step[2], step[3], step[4], step[5]];
        let (stream, fin) = (u32::from(stream % 16), flag & 1 != 0);
        let length = usize::from(u16::from_le_bytes([low, high]));
        let streamtype = ["stdin", "stdout", "error", "data"][usize::from(fill % 4)];
        let block = match kind % 12 {
            0 | 7 | 9 => deflater
                .write(&Headers::new([("streamtype", streamtype)]))
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        let delta = DELTAS[usize::from(low) % DELTAS.len()];
        let control = match kind % 12 {
            0 => Control::SynStream {
                stream,
                fin,
                unidirectional: flag & 2 != 0,
                block: &block,
            },
            2 => Control::RstStream {
                stream,
                status: u32::from(low),
            },
            3 => Control::Ping(length as u32),
            4 => Control::WindowUpdate { stream, delta },
            5 => Control::Settings {
                initial_window: (flag & 2 == 0).then_some(if flag & 4 == 0 {
                    u32::from(fill)
                } else {
                    delta
                }),
            },
            6 => Control::GoAway { last: stream },
            7 => Control::Headers {
                stream,
                fin,
                block: &block,
            },
            8 => {
                out.extend(std::iter::repeat_n(fill, length % 64));
                continue;
            }
            9 => Control::SynReply {
                stream,
                fin,
                block: &block,
            },
            _ => {
                let length = length % 5000;
                out.extend(frame::data_head(stream, fin, length));
                out.extend(std::iter::repeat_n(fill, length));
                continue;
            }
        };
        out.extend(control.encode());
    }
    out
}

async fn serve(wire: &[u8]) -> Said {
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut connection = match Connection::start(far, Arc::new(|| false), Activity::start()) {
        Ok(connection) => connection,
        Err(e) => return e.to_string(),
    };
    let (mut from, mut to) = tokio::io::split(near);
    let client = async {
        // The server may hang up at any byte, and may stop reading for want of room.
        let _ = tokio::time::timeout(MOMENT, to.write_all(wire)).await;
        let _ = to.shutdown().await;
        tokio::time::sleep(MOMENT).await;
    };
    let answers = async {
        let mut buffer = vec![0; 4096];
        while let Ok(1..) = from.read(&mut buffer).await {}
    };
    let echoed = Arc::new(AtomicUsize::new(0));
    let (mut tasks, mut streams) = (JoinSet::new(), 0);
    let sessions = async {
        while let Some(stream) = connection.accept().await {
            streams += 1;
            tasks.spawn(echo(stream, Arc::clone(&echoed)));
        }
    };
    // A client that lets itself be waited for is hung up on, as a session without a sign of life is.
    let left = tokio::select! {
        () = sessions => "to its end",
        ((), ()) = async { tokio::join!(client, answers) } => "to its end, too",
        () = async { tokio::time::sleep(3 * MOMENT).await } => "hung up on",
    };
    drop(connection);
    while let Some(ended) = tasks.join_next().await {
        if let Err(e) = ended {
            std::panic::resume_unwind(e.into_panic());
        }
    }
    // In letters, for the runner takes no account of numbers.
    let many = |n: usize| "I".repeat(n.min(40));
    let echoed = echoed.load(Ordering::Relaxed);
    format!("{} streams, {} KiB, {left}", many(streams), many(echoed >> 10))
}

async fn echo(stream: Stream, echoed: Arc<AtomicUsize>) {
    stream.accept();
    while let Ok(chunk) = stream.recv().await {
        echoed.fetch_add(chunk.len(), Ordering::Relaxed);
        if stream.send(chunk).await.is_err() {
            break;
        }
    }
    stream.finish().await;
}

/// Input: a byte that selects a protocol, then a message.
pub(super) fn message(data: &[u8]) -> Said {
    let Some((select, message)) = data.split_first() else {
        return "nothing".into();
    };
    let codec = Codec {
        base64: select & 1 != 0,
        closes: select & 2 != 0,
    };
    match codec.read(&Bytes::copy_from_slice(message)) {
        Ok(Incoming::Data { channel, data }) => {
            // What we write, the other end reads. There are five channels, and a digit for each.
            if channel < 10 {
                let again = codec.read(&codec.write(channel, &data).into_data());
                assert_eq!(
                    again,
                    Ok(Incoming::Data {
                        channel,
                        data: data.clone()
                    })
                );
            }
            format!("data {}", data.is_empty())
        }
        Ok(other) => format!("{other:?}").chars().take(8).collect(),
        Err(e) => e.to_string(),
    }
}

/// Input: terminal sizes, which arrive in one piece or in many.
pub(super) fn resize(data: &[u8]) -> Said {
    let last = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = Decoder::default();
        pieces.filter_map(|piece| decoder.push(piece)).last()
    };
    let whole = last(&mut std::iter::once(data));
    let single = last(&mut data.chunks(1));
    // A sign or a fraction, which no size has, is part of a number only with what follows.
    let fractions = data.contains(&b'-')
        || data
            .windows(2)
            .any(|w| w[0].is_ascii_digit() && matches!(w[1], b'.' | b'e' | b'E'));
    if let (Some(whole), Some(single), false) = (whole, single, fractions) {
        assert!(
            whole == single || data.len() > 4096,
            "{whole:?} in one piece, {single:?} in many"
        );
    }
    format!("{}", whole.is_some())
}
