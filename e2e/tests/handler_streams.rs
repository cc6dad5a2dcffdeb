//! Exec, attach and port forwarding to the containers of OCI runtimes, over both protocols.

use anyhow::{Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, script, sleeper};
use husk_e2e::runtimes::{pod, with_each, with_each_and};
use husk_e2e::sessions::{V4, V5, attach_request, exec_request};
use husk_e2e::spdy::Spdy;
use husk_e2e::v1::*;
use husk_e2e::websocket::{RESIZE, STDERR, STDIN, STDOUT, Session};
use husk_e2e::{Options, eventually, process};

#[tokio::test]
async fn a_command_gets_input_and_gives_output_and_an_exit_code() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "exec").await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let request = ExecRequest {
            stdin: true,
            ..exec_request(&id, "cat; echo err >&2; exit 7")
        };
        let mut session = Session::open(&husk.cri.exec_url(request.clone()).await?, V5).await?;
        session.send(STDIN, b"through\n").await?;
        session.close(STDIN).await?;
        let outcome = session.finish().await?;
        ensure!(
            outcome.stdout == b"through\n" && outcome.stderr == b"err\n",
            "{outcome:?}"
        );
        ensure!(outcome.exit_code()? == 7, "{outcome:?}");

        let mut spdy = Spdy::open(&husk.cri.exec_url(request).await?, &[V4]).await?;
        let error = spdy.channel("error").await?;
        let stdin = spdy.channel("stdin").await?;
        let stdout = spdy.channel("stdout").await?;
        let stderr = spdy.channel("stderr").await?;
        spdy.send(stdin, true, b"spdy").await?;
        let all = spdy.collect(&[error, stdout, stderr]).await?;
        ensure!(all[&stdout] == b"spdy" && all[&stderr] == b"err\n", "{all:?}");
        let status = String::from_utf8_lossy(&all[&error]).into_owned();
        ensure!(status.contains("\"message\":\"7\""), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_command_on_a_terminal_has_a_size_and_a_keyboard() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "terminal").await?;
        let config = sleeper("main", &image).secured(|s| s.run_as_user = Some(Int64Value { value: 1001 }));
        let id = husk.cri.launch(&pod, config).await?;
        let text = "echo $(id -u) $TERM ready; while read -r l; do stty size; echo \"got $l\"; done";
        let request = ExecRequest {
            stdin: true,
            stderr: false,
            tty: true,
            ..exec_request(&id, text)
        };
        let mut session = Session::open(&husk.cri.exec_url(request).await?, V4).await?;
        session.wait_for(STDOUT, "1001 xterm ready").await?;
        session.send(RESIZE, b"{\"Width\":77,\"Height\":33}").await?;
        // The size and what is typed take different ways.
        let mut seen = String::new();
        while !seen.contains("33 77") {
            session.send(STDIN, b"line\n").await?;
            seen += &session.wait_for(STDOUT, "got line").await?;
        }
        session.send(STDIN, b"\x03").await?;
        let outcome = session.finish().await?;
        ensure!(outcome.exit_code()? == 130, "{outcome:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_command_that_cannot_run_says_why() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "cannot").await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        for tty in [false, true] {
            let request = ExecRequest {
                container_id: id.clone(),
                cmd: vec!["/no/such/command".into()],
                stdout: true,
                tty,
                ..Default::default()
            };
            let session = Session::open(&husk.cri.exec_url(request).await?, V5).await?;
            let outcome = session.finish().await?;
            ensure!(
                outcome.failure()?.contains("/no/such/command"),
                "tty {tty}: {outcome:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_command_dies_with_its_client_and_all_it_started() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "client").await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        for tty in [false, true] {
            let sleep = format!("sleep 6{}{}", u8::from(tty), std::process::id());
            let text = format!("{sleep} & echo ready; exec {sleep}");
            let request = ExecRequest {
                stdin: true,
                stderr: false,
                tty,
                ..exec_request(&id, &text)
            };
            let mut session = Session::open(&husk.cri.exec_url(request).await?, V5).await?;
            session.wait_for(STDOUT, "ready").await?;
            drop(session);
            eventually("the end of the command", async || {
                Ok(process::with_command(&sleep).is_empty().then_some(()))
            })
            .await?;
        }
        ensure!(husk.cri.sh(&id, "echo alive").await? == "alive");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn clients_attach_to_pipes_and_to_a_terminal() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "attach").await?;
        let text =
            "while read -r l; do stty size 2> /dev/null; echo \"out $l\"; echo \"err $l\" >&2; done; exit 9";
        for tty in [false, true] {
            let mut config = script(&format!("tty-{tty}"), &image, text);
            (config.stdin, config.stdin_once, config.tty) = (true, true, tty);
            let id = husk.cri.launch(&pod, config).await?;
            let request = AttachRequest {
                stdin: true,
                stderr: !tty,
                tty,
                ..attach_request(&id)
            };
            let mut session = Session::open(&husk.cri.attach_url(request).await?, V5).await?;
            if tty {
                session.send(RESIZE, b"{\"Width\":61,\"Height\":17}").await?;
                let mut seen = String::new();
                while !seen.contains("17 61") {
                    session.send(STDIN, b"line\n").await?;
                    seen += &session.wait_for(STDOUT, "err line").await?;
                }
                // The end of input, as it is typed.
                session.send(STDIN, b"\x04").await?;
            } else {
                session.send(STDIN, b"line\n").await?;
                session.wait_for(STDOUT, "out line").await?;
                session.wait_for(STDERR, "err line").await?;
                session.close(STDIN).await?;
            }
            let status = husk.cri.wait_exit(&id).await?;
            ensure!(status.exit_code == 9, "tty {tty}: {status:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn ports_of_their_pods_are_forwarded() -> Result<()> {
    with_each_and(Options::new().builtin_network(), async |husk, handler| {
        let image = husk.busybox().await?;
        let config = husk.pod_config("ports").with_own_network();
        let pod = husk.cri.pod_by(handler, config).await?;
        let server = script(
            "server",
            &image,
            "exec nc -ll -p 7070 -e sh -c 'read -r l; echo \"got $l\"'",
        );
        husk.cri.launch(&pod, server).await?;
        let mut answer = String::new();
        // The server may need a moment.
        while answer.is_empty() {
            let url = husk.cri.port_forward_url(&pod.id, vec![7070]).await?;
            let mut spdy = Spdy::open(&url, &["portforward.k8s.io"]).await?;
            let headers = |kind| [("streamtype", kind), ("port", "7070"), ("requestid", "0")];
            let error = spdy.stream(&headers("error")).await?;
            spdy.send(error, true, b"").await?;
            let data = spdy.stream(&headers("data")).await?;
            spdy.send(data, true, b"line\n").await?;
            let all = spdy.collect(&[data, error]).await?;
            answer = String::from_utf8_lossy(&all[&data]).into_owned();
        }
        ensure!(answer == "got line\n", "{answer:?}");
        Ok(())
    })
    .await
}
