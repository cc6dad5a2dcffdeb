//! Changes of limits while containers run, and what kubelet tells of pods and of the node.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, container, labels, script, sleeper};
use husk_e2e::process::cgroup_value;
use husk_e2e::v1::*;
use husk_e2e::{CriExt as _, Husk, Options, eventually, own, process, run, run_with};
use serde_json::Value;
use tonic::Code;

async fn update(
    husk: &Husk,
    id: &str,
    change: impl FnOnce(&mut LinuxContainerResources),
) -> Result<(), tonic::Status> {
    let mut linux = LinuxContainerResources::default();
    change(&mut linux);
    let request = UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(linux),
        ..Default::default()
    };
    husk.cri
        .runtime()
        .update_container_resources(request)
        .await
        .map(drop)
}

async fn shown(husk: &Husk, id: &str) -> Result<LinuxContainerResources> {
    let resources = husk.cri.status(id).await?.resources;
    resources
        .and_then(|r| r.linux)
        .context("no resources in the status")
}

#[tokio::test]
async fn new_limits_hold_when_the_call_returns_and_can_be_read_back() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("resize")).await?;
        let config = sleeper("main", &image).limited(|r| {
            r.memory_limit_in_bytes = 64 << 20;
            r.cpu_shares = 512;
        });
        let id = husk.cri.launch(&pod, config).await?;
        let pid = husk.cri.pid(&id).await?;
        let memory = || cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max");
        // kubelet changes one kind at a time.
        update(husk, &id, |r| r.memory_limit_in_bytes = 128 << 20).await?;
        ensure!(memory()? == (128 << 20).to_string(), "{}", memory()?);
        update(husk, &id, |r| (r.cpu_quota, r.cpu_period) = (30_000, 100_000)).await?;
        if process::is_v2() {
            let max = cgroup_value(pid, "cpu", "", "cpu.max")?;
            ensure!(max == "30000 100000", "{max}");
        } else {
            let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "")?;
            ensure!(quota == "30000", "{quota}");
        }
        update(husk, &id, |r| r.cpuset_cpus = "0".into()).await?;
        let told = shown(husk, &id).await?;
        ensure!(
            (told.memory_limit_in_bytes, told.cpu_quota, told.cpu_shares) == (128 << 20, 30_000, 512)
                && told.cpuset_cpus == "0",
            "{told:?}"
        );
        let spec = husk.cri.container_info(&id).await?["runtimeSpec"]["linux"]["resources"].take();
        ensure!(
            spec["memory"]["limit"] == 128 << 20
                && spec["cpu"]["shares"] == 512
                && spec["devices"].is_array(),
            "{spec}"
        );
        // A new daemon knows them as well.
        husk.kill()?;
        husk.start_again().await?;
        ensure!(shown(husk, &id).await? == told);
        update(husk, &id, |_| ()).await?;
        ensure!(
            shown(husk, &id).await? == told && memory()? == (128 << 20).to_string(),
            "an empty update changed something"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_memory_limit_below_what_is_used_is_refused_and_changes_nothing() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("full")).await?;
        let config = script(
            "hog",
            &image,
            "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo full; while :; do sleep 1; done",
        )
        .limited(|r| {
            r.memory_limit_in_bytes = 256 << 20;
            r.cpu_shares = 512;
        });
        let id = husk.cri.launch(&pod, config).await?;
        let pid = husk.cri.pid(&id).await?;
        eventually("memory in use", async || {
            let used = cgroup_value(pid, "memory", "memory.usage_in_bytes", "memory.current")?;
            Ok((used.parse::<u64>()? > 30_000_000).then_some(()))
        })
        .await?;
        let status = update(husk, &id, |r| {
            r.memory_limit_in_bytes = 16 << 20;
            r.cpu_shares = 100;
        })
        .await
        .refused_with(Code::FailedPrecondition)?;
        ensure!(
            status.message().contains(&(16 << 20).to_string()) && status.message().contains("in use"),
            "{status:?}"
        );
        let told = shown(husk, &id).await?;
        ensure!(
            (told.memory_limit_in_bytes, told.cpu_shares) == (256 << 20, 512),
            "{told:?}"
        );
        if !process::is_v2() {
            let shares = cgroup_value(pid, "cpu", "cpu.shares", "")?;
            ensure!(shares == "512", "the refused call set shares to {shares}");
        }
        ensure!(
            husk.cri.status(&id).await?.state() == ContainerState::ContainerRunning,
            "it was killed"
        );
        update(husk, &id, |r| r.cpuset_cpus = "9999".into())
            .await
            .refused_with(Code::InvalidArgument)?;
        ensure!(shown(husk, &id).await? == told);

        husk.cri.stop(&id, 0).await?;
        update(husk, &id, |r| r.cpu_shares = 10)
            .await
            .refused_with(Code::FailedPrecondition)?;
        update(husk, "0123456789abcdef", |r| r.cpu_shares = 10)
            .await
            .refused_with(Code::NotFound)?;
        Ok(())
    })
    .await
}

