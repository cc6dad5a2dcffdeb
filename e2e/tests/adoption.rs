//! A request that is repeated is the same request: kubelet gives up after its deadline and comes back.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{PodConfigExt, container, labels, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Options, eventually, run, run_with};
use tonic::Code;

/// A plugin that writes down what it was called for, and on ADD does what the files beside its record say.
const STALLER: &str = r#"#!/bin/sh
here=$(dirname "$(dirname "$0")")/share
cat > /dev/null
[ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit 0; }
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$here/record"
case $CNI_COMMAND in
ADD) while [ -e "$here/stall" ]; do sleep 0.05; done
     [ -e "$here/fail" ] && { echo '{"cniVersion":"1.0.0","code":11,"msg":"no cable"}'; exit 1; }
     echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"address":"198.51.100.7/24","interface":0}],"dns":{}}' ;;
DEL) [ -e "$here/fail-del" ] && { echo '{"cniVersion":"1.0.0","code":11,"msg":"no scissors"}'; exit 1; } ;;
esac
exit 0
"#;

async fn with_staller(test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    run_with(Options::new().plugin("staller", STALLER), async |husk| {
        std::fs::write(
            husk.cni_dir().join("10-staller.conflist"),
            r#"{"cniVersion":"1.0.0","name":"stalled","plugins":[{"type":"staller"}]}"#,
        )?;
        eventually("NetworkReady", async || {
            let status = husk.cri.runtime().status(StatusRequest::default()).await?;
            let conditions = status.into_inner().status.unwrap_or_default().conditions;
            let ready = conditions.iter().any(|c| c.r#type == "NetworkReady" && c.status);
            Ok(ready.then_some(()))
        })
        .await?;
        test(husk).await
    })
    .await
}

/// The calls so far: verb and pod.
fn calls(husk: &Husk) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(husk.dir().join("share/record")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(verb, _)| ["ADD", "DEL"].contains(verb))
        .map(|(verb, pod)| (verb.to_owned(), pod.to_owned()))
        .collect()
}

fn verbs(husk: &Husk) -> Vec<String> {
    calls(husk).into_iter().map(|(verb, _)| verb).collect()
}

