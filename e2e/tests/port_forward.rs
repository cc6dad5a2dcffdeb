//! Port forwarding over the streaming server, driven by clients of another make.

use anyhow::{Result, bail, ensure};
use husk_e2e::config::script;
use husk_e2e::sessions::V4;
use husk_e2e::spdy::Spdy;
use husk_e2e::v1::*;
use husk_e2e::websocket::Session;
use husk_e2e::{Husk, Options, PATIENCE, eventually, run, run_with};

/// A pod with a server that answers a line and then gives back what it gets.
async fn with_server(
    husk: &Husk,
    host_network: bool,
    port: u16,
    sysctl: Option<&str>,
) -> Result<(String, String)> {
    let image = husk.busybox().await?;
    let mut config = husk.pod_config("ports");
    if !host_network && let Some(context) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        context.namespace_options = Some(NamespaceOption::default());
    }
    if let Some(linux) = &mut config.linux {
        linux
            .sysctls
            .extend(sysctl.map(|name| (name.to_owned(), "1".to_owned())));
    }
    let pod = husk.cri.pod(config).await?;
    let server = format!("exec nc -ll -p {port} -e sh -c 'read -r l; echo \"server got $l\"; cat'");
    let id = husk.cri.launch(&pod, script("server", &image, &server)).await?;
    Ok((pod.id, id))
}

/// Talks to a forwarded port over SPDY until its answer, or until the error stream says why there is none.
async fn talk(spdy: &mut Spdy, port: u16, request: &str) -> Result<(String, String)> {
    let port = port.to_string();
    let headers = |kind| {
        [
            ("streamtype", kind),
            ("port", port.as_str()),
            ("requestid", request),
        ]
    };
    let error = spdy.stream(&headers("error")).await?;
    spdy.send(error, true, b"").await?;
    let data = spdy.stream(&headers("data")).await?;
    spdy.send(data, false, format!("{request}\n").as_bytes()).await?;
    spdy.send(data, true, b"the rest").await?;
    let all = spdy.collect(&[data, error]).await?;
    let text = |id| String::from_utf8_lossy(all.get(&id).map_or(&[][..], |d| d)).into_owned();
    Ok((text(data), text(error)))
}

async fn forwards(husk: &Husk, host_network: bool, port: u16) -> Result<()> {
    let (pod, container) = with_server(husk, host_network, port, None).await?;
    let mut spdy = Spdy::open(
        &husk.cri.port_forward_url(&pod, vec![]).await?,
        &["portforward.k8s.io"],
    )
    .await?;
    let mut serial = 0;
    eventually("the server in the pod", async || {
        serial += 1;
        let (data, error) = talk(&mut spdy, port, &serial.to_string()).await?;
        if !error.is_empty() {
            ensure!(error.contains(&port.to_string()), "{error}");
            return Ok(None);
        }
        ensure!(data == format!("server got {serial}\nthe rest"), "{data:?}");
        Ok(Some(()))
    })
    .await?;
    let (data, error) = talk(&mut spdy, 9, "nobody").await?;
    ensure!(
        data.is_empty() && error.contains("127.0.0.1"),
        "{data:?} {error:?}"
    );
    // One connection that fails does not end the others.
    let (data, _) = talk(&mut spdy, port, "last").await?;
    ensure!(data.starts_with("server got last"), "{data:?}");

    let url = husk.cri.port_forward_url(&pod, vec![i32::from(port)]).await?;
    let mut session = Session::open(&url, V4).await?;
    let number = port.to_le_bytes().to_vec();
    ensure!(session.next().await? == Some((0, number.clone())));
    ensure!(session.next().await? == Some((1, number)));
    session.send(0, b"hello\n").await?;
    session.wait_for(0, "server got hello\n").await?;
    husk.cri.stop(&container, 0).await?;
    // The server is gone, and the client is told although it has not said that it is done: here it has no words for it.
    loop {
        match tokio::time::timeout(PATIENCE, session.next()).await? {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(error) => bail!("the connection broke instead of being closed: {error}"),
        }
    }
}

#[tokio::test]
async fn ports_of_a_pod_are_reached_over_either_protocol() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        forwards(husk, false, 8080).await
    })
    .await
}

#[tokio::test]
async fn ports_of_a_pod_on_the_nodes_network_are_reached() -> Result<()> {
    // A port that is free now.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    run(async |husk| forwards(husk, true, port).await).await
}

#[tokio::test]
async fn a_pod_that_listens_on_ipv6_only_is_reached() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let (pod, _) = with_server(husk, false, 8080, Some("net.ipv6.bindv6only")).await?;
        let mut spdy = Spdy::open(
            &husk.cri.port_forward_url(&pod, vec![]).await?,
            &["portforward.k8s.io"],
        )
        .await?;
        let mut serial = 0;
        eventually("the server in the pod", async || {
            serial += 1;
            let (data, _) = talk(&mut spdy, 8080, &serial.to_string()).await?;
            Ok(data.starts_with("server got").then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn an_old_tunnel_is_a_websocket_full_of_spdy() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let (pod, _) = with_server(husk, false, 8080, None).await?;
        let url = husk.cri.port_forward_url(&pod, vec![]).await?;
        let (session, agreed) = Session::open_any(&url, "SPDY/3.1+portforward.k8s.io").await?;
        ensure!(agreed == "SPDY/3.1+portforward.k8s.io", "{agreed}");
        let mut spdy = Spdy::through(session);
        let mut serial = 0;
        eventually("the server in the pod", async || {
            serial += 1;
            let (data, error) = talk(&mut spdy, 8080, &serial.to_string()).await?;
            if !error.is_empty() {
                return Ok(None);
            }
            ensure!(data == format!("server got {serial}\nthe rest"), "{data:?}");
            Ok(Some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn an_address_is_not_used_up_by_a_client_that_forgets_the_ports() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("forgetful")).await?;
        let url = husk.cri.port_forward_url(&pod.id, vec![]).await?;
        let too_many = format!("{url}?port=1{}", ",2".repeat(64));
        for wrong in [&url, &too_many] {
            let refused = Session::open(wrong, V4).await.err();
            let refused = refused.map(|e| e.to_string()).unwrap_or_default();
            ensure!(refused.contains("400"), "{refused:?}");
        }
        let mut session = Session::open(&format!("{url}?port=80"), V4).await?;
        ensure!(session.next().await? == Some((0, vec![80, 0])));
        Ok(())
    })
    .await
}