async fn pod_info(husk: &Husk, id: &str) -> Result<Value> {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: id.into(),
        verbose: true,
    };
    let reply = husk.cri.runtime().pod_sandbox_status(request).await?.into_inner();
    Ok(serde_json::from_str(reply.info.get("info").context("no info")?)?)
}

#[tokio::test]
async fn a_pods_limits_are_remembered_and_never_vetoed() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("pod-limits")).await?;
        let limits = |memory: i64| {
            Some(own::LinuxContainerResources {
                memory_limit_in_bytes: memory,
                ..Default::default()
            })
        };
        let update = async |id: &str, overhead, resources| {
            let request = own::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: id.to_owned(),
                overhead,
                resources,
            };
            husk.cri
                .own_runtime()
                .update_pod_sandbox_resources(request)
                .await
                .map(drop)
        };
        update(&pod.id, limits(1 << 20), limits(64 << 20)).await?;
        // Below what anything needs: the cgroup is kubelet's to write, and so is the decision.
        update(&pod.id, None, limits(1)).await?;
        update("0123456789abcdef", None, None)
            .await
            .refused_with(Code::NotFound)?;
        let info = pod_info(husk, &pod.id).await?;
        let memory = |key: &str| info[key]["memory_limit_in_bytes"].clone();
        ensure!(
            (memory("overhead"), memory("resources")) == ((1 << 20).into(), 1.into()),
            "{info}"
        );
        ensure!(
            husk.cri.run_pod(&pod.config).await? == pod.id,
            "the request that made the pod is not known any more"
        );
        Ok(())
    })
    .await?;
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("kept")).await?;
        let request = own::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.id.clone(),
            overhead: None,
            resources: Some(own::LinuxContainerResources {
                cpu_shares: 77,
                ..Default::default()
            }),
        };
        husk.cri
            .own_runtime()
            .update_pod_sandbox_resources(request)
            .await?;
        husk.kill()?;
        husk.start_again().await?;
        let info = pod_info(husk, &pod.id).await?;
        ensure!(info["resources"]["cpu_shares"] == 77, "{info}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn verbose_maps_have_the_names_people_script_against() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        use husk_e2e::config::PodConfigExt as _;
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("verbose").with_own_network();
        config.annotations = labels(&[("a", "b")]);
        let pod = husk.cri.pod(config).await?;
        let mut main = container("main", &image, &["sleep", "1000"]);
        main.envs = vec![KeyValue {
            key: "COLOUR".into(),
            value: "red".into(),
        }];
        let id = husk.cri.launch(&pod, main).await?;
        let info = husk.cri.container_info(&id).await?;
        ensure!(
            info["config"]["envs"][0]["key"] == "COLOUR"
                && info["config"]["metadata"]["name"] == "main"
                && info["config"]["linux"]["security_context"]["privileged"] == false
                && info["privileged"] == false
                && info["removing"] == false,
            "{info}"
        );
        ensure!(
            info["timeline"]["started"].is_string() && info["timeline"].get("finished").is_none(),
            "{info}"
        );
        let info = pod_info(husk, &pod.id).await?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"]
            .as_array()
            .context("no namespaces")?;
        let netns = namespaces
            .iter()
            .find(|n| n["type"] == "network")
            .and_then(|n| n["path"].as_str());
        ensure!(
            netns.is_some_and(|path| std::path::Path::new(path).exists()),
            "{info}"
        );
        for n in namespaces {
            let path = n["path"].as_str().unwrap_or_default();
            ensure!(std::fs::metadata(path).is_ok(), "{path} does not exist");
        }
        ensure!(
            info["cniResult"].is_object()
                && info["netNamespaceClosed"] == false
                && info["processStatus"] == "running"
                && info["config"]["metadata"]["name"] == "verbose"
                && info["runtimeSpec"]["annotations"]["a"] == "b",
            "{info}"
        );
        let request = ImageStatusRequest {
            image: Some(husk_e2e::cri::spec(&image)),
            verbose: true,
        };
        let reply = husk.cri.images().image_status(request).await?.into_inner();
        let info: Value = serde_json::from_str(reply.info.get("info").context("no info")?)?;
        ensure!(
            info["chainID"].is_string() && info["imageSpec"]["rootfs"].is_object(),
            "{info}"
        );
        Ok(())
    })
    .await
}

