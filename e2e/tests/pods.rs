//! Pods: made, listed, described, stopped and removed.

use std::slice::from_ref;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{PodConfigExt, labels, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Options, eventually, run, run_with};
use tonic::Code;

fn filter(change: impl FnOnce(&mut PodSandboxFilter)) -> Option<PodSandboxFilter> {
    let mut filter = PodSandboxFilter::default();
    change(&mut filter);
    Some(filter)
}

fn state(state: PodSandboxState) -> Option<PodSandboxStateValue> {
    Some(PodSandboxStateValue { state: state.into() })
}

#[tokio::test]
async fn a_pod_is_what_was_asked_for() -> Result<()> {
    run(async |husk| {
        let mut config = husk.pod_config("described");
        config.annotations = labels(&[("example.org/note", "kept verbatim: ü \"quoted\"")]);
        let pod = husk.cri.pod(config.clone()).await?;
        let status = husk.cri.pod_status(&pod.id).await?;
        ensure!(
            status.id == pod.id && status.metadata == config.metadata,
            "{status:?}"
        );
        ensure!(
            status.labels == config.labels && status.annotations == config.annotations,
            "{status:?}"
        );
        ensure!(
            status.state() == PodSandboxState::SandboxReady && status.created_at > 0,
            "{status:?}"
        );
        let asked = config.security().namespace_options.clone();
        let got = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
        ensure!(got == asked, "namespaces {got:?} are not {asked:?}");
        let address = status.network.map(|n| n.ip).unwrap_or_default();
        ensure!(
            address.is_empty(),
            "a pod on the host's network has no address of its own: {address}"
        );
        let listed = husk.cri.list_pods(None).await?;
        ensure!(listed.len() == 1, "{listed:?}");
        ensure!(
            listed[0].metadata == config.metadata && listed[0].created_at == status.created_at,
            "{listed:?}"
        );
        ensure!(
            listed[0].labels == config.labels && listed[0].annotations == config.annotations,
            "{listed:?}"
        );
        let logs = std::path::Path::new(&config.log_directory);
        ensure!(logs.is_dir(), "{} was not made", logs.display());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_are_filtered_by_id_state_and_labels() -> Result<()> {
    run(async |husk| {
        let mut first = husk.pod_config("first");
        first.labels.insert("tier".into(), "front".into());
        let mut second = husk.pod_config("second");
        second.labels.insert("tier".into(), "back".into());
        let first = husk.cri.run_pod(&first).await?;
        let second = husk.cri.run_pod(&second).await?;
        husk.cri.stop_pod(&second).await?;
        let ids = async |filter: Option<PodSandboxFilter>| -> Result<Vec<String>> {
            let mut ids: Vec<_> = husk
                .cri
                .list_pods(filter)
                .await?
                .into_iter()
                .map(|p| p.id)
                .collect();
            ids.sort();
            Ok(ids)
        };
        let mut both = vec![first.clone(), second.clone()];
        both.sort();
        ensure!(ids(None).await? == both);
        ensure!(ids(filter(|_| {})).await? == both);
        ensure!(ids(filter(|f| f.id = first.clone())).await? == from_ref(&first));
        ensure!(
            ids(filter(|f| f.id = first[..13].into())).await? == from_ref(&first),
            "crictl sends prefixes"
        );
        ensure!(ids(filter(|f| f.id = "nothing".into())).await?.is_empty());
        ensure!(ids(filter(|f| f.state = state(PodSandboxState::SandboxReady))).await? == from_ref(&first));
        ensure!(
            ids(filter(|f| f.state = state(PodSandboxState::SandboxNotready))).await? == from_ref(&second)
        );
        ensure!(ids(filter(|f| f.label_selector = labels(&[("tier", "front")]))).await? == from_ref(&first));
        let all = [("tier", "front"), ("io.kubernetes.pod.namespace", "e2e")];
        ensure!(ids(filter(|f| f.label_selector = labels(&all))).await? == from_ref(&first));
        let contradiction = [("tier", "front"), ("io.kubernetes.pod.name", "second")];
        ensure!(
            ids(filter(|f| f.label_selector = labels(&contradiction)))
                .await?
                .is_empty()
        );
        let mixed = filter(|f| {
            f.id = first.clone();
            f.state = state(PodSandboxState::SandboxNotready);
        });
        ensure!(ids(mixed).await?.is_empty(), "all parts of a filter must match");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stopped_pod_is_not_ready_and_keeps_its_status() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("stopped")).await?;
        let container = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let before = husk.cri.pod_status(&pod.id).await?;
        for _ in 0..3 {
            husk.cri.stop_pod(&pod.id).await?;
        }
        let after = husk.cri.pod_status(&pod.id).await?;
        ensure!(after.state() == PodSandboxState::SandboxNotready, "{after:?}");
        ensure!(
            after.metadata == before.metadata && after.created_at == before.created_at,
            "{after:?}"
        );
        let status = husk.cri.status(&container).await?;
        ensure!(
            status.state() == ContainerState::ContainerExited && status.finished_at > 0,
            "{status:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn removing_a_pod_takes_its_running_containers_along() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("removed")).await?;
        let container = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let pid = husk.cri.pid(&container).await?;
        husk.cri.remove_pod(&pod.id).await?;
        ensure!(husk.cri.list_pods(None).await?.is_empty() && husk.cri.list(None).await?.is_empty());
        ensure!(!husk_e2e::process::alive(pid), "the container's process lives on");
        husk.cri.pod_status(&pod.id).await.refused_with(Code::NotFound)?;
        husk.cri.status(&container).await.refused_with(Code::NotFound)?;
        husk.cri
            .remove_pod(&pod.id)
            .await
            .context("removing what is gone must succeed")?;
        husk.cri
            .stop_pod(&pod.id)
            .await
            .context("stopping what is gone must succeed")
    })
    .await
}

#[tokio::test]
async fn a_repeated_request_gives_the_same_pod() -> Result<()> {
    run(async |husk| {
        let config = husk.pod_config("repeated");
        let first = husk.cri.run_pod(&config).await?;
        ensure!(
            husk.cri.run_pod(&config).await? == first,
            "a second pod for one request"
        );
        let mut changed = config.clone();
        changed.hostname = "changed".into();
        husk.cri
            .run_pod(&changed)
            .await
            .refused_with(Code::AlreadyExists)?;
        let mut next = config.clone();
        next.metadata.get_or_insert_default().attempt = 1;
        ensure!(
            husk.cri.run_pod(&next).await? != first,
            "the next attempt is another pod"
        );
        husk.cri.stop_pod(&first).await?;
        husk.cri.remove_pod(&first).await?;
        let again = husk.cri.run_pod(&config).await?;
        ensure!(again != first, "an id was used twice");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn simultaneous_equal_requests_give_one_pod() -> Result<()> {
    run(async |husk| {
        let config = husk.pod_config("simultaneous");
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let (cri, config) = (husk.cri.clone(), config.clone());
                tokio::spawn(async move { cri.run_pod(&config).await })
            })
            .collect();
        let mut ids = Vec::new();
        for call in calls {
            ids.push(call.await??);
        }
        ids.dedup();
        ensure!(
            ids.len() == 1 && husk.cri.list_pods(None).await?.len() == 1,
            "{ids:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_pods_start_and_stop_at_once() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let jobs: Vec<_> = (0..12)
            .map(|n| {
                let (cri, image) = (husk.cri.clone(), image.clone());
                let config = husk.pod_config(&format!("many-{n}")).with_own_network();
                tokio::spawn(async move {
                    let pod = cri.pod(config).await?;
                    let container = cri.launch(&pod, sleeper("main", &image)).await?;
                    let host = cri.sh(&container, "hostname -i || true").await?;
                    let address = cri
                        .pod_status(&pod.id)
                        .await?
                        .network
                        .map(|n| n.ip)
                        .unwrap_or_default();
                    cri.stop_pod(&pod.id).await?;
                    cri.remove_pod(&pod.id).await?;
                    anyhow::Ok((host, address))
                })
            })
            .collect();
        let mut addresses = Vec::new();
        for job in jobs {
            addresses.push(job.await??.1);
        }
        ensure!(addresses.iter().all(|a| !a.is_empty()), "{addresses:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_pods_cgroup_is_where_it_was_asked_for() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("cgroup");
        let parent = format!("{}/kubepods/burstable/poddeadbeef", husk.cgroup_parent());
        config
            .linux
            .get_or_insert_default()
            .cgroup_parent
            .clone_from(&parent);
        let pod = husk.cri.pod(config).await?;
        let container = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let pid = husk.cri.pid(&container).await?;
        let dir = husk_e2e::process::cgroup_dir(pid, "memory")?;
        ensure!(
            dir.to_string_lossy().contains(&parent),
            "{} is not below {parent}",
            dir.display()
        );
        ensure!(
            dir.to_string_lossy().contains(&container),
            "{} does not name {container}",
            dir.display()
        );
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;
        ensure!(!dir.exists(), "{} is still there", dir.display());
        // The pod-level cgroup belongs to kubelet, which made it in real life; here the test takes that part.
        remove_empty(husk, "kubepods/burstable/poddeadbeef")?;
        remove_empty(husk, "kubepods/burstable")?;
        remove_empty(husk, "kubepods")
    })
    .await
}

fn remove_empty(husk: &husk_e2e::Husk, name: &str) -> Result<()> {
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let dir = hierarchy
            .path()
            .join(husk.cgroup_parent().trim_start_matches('/'))
            .join(name);
        if dir.is_dir() {
            std::fs::remove_dir(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_runtime_says_who_it_is_and_how_it_feels() -> Result<()> {
    run(async |husk| {
        let version = husk
            .cri
            .runtime()
            .version(VersionRequest::default())
            .await?
            .into_inner();
        ensure!(
            version.version == "0.1.0",
            "kubelet refuses {:?}",
            version.version
        );
        ensure!(
            version.runtime_name == "husk" && version.runtime_api_version == "v1",
            "{version:?}"
        );
        let numbers: Vec<_> = version.runtime_version.split('.').collect();
        ensure!(
            numbers.len() >= 3 && numbers[0].parse::<u32>().is_ok(),
            "{version:?}"
        );
        let status = husk
            .cri
            .runtime()
            .status(StatusRequest { verbose: true })
            .await?
            .into_inner();
        let conditions = status.status.context("no status")?.conditions;
        let condition = |name: &str| conditions.iter().find(|c| c.r#type == name).map(|c| c.status);
        ensure!(condition("RuntimeReady") == Some(true), "{conditions:?}");
        ensure!(
            condition("NetworkReady") == Some(false),
            "there is no network: {conditions:?}"
        );
        ensure!(
            status.runtime_handlers.iter().any(|h| h.name.is_empty()),
            "{:?}",
            status.runtime_handlers
        );
        let config: serde_json::Value =
            serde_json::from_str(status.info.get("config").context("no config")?)?;
        ensure!(config["stateDir"].is_string(), "{config}");
        let runtime = husk
            .cri
            .runtime()
            .runtime_config(RuntimeConfigRequest {})
            .await?
            .into_inner();
        let driver = runtime
            .linux
            .context("kubelet would keep its own driver")?
            .cgroup_driver();
        ensure!(driver == CgroupDriver::Cgroupfs, "{driver:?}");
        let update = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig {
                network_config: Some(NetworkConfig {
                    pod_cidr: "10.1.0.0/16".into(),
                }),
            }),
        };
        husk.cri.runtime().update_runtime_config(update).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_leave_half_a_pod() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let config = husk.pod_config("abandoned").with_own_network();
        let (cri, request) = (husk.cri.clone(), config.clone());
        let call = tokio::spawn(async move { cri.run_pod(&request).await });
        tokio::task::yield_now().await;
        call.abort();
        // The second caller gets a whole pod, whether the first call arrived or not.
        let id = husk.cri.run_pod(&config).await?;
        eventually("one ready pod", async || {
            let pods = husk.cri.list_pods(None).await?;
            let ready =
                pods.len() == 1 && pods[0].id == id && pods[0].state() == PodSandboxState::SandboxReady;
            Ok(ready.then_some(()))
        })
        .await
    })
    .await
}
