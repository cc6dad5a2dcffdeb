//! Statistics against loads whose effect is known: relations between figures, never speeds.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, labels, namespaces, script, sleeper};
use husk_e2e::cri::CriExt;
use husk_e2e::v1::*;
use husk_e2e::{Cri, Husk, Options, Pod, eventually, run, run_with};
use tonic::Code;

async fn container_stats(cri: &Cri, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest {
        container_id: id.into(),
    };
    let reply = cri.runtime().container_stats(request).await?.into_inner();
    reply.stats.context("ContainerStats without stats")
}

async fn list_container_stats(cri: &Cri, filter: ContainerStatsFilter) -> Result<Vec<ContainerStats>> {
    let request = ListContainerStatsRequest { filter: Some(filter) };
    Ok(cri
        .runtime()
        .list_container_stats(request)
        .await?
        .into_inner()
        .stats)
}

async fn pod_stats(cri: &Cri, id: &str) -> Result<PodSandboxStats> {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: id.into(),
    };
    let reply = cri.runtime().pod_sandbox_stats(request).await?.into_inner();
    reply.stats.context("PodSandboxStats without stats")
}

async fn list_pod_stats(cri: &Cri, filter: PodSandboxStatsFilter) -> Result<Vec<PodSandboxStats>> {
    let request = ListPodSandboxStatsRequest { filter: Some(filter) };
    Ok(cri
        .runtime()
        .list_pod_sandbox_stats(request)
        .await?
        .into_inner()
        .stats)
}

fn number(value: Option<&UInt64Value>) -> u64 {
    value.map_or(0, |v| v.value)
}

fn cpu_nanos(cpu: Option<&CpuUsage>) -> u64 {
    number(cpu.and_then(|c| c.usage_core_nano_seconds.as_ref()))
}

fn id_of(stats: &ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |a| a.id.as_str())
}

fn pod_id_of(stats: &PodSandboxStats) -> &str {
    stats.attributes.as_ref().map_or("", |a| a.id.as_str())
}

/// A shell that holds this many bytes in memory and then uses all the CPU it is given.
fn greedy(name: &str, image: &str, bytes: usize) -> ContainerConfig {
    let text = format!("held=$(head -c {bytes} /dev/zero | tr '\\0' x); touch /held; while :; do :; done");
    script(name, image, &text)
}

