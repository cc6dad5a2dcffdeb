//! A real kubectl, over both of its transports, through a stand-in for the API server that hands the connection through.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context, Result, ensure};
use husk_e2e::api::{Api, Shown};
use husk_e2e::client::{Kubectl, find};
use husk_e2e::config::{script, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{Husk, Options, eventually, process, run, run_with};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// Runs `test` once over each transport.
async fn each(
    husk: &Husk,
    shown: Shown,
    mut test: impl AsyncFnMut(&Kubectl, &str) -> Result<()>,
) -> Result<()> {
    let Some(program) = find("kubectl") else {
        return Ok(());
    };
    let api = Api::start(husk.cri.clone(), shown).await?;
    for (websockets, name) in [(true, "websocket"), (false, "spdy")] {
        let kubectl = Kubectl::new(program.clone(), &api, husk.share("home")?, websockets);
        test(&kubectl, name)
            .await
            .with_context(|| format!("over {name}"))?;
    }
    Ok(())
}

async fn shown(husk: &Husk, config: ContainerConfig, own_network: bool) -> Result<Shown> {
    let mut pod = husk.pod_config("web");
    if own_network && let Some(context) = pod.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        context.namespace_options = Some(NamespaceOption::default());
    }
    let pod = husk.cri.pod(pod).await?;
    let interactive = config.tty;
    let container = husk.cri.launch(&pod, config).await?;
    Ok(Shown {
        pod: pod.id,
        container,
        interactive,
    })
}

