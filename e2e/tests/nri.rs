//! Plugins of the node resource interface: what they hear and in which order, and how little a broken one may break.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::nri::{ALL, Answer, Event, Fields, Plugin, Record, Socket, consent, on, recorded};
use husk_e2e::run_with;
use husk_e2e::v1::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

#[tokio::test]
async fn plugins_hear_of_everything_once_and_in_order_of_index() -> Result<()> {
    let socket = Socket::new("order");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let record = Record::default();
        let _late = Plugin::join(&socket.0, "20-late", ALL, &record, consent).await?;
        let _early = Plugin::join(&socket.0, "10-early", ALL, &record, consent).await?;

        let pod = husk.cri.pod(husk.pod_config("order")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        husk.cri.stop(&id, 30).await?;
        husk.cri.stop(&id, 30).await?;
        husk.cri.remove(&id).await?;
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;

        let events = recorded(&record);
        let events: Vec<_> = events.iter().filter(|e| e.method != "Synchronize").collect();
        let told: Vec<_> = events
            .iter()
            .map(|e| (e.method.as_str(), e.plugin.as_str()))
            .collect();
        let mut expected = Vec::new();
        for method in [
            "RunPodSandbox",
            "CreateContainer",
            "ValidateContainerAdjustment",
            "PostCreateContainer",
            "StartContainer",
            "PostStartContainer",
            "StopContainer",
            "RemoveContainer",
            "StopPodSandbox",
            "RemovePodSandbox",
        ] {
            expected.extend([(method, "10-early"), (method, "20-late")]);
        }
        ensure!(told == expected, "{told:#?}");
        for event in events {
            ensure!(event.pod() == pod.id, "{event:?}");
            if event.method.contains("Container") {
                let container = event.request.message(2);
                ensure!(
                    container.text(1) == id && container.text(2) == pod.id,
                    "{event:?}"
                );
                ensure!(container.text(3) == "main", "{event:?}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn plugins_of_older_versions_hear_of_everything_too() -> Result<()> {
    let socket = Socket::new("older");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let older = |event: &Event| match event.method.as_str() {
            "Synchronize" | "CreateContainer" | "StopContainer" | "StateChange" => consent(event),
            _ => Answer::Unknown,
        };
        // All events but the judging of adjustments, which came later.
        let events = (1 << 13) - 1;
        let plugin = Plugin::join(&socket.0, "10-older", events, &Record::default(), older).await?;
        let pod = husk.cri.pod(husk.pod_config("older")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        husk.cri.remove(&id).await?;
        husk.cri.remove_pod(&pod.id).await?;
        let told: Vec<_> = plugin
            .events()
            .iter()
            .filter(|e| e.method == "StateChange")
            .map(|e| e.request.number(1))
            .collect();
        // Pod run; container post-create, start, post-start, remove; pod stop, remove.
        ensure!(told == [1, 5, 6, 7, 11, 2, 3], "{told:?}");
        let stops = plugin
            .events()
            .iter()
            .filter(|e| e.method == "StopContainer")
            .count();
        ensure!(stops == 1, "{stops} ends of one container");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_silent_plugin_is_let_go_and_the_pod_comes_up() -> Result<()> {
    let socket = Socket::new("silent");
    run_with(
        socket.options("plugin_request_timeout_secs = 1\n"),
        async |husk| {
            let silent = on("RunPodSandbox", |_| Answer::Silence);
            let record = Record::default();
            let plugin = Plugin::join(&socket.0, "10-silent", ALL, &record, silent).await?;
            let pod = husk.cri.pod(husk.pod_config("silent")).await?;
            plugin.gone().await;
            let status = husk.cri.pod_status(&pod.id).await?;
            ensure!(status.state() == PodSandboxState::SandboxReady, "{status:?}");
            let log = husk.log();
            let line = log
                .lines()
                .find(|l| l.contains("WARN") && l.contains("10-silent"));
            ensure!(
                line.is_some_and(|l| l.contains("RunPodSandbox")),
                "the log does not name it"
            );
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn a_plugin_that_refuses_a_pod_leaves_nothing_of_it() -> Result<()> {
    let socket = Socket::new("refuse");
    run_with(socket.options(""), async |husk| {
        let once = AtomicBool::new(true);
        let refuse = on("RunPodSandbox", move |_| {
            if once.swap(false, Ordering::SeqCst) {
                Answer::Refuse("no room".into())
            } else {
                Answer::Say(Fields::default())
            }
        });
        let _plugin = Plugin::join(&socket.0, "10-refuse", ALL, &Record::default(), refuse).await?;
        let config = husk.pod_config("refused");
        let refusal = husk
            .cri
            .run_pod(&config)
            .await
            .err()
            .context("the pod was made")?;
        ensure!(
            refusal.message().contains("no room") && refusal.message().contains("10-refuse"),
            "{refusal}"
        );
        ensure!(husk.cri.list_pods(None).await?.is_empty());
        husk.assert_no_pods().await?;
        husk.cri.run_pod(&config).await.context("the second attempt")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn garbage_and_silence_on_the_socket_harm_nobody() -> Result<()> {
    let socket = Socket::new("garbage");
    run_with(
        socket.options("plugin_registration_timeout_secs = 1\n"),
        async |husk| {
            for bytes in [
                vec![0xff; 4096],
                vec![0; 4096],
                // A frame of the largest size that never comes.
                vec![0, 0, 0, 1, 0, 0x40, 0, 10],
                // A ttrpc message above the limit.
                [vec![0, 0, 0, 2, 0, 0, 0, 10], vec![0xff; 10]].concat(),
                Vec::new(),
            ] {
                let mut stream = UnixStream::connect(&socket.0).await?;
                stream.write_all(&bytes).await?;
                // It is let go, at the latest when it has not registered in time.
                let mut rest = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
            }
            let bad = Plugin::join(&socket.0, "1x-bad", ALL, &Record::default(), consent).await;
            ensure!(
                bad.err()
                    .context("a bad index was accepted")?
                    .to_string()
                    .contains("1x")
            );
            let _good = Plugin::join(&socket.0, "10-good", ALL, &Record::default(), consent).await?;
            husk.cri.pod(husk.pod_config("garbage")).await?;
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn who_joins_while_containers_are_made_misses_none() -> Result<()> {
    let socket = Socket::new("sync");
    run_with(
        socket.options("plugin_registration_timeout_secs = 30\n"),
        async |husk| {
            let image = husk.busybox().await?;
            let pod = husk.cri.pod(husk.pod_config("sync")).await?;
            let (cri, path) = (husk.cri.clone(), socket.0.clone());
            let made = tokio::spawn(async move {
                let mut ids = BTreeSet::new();
                for n in 0..12 {
                    ids.insert(cri.create(&pod, sleeper(&format!("c{n}"), &image)).await?);
                }
                anyhow::Ok(ids)
            });
            let mut plugins = Vec::new();
            for n in 0..6 {
                let record = Record::default();
                let name = format!("{n}0-p");
                plugins.push(Plugin::join(&path, &name, ALL, &record, consent).await?);
            }
            let made = made.await??;
            for plugin in plugins {
                let (mut seen, events) = (Vec::new(), plugin.events());
                for event in &events {
                    match event.method.as_str() {
                        "Synchronize" => seen.extend(event.request.messages(2).iter().map(|c| c.text(1))),
                        "CreateContainer" => seen.push(event.container()),
                        _ => {}
                    }
                }
                let unique: BTreeSet<_> = seen.iter().cloned().collect();
                ensure!(seen.len() == unique.len(), "told twice: {seen:?}");
                ensure!(unique == made, "{} of {} containers", unique.len(), made.len());
            }
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn after_a_restart_plugins_are_given_what_is_there() -> Result<()> {
    let socket = Socket::new("restart");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let record: Record = Arc::default();
        let plugin = Plugin::join(&socket.0, "10-first", ALL, &record, consent).await?;
        let pod = husk.cri.pod(husk.pod_config("restart")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        husk.kill()?;
        plugin.gone().await;
        husk.start_again().await?;

        let record = Record::default();
        let plugin = Plugin::join(&socket.0, "10-again", ALL, &record, consent).await?;
        let sync = plugin.events().remove(0);
        let (pods, containers) = (sync.request.messages(1), sync.request.messages(2));
        ensure!(pods.len() == 1 && pods[0].text(1) == pod.id, "{pods:?}");
        ensure!(
            containers.len() == 1 && containers[0].text(1) == id,
            "{containers:?}"
        );
        // Running, and with its arguments.
        ensure!(
            containers[0].number(4) == 3 && containers[0].texts(7)[0] == "sh",
            "{containers:?}"
        );
        husk.cri.stop_pod(&pod.id).await?;
        let methods: Vec<_> = plugin.events().into_iter().map(|e| e.method).collect();
        ensure!(
            methods == ["Synchronize", "StopContainer", "StopPodSandbox"],
            "{methods:?}"
        );

        // A daemon that is told to stop says so.
        husk.stop().await?;
        ensure!(plugin.events().iter().any(|e| e.method == "Shutdown"));
        plugin.gone().await;
        ensure!(!socket.0.exists(), "the socket is still there");
        husk.start_again().await
    })
    .await
}
