//! The streaming server itself: addresses, refusals, time limits.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::sessions::{V4, V5, attach_request, exec_request};
use husk_e2e::spdy::Spdy;
use husk_e2e::v1::*;
use husk_e2e::websocket::Session;
use husk_e2e::{CriExt, Options, eventually, process, run, run_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::streams::sleeping;

#[tokio::test]
async fn what_cannot_be_is_refused_before_there_is_an_address() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("checks")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let created = husk.cri.create(&pod, sleeper("created", &image)).await?;
        let mut runtime = husk.cri.runtime();
        let good = exec_request(&id, "true");
        for (request, code) in [
            (
                ExecRequest {
                    tty: true,
                    ..good.clone()
                },
                Code::InvalidArgument,
            ),
            (
                ExecRequest {
                    cmd: vec![],
                    ..good.clone()
                },
                Code::InvalidArgument,
            ),
            (
                ExecRequest {
                    stdout: false,
                    stderr: false,
                    ..good.clone()
                },
                Code::InvalidArgument,
            ),
            (
                ExecRequest {
                    container_id: String::new(),
                    ..good.clone()
                },
                Code::InvalidArgument,
            ),
            (exec_request("0123456789abcdef", "true"), Code::NotFound),
            (exec_request(&created, "true"), Code::FailedPrecondition),
        ] {
            runtime.exec(request).await.refused_with(code)?;
        }
        let good = attach_request(&id);
        for (request, code) in [
            (
                AttachRequest {
                    tty: true,
                    ..good.clone()
                },
                Code::InvalidArgument,
            ),
            (
                AttachRequest {
                    stdout: false,
                    stderr: false,
                    ..good.clone()
                },
                Code::InvalidArgument,
            ),
            (
                AttachRequest {
                    container_id: String::new(),
                    ..good.clone()
                },
                Code::InvalidArgument,
            ),
            (attach_request("0123456789abcdef"), Code::NotFound),
            (attach_request(&created), Code::FailedPrecondition),
        ] {
            runtime.attach(request).await.refused_with(code)?;
        }
        for (pod_sandbox_id, port, code) in [
            ("", vec![], Code::InvalidArgument),
            (&pod.id[..], vec![0], Code::InvalidArgument),
            (&pod.id[..], vec![70_000], Code::InvalidArgument),
            ("0123456789abcdef", vec![], Code::NotFound),
        ] {
            let request = PortForwardRequest {
                pod_sandbox_id: pod_sandbox_id.into(),
                port,
            };
            runtime.port_forward(request).await.refused_with(code)?;
        }
        husk.cri.stop_pod(&pod.id).await?;
        let request = PortForwardRequest {
            pod_sandbox_id: pod.id.clone(),
            port: vec![],
        };
        runtime
            .port_forward(request)
            .await
            .refused_with(Code::FailedPrecondition)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_that_ends_before_the_client_comes_is_told_over_the_stream() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let url = husk.cri.exec_url(exec_request(&id, "true")).await?;
        let attached = husk.cri.attach_url(attach_request(&id)).await?;
        husk.cri.stop(&id, 0).await?;
        for url in [url, attached] {
            let outcome = Session::open(&url, V5).await?.finish().await?;
            ensure!(outcome.failure()?.contains("not running"), "{outcome:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn idle_sessions_and_clients_without_streams_are_given_up() -> Result<()> {
    let toml = "[stream]\nidle_timeout_secs = 1\ncreation_timeout_secs = 1\n";
    run_with(Options::new().toml(toml), async |husk| {
        let id = sleeping(husk).await?;
        let unique = format!("sleep 14{}", std::process::id());
        let mut session = Session::open(&husk.cri.exec_url(exec_request(&id, &unique)).await?, V5).await?;
        while session.next().await.ok().flatten().is_some() {}
        eventually("the end of the idle command", async || {
            Ok(process::with_command(&unique).is_empty().then_some(()))
        })
        .await?;
        let mut spdy = Spdy::open(&husk.cri.exec_url(exec_request(&id, "true")).await?, &[V4]).await?;
        spdy.channel("stdout").await?;
        while spdy.frame().await?.is_some() {}
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_address_can_be_chosen_and_be_ipv6() -> Result<()> {
    run_with(
        Options::new().toml("[stream]\naddress = \"::1\"\n"),
        async |husk| {
            let id = sleeping(husk).await?;
            let url = husk.cri.exec_url(exec_request(&id, "echo six")).await?;
            ensure!(url.starts_with("http://[::1]:"), "{url}");
            let outcome = Session::open(&url, V5).await?.finish().await?;
            ensure!(outcome.stdout == b"six\n", "{outcome:?}");
            Ok(())
        },
    )
    .await
}

/// Reads to the end whatever a server says on a plain connection.
async fn raw(url: &str, request: &str) -> Result<String> {
    let mut tcp = tokio::net::TcpStream::connect(husk_e2e::websocket::address(url)?).await?;
    tcp.write_all(request.as_bytes()).await?;
    let mut text = Vec::new();
    tokio::time::timeout(husk_e2e::PATIENCE, tcp.read_to_end(&mut text)).await??;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn an_address_is_good_for_one_use_and_for_what_it_was_made() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let url = husk.cri.exec_url(exec_request(&id, "echo once")).await?;
        let path = url.splitn(4, '/').nth(3).context("no path")?;
        let token = path.strip_prefix("exec/").with_context(|| url.clone())?;
        ensure!(token.len() >= 22, "{token} can be guessed");
        for (request, answer) in [
            (format!("GET /attach/{token} HTTP/1.1\r\nHost: x\r\n\r\n"), "404"),
            (
                "GET /exec/0123456789abcdef HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
                "404",
            ),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404"),
            (format!("GET /exec/{token} HTTP/1.1\r\nHost: x\r\n\r\n"), "400"),
            (format!("DELETE /exec/{token} HTTP/1.1\r\nHost: x\r\n\r\n"), "405"),
        ] {
            let text = raw(&url, &request).await?;
            ensure!(
                text.starts_with(&format!("HTTP/1.1 {answer} ")),
                "{request:?}: {text}"
            );
        }
        let outcome = Session::open(&url, V5).await?.finish().await?;
        ensure!(outcome.stdout == b"once\n", "{outcome:?}");
        ensure!(Session::open(&url, V5).await.is_err(), "used twice");
        Ok(())
    })
    .await
}
