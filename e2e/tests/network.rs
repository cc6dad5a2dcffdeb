//! Pod networks: the reference CNI plugins, husk's own bridge, and CNI's contract seen from a plugin's side.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, namespaces, script, sleeper};
use husk_e2e::registry::free_port;
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Options, Pod, eventually, http, run, run_with};
use serde_json::{Value, json};

/// A pod with a network of its own and, in it, a web server on port 8080 that says the pod's name.
async fn web_pod(husk: &Husk, name: &str, ports: Vec<PortMapping>) -> Result<(Pod, String, SocketAddr)> {
    let image = husk.busybox().await?;
    let mut config = husk.pod_config(name).with_own_network();
    config.port_mappings = ports;
    let pod = husk.cri.pod(config).await?;
    let text = format!("mkdir /www && echo -n {name} > /www/index.html && exec httpd -f -p 8080 -h /www");
    let server = script("web", &image, &text).with_namespaces(own_network());
    let container = husk.cri.launch(&pod, server).await?;
    let address = address(husk, &pod).await?;
    Ok((pod, container, SocketAddr::new(address.parse()?, 8080)))
}

fn own_network() -> NamespaceOption {
    namespaces(NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod)
}

async fn address(husk: &Husk, pod: &Pod) -> Result<String> {
    husk.cri
        .pod_status(&pod.id)
        .await?
        .network
        .map(|n| n.ip)
        .context("no network in the status")
}

/// What the web server at `to` says, once it listens.
async fn fetch(to: SocketAddr) -> Result<String> {
    eventually(&format!("an answer of {to}"), async || {
        let reply = tokio::task::spawn_blocking(move || http::request(to, "GET", "/", &[], &[])).await?;
        Ok(reply
            .ok()
            .filter(|(code, _)| *code == 200)
            .map(|(_, m)| String::from_utf8_lossy(&m.body).into_owned()))
    })
    .await
}

/// An address of this machine that is not loopback.
fn own_address() -> Result<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.200:9")?;
    Ok(socket.local_addr()?.ip())
}

fn mapping(host: SocketAddr) -> PortMapping {
    PortMapping {
        container_port: 8080,
        host_port: host.port().into(),
        ..Default::default()
    }
}

fn both() -> [Options; 2] {
    [Options::new().cni(), Options::new().builtin_network()]
}

