//! Clients of the streaming server that mean no good, or do not know what they do: it stays there for the others, bounded,
//! and forgets them without a trace.

use std::fs;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::sessions::{V4, V5, exec_request};
use husk_e2e::spdy::{Frame, Spdy};
use husk_e2e::v1::*;
use husk_e2e::websocket::{STDIN, Session, address};
use husk_e2e::{CriExt, Husk, Options, eventually, process, run, run_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

async fn sleeping(husk: &Husk) -> Result<String> {
    let image = husk.busybox().await?;
    let pod = husk.cri.pod(husk.pod_config("bad-streams")).await?;
    Ok(husk.cri.launch(&pod, sleeper("main", &image)).await?)
}

async fn exec(husk: &Husk, id: &str, text: &str) -> Result<String> {
    let request = ExecRequest {
        stdin: true,
        stderr: false,
        ..exec_request(id, text)
    };
    Ok(husk.cri.exec_url(request).await?)
}

/// A session of an ordinary client still works.
async fn assert_streaming(husk: &Husk, id: &str) -> Result<()> {
    let session = Session::open(&exec(husk, id, "echo fine").await?, V5).await?;
    let outcome = session.finish().await?;
    ensure!(
        outcome.stdout == b"fine\n" && outcome.exit_code()? == 0,
        "{outcome:?}"
    );
    Ok(())
}

/// Open descriptors of the daemon and its memory in KiB.
fn usage(husk: &Husk) -> Result<(usize, u64)> {
    let pid = husk.pid()?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let status = process::status(pid);
    let resident = status.get("VmRSS").context("no VmRSS")?;
    Ok((descriptors, resident.trim_end_matches(" kB").trim().parse()?))
}

/// Waits until the daemon has no more descriptors than it had before.
async fn assert_forgotten(husk: &Husk, before: usize) -> Result<()> {
    eventually("the daemon's release of descriptors", async || {
        Ok((usage(husk)?.0 <= before + 2).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_thousand_addresses_wait_and_the_next_is_refused() -> Result<()> {
    run_with(Options::new().quiet(), async |husk| {
        let id = sleeping(husk).await?;
        let (before, _) = usage(husk)?;
        let mut urls = Vec::new();
        for _ in 0..1000 {
            urls.push(exec(husk, &id, "true").await?);
        }
        let refused = exec(husk, &id, "true").await;
        refused.refused_with(Code::ResourceExhausted)?;
        ensure!(
            process::with_command("sh -c true").is_empty(),
            "an address runs nothing"
        );
        ensure!(usage(husk)?.0 <= before + 2, "an address holds nothing");
        // One that is used makes room for another.
        let outcome = Session::open(&urls[500], V5).await?.finish().await?;
        ensure!(outcome.exit_code()? == 0, "{outcome:?}");
        assert_streaming(husk, &id).await?;
        urls.sort();
        urls.dedup();
        ensure!(urls.len() == 1000, "addresses repeat");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_let_go() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let url = exec(husk, &id, "true").await?;
        let (before, _) = usage(husk)?;
        // Some say nothing, some begin, and one goes on and on, a header at a time.
        let mut slow = Vec::new();
        for n in 0..200 {
            let mut tcp = TcpStream::connect(address(&url)?).await?;
            if n % 2 == 1 {
                tcp.write_all(b"GET /exec/x HTTP/1.1\r\nHost: x\r\n").await?;
            }
            slow.push(tcp);
        }
        assert_streaming(husk, &id).await?;
        let dripping = tokio::spawn(async move {
            let mut tcp = TcpStream::connect(address(&url)?).await?;
            tcp.write_all(b"GET /exec/x HTTP/1.1\r\n").await?;
            while tcp.write_all(b"X-More: 1\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
            anyhow::Ok(())
        });
        // They are closed by the other side; what it says first does not matter.
        for mut tcp in slow {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(husk_e2e::PATIENCE, tcp.read_to_end(&mut rest)).await;
            read.context("a silent client is kept")?.ok();
        }
        tokio::time::timeout(husk_e2e::PATIENCE, dripping)
            .await
            .context("a dripping client is kept")???;
        assert_forgotten(husk, before).await?;
        assert_streaming(husk, &id).await
    })
    .await
}

#[tokio::test]
async fn requests_and_frames_that_are_too_large_are_refused() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let url = exec(husk, &id, "true").await?;
        let (before, _) = usage(husk)?;
        let mut tcp = TcpStream::connect(address(&url)?).await?;
        let header = format!("X-Long: {}\r\n", "x".repeat(1000));
        tcp.write_all(b"GET /exec/x HTTP/1.1\r\nHost: x\r\n").await?;
        for _ in 0..100_000 {
            if tcp.write_all(header.as_bytes()).await.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(husk_e2e::PATIENCE, tcp.read_to_end(&mut answer)).await?;
        ensure!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        // Frames of every kind, each with a length of 16 MiB; a SETTINGS frame that claims half a billion entries; a header
        // block that unfolds without end is among the unit tests.
        let mut hostile: Vec<Vec<u8>> = (1..12)
            .map(|kind| vec![0x80, 3, 0, kind, 0, 0xff, 0xff, 0xff])
            .collect();
        hostile.push(vec![0x80, 3, 0, 4, 0, 0, 0, 4, 0x20, 0, 0, 0]);
        hostile.push(vec![0xff; 64]);
        for bytes in hostile {
            let mut spdy = Spdy::open(&exec(husk, &id, "sleep 1000").await?, &[V4]).await?;
            spdy.raw(&bytes).await?;
            ensure!(spdy.frame().await?.is_none(), "{bytes:?} was answered");
        }
        // A WebSocket message of 2 MiB, in one frame.
        let mut session = Session::open(&exec(husk, &id, "cat > /dev/null").await?, V5).await?;
        let _ = session.send(STDIN, &vec![0; 2 << 20]).await;
        while session.next().await.ok().flatten().is_some() {}
        drop(session);
        assert_forgotten(husk, before).await?;
        assert_streaming(husk, &id).await
    })
    .await
}

#[tokio::test]
async fn a_client_that_opens_five_hundred_streams_gets_as_many_as_there_may_be() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let pod = husk.cri.list_pods(None).await?.remove(0).id;
        let (before, _) = usage(husk)?;
        let url = husk.cri.port_forward_url(&pod, vec![]).await?;
        let mut spdy = Spdy::open(&url, &["portforward.k8s.io"]).await?;
        for n in 0..500 {
            // Halves only: no pair is ever complete.
            let request = n.to_string();
            spdy.stream(&[("streamtype", "data"), ("port", "80"), ("requestid", &request)])
                .await?;
        }
        let (mut accepted, mut refused) = (0, 0);
        while accepted + refused < 500 {
            match spdy.frame().await?.context("the server closed")? {
                Frame::Reply(_) => accepted += 1,
                // REFUSED_STREAM
                Frame::Reset { status: 3, .. } => refused += 1,
                other => anyhow::bail!("{other:?}"),
            }
        }
        ensure!(
            accepted == 256 && refused == 244,
            "{accepted} accepted, {refused} refused"
        );
        assert_streaming(husk, &id).await?;
        // Streams of an exec that make no sense, or come twice, are refused one by one; the session goes on.
        let mut exec_client = Spdy::open(&exec(husk, &id, "echo still here").await?, &[V4]).await?;
        for kind in ["nonsense", "error", "error", "stdin", "stdin"] {
            exec_client.channel(kind).await?;
        }
        let stdout = exec_client.channel("stdout").await?;
        let all = exec_client.collect(&[stdout]).await?;
        ensure!(all.get(&stdout).is_some_and(|d| d == b"still here\n"), "{all:?}");
        drop((spdy, exec_client));
        assert_forgotten(husk, before).await?;
        assert_streaming(husk, &id).await
    })
    .await
}

#[tokio::test]
async fn input_that_nobody_takes_does_not_fill_the_daemon() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let unique = format!("sleep 16{}", std::process::id());
        let (before, memory) = usage(husk)?;
        // Eight clients each send without end to a command that does not read.
        let mut clients = Vec::new();
        for n in 0..8 {
            let url = exec(husk, &id, &unique).await?;
            clients.push(tokio::spawn(async move {
                let chunk = vec![0; 64 << 10];
                if n % 2 == 0 {
                    let mut session = Session::open(&url, V5).await?;
                    for _ in 0..1024 {
                        session.send(STDIN, &chunk).await?;
                    }
                } else {
                    let mut spdy = Spdy::open(&url, &[V4]).await?;
                    spdy.channel("error").await?;
                    let stdin = spdy.channel("stdin").await?;
                    spdy.channel("stdout").await?;
                    for _ in 0..1024 {
                        spdy.send(stdin, false, &chunk).await?;
                    }
                }
                Err::<(), _>(anyhow::anyhow!(
                    "64 MiB were taken by a command that does not read"
                ))
            }));
        }
        eventually("the commands", async || {
            Ok((process::with_command(&unique).len() >= 8).then_some(()))
        })
        .await?;
        assert_streaming(husk, &id).await?;
        // All the clients can do is wait.
        ensure!(clients.iter().all(|c| !c.is_finished()));
        let (_, now) = usage(husk)?;
        ensure!(now < memory + (32 << 10), "from {memory} to {now} KiB");
        for client in clients {
            client.abort();
        }
        // That they are gone is seen although nobody reads what they sent.
        eventually("the end of the commands", async || {
            Ok(process::with_command(&unique).is_empty().then_some(()))
        })
        .await?;
        assert_forgotten(husk, before).await
    })
    .await
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing() -> Result<()> {
    run_with(Options::new().quiet(), async |husk| {
        let id = sleeping(husk).await?;
        let unique = format!("sleep 17{}", std::process::id());
        for _ in 0..3 {
            assert_streaming(husk, &id).await?;
        }
        let (before, _) = usage(husk)?;
        for n in 0..60 {
            let url = exec(husk, &id, &unique).await?;
            match n % 4 {
                // Before it says anything.
                0 => drop(TcpStream::connect(address(&url)?).await?),
                // Before it has opened its streams.
                1 => drop(Spdy::open(&url, &[V4]).await?),
                // While the command starts.
                2 => drop(Session::open(&url, V5).await?),
                _ => assert_streaming(husk, &id).await?,
            }
        }
        eventually("the end of all commands", async || {
            Ok(process::with_command(&unique).is_empty().then_some(()))
        })
        .await?;
        assert_forgotten(husk, before).await
    })
    .await
}
