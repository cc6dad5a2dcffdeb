//! The metrics under cAdvisor's names.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, namespaces, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{Cri, Husk, Options, eventually, run_with};

/// Families that a node may be unable to feed.
const OPTIONAL: [&str; 13] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
];

async fn descriptors(cri: &Cri) -> Result<BTreeMap<String, MetricDescriptor>> {
    let reply = cri
        .runtime()
        .list_metric_descriptors(ListMetricDescriptorsRequest::default())
        .await?;
    let all = reply.into_inner().descriptors;
    Ok(all.into_iter().map(|d| (d.name.clone(), d)).collect())
}

async fn pod_metrics(cri: &Cri) -> Result<Vec<PodSandboxMetrics>> {
    let reply = cri
        .runtime()
        .list_pod_sandbox_metrics(ListPodSandboxMetricsRequest::default())
        .await?;
    Ok(reply.into_inner().pod_metrics)
}

/// A pod with its own network and a container with every limit; its ids.
async fn limited_pod(husk: &Husk) -> Result<(String, String)> {
    let image = husk.busybox().await?;
    let pod = husk
        .cri
        .pod(husk.pod_config("measured").with_own_network())
        .await?;
    let own = namespaces(NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod);
    let config = sleeper("main", &image).with_namespaces(own).limited(|r| {
        r.cpu_period = 100_000;
        r.cpu_quota = 50_000;
        r.cpu_shares = 512;
        r.memory_limit_in_bytes = 64 << 20;
    });
    let id = husk.cri.launch(&pod, config).await?;
    Ok((pod.id, id))
}

fn all_of(pod: &PodSandboxMetrics) -> impl Iterator<Item = &Metric> {
    let inner = pod.container_metrics.iter().flat_map(|c| &c.metrics);
    pod.metrics.iter().chain(inner)
}

fn value(pod: &PodSandboxMetrics, name: &str) -> Result<u64> {
    let metric = all_of(pod)
        .find(|m| m.name == name)
        .with_context(|| format!("no {name}"))?;
    Ok(metric.value.as_ref().map_or(0, |v| v.value))
}

#[tokio::test]
async fn what_is_declared_comes_with_as_many_labels() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let (pod, id) = limited_pod(husk).await?;
        let declared = descriptors(&husk.cri).await?;
        ensure!(declared.len() > 40, "{}", declared.len());
        for descriptor in declared.values() {
            ensure!(!descriptor.help.is_empty(), "{descriptor:?}");
            let base = ["namespace", "pod", "container", "id", "image", "name"];
            ensure!(
                descriptor.label_keys.starts_with(&base.map(String::from)),
                "{descriptor:?}"
            );
        }
        let metrics = pod_metrics(&husk.cri).await?;
        ensure!(metrics.len() == 1 && metrics[0].pod_sandbox_id == pod);
        let metrics = &metrics[0];
        ensure!(metrics.container_metrics.len() == 1 && metrics.container_metrics[0].container_id == id);
        let mut seen = BTreeSet::new();
        for metric in all_of(metrics) {
            let descriptor = declared.get(&metric.name).with_context(|| metric.name.clone())?;
            ensure!(
                descriptor.label_keys.len() == metric.label_values.len(),
                "{metric:?}"
            );
            ensure!(metric.timestamp > 0 && metric.value.is_some(), "{metric:?}");
            ensure!(metric.label_values[..2] == ["e2e", "measured"], "{metric:?}");
            seen.insert(metric.name.as_str());
        }
        let silent: Vec<_> = declared
            .keys()
            .filter(|name| !seen.contains(name.as_str()) && !OPTIONAL.contains(&name.as_str()))
            .collect();
        ensure!(silent.is_empty(), "declared without a value: {silent:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn metrics_say_what_the_container_does() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let (_, id) = limited_pod(husk).await?;
        let now = async || -> Result<PodSandboxMetrics> {
            pod_metrics(&husk.cri)
                .await?
                .pop()
                .context("no metrics of the pod")
        };
        let first = now().await?;
        ensure!(value(&first, "container_spec_cpu_quota")? == 50_000);
        ensure!(value(&first, "container_spec_cpu_period")? == 100_000);
        ensure!(value(&first, "container_spec_memory_limit_bytes")? == 64 << 20);
        ensure!(value(&first, "container_processes")? >= 1);
        ensure!(value(&first, "container_threads")? >= value(&first, "container_processes")?);
        ensure!(value(&first, "container_file_descriptors")? >= 3);
        ensure!(value(&first, "container_ulimits_soft")? > 0);
        let started = husk.cri.status(&id).await?.started_at / 1_000_000_000;
        ensure!(value(&first, "container_start_time_seconds")? == started as u64);
        ensure!(value(&first, "container_last_seen")? >= started as u64);
        ensure!(value(&first, "container_fs_limit_bytes")? > value(&first, "container_fs_usage_bytes")?);

        let fork = "for i in $(seq 200); do /bin/true; done";
        husk.cri.sh(&id, fork).await?;
        let faults = value(&first, "container_memory_failures_total")?;
        let sent = value(&first, "container_network_transmit_bytes_total")?;
        let gateway = "$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')";
        husk.cri
            .sh(&id, &format!("ping -c 3 -i 0.2 -s 1000 {gateway}"))
            .await?;
        eventually("the effect in the metrics", async || {
            let later = now().await?;
            let more = value(&later, "container_network_transmit_bytes_total")? >= sent + 3000
                && value(&later, "container_memory_failures_total")? > faults;
            Ok(more.then_some(()))
        })
        .await?;

        let request = ListPodSandboxMetricsRequest::default();
        let chunks: Vec<ListPodSandboxMetricsResponse> =
            husk.cri.stream("StreamPodSandboxMetrics", request).await?;
        let streamed: Vec<_> = chunks.into_iter().flat_map(|c| c.pod_metrics).collect();
        let names = |pods: &[PodSandboxMetrics]| {
            pods.iter()
                .map(|p| {
                    (
                        p.pod_sandbox_id.clone(),
                        all_of(p).map(|m| m.name.clone()).collect(),
                    )
                })
                .collect::<Vec<(String, BTreeSet<String>)>>()
        };
        ensure!(names(&streamed) == names(&pod_metrics(&husk.cri).await?));

        // A pod that was stopped is not measured any more.
        let pod = husk.cri.list_pods(None).await?.pop().context("no pod")?;
        husk.cri.stop_pod(&pod.id).await?;
        ensure!(pod_metrics(&husk.cri).await?.is_empty());
        Ok(())
    })
    .await
}
