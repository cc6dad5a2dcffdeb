//! Exec over the streaming server, driven by clients of another make.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::sessions::{V4, V5, exec_request};
use husk_e2e::spdy::{Frame, Spdy};
use husk_e2e::v1::*;
use husk_e2e::websocket::{Outcome, RESIZE, STDIN, STDOUT, Session};
use husk_e2e::{Husk, eventually, process, run};

pub(crate) async fn sleeping(husk: &Husk) -> Result<String> {
    let image = husk.busybox().await?;
    let pod = husk.cri.pod(husk.pod_config("streams")).await?;
    Ok(husk.cri.launch(&pod, sleeper("main", &image)).await?)
}

async fn exec_to_end(husk: &Husk, request: ExecRequest) -> Result<Outcome> {
    Session::open(&husk.cri.exec_url(request).await?, V5)
        .await?
        .finish()
        .await
}

#[tokio::test]
async fn an_exec_gives_output_and_exit_code() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let outcome = exec_to_end(husk, exec_request(&id, "echo out; echo err >&2; exit 7")).await?;
        ensure!(
            outcome.stdout == b"out\n" && outcome.stderr == b"err\n",
            "{outcome:?}"
        );
        ensure!(outcome.exit_code()? == 7, "{outcome:?}");
        let outcome = exec_to_end(husk, exec_request(&id, "true")).await?;
        ensure!(
            outcome.exit_code()? == 0 && outcome.stdout.is_empty(),
            "{outcome:?}"
        );
        let outcome = exec_to_end(husk, exec_request(&id, "kill -9 $$")).await?;
        ensure!(outcome.exit_code()? == 137, "{outcome:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_command_that_cannot_run_says_why_also_on_a_terminal() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        for tty in [false, true] {
            for cmd in ["/no/such/command", "/etc/passwd"] {
                let request = ExecRequest {
                    container_id: id.clone(),
                    cmd: vec![cmd.into()],
                    stdout: true,
                    tty,
                    ..Default::default()
                };
                let outcome = exec_to_end(husk, request).await?;
                ensure!(outcome.failure()?.contains(cmd), "{outcome:?}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_end_of_input_reaches_the_command() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        for tty in [false, true] {
            let request = ExecRequest {
                stdin: true,
                stderr: false,
                tty,
                ..exec_request(&id, "cat; echo done; exit 3")
            };
            let mut session = Session::open(&husk.cri.exec_url(request).await?, V5).await?;
            session.send(STDIN, b"some\n").await?;
            session.close(STDIN).await?;
            let outcome = session.finish().await?;
            let text = outcome.text();
            ensure!(text.contains("some") && text.contains("done"), "{outcome:?}");
            ensure!(outcome.exit_code()? == 3, "{outcome:?}");
        }
        // Without input there is nothing to read.
        let outcome = exec_to_end(husk, exec_request(&id, "cat; echo done")).await?;
        ensure!(outcome.stdout == b"done\n", "{outcome:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_terminal_has_a_size_a_name_and_a_keyboard() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let request = ExecRequest {
            stdin: true,
            stderr: false,
            tty: true,
            ..exec_request(
                &id,
                // A read that a signal interrupts fails.
                "trap 'stty size' WINCH; echo $TERM ready; while :; do read -r l && echo \"got $l\"; done",
            )
        };
        let mut session = Session::open(&husk.cri.exec_url(request).await?, V4).await?;
        session.wait_for(STDOUT, "xterm ready").await?;
        session.send(RESIZE, b"{\"Width\":77,\"Height\":33}").await?;
        session.send(STDIN, b"one\n").await?;
        session.wait_for(STDOUT, "got one").await?;
        session.send(RESIZE, b"{\"Width\":99,\"Height\":44}\n").await?;
        session.send(STDIN, b"two\n").await?;
        let seen = session.wait_for(STDOUT, "got two").await?;
        // The trap runs once the read it interrupts has come back.
        let seen = if seen.contains("44 99") {
            seen
        } else {
            seen + &session.wait_for(STDOUT, "44 99").await?
        };
        ensure!(seen.contains("44 99"), "{seen:?}");
        // Control-C ends the loop, and the shell with it.
        session.send(STDIN, b"\x03").await?;
        let outcome = session.finish().await?;
        ensure!(outcome.exit_code()? == 130, "{outcome:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_version_of_the_protocol_is_spoken() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        for protocol in [V4, V5, "channel.k8s.io", ""] {
            let url = husk.cri.exec_url(exec_request(&id, "echo hello; exit 5")).await?;
            let (session, agreed) = Session::open_any(&url, protocol).await?;
            ensure!(agreed == protocol, "{agreed:?} instead of {protocol:?}");
            let outcome = session.finish().await?;
            ensure!(outcome.stdout == b"hello\n", "{protocol}: {outcome:?}");
            if protocol.starts_with('v') {
                ensure!(outcome.exit_code()? == 5, "{protocol}: {outcome:?}");
            } else {
                ensure!(outcome.error.ends_with("exit code 5"), "{protocol}: {outcome:?}");
            }
        }
        // In base 64 the channel is a digit.
        let url = husk.cri.exec_url(exec_request(&id, "echo hello")).await?;
        let mut session = Session::open(&url, "v4.base64.channel.k8s.io").await?;
        let mut seen = Vec::new();
        while let Some((channel, data)) = session.next().await? {
            seen.push((channel, String::from_utf8(data)?));
        }
        ensure!(seen.contains(&(b'1', "aGVsbG8K".into())), "{seen:?}");
        // The client's first choice that is known wins.
        let url = husk.cri.exec_url(exec_request(&id, "true")).await?;
        let (_, agreed) =
            Session::open_any(&url, "v9.channel.k8s.io, v4.channel.k8s.io, v5.channel.k8s.io").await?;
        ensure!(agreed == V4, "{agreed}");
        let url = husk.cri.exec_url(exec_request(&id, "true")).await?;
        ensure!(Session::open_any(&url, "v9.channel.k8s.io").await.is_err());
        Ok(())
    })
    .await
}