#[tokio::test]
async fn pods_reach_each_other_and_the_node_reaches_them() -> Result<()> {
    for options in both() {
        run_with(options, async |husk| {
            let (one, first, at_first) = web_pod(husk, "first", Vec::new()).await?;
            let (_, second, at_second) = web_pod(husk, "second", Vec::new()).await?;
            let prefix = husk.names.prefix();
            ensure!(
                at_first.ip().to_string().starts_with(prefix),
                "{at_first} is not in {prefix}"
            );
            ensure!(at_first != at_second, "two pods at {at_first}");
            ensure!(fetch(at_first).await? == "first" && fetch(at_second).await? == "second");
            ensure!(
                husk.cri
                    .sh(&second, &format!("wget -qO- http://{at_first}/"))
                    .await?
                    == "first"
            );
            ensure!(
                husk.cri.sh(&first, "wget -qO- http://127.0.0.1:8080/").await? == "first",
                "no loopback"
            );
            let inside = husk.cri.sh(&first, "ip -4 -o addr show dev eth0").await?;
            ensure!(inside.contains(&format!("{}/24", at_first.ip())), "{inside}");
            ensure!(
                husk.cri.sh(&first, "ip route").await?.contains("default via"),
                "no default route"
            );
            husk.cri
                .sh(&first, &format!("ping -c 1 -W 20 {}1", prefix))
                .await
                .context("ping the gateway")?;
            let hosts = husk.cri.sh(&first, "cat /etc/hosts").await?;
            ensure!(hosts.contains("127.0.0.1"), "{hosts}");
            husk.cri.stop_pod(&one.id).await?;
            let stopped = husk.cri.pod_status(&one.id).await?;
            ensure!(stopped.state() == PodSandboxState::SandboxNotready);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_host_port_leads_into_the_pod_until_it_stops() -> Result<()> {
    for options in both() {
        run_with(options, async |husk| {
            let port = free_port()?;
            let elsewhere = SocketAddr::new(own_address()?, port.port());
            let (pod, ..) = web_pod(husk, "mapped", vec![mapping(port)]).await?;
            ensure!(fetch(port).await? == "mapped" && fetch(elsewhere).await? == "mapped");
            let (_, other, at_other) = web_pod(husk, "other", Vec::new()).await?;
            ensure!(fetch(at_other).await? == "other");
            ensure!(
                husk.cri
                    .sh(&other, &format!("wget -qO- http://{elsewhere}/"))
                    .await?
                    == "mapped"
            );
            husk.cri.stop_pod(&pod.id).await?;
            ensure!(
                http::request(port, "GET", "/", &[], &[]).is_err(),
                "the port still answers"
            );
            let (..) = web_pod(husk, "successor", vec![mapping(port)]).await?;
            ensure!(fetch(port).await? == "successor");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_network_survives_the_daemons_death_and_is_torn_down_after_it() -> Result<()> {
    for options in both() {
        run_with(options, async |husk| {
            let port = free_port()?;
            let (pod, container, at) = web_pod(husk, "survivor", vec![mapping(port)]).await?;
            let before = address(husk, &pod).await?;
            husk.kill()?;
            ensure!(fetch(at).await? == "survivor" && fetch(port).await? == "survivor");
            husk.start_again().await?;
            ensure!(address(husk, &pod).await? == before);
            ensure!(
                husk.cri
                    .sh(&container, "hostname -i >/dev/null; echo fine")
                    .await?
                    == "fine"
            );
            let (_, _, at_next) = web_pod(husk, "next", Vec::new()).await?;
            ensure!(at_next != at, "the address was given out twice");
            husk.cri.stop_pod(&pod.id).await?;
            ensure!(
                http::request(port, "GET", "/", &[], &[]).is_err(),
                "the port still answers"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn network_condition(husk: &Husk) -> Result<RuntimeCondition> {
    let status = husk
        .cri
        .runtime()
        .status(StatusRequest::default())
        .await?
        .into_inner();
    let conditions = status.status.context("no status")?.conditions;
    conditions
        .into_iter()
        .find(|c| c.r#type == "NetworkReady")
        .context("no NetworkReady")
}

#[tokio::test]
async fn without_a_network_only_pods_on_the_hosts_network_run() -> Result<()> {
    run(async |husk| {
        let condition = network_condition(husk).await?;
        ensure!(
            !condition.status && !condition.reason.is_empty() && !condition.message.is_empty(),
            "{condition:?}"
        );
        husk.cri
            .run_pod(&husk.pod_config("lonely").with_own_network())
            .await
            .refused()?;
        ensure!(husk.cri.list_pods(None).await?.is_empty(), "half a pod is listed");
        husk.cri.run_pod(&husk.pod_config("hosted")).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_broken_configuration_is_named_and_its_repair_noticed() -> Result<()> {
    run_with(Options::new().cni(), async |husk| {
        ensure!(
            network_condition(husk).await?.status,
            "the network should be ready"
        );
        let file = husk.cni_dir().join("10-e2e.conflist");
        let good = std::fs::read(&file)?;
        for (what, text) in [
            ("no JSON", "{ \"cniVersion\": \"1.0.0\", "),
            (
                "no name",
                r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#,
            ),
            ("no plugins", r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#),
            (
                "no type",
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"bridge":"x"}]}"#,
            ),
            (
                "a name with a path",
                r#"{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"bridge"}]}"#,
            ),
            (
                "a plugin with a path",
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../../bin/true"}]}"#,
            ),
        ] {
            std::fs::write(&file, text)?;
            let condition = eventually("NetworkReady=false", async || {
                Ok(Some(network_condition(husk).await?).filter(|c| !c.status))
            })
            .await
            .context(what)?;
            ensure!(
                condition.message.contains("10-e2e.conflist"),
                "{what}: the file is not named: {condition:?}"
            );
            let status = husk
                .cri
                .run_pod(&husk.pod_config("broken").with_own_network())
                .await
                .refused()?;
            ensure!(
                status.message().contains("10-e2e.conflist"),
                "{what}: the file is not named: {status:?}"
            );
            let hosted = husk.cri.run_pod(&husk.pod_config("hosted")).await.context(what)?;
            husk.cri.remove_pod(&hosted).await?;
            ensure!(
                husk.cri.list_pods(None).await?.is_empty(),
                "{what}: half a pod is listed"
            );
        }
        std::fs::write(&file, good)?;
        eventually("NetworkReady=true", async || {
            Ok(network_condition(husk).await?.status.then_some(()))
        })
        .await?;
        web_pod(husk, "repaired", Vec::new()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_plugin_that_does_not_exist_is_named() -> Result<()> {
    run(async |husk| {
        let list = json!({ "cniVersion": "1.0.0", "name": "x", "plugins": [{ "type": "no-such-plugin" }] });
        std::fs::write(husk.cni_dir().join("10-missing.conflist"), list.to_string())?;
        eventually("the refusal that names the plugin", async || {
            let status = husk
                .cri
                .run_pod(&husk.pod_config("missing").with_own_network())
                .await
                .refused()?;
            Ok(status.message().contains("no-such-plugin").then_some(()))
        })
        .await?;
        ensure!(husk.cri.list_pods(None).await?.is_empty(), "half a pod is listed");
        Ok(())
    })
    .await
}

/// A plugin that writes down how it was called, and does what the files beside its record say.
const RECORDER: &str = r#"#!/bin/sh
here=$(dirname "$(dirname "$0")")/share
input=$(cat)
[ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit 0; }
printf '%s\t%s\t%s\t%s\t%s\n' "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_ARGS" "$(echo "$input" | tr '\n\t' '  ')" >> "$here/record"
case $CNI_COMMAND in
ADD) if [ -e "$here/fail" ]; then echo '{"cniVersion":"1.0.0","code":11,"msg":"the cable is cut","details":"by a test"}'; exit 1; fi
     [ -e "$here/babble" ] && { echo 'no JSON at all'; exit 0; }
     while [ -e "$here/stall" ]; do sleep 0.05; done
     echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"address":"198.51.100.7/24","interface":0},{"address":"2001:db8::7/64","interface":0}],"dns":{}}' ;;
DEL) if [ -e "$here/fail-del" ]; then echo '{"cniVersion":"1.0.0","code":11,"msg":"the scissors are lost"}'; exit 1; fi ;;
esac
"#;

struct Call {
    command: String,
    container: String,
    netns: PathBuf,
    arguments: String,
    input: Value,
}

fn recorded(husk: &Husk) -> Result<Vec<Call>> {
    let text = std::fs::read_to_string(husk.dir().join("share/record")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let mut fields = line.splitn(5, '\t').map(str::to_owned);
            let mut next = || fields.next().with_context(|| format!("short record {line}"));
            Ok(Call {
                command: next()?,
                container: next()?,
                netns: next()?.into(),
                arguments: next()?,
                input: serde_json::from_str(&next()?)?,
            })
        })
        .collect()
}

/// Runs a test with a network that consists of the recorder.
async fn with_recorder(test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    run_with(Options::new().plugin("recorder", RECORDER), async |husk| {
        let list = json!({
            "cniVersion": "1.0.0", "name": "recorded",
            "plugins": [{ "type": "recorder", "capabilities": { "portMappings": true, "dns": true } }],
        });
        let file = husk.cni_dir().join("10-recorder.conflist");
        std::fs::write(&file, list.to_string())?;
        eventually("NetworkReady", async || {
            Ok(network_condition(husk).await?.status.then_some(()))
        })
        .await?;
        test(husk).await
    })
    .await
}

fn commands(calls: &[Call]) -> Vec<&str> {
    calls
        .iter()
        .map(|c| c.command.as_str())
        .filter(|c| ["ADD", "DEL"].contains(c))
        .collect()
}

#[tokio::test]
async fn a_plugin_is_called_as_cni_says() -> Result<()> {
    with_recorder(async |husk| {
        let mut config = husk.pod_config("called").with_own_network();
        config.port_mappings = vec![PortMapping {
            host_ip: "127.0.0.1".into(),
            ..mapping(free_port()?)
        }];
        let uid = config.metadata.clone().unwrap_or_default().uid;
        let pod = husk.cri.pod(config.clone()).await?;
        let network = husk
            .cri
            .pod_status(&pod.id)
            .await?
            .network
            .context("no network")?;
        ensure!(network.ip == "198.51.100.7", "{network:?}");
        ensure!(
            network.additional_ips.len() == 1 && network.additional_ips[0].ip == "2001:db8::7",
            "{network:?}"
        );
        let calls = recorded(husk)?;
        ensure!(commands(&calls) == ["ADD"]);
        let add = &calls[0];
        ensure!(
            add.container == pod.id,
            "CNI_CONTAINERID {} is not the pod's id",
            add.container
        );
        ensure!(
            add.netns.exists(),
            "CNI_NETNS {} does not exist",
            add.netns.display()
        );
        for wanted in ["K8S_POD_NAME=called", "K8S_POD_NAMESPACE=e2e", "IgnoreUnknown=1"] {
            ensure!(
                add.arguments.split(';').any(|a| a == wanted),
                "{wanted} is not in {}",
                add.arguments
            );
        }
        ensure!(
            add.arguments.contains(&format!("K8S_POD_UID={uid}")),
            "{}",
            add.arguments
        );
        ensure!(
            add.arguments
                .contains(&format!("K8S_POD_INFRA_CONTAINER_ID={}", pod.id)),
            "{}",
            add.arguments
        );
        let mappings = &add.input["runtimeConfig"]["portMappings"];
        ensure!(
            mappings[0]["containerPort"] == 8080 && mappings[0]["protocol"] == "tcp",
            "{mappings}"
        );
        ensure!(mappings[0]["hostIP"] == "127.0.0.1", "{mappings}");
        ensure!(
            add.input["name"] == "recorded" && add.input["cniVersion"] == "1.0.0",
            "{}",
            add.input
        );
        // The configuration may go while pods are there: what the pod was made with is what takes it down.
        std::fs::remove_file(husk.cni_dir().join("10-recorder.conflist"))?;
        husk.kill()?;
        husk.start_again().await?;
        for _ in 0..2 {
            husk.cri.stop_pod(&pod.id).await?;
        }
        let calls = recorded(husk)?;
        ensure!(commands(&calls) == ["ADD", "DEL"], "{:?}", commands(&calls));
        let del = &calls[calls.len() - 1];
        ensure!(del.container == pod.id && del.input["prevResult"]["ips"][0]["address"] == "198.51.100.7/24");
        ensure!(
            !calls[0].netns.exists(),
            "{} is still there",
            calls[0].netns.display()
        );
        husk.cri.remove_pod(&pod.id).await?;
        ensure!(
            commands(&recorded(husk)?) == ["ADD", "DEL"],
            "removal called the plugin again"
        );
        Ok(())
    })
    .await
}

/// What an error says of a recorder that failed: plugin, command, network and configuration file.
fn failed(husk: &Husk, command: &str) -> String {
    let file = husk.cni_dir().join("10-recorder.conflist");
    format!(
        "CNI plugin \"recorder\" failed {command} for network \"recorded\" ({}): ",
        file.display()
    )
}

#[tokio::test]
async fn a_failed_add_is_followed_by_a_del_and_leaves_nothing() -> Result<()> {
    with_recorder(async |husk| {
        for (file, wanted) in [("fail", "the cable is cut"), ("babble", "recorder")] {
            let switch = husk.dir().join("share").join(file);
            std::fs::write(&switch, "")?;
            let config = husk.pod_config("failed").with_own_network();
            let status = husk.cri.run_pod(&config).await.refused()?;
            ensure!(
                status.message().contains(wanted),
                "{wanted:?} is not in {status:?}"
            );
            let named = failed(husk, "ADD");
            ensure!(
                status.message().contains(&named),
                "{named:?} is not in {status:?}"
            );
            ensure!(husk.cri.list_pods(None).await?.is_empty(), "half a pod is listed");
            let calls = recorded(husk)?;
            ensure!(
                commands(&calls).ends_with(&["ADD", "DEL"]),
                "{:?}",
                commands(&calls)
            );
            ensure!(
                calls.iter().all(|c| !c.netns.exists()),
                "a network namespace is left"
            );
            // The same request succeeds as soon as the network does.
            std::fs::remove_file(&switch)?;
            let id = husk.cri.run_pod(&config).await?;
            husk.cri.remove_pod(&id).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_failed_del_keeps_the_pod_for_another_try() -> Result<()> {
    with_recorder(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("sticky").with_own_network()).await?;
        let switch = husk.dir().join("share/fail-del");
        std::fs::write(&switch, "")?;
        let status = husk.cri.stop_pod(&pod.id).await.refused()?;
        let named = failed(husk, "DEL");
        ensure!(
            status.message().contains("the scissors are lost") && status.message().contains(&named),
            "{named:?} is not in {status:?}"
        );
        ensure!(
            husk.cri.list_pods(None).await?.len() == 1,
            "the pod is forgotten, and its address with it"
        );
        std::fs::remove_file(&switch)?;
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;
        ensure!(
            recorded(husk)?.iter().all(|c| !c.netns.exists()),
            "a network namespace is left"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_network_is_taken_down_even_when_its_namespace_is_gone() -> Result<()> {
    with_recorder(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("bereft").with_own_network()).await?;
        let netns = recorded(husk)?.remove(0).netns;
        nix::mount::umount2(&netns, nix::mount::MntFlags::MNT_DETACH)?;
        std::fs::remove_file(&netns)?;
        husk.cri.stop_pod(&pod.id).await?;
        ensure!(commands(&recorded(husk)?) == ["ADD", "DEL"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stalled_network_is_waited_for_once() -> Result<()> {
    with_recorder(async |husk| {
        let switch = husk.dir().join("share/stall");
        std::fs::write(&switch, "")?;
        let config = husk.pod_config("patient").with_own_network();
        for _ in 0..3 {
            // kubelet's patience ends; it comes back with the same request.
            let (cri, request) = (husk.cri.clone(), config.clone());
            let call = tokio::spawn(async move { cri.run_pod(&request).await });
            eventually(
                "the ADD",
                async || Ok((!recorded(husk)?.is_empty()).then_some(())),
            )
            .await?;
            call.abort();
        }
        std::fs::remove_file(&switch)?;
        let id = husk.cri.run_pod(&config).await?;
        ensure!(
            commands(&recorded(husk)?) == ["ADD"],
            "{:?}",
            commands(&recorded(husk)?)
        );
        ensure!(husk.cri.list_pods(None).await?.len() == 1 && recorded(husk)?[0].container == id);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_sees_the_pods_interfaces_and_no_others() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("seen").with_own_network()).await?;
        let config = sleeper("main", &image).with_namespaces(own_network());
        let id = husk.cri.launch(&pod, config).await?;
        // sysfs shows the interfaces of the namespace it was mounted in.
        let seen = husk.cri.sh(&id, "ls /sys/class/net | sort").await?;
        ensure!(seen == "eth0\nlo", "{seen}");
        Ok(())
    })
    .await
}