#[tokio::test]
async fn kubectl_execs() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let shown = shown(husk, sleeper("main", &image), false).await?;
        each(husk, shown, async |kubectl, _| {
            let said = kubectl
                .run("exec web -- sh -c 'echo out; echo err >&2; exit 7'", b"")
                .await?;
            ensure!(
                said.text() == "out\n" && said.stderr.starts_with("err\n"),
                "{said:?}"
            );
            ensure!(said.status.code() == Some(7), "{said:?}");
            let said = kubectl.run("exec -i web -- cat", b"through and through").await?;
            ensure!(
                said.text() == "through and through" && said.status.success(),
                "{said:?}"
            );
            let said = kubectl.run("exec web -- /no/such/command", b"").await?;
            ensure!(
                !said.status.success() && said.stderr.contains("/no/such/command"),
                "{said:?}"
            );
            // Ten mebibytes there and back.
            let data: Vec<u8> = (0..10 << 18)
                .flat_map(|n: u32| n.wrapping_mul(40503).to_le_bytes())
                .collect();
            let said = kubectl.run("exec -i web -- cat", &data).await?;
            ensure!(
                said.stdout == data,
                "{} of {} bytes",
                said.stdout.len(),
                data.len()
            );
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn kubectl_execs_on_a_terminal() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let shown = shown(husk, sleeper("main", &image), false).await?;
        each(husk, shown, async |kubectl, _| {
            let (status, seen) = kubectl
                .run_on_terminal(
                    "exec -it web -- sh",
                    &[
                        ("/ #", "test -t 0 && echo on $TERM\n"),
                        ("on xterm", "while ! stty size | grep 33.77; do :; done\n"),
                        ("33 77", "exit 4\n"),
                    ],
                )
                .await?;
            ensure!(status.code() == Some(4), "{status}: {seen:?}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn kubectl_attaches() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut config = script("main", &image, "while read -r l; do echo \"got $l\"; done");
        config.stdin = true;
        let shown = shown(husk, config, false).await?;
        let container = shown.container.clone();
        each(husk, shown, async |kubectl, name| {
            let mut child = kubectl.start("attach -i web")?;
            let (mut stdin, stdout) = (
                child.stdin.take().context("?")?,
                child.stdout.take().context("?")?,
            );
            let mut lines = BufReader::new(stdout).lines();
            stdin.write_all(format!("over {name}\n").as_bytes()).await?;
            let line = tokio::time::timeout(husk_e2e::PATIENCE, lines.next_line()).await??;
            ensure!(line == Some(format!("got over {name}")), "{line:?}");
            // Going away leaves the container alone.
            child.kill().await?;
            ensure!(husk.cri.status(&container).await?.state() == ContainerState::ContainerRunning);
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn kubectl_forwards_ports() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let server = "exec nc -ll -p 8080 -e sh -c 'echo server got; cat'";
        let shown = shown(husk, script("main", &image, server), true).await?;
        each(husk, shown, async |kubectl, _| {
            let mut child = kubectl.start("port-forward --address=127.0.0.1 pod/web :8080 :9")?;
            let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
            let mut ports = Vec::new();
            while ports.len() < 2 {
                let line = tokio::time::timeout(husk_e2e::PATIENCE, lines.next_line()).await??;
                let line = line.context("kubectl ended")?;
                // Forwarding from 127.0.0.1:40507 -> 8080
                if let Some(rest) = line.strip_prefix("Forwarding from 127.0.0.1:") {
                    ports.push(rest.split(' ').next().context("no port")?.parse::<u16>()?);
                }
            }
            eventually("the server in the pod", async || {
                let mut tcp = tokio::net::TcpStream::connect(("127.0.0.1", ports[0])).await?;
                tcp.write_all(b"hello\nand more").await?;
                tcp.shutdown().await?;
                let mut text = String::new();
                let read = tokio::time::timeout(husk_e2e::PATIENCE, tcp.read_to_string(&mut text)).await?;
                Ok((read.is_ok() && text == "server got\nhello\nand more").then_some(()))
            })
            .await?;
            // Several connections at once, each its own. They begin one by one: the server's queue is short.
            let mut many = Vec::new();
            for _ in 0..20 {
                let mut tcp = BufReader::new(tokio::net::TcpStream::connect(("127.0.0.1", ports[0])).await?);
                let mut greeting = String::new();
                tokio::time::timeout(husk_e2e::PATIENCE, tcp.read_line(&mut greeting)).await??;
                ensure!(greeting == "server got\n", "{greeting:?}");
                many.push(tcp);
            }
            for (n, tcp) in many.iter_mut().enumerate() {
                tcp.write_all(format!("{n}\n").as_bytes()).await?;
                tcp.shutdown().await?;
            }
            for (n, mut tcp) in many.into_iter().enumerate() {
                let mut text = String::new();
                tokio::time::timeout(husk_e2e::PATIENCE, tcp.read_to_string(&mut text)).await??;
                ensure!(text == format!("{n}\n"), "{n}: {text:?}");
            }
            child.kill().await?;
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn kubectl_says_why_a_port_cannot_be_reached() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let shown = shown(husk, sleeper("main", &image), true).await?;
        each(husk, shown, async |kubectl, _| {
            let mut child = kubectl.start("port-forward --address=127.0.0.1 pod/web :8080")?;
            let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
            let line = tokio::time::timeout(husk_e2e::PATIENCE, lines.next_line()).await??;
            let line = line.context("kubectl ended")?;
            let port: u16 = line
                .rsplit_once("127.0.0.1:")
                .and_then(|(_, rest)| rest.split(' ').next())
                .context("no port")?
                .parse()?;
            let mut tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            let mut text = Vec::new();
            // The connection ends, whichever way.
            let _ = tokio::time::timeout(husk_e2e::PATIENCE, tcp.read_to_end(&mut text)).await?;
            ensure!(text.is_empty(), "{text:?}");
            let mut errors = BufReader::new(child.stderr.take().context("no stderr")?).lines();
            loop {
                let line = tokio::time::timeout(husk_e2e::PATIENCE, errors.next_line()).await??;
                if line
                    .context("kubectl did not say why")?
                    .contains("connect to port 8080 in the pod")
                {
                    break;
                }
            }
            let _ = child.kill().await;
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn kubectl_copies() -> Result<()> {
    run(async |husk| {
        // kubectl cp runs tar in the container; busybox has one.
        let image = husk.busybox().await?;
        let shown = shown(husk, sleeper("main", &image), false).await?;
        let container = shown.container.clone();
        let dir = husk.share("copies")?;
        let data: Vec<u8> = (0..1 << 20)
            .flat_map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        std::fs::write(dir.join("there"), &data)?;
        each(husk, shown, async |kubectl, name| {
            let there = dir.join("there");
            let said = kubectl
                .run(&format!("cp {} web:/tmp/{name}", there.display()), b"")
                .await?;
            ensure!(said.status.success(), "{said:?}");
            let size = husk.cri.sh(&container, &format!("wc -c < /tmp/{name}")).await?;
            ensure!(
                size.trim() == data.len().to_string(),
                "{size} bytes in the container"
            );
            let back = dir.join(name);
            let said = kubectl
                .run(&format!("cp web:/tmp/{name} {}", back.display()), b"")
                .await?;
            ensure!(said.status.success(), "{said:?}");
            ensure!(std::fs::read(&back)? == data, "came back different");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn an_exec_ends_with_kubectl() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let shown = shown(husk, sleeper("main", &image), false).await?;
        each(husk, shown, async |kubectl, name| {
            let unique = format!("sleep 15{}{}", name.len(), std::process::id());
            let mut child = kubectl.start(&format!("exec web -- {unique}"))?;
            let inside = |pid: &i32| process::command(*pid) == unique;
            eventually("the command", async || {
                Ok(process::with_command(&unique).iter().any(inside).then_some(()))
            })
            .await?;
            child.kill().await?;
            let status = child.wait().await?;
            ensure!(status.signal().is_some() || !status.success());
            eventually("the end of the command", async || {
                Ok((!process::with_command(&unique).iter().any(inside)).then_some(()))
            })
            .await
        })
        .await
    })
    .await
}