/// Runs a command over SPDY, with the streams that version has, and gives back stdout, stderr and the error stream.
async fn exec_over_spdy(
    husk: &Husk,
    request: ExecRequest,
    protocols: &[&str],
    input: &[u8],
) -> Result<[String; 3]> {
    let mut spdy = Spdy::open(&husk.cri.exec_url(request.clone()).await?, protocols).await?;
    let error = spdy.channel("error").await?;
    let stdin = match request.stdin {
        true => Some(spdy.channel("stdin").await?),
        false => None,
    };
    let stdout = spdy.channel("stdout").await?;
    let mut ends = vec![stdout, error];
    let stderr = match request.stderr {
        true => Some(spdy.channel("stderr").await?),
        false => None,
    };
    ends.extend(stderr);
    if request.tty
        && spdy
            .protocol
            .as_deref()
            .is_some_and(|p| p.starts_with("v3") || p.starts_with("v4"))
    {
        spdy.channel("resize").await?;
    }
    if let Some(stdin) = stdin {
        spdy.send(stdin, true, input).await?;
    }
    let all = spdy.collect(&ends).await?;
    let text = |id: Option<u32>| {
        let bytes = id.and_then(|id| all.get(&id)).cloned().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok([text(Some(stdout)), text(stderr), text(Some(error))])
}

#[tokio::test]
async fn spdy_speaks_every_version_too() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let request = ExecRequest {
            stdin: true,
            ..exec_request(&id, "cat; echo err >&2; exit 5")
        };
        for protocol in [V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
            let [out, err, error] =
                exec_over_spdy(husk, request.clone(), &[V5, protocol], b"through").await?;
            ensure!(out == "through" && err == "err\n", "{protocol}: {out:?} {err:?}");
            if protocol == V4 {
                ensure!(error.contains("\"message\":\"5\""), "{error}");
            } else {
                ensure!(error.ends_with("exit code 5"), "{protocol}: {error}");
            }
        }
        let [out, _, error] = exec_over_spdy(husk, exec_request(&id, "echo old"), &[], b"").await?;
        ensure!(out == "old\n" && error.is_empty(), "{out:?} {error:?}");
        for protocol in [V4, "v2.channel.k8s.io"] {
            let request = ExecRequest {
                stdin: true,
                stderr: false,
                tty: true,
                ..exec_request(&id, "cat; echo done")
            };
            let [out, ..] = exec_over_spdy(husk, request, &[protocol], b"typed\n").await?;
            ensure!(
                out.contains("typed") && out.contains("done"),
                "{protocol}: {out:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_hundred_mebibytes_come_back_as_they_went() -> Result<()> {
    const TOTAL: usize = 100 << 20;
    run(async |husk| {
        let id = sleeping(husk).await?;
        let request = ExecRequest {
            stdin: true,
            ..exec_request(&id, "cat")
        };
        // Bytes that tell where they are from.
        let pattern: Vec<u8> = (0..1 << 16)
            .flat_map(|n: u32| n.wrapping_mul(40503).to_le_bytes())
            .collect();
        let chunk = |at: usize| &pattern[at % pattern.len()..][..32 << 10];
        let url = husk.cri.exec_url(request.clone()).await?;
        let session = Session::open(&url, V5).await?;
        let (mut sender, mut receiver) = session.split();
        let sent = async {
            for at in (0..TOTAL).step_by(32 << 10) {
                sender.send(STDIN, chunk(at)).await?;
            }
            sender.close(STDIN).await
        };
        let received = async {
            let mut at = 0;
            while let Some((channel, data)) = receiver.next().await? {
                if channel != STDOUT {
                    continue;
                }
                let expected = pattern.iter().cycle().skip(at % pattern.len()).take(data.len());
                ensure!(data.iter().eq(expected), "differs after {at} bytes");
                at += data.len();
            }
            Ok(at)
        };
        let (sent, received) = tokio::join!(sent, received);
        sent?;
        ensure!(received? == TOTAL);

        // The same over SPDY, where the client keeps the windows that it announces.
        let mut spdy = Spdy::open(&husk.cri.exec_url(request).await?, &[V4]).await?;
        spdy.set_window(256 << 10).await?;
        let error = spdy.channel("error").await?;
        let stdin = spdy.channel("stdin").await?;
        let stdout = spdy.channel("stdout").await?;
        spdy.channel("stderr").await?;
        let (mut at, mut sent, mut window) = (0, 0, [64i64 << 10; 2]);
        let mut ended = false;
        while !ended {
            while sent < TOTAL && window.iter().all(|w| *w >= 32 << 10) {
                spdy.send(stdin, false, chunk(sent)).await?;
                sent += 32 << 10;
                window = window.map(|w| w - (32 << 10));
                if sent == TOTAL {
                    spdy.send(stdin, true, b"").await?;
                }
            }
            match spdy.frame().await?.context("the server closed")? {
                Frame::Data { stream, fin, data } if stream == stdout => {
                    let expected = pattern.iter().cycle().skip(at % pattern.len()).take(data.len());
                    ensure!(data.iter().eq(expected), "differs after {at} bytes");
                    at += data.len();
                    ended = fin;
                    let length = u32::try_from(data.len())?;
                    if length > 0 {
                        spdy.widen(stdout, length).await?;
                        spdy.widen(0, length).await?;
                    }
                }
                Frame::Window { stream: 0, delta } => window[0] += i64::from(delta),
                Frame::Window { stream, delta } if stream == stdin => window[1] += i64::from(delta),
                _ => {}
            }
        }
        ensure!(at == TOTAL, "{at} bytes");
        let status = spdy.collect(&[error]).await?;
        ensure!(
            String::from_utf8_lossy(&status[&error]).contains("Success"),
            "{status:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn output_that_nobody_reads_waits_and_is_complete() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let url = husk
            .cri
            .exec_url(exec_request(&id, "head -c 3000000 /dev/zero; exit 4"))
            .await?;
        let mut session = Session::open(&url, V5).await?;
        // The command writes more than all buffers hold, and must not be told to hurry.
        session.wait_for(STDOUT, "").await?;
        eventually("the command's wait for its reader", async || {
            Ok((!process::with_command("head -c 3000000").is_empty()).then_some(()))
        })
        .await?;
        let outcome = session.finish().await?;
        ensure!(outcome.exit_code()? == 4, "{}", outcome.error);
        let zeros = outcome.stdout.iter().filter(|b| **b == 0).count();
        ensure!(
            zeros == outcome.stdout.len() && zeros <= 3_000_000 && zeros > 2_900_000,
            "{zeros} bytes"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_exec_ends_with_its_client_and_all_its_descendants() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        for (salt, tty) in [(11, false), (12, true)] {
            let unique = format!("sleep {salt}{}", std::process::id());
            let request = ExecRequest {
                stdin: true,
                stderr: false,
                tty,
                ..exec_request(&id, &format!("trap '' HUP; setsid {unique} & {unique}; {unique}"))
            };
            let session = Session::open(&husk.cri.exec_url(request).await?, V5).await?;
            eventually("the command", async || {
                Ok((process::with_command(&unique).len() >= 2).then_some(()))
            })
            .await?;
            drop(session);
            eventually("the end of the command and its descendants", async || {
                Ok(process::with_command(&unique).is_empty().then_some(()))
            })
            .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_child_in_the_background_does_not_keep_the_client() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let unique = format!("sleep 13{}", std::process::id());
        let outcome = exec_to_end(husk, exec_request(&id, &format!("{unique} & echo started"))).await?;
        ensure!(
            outcome.stdout == b"started\n" && outcome.exit_code()? == 0,
            "{outcome:?}"
        );
        // Nor does one that writes for ever.
        let outcome = exec_to_end(husk, exec_request(&id, "yes & echo started; exit 6")).await?;
        ensure!(outcome.exit_code()? == 6, "{}", outcome.error);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_exec_ends_with_its_container() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let url = husk
            .cri
            .exec_url(exec_request(&id, "echo ready; sleep 1000"))
            .await?;
        let mut session = Session::open(&url, V5).await?;
        session.wait_for(STDOUT, "ready").await?;
        husk.cri.stop(&id, 0).await?;
        let outcome = session.finish().await?;
        ensure!(outcome.exit_code()? == 137, "{outcome:?}");
        Ok(())
    })
    .await
}
