//! Attach over the streaming server, driven by a client of another make.

use std::time::Duration;

use anyhow::{Result, ensure};
use husk_e2e::config::{script, sleeper};
use husk_e2e::sessions::{V5, attach_request};
use husk_e2e::v1::*;
use husk_e2e::websocket::{RESIZE, STDERR, STDIN, STDOUT, Session};
use husk_e2e::{Husk, eventually, run};
use nix::sys::signal::{Signal, kill};

use crate::restart::supervisor;

async fn attach(husk: &Husk, request: AttachRequest) -> Result<Session> {
    Session::open(&husk.cri.attach_url(request).await?, V5).await
}

#[tokio::test]
async fn attached_clients_share_output_and_outlive_each_other() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("attach")).await?;
        let mut config = script(
            "main",
            &image,
            "while read -r l; do echo \"out $l\"; echo \"err $l\" >&2; done; exit 9",
        );
        config.stdin = true;
        let id = husk.cri.launch(&pod, config).await?;
        let with_input = AttachRequest {
            stdin: true,
            ..attach_request(&id)
        };
        let mut one = attach(husk, with_input.clone()).await?;
        let mut two = attach(husk, attach_request(&id)).await?;
        // Who attaches later misses what was said before.
        for _ in 0..60 {
            one.send(STDIN, b"first\n").await?;
            let seen = two.wait_for(STDOUT, "out first");
            if tokio::time::timeout(Duration::from_secs(1), seen).await.is_ok() {
                break;
            }
        }
        two.wait_for(STDERR, "err first").await?;
        one.wait_for(STDOUT, "out first").await?;
        // Its input may be opened again, so that it does not end with a client.
        one.close(STDIN).await?;
        drop(one);
        let mut three = attach(husk, with_input).await?;
        three.send(STDIN, b"second\n").await?;
        three.wait_for(STDOUT, "out second").await?;
        ensure!(husk.cri.status(&id).await?.state() == ContainerState::ContainerRunning);
        husk.cri.stop(&id, 0).await?;
        for session in [two, three] {
            let outcome = session.finish().await?;
            ensure!(outcome.exit_code()? == 0, "{outcome:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn input_that_is_open_once_ends_with_its_first_client() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("once")).await?;
        for goes_away in [false, true] {
            let name = if goes_away { "away" } else { "closes" };
            let mut config = script(name, &image, "cat; echo the end; exit 4");
            (config.stdin, config.stdin_once) = (true, true);
            let id = husk.cri.launch(&pod, config).await?;
            let mut session = attach(
                husk,
                AttachRequest {
                    stdin: true,
                    ..attach_request(&id)
                },
            )
            .await?;
            session.send(STDIN, b"some\n").await?;
            session.wait_for(STDOUT, "some").await?;
            if goes_away {
                drop(session);
            } else {
                session.close(STDIN).await?;
                let outcome = session.finish().await?;
                ensure!(outcome.text().ends_with("the end\n"), "{outcome:?}");
            }
            let status = husk.cri.wait_exit(&id).await?;
            ensure!(status.exit_code == 4, "{status:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn attaching_to_a_terminal_is_sitting_down_at_it() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("tty")).await?;
        let mut config = script(
            "main",
            &image,
            "while read -r l; do stty size; echo \"got $l\" >&2; done",
        );
        (config.stdin, config.tty) = (true, true);
        let id = husk.cri.launch(&pod, config).await?;
        let request = AttachRequest {
            stdin: true,
            stderr: false,
            tty: true,
            ..attach_request(&id)
        };
        let mut session = attach(husk, request).await?;
        session.send(RESIZE, b"{\"Width\":61,\"Height\":17}").await?;
        // The size and what is typed take different ways.
        let mut seen = String::new();
        while !seen.contains("17 61") {
            session.send(STDIN, b"line\n").await?;
            seen += &session.wait_for(STDOUT, "got line").await?;
        }
        Ok(())
    })
    .await
}

/// Open descriptors of the daemon.
fn descriptors(husk: &Husk) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", husk.pid()?))?.count())
}

#[tokio::test]
async fn clients_that_leave_while_the_supervisor_stands_still_cost_nothing() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("still")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        // Once before, so that what the first one sets up is not counted.
        drop(attach(husk, attach_request(&id)).await?);
        let supervisor = supervisor(husk, &id).await?;
        kill(supervisor, Signal::SIGSTOP)?;
        let left = async {
            let before = descriptors(husk)?;
            for _ in 0..8 {
                let mut session = attach(husk, attach_request(&id)).await?;
                // The greeting: the supervisor is asked next.
                session.next().await?;
            }
            eventually("the daemon's release of descriptors", async || {
                Ok((descriptors(husk)? <= before + 2).then_some(()))
            })
            .await
        }
        .await;
        kill(supervisor, Signal::SIGCONT)?;
        left
    })
    .await
}
