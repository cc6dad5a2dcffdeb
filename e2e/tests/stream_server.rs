//! The streaming server itself: addresses, refusals, time limits.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::registry::Tls;
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
                    // Longer than any command can be.
                    cmd: vec!["x".repeat(7 << 20)],
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

/// Encrypts each connection to `port` and leads it to `to`, as long as it lives.
struct Encrypter {
    port: u16,
    accepting: tokio::task::JoinHandle<()>,
}

impl Encrypter {
    /// With a client that checks certificates by `authority`. It is openssl's own: none of husk's code.
    async fn start(to: String, authority: std::path::PathBuf) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let accepting = tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let mut client = tokio::process::Command::new("openssl");
                client.args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error"]);
                client
                    .args(["-verify_ip", "127.0.0.1", "-connect", &to])
                    .arg("-CAfile")
                    .arg(&authority);
                client
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped());
                client.stderr(std::process::Stdio::null()).kill_on_drop(true);
                tokio::spawn(async move {
                    let mut client = client.spawn()?;
                    let (input, output) = (client.stdin.take(), client.stdout.take());
                    if let (Some(mut input), Some(mut output)) = (input, output) {
                        let (mut read, mut write) = tcp.split();
                        tokio::select! {
                            _ = tokio::io::copy(&mut read, &mut input) => {}
                            _ = tokio::io::copy(&mut output, &mut write) => {}
                        }
                    }
                    client.kill().await
                });
            }
        });
        Ok(Self { port, accepting })
    }

    /// An address of the server behind.
    fn through(&self, url: &str) -> Result<String> {
        let rest = url.strip_prefix("https://").with_context(|| url.to_owned())?;
        let (_, path) = rest.split_once('/').with_context(|| url.to_owned())?;
        Ok(format!("http://127.0.0.1:{}/{path}", self.port))
    }
}

impl Drop for Encrypter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test]
async fn with_a_certificate_everything_is_encrypted() -> Result<()> {
    let dir = tempfile::tempdir_in(husk_e2e::base_dir())?;
    let tls = Tls::for_loopback(dir.path())?;
    let (certificate, key) = (tls.certificate.display(), tls.key.display());
    let toml = format!("[stream]\ntls_cert = \"{certificate}\"\ntls_key = \"{key}\"\n");
    run_with(Options::new().toml(&toml), async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("tls")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let url = |script: &str| {
            let (mut runtime, request) = (husk.cri.runtime(), exec_request(&id, script));
            async move { anyhow::Ok(runtime.exec(request).await?.into_inner().url) }
        };
        let first = url("echo one").await?;
        let server = first
            .trim_start_matches("https://")
            .split('/')
            .next()
            .unwrap_or_default();
        let encrypter = Encrypter::start(server.to_owned(), tls.authority.clone()).await?;
        let session = Session::open(&encrypter.through(&first)?, V4).await?;
        let outcome = session.finish().await?;
        ensure!(
            outcome.text() == "one\n" && outcome.exit_code()? == 0,
            "{outcome:?}"
        );
        // Much, both ways round the buffers.
        let much = url("head -c 3000000 /dev/zero; echo end").await?;
        let outcome = Session::open(&encrypter.through(&much)?, V5)
            .await?
            .finish()
            .await?;
        ensure!(
            outcome.stdout.len() == 3_000_004,
            "{} bytes came",
            outcome.stdout.len()
        );
        ensure!(outcome.stdout.ends_with(b"end\n"));
        // Who does not encrypt gets nothing, and the address stays good for who does.
        let last = url("echo last").await?;
        let plain = last.replacen("https://", "http://", 1);
        ensure!(
            Session::open(&plain, V4).await.is_err(),
            "a session without encryption"
        );
        // Who asks for another authority is not satisfied.
        let other = tempfile::tempdir_in(husk_e2e::base_dir())?;
        let stranger =
            Encrypter::start(server.to_owned(), Tls::for_loopback(other.path())?.authority).await?;
        ensure!(
            Session::open(&stranger.through(&last)?, V4).await.is_err(),
            "anybody's certificate will do"
        );
        let outcome = Session::open(&encrypter.through(&last)?, V4)
            .await?
            .finish()
            .await?;
        ensure!(outcome.text() == "last\n", "{outcome:?}");
        Ok(())
    })
    .await
}

/// A certificate that cannot be used keeps the daemon from starting, and nothing of a key is told.
#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() -> Result<()> {
    let dir = tempfile::tempdir_in(husk_e2e::base_dir())?;
    let tls = Tls::for_loopback(dir.path())?;
    let other = tempfile::tempdir_in(husk_e2e::base_dir())?;
    let strange = Tls::for_loopback(other.path())?;
    let broken = dir.path().join("broken.key");
    let secret = "c2VjcmV0";
    std::fs::write(
        &broken,
        format!("-----BEGIN PRIVATE KEY-----\n{secret}*\n-----END PRIVATE KEY-----\n"),
    )?;
    let missing = dir.path().join("missing.pem");
    run(async |husk| {
        for (certificate, key, words) in [
            (&missing, &tls.key, ["tls_cert", "missing.pem", "No such file"]),
            (
                &tls.certificate,
                &missing,
                ["tls_key", "missing.pem", "No such file"],
            ),
            (&tls.key, &tls.key, ["tls_cert", "registry.key", "no certificate"]),
            (
                &tls.certificate,
                &tls.certificate,
                ["tls_key", "registry.crt", "no private key"],
            ),
            (
                &tls.certificate,
                &broken,
                ["tls_key", "broken.key", "not valid PEM"],
            ),
            (
                &tls.certificate,
                &strange.key,
                ["tls_cert", "tls_key", "registry.key"],
            ),
        ] {
            let place = tempfile::tempdir_in(husk.dir())?;
            let file = place.path().join("config.toml");
            let text = format!(
                "[cgroup]\nparent = \"{}/second\"\n[stream]\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
                husk.cgroup_parent(),
                certificate.display(),
                key.display()
            );
            std::fs::write(&file, text)?;
            let mut command = tokio::process::Command::new(husk_e2e::husk::binary()?);
            command
                .arg("serve")
                .arg("--config")
                .arg(&file)
                .arg("--cni-conf-dir")
                .arg(husk.cni_dir());
            command.arg("--root").arg(place.path().join("root"));
            command.arg("--run").arg(place.path().join("run"));
            let output = command
                .stdin(std::process::Stdio::null())
                .kill_on_drop(true)
                .output()
                .await?;
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "{words:?}: the daemon started");
            ensure!(
                words.iter().all(|w| said.contains(w)),
                "{words:?} are not all in {said}"
            );
            ensure!(!said.contains(secret) && !said.contains("panicked"), "{said}");
        }
        Ok(())
    })
    .await
}