fn switch(husk: &Husk, name: &str, on: bool) -> Result<()> {
    let path = husk.dir().join("share").join(name);
    if on {
        std::fs::write(path, "")?;
    } else {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

async fn the_add(husk: &Husk) -> Result<String> {
    eventually("the ADD", async || {
        Ok(calls(husk).into_iter().next().map(|(_, pod)| pod))
    })
    .await
}

#[tokio::test]
async fn impatient_clients_get_one_sandbox_with_one_add() -> Result<()> {
    with_staller(async |husk| {
        switch(husk, "stall", true)?;
        let config = husk.pod_config("patient").with_own_network();
        for _ in 0..5 {
            let mut request = tonic::Request::new(RunPodSandboxRequest {
                config: Some(config.clone()),
                ..Default::default()
            });
            request.set_timeout(Duration::from_millis(200));
            let status = husk.cri.runtime().run_pod_sandbox(request).await.refused()?;
            ensure!(
                [Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()),
                "{status:?}"
            );
        }
        let id = the_add(husk).await?;
        ensure!(husk.cri.list_pods(None).await?.is_empty(), "half a pod is listed");
        let mut other = config.clone();
        other.hostname = "other".into();
        let status = husk.cri.run_pod(&other).await.refused_with(Code::AlreadyExists)?;
        ensure!(
            status.message().contains(r#"hostname: "" -> "other""#),
            "{status:?}"
        );
        switch(husk, "stall", false)?;
        ensure!(husk.cri.run_pod(&config).await? == id);
        ensure!(verbs(husk) == ["ADD"], "{:?}", verbs(husk));
        ensure!(husk.cri.list_pods(None).await?.len() == 1);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_sandbox_can_be_stopped_and_removed_while_it_is_being_made() -> Result<()> {
    with_staller(async |husk| {
        for remove in [false, true] {
            switch(husk, "stall", true)?;
            let config = husk.pod_config("unwanted").with_own_network();
            let (cri, request) = (husk.cri.clone(), config.clone());
            let making = tokio::spawn(async move { cri.run_pod(&request).await });
            let id = the_add(husk).await?;
            if remove {
                husk.cri.remove_pod(&id).await?;
            } else {
                husk.cri.stop_pod(&id).await?;
            }
            let status = making.await?.refused_with(Code::FailedPrecondition)?;
            ensure!(status.message().contains("the pod was stopped"), "{status:?}");
            let wanted = [("ADD".to_owned(), id.clone()), ("DEL".to_owned(), id.clone())];
            ensure!(calls(husk) == wanted, "{:?}", calls(husk));
            husk.cri.pod_status(&id).await.refused_with(Code::NotFound)?;
            husk.cri.stop_pod(&id).await?;
            husk.cri.remove_pod(&id).await?;
            husk.assert_no_pods().await?;

            switch(husk, "stall", false)?;
            let again = husk.cri.run_pod(&config).await?;
            ensure!(again != id);
            husk.cri.stop_pod(&again).await?;
            husk.cri.remove_pod(&again).await?;
            std::fs::remove_file(husk.dir().join("share/record"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn after_a_failed_attempt_the_next_one_succeeds() -> Result<()> {
    with_staller(async |husk| {
        let config = husk.pod_config("again").with_own_network();
        switch(husk, "fail", true)?;
        husk.cri.run_pod(&config).await.refused()?;
        ensure!(husk.cri.list_pods(None).await?.is_empty());
        // One that cannot even be cleaned up stays listed, so that it can be removed.
        switch(husk, "fail-del", true)?;
        husk.cri.run_pod(&config).await.refused()?;
        let left = husk.cri.list_pods(None).await?;
        ensure!(
            left.len() == 1 && left[0].state() == PodSandboxState::SandboxNotready,
            "{left:?}"
        );
        // As long as it cannot be removed, a repeat says so and does not pass it off as a pod.
        let status = husk.cri.run_pod(&config).await.refused()?;
        ensure!(status.message().contains("earlier pod"), "{status:?}");
        husk.kill()?;
        husk.start_again().await?;
        switch(husk, "fail-del", false)?;
        switch(husk, "fail", false)?;
        let id = husk.cri.run_pod(&config).await?;
        let pods = husk.cri.list_pods(None).await?;
        ensure!(
            pods.len() == 1 && pods[0].id == id && pods[0].state() == PodSandboxState::SandboxReady,
            "{pods:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_changed_request_is_told_what_differs_but_no_secret() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let config = husk.pod_config("changed");
        let pod = husk.cri.pod(config.clone()).await?;
        let mut other = config.clone();
        other.labels.insert("tier".into(), "front".into());
        let status = husk.cri.run_pod(&other).await.refused_with(Code::AlreadyExists)?;
        ensure!(
            status.message().contains(r#"labels.tier: null -> "front""#),
            "{status:?}"
        );

        let request = |value: &str, file: &str| {
            let mut config = sleeper("main", &image);
            config.envs = vec![KeyValue {
                key: "TOKEN".into(),
                value: value.into(),
            }];
            config.annotations = labels(&[(
                "io.kubernetes.container.terminationMessagePath",
                "/dev/termination-log",
            )]);
            config.mounts = vec![Mount {
                container_path: "/dev/termination-log".into(),
                host_path: file.into(),
                ..Default::default()
            }];
            config
        };
        let files = husk.share("messages")?;
        let file = |name: &str| -> Result<String> {
            let path = files.join(name);
            std::fs::write(&path, "")?;
            Ok(path.display().to_string())
        };
        let (one, two) = (file("1f3a")?, file("9c0d")?);
        let id = husk.cri.create(&pod, request("hunter2", &one)).await?;
        let status = husk
            .cri
            .create(&pod, request("hunter3", &one))
            .await
            .refused_with(Code::AlreadyExists)?;
        ensure!(
            status.message().contains("envs: TOKEN has another value")
                && !status.message().contains("hunter"),
            "{status:?}"
        );
        // kubelet's next try brings another file for the termination message; it is the same request.
        ensure!(husk.cri.create(&pod, request("hunter2", &two)).await? == id);
        let mounts = husk.cri.status(&id).await?.mounts;
        ensure!(mounts.len() == 1 && mounts[0].host_path == one, "{mounts:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn simultaneous_equal_requests_give_one_container() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("together")).await?;
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let (cri, pod, image) = (husk.cri.clone(), pod.clone(), image.clone());
                tokio::spawn(async move { cri.create(&pod, container("main", &image, &["true"])).await })
            })
            .collect();
        let mut ids = HashMap::new();
        for call in calls {
            *ids.entry(call.await??).or_insert(0) += 1;
        }
        ensure!(ids.len() == 1 && husk.cri.list(None).await?.len() == 1, "{ids:?}");
        let id = ids.into_keys().next().context("no id")?;
        husk.cri.remove(&id).await?;
        ensure!(
            husk.cri
                .create(&pod, container("main", &image, &["false"]))
                .await?
                != id
        );
        Ok(())
    })
    .await
}