async fn wait_for_file(husk: &Husk, id: &str, path: &str) -> Result<()> {
    eventually(path, async || {
        let reply = husk.cri.exec_sync(id, &["test", "-e", path], 60).await?;
        Ok((reply.exit_code == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn what_a_container_uses_shows_and_the_rate_comes_with_the_second_sample() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("greedy")).await?;
        let limit = 128 << 20;
        let config = greedy("main", &image, 8 << 20).limited(|r| r.memory_limit_in_bytes = limit);
        let id = husk.cri.launch(&pod, config).await?;
        let idle = husk.cri.launch(&pod, sleeper("idle", &image)).await?;
        wait_for_file(husk, &id, "/held").await?;

        let first = container_stats(&husk.cri, &id).await?;
        let attributes = first.attributes.clone().context("no attributes")?;
        ensure!(attributes.id == id && attributes.metadata.is_some_and(|m| m.name == "main"));
        ensure!(attributes.labels == labels(&[("io.kubernetes.container.name", "main")]));
        let memory = first.memory.context("no memory")?;
        let held = 8 << 20;
        ensure!(number(memory.rss_bytes.as_ref()) >= held, "{memory:?}");
        ensure!(number(memory.usage_bytes.as_ref()) >= number(memory.working_set_bytes.as_ref()));
        ensure!(number(memory.working_set_bytes.as_ref()) >= held, "{memory:?}");
        ensure!(
            number(memory.page_faults.as_ref()) > held / 4096 / 2,
            "{memory:?}"
        );
        let available = number(memory.available_bytes.as_ref());
        ensure!(
            available + number(memory.working_set_bytes.as_ref()) == limit as u64,
            "{memory:?}"
        );

        let second = eventually("a second sample", async || {
            let stats = container_stats(&husk.cri, &id).await?;
            let cpu = stats.cpu.context("no cpu")?;
            Ok((cpu.timestamp > first.cpu.as_ref().map_or(0, |c| c.timestamp)).then_some(cpu))
        })
        .await?;
        ensure!(
            cpu_nanos(Some(&second)) > cpu_nanos(first.cpu.as_ref()),
            "{second:?}"
        );
        ensure!(number(second.usage_nano_cores.as_ref()) > 0, "{second:?}");

        // Two who ask within a moment get the same sample; the idle one uses less.
        let filter = ContainerStatsFilter {
            pod_sandbox_id: pod.id.clone(),
            ..Default::default()
        };
        let both = list_container_stats(&husk.cri, filter).await?;
        ensure!(both.len() == 2);
        let of = |id: &str| both.iter().find(|s| id_of(s) == id).context("not listed");
        ensure!(cpu_nanos(of(&id)?.cpu.as_ref()) > cpu_nanos(of(&idle)?.cpu.as_ref()));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_container_writes_is_in_its_writable_layer() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("writer")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let layer = async |id: &str| -> Result<(u64, u64)> {
            let stats = container_stats(&husk.cri, id).await?;
            let layer = stats.writable_layer.context("no writable layer")?;
            ensure!(layer.fs_id.is_some_and(|fs| fs.mountpoint.starts_with('/')) && layer.timestamp > 0);
            Ok((
                number(layer.used_bytes.as_ref()),
                number(layer.inodes_used.as_ref()),
            ))
        };
        let (bytes, inodes) = layer(&id).await?;
        husk.cri
            .sh(
                &id,
                "mkdir /new && head -c 3000000 /dev/zero > /new/file && ln -s file /new/link",
            )
            .await?;
        eventually("the new files in the writable layer", async || {
            let (now, entries) = layer(&id).await?;
            Ok((now >= bytes + 3_000_000 && entries == inodes + 3).then_some(()))
        })
        .await?;
        husk.cri.sh(&id, "rm -r /new").await?;
        eventually("the writable layer without them", async || {
            let (now, _) = layer(&id).await?;
            Ok((now < bytes + 3_000_000).then_some(()))
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_is_the_sum_of_its_containers_and_has_its_own_traffic() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("whole").with_own_network()).await?;
        let own = namespaces(NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod);
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            let config = greedy(name, &image, 4 << 20).with_namespaces(own.clone());
            ids.push(husk.cri.launch(&pod, config).await?);
        }
        for id in &ids {
            wait_for_file(husk, id, "/held").await?;
        }
        let stats = pod_stats(&husk.cri, &pod.id).await?;
        let linux = stats.linux.context("no linux")?;
        ensure!(linux.containers.len() == 2, "{linux:?}");
        let inner: u64 = linux.containers.iter().map(|c| cpu_nanos(c.cpu.as_ref())).sum();
        // Containers are read before their pod.
        ensure!(cpu_nanos(linux.cpu.as_ref()) >= inner && inner > 0, "{linux:?}");
        let memory = linux.memory.context("no memory")?;
        ensure!(number(memory.working_set_bytes.as_ref()) >= 8 << 20, "{memory:?}");
        let processes = linux.process.context("no process")?;
        ensure!(number(processes.process_count.as_ref()) == 2, "{processes:?}");

        let received = async || -> Result<(u64, u64)> {
            let stats = pod_stats(&husk.cri, &pod.id).await?;
            let network = stats.linux.and_then(|l| l.network).context("no network")?;
            ensure!(network.interfaces.len() == 1, "{network:?}");
            let eth0 = network.default_interface.context("no default interface")?;
            ensure!(eth0.name == "eth0");
            Ok((number(eth0.rx_bytes.as_ref()), number(eth0.tx_bytes.as_ref())))
        };
        let (rx, tx) = received().await?;
        let gateway = husk
            .cri
            .sh(&ids[0], "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'")
            .await?;
        husk.cri
            .sh(&ids[0], &format!("ping -c 5 -i 0.2 -s 1000 {gateway}"))
            .await?;
        eventually("the pings in the counters", async || {
            let (now_rx, now_tx) = received().await?;
            Ok((now_rx >= rx + 5000 && now_tx >= tx + 5000).then_some(()))
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_on_the_nodes_network_has_no_traffic_of_its_own() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("host")).await?;
        let linux = pod_stats(&husk.cri, &pod.id).await?.linux.context("no linux")?;
        ensure!(linux.network.is_none() && linux.cpu.is_some() && linux.containers.is_empty());
        Ok(())
    })
    .await
}

/// Two pods, the first with two containers.
async fn three_containers(husk: &Husk) -> Result<(Pod, Pod, [String; 3])> {
    let image = husk.busybox().await?;
    let mut config = husk.pod_config("first");
    config.labels.insert("tier".into(), "front".into());
    let first = husk.cri.pod(config).await?;
    let second = husk.cri.pod(husk.pod_config("second")).await?;
    let mut labelled = sleeper("b", &image);
    labelled.labels.insert("tier".into(), "back".into());
    let ids = [
        husk.cri.launch(&first, sleeper("a", &image)).await?,
        husk.cri.launch(&first, labelled).await?,
        husk.cri.launch(&second, sleeper("c", &image)).await?,
    ];
    Ok((first, second, ids))
}

#[tokio::test]
async fn filters_choose_and_what_has_ended_is_not_listed() -> Result<()> {
    run(async |husk| {
        let (first, second, [a, b, c]) = three_containers(husk).await?;
        let containers = async |filter: ContainerStatsFilter| -> Result<HashSet<String>> {
            let stats = list_container_stats(&husk.cri, filter).await?;
            ensure!(
                stats
                    .iter()
                    .all(|s| s.cpu.as_ref().is_some_and(|c| c.timestamp > 0))
            );
            Ok(stats.iter().map(|s| id_of(s).to_owned()).collect())
        };
        let ids = |of: &[&String]| of.iter().map(|&id| id.clone()).collect::<HashSet<_>>();
        let all = ContainerStatsFilter::default();
        ensure!(containers(all.clone()).await? == ids(&[&a, &b, &c]));
        let by_id = ContainerStatsFilter {
            id: a.clone(),
            ..Default::default()
        };
        ensure!(containers(by_id).await? == ids(&[&a]));
        let by_pod = ContainerStatsFilter {
            pod_sandbox_id: first.id.clone(),
            ..Default::default()
        };
        ensure!(containers(by_pod).await? == ids(&[&a, &b]));
        let by_label = ContainerStatsFilter {
            label_selector: labels(&[("tier", "back")]),
            ..Default::default()
        };
        ensure!(containers(by_label).await? == ids(&[&b]));

        let pods = async |filter: PodSandboxStatsFilter| -> Result<HashSet<String>> {
            let stats = list_pod_stats(&husk.cri, filter).await?;
            Ok(stats.iter().map(|s| pod_id_of(s).to_owned()).collect())
        };
        let every = PodSandboxStatsFilter::default();
        ensure!(pods(every.clone()).await? == ids(&[&first.id, &second.id]));
        let by_id = PodSandboxStatsFilter {
            id: second.id.clone(),
            ..Default::default()
        };
        ensure!(pods(by_id).await? == ids(&[&second.id]));
        let by_label = PodSandboxStatsFilter {
            label_selector: labels(&[("tier", "front")]),
            ..Default::default()
        };
        ensure!(pods(by_label).await? == ids(&[&first.id]));

        husk.cri.stop(&a, 0).await?;
        ensure!(containers(all.clone()).await? == ids(&[&b, &c]));
        let ended = container_stats(&husk.cri, &a).await?;
        ensure!(
            ended.cpu.is_none() && ended.memory.is_none() && ended.writable_layer.is_some(),
            "{ended:?}"
        );
        husk.cri.stop_pod(&second.id).await?;
        ensure!(containers(all).await? == ids(&[&b]));
        ensure!(pods(every).await? == ids(&[&first.id]));
        let stopped = pod_stats(&husk.cri, &second.id)
            .await?
            .linux
            .context("no linux")?;
        ensure!(stopped.cpu.is_none() && stopped.network.is_none(), "{stopped:?}");

        container_stats(&husk.cri, "no-such")
            .await
            .refused_with(Code::NotFound)?;
        pod_stats(&husk.cri, "no-such")
            .await
            .refused_with(Code::NotFound)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_streams_have_what_the_lists_have_each_once() -> Result<()> {
    run(async |husk| {
        let (first, _, _) = three_containers(husk).await?;
        let filters = [
            ContainerStatsFilter::default(),
            ContainerStatsFilter {
                pod_sandbox_id: first.id.clone(),
                ..Default::default()
            },
            ContainerStatsFilter {
                id: "no-such".into(),
                ..Default::default()
            },
        ];
        for filter in filters {
            let listed = list_container_stats(&husk.cri, filter.clone()).await?;
            let request = ListContainerStatsRequest { filter: Some(filter) };
            let chunks: Vec<ListContainerStatsResponse> =
                husk.cri.stream("StreamContainerStats", request).await?;
            let streamed: Vec<_> = chunks.into_iter().flat_map(|c| c.stats).collect();
            let ids = |all: &[ContainerStats]| all.iter().map(|s| id_of(s).to_owned()).collect::<Vec<_>>();
            ensure!(ids(&listed) == ids(&streamed), "{listed:?}\n{streamed:?}");
        }
        let every = PodSandboxStatsFilter::default();
        let listed = list_pod_stats(&husk.cri, every.clone()).await?;
        let request = ListPodSandboxStatsRequest { filter: Some(every) };
        let chunks: Vec<ListPodSandboxStatsResponse> =
            husk.cri.stream("StreamPodSandboxStats", request).await?;
        let streamed: Vec<_> = chunks.into_iter().flat_map(|c| c.stats).collect();
        let ids = |all: &[PodSandboxStats]| all.iter().map(|s| pod_id_of(s).to_owned()).collect::<Vec<_>>();
        ensure!(ids(&listed) == ids(&streamed) && listed.len() == 2);
        ensure!(
            streamed
                .iter()
                .all(|s| s.linux.as_ref().is_some_and(|l| !l.containers.is_empty()))
        );
        Ok(())
    })
    .await
}
