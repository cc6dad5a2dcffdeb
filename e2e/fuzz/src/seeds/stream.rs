//! What clients of the streaming server send.

use husk::stream::spdy::frame::{Control, data_head};
use husk::stream::spdy::header::{Deflater, Headers};

use super::{Seed, bytes};

/// Frames of a session.
pub fn frames() -> Vec<Seed> {
    let Ok(mut deflater) = Deflater::new() else {
        return Vec::new();
    };
    let mut session = Vec::new();
    for (stream, streamtype) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        let block = deflater
            .write(&Headers::new([
                ("streamtype", streamtype),
                ("requestid", "0"),
                ("port", "80"),
            ]))
            .unwrap_or_default();
        session.extend(
            Control::SynStream {
                stream,
                fin: false,
                unidirectional: false,
                block: &block,
            }
            .encode(),
        );
    }
    session.extend(data_head(3, true, 5));
    session.extend(b"hello");
    let control: Vec<u8> = [
        Control::Settings {
            initial_window: Some(65_536),
        },
        Control::Ping(1),
        Control::WindowUpdate {
            stream: 1,
            delta: 100,
        },
        Control::RstStream { stream: 1, status: 5 },
        Control::GoAway { last: 7 },
    ]
    .iter()
    .flat_map(Control::encode)
    .collect();
    vec![("session", session), ("control", control)]
}

/// Blocks of headers, not compressed.
pub fn headers() -> Vec<Seed> {
    vec![
        (
            "two",
            Headers::new([("streamtype", "stdin"), ("port", "80")]).encode(),
        ),
        ("none", Headers::default().encode()),
    ]
}

/// What a client does, in the words of the target.
pub fn connections() -> Vec<Seed> {
    let session: Vec<u8> = [
        [0, 1, 0, 0, 0, 0],
        [0, 3, 0, 0, 0, 1],
        [1, 1, 0, 200, 1, b'x'],
        [4, 1, 0, 1, 0, 0],
        [1, 1, 1, 10, 0, b'y'],
        [3, 0, 0, 1, 0, 0],
    ]
    .concat();
    let windows: Vec<u8> = [
        [5, 0, 0, 0, 0, 10],
        [0, 1, 0, 0, 0, 0],
        [1, 1, 0, 255, 1, b'x'],
        [4, 1, 0, 4, 0, 0],
        [4, 1, 0, 5, 0, 0],
        [4, 0, 0, 5, 0, 0],
        [5, 0, 4, 5, 0, 0],
        [2, 1, 0, 3, 0, 0],
        [6, 1, 0, 0, 0, 0],
    ]
    .concat();
    vec![("session", session), ("windows", windows)]
}

/// Messages with the byte that selects their protocol.
pub fn messages() -> Vec<Seed> {
    vec![
        ("binary", b"\x00\x01hello".to_vec()),
        ("base64", b"\x010aGVsbG8=".to_vec()),
        ("close", b"\x02\xff\x00".to_vec()),
        ("close-base64", b"\x03\xff\x00".to_vec()),
    ]
}

/// Terminal sizes.
pub fn sizes() -> Vec<Seed> {
    vec![
        (
            "two",
            bytes("{\"Width\":80,\"Height\":24}\n{\"Width\":200,\"Height\":50}\n"),
        ),
        ("half", bytes("{\"Width\":80,\"Hei")),
        ("no-size", bytes("{\"Width\":80,\"Height\":24}{\"Width\":-1}")),
    ]
}