async fn tell_pod_cidr(husk: &Husk, cidr: &str) -> Result<(), tonic::Status> {
    let request = UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(NetworkConfig {
                pod_cidr: cidr.into(),
            }),
        }),
    };
    husk.cri.runtime().update_runtime_config(request).await.map(drop)
}

#[tokio::test]
async fn the_nodes_pod_range_is_remembered_and_nonsense_is_refused() -> Result<()> {
    run(async |husk| {
        tell_pod_cidr(husk, "").await?;
        tell_pod_cidr(husk, "10.5.0.0/24,fd05::/64").await?;
        tell_pod_cidr(husk, "10.5.0.0")
            .await
            .refused_with(Code::InvalidArgument)?;
        husk.kill()?;
        husk.start_again().await?;
        let status = husk
            .cri
            .runtime()
            .status(StatusRequest { verbose: true })
            .await?
            .into_inner();
        let info: Value = serde_json::from_str(status.info.get("husk").context("no husk")?)?;
        ensure!(info["podCIDR"] == "10.5.0.0/24,fd05::/64", "{info}");
        ensure!(
            std::fs::read_dir(husk.cni_dir())?.next().is_none(),
            "a configuration nobody asked for"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_template_becomes_the_network_of_the_nodes_pod_range() -> Result<()> {
    run(async |husk| {
        let template = husk.dir().join("template");
        std::fs::write(
            &template,
            r#"{"cniVersion":"1.0.0","name":"templated","plugins":[{"type":"bridge","ipam":{"type":"host-local",
               "ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet":"{{$r}}"}]{{end}}]}}]}"#,
        )?;
        let drop_ins = husk.dir().join("config.toml.d");
        std::fs::create_dir(&drop_ins)?;
        std::fs::write(
            drop_ins.join("template.toml"),
            format!("[network]\ncni_conf_template = {template:?}\n"),
        )?;
        husk.stop().await?;
        husk.start_again().await?;
        tell_pod_cidr(husk, "10.5.0.0/24,fd05::/64").await?;
        let file = husk.cni_dir().join("10-husk.conflist");
        let list: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let ranges = &list["plugins"][0]["ipam"]["ranges"];
        ensure!(
            ranges[0][0]["subnet"] == "10.5.0.0/24" && ranges[1][0]["subnet"] == "fd05::/64",
            "{list}"
        );
        eventually("NetworkReady", async || {
            let status = husk.cri.runtime().status(StatusRequest::default()).await?;
            let conditions = status.into_inner().status.unwrap_or_default().conditions;
            let ready = conditions.iter().any(|c| c.r#type == "NetworkReady" && c.status);
            Ok(ready.then_some(()))
        })
        .await?;
        std::fs::write(&template, "{{.Nope}}")?;
        let status = tell_pod_cidr(husk, "10.6.0.0/24").await.refused()?;
        ensure!(status.message().contains(".Nope"), "{status:?}");
        ensure!(std::fs::read_to_string(&file)?.contains("10.5.0.0/24"));
        Ok(())
    })
    .await
}
