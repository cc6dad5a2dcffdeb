//! Connections that say nothing, too much, or what is no gRPC.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use anyhow::Result;
use husk_e2e::{Husk, eventually, run};

use super::costs_nothing;

fn connect(husk: &Husk) -> Result<UnixStream> {
    Ok(UnixStream::connect(husk.dir().join("run/husk.sock"))?)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call of Version, in HPACK without a table.
fn version_headers() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (0x04, "/runtime.v1.RuntimeService/Version"),
        (0x0f, "application/grpc"),
    ] {
        block.push(name);
        // Content-type is entry 31, beyond what four bits say.
        block.extend((name == 0x0f).then_some(31 - 15));
        block.push(u8::try_from(value.len()).unwrap_or(0));
        block.extend(value.bytes());
    }
    block
}

#[tokio::test]
async fn connections_that_say_nothing_or_half_a_thing_keep_nobody_out() -> Result<()> {
    run(async |husk| {
        costs_nothing(husk, async |husk| {
            let mut open = Vec::new();
            for n in 0..300 {
                let mut stream = connect(husk)?;
                match n % 5 {
                    0 => {}
                    1 => stream.write_all(&PREFACE[..7])?,
                    2 => stream.write_all(&[PREFACE, SETTINGS].concat())?,
                    // Headers that never end.
                    3 => {
                        let begun = frame(1, 0, 1, &version_headers());
                        stream.write_all(&[PREFACE, SETTINGS, &begun].concat())?;
                    }
                    // A message that never comes.
                    _ => {
                        let headers = frame(1, 4, 1, &version_headers());
                        let half = frame(0, 0, 1, &[0, 0, 0xff, 0xff, 0xff, 1, 2, 3]);
                        stream.write_all(&[PREFACE, SETTINGS, &headers, &half].concat())?;
                    }
                }
                open.push(stream);
            }
            husk.assert_serving().await?;
            let newcomer = husk_e2e::Cri::new(&husk.dir().join("run/husk.sock"));
            newcomer.list_pods(None).await?;
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn more_clients_than_there_may_be_are_hung_up_on() -> Result<()> {
    run(async |husk| {
        // The harness's own client is connected and stays so.
        husk.assert_serving().await?;
        let mut open = Vec::new();
        for _ in 0..1100 {
            match connect(husk) {
                Ok(stream) => open.push(stream),
                // This process or the daemon is out of descriptors first.
                Err(_) => break,
            }
        }
        for _ in 0..20 {
            husk.assert_serving().await?;
        }
        drop(open);
        let newcomer = husk_e2e::Cri::new(&husk.dir().join("run/husk.sock"));
        eventually("a place for a new client", async || {
            Ok(newcomer.list_pods(None).await.ok())
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn floods_of_frames_are_cut_off() -> Result<()> {
    run(async |husk| {
        costs_nothing(husk, async |husk| {
            let begun_and_taken_back = |n: u32| {
                let stream = 1 + 2 * n;
                [
                    frame(1, 4, stream, &version_headers()),
                    frame(3, 0, stream, &[0, 0, 0, 8]),
                ]
                .concat()
            };
            let floods: [Vec<u8>; 5] = [
                (0..20_000).flat_map(begun_and_taken_back).collect(),
                // Answers that nobody reads.
                frame(6, 0, 0, &[0; 8]).repeat(50_000),
                SETTINGS.repeat(50_000),
                // Headers in ever more pieces.
                [
                    frame(1, 0, 1, &version_headers()),
                    frame(9, 0, 1, &[0x83; 1000]).repeat(5000),
                ]
                .concat(),
                // Empty pieces of a body.
                [
                    frame(1, 4, 1, &version_headers()),
                    frame(0, 0, 1, &[]).repeat(100_000),
                ]
                .concat(),
            ];
            for flood in floods {
                let mut stream = connect(husk)?;
                // A daemon that stops reading is right, too.
                stream.set_write_timeout(Some(std::time::Duration::from_millis(300)))?;
                // The daemon may hang up at any byte.
                let _ = stream.write_all(&[PREFACE, SETTINGS, &flood].concat());
                husk.assert_serving().await?;
            }
            Ok(())
        })
        .await
    })
    .await
}
