//! ContainerStats and ListContainerStats: read from the containers' cgroups when asked.

use std::sync::Arc;

use crate::cri::convert::{container, from_map, to_map};
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::pod::container::Container;
use crate::pod::index::ContainerFilter;
use crate::types::error::Result;
use crate::types::time::now_nanos;
use crate::types::{ContainerState, Realm};

pub(super) async fn one(
    runtime: &Arc<Runtime>,
    request: p::ContainerStatsRequest,
) -> Result<p::ContainerStatsResponse> {
    let found = runtime.find_container(&request.container_id)?;
    Ok(p::ContainerStatsResponse {
        stats: Some(stats(runtime, &found).await?),
    })
}

pub(super) async fn list(
    runtime: &Arc<Runtime>,
    request: p::ListContainerStatsRequest,
) -> Result<p::ListContainerStatsResponse> {
    let filter = request.filter.unwrap_or_default();
    let filter = ContainerFilter {
        id: filter.id,
        pod: filter.pod_sandbox_id,
        state: Some(ContainerState::Running),
        labels: from_map(filter.label_selector),
    };
    let mut out = Vec::new();
    for found in runtime.index().containers(Realm::K8s, &filter) {
        // A container that ends meanwhile has no statistics any more, which is no error of the list.
        if let Ok(item) = stats(runtime, &found).await {
            out.push(item);
        }
    }
    Ok(p::ListContainerStatsResponse { stats: out })
}

async fn stats(runtime: &Arc<Runtime>, found: &Arc<Container>) -> Result<p::ContainerStats> {
    let facts = &found.facts;
    let usage = runtime.container_usage(found).await?;
    let timestamp = now_nanos();
    let value = |value: u64| Some(p::UInt64Value { value });
    Ok(p::ContainerStats {
        attributes: Some(p::ContainerAttributes {
            id: facts.id.to_string(),
            metadata: Some(container::metadata(&facts.config.metadata)),
            labels: to_map(&facts.config.labels),
            annotations: to_map(&facts.config.annotations),
        }),
        cpu: Some(p::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(usage.cpu_nanos),
            usage_nano_cores: usage.cpu_nano_cores.and_then(value),
            psi: None,
        }),
        memory: Some(p::MemoryUsage {
            timestamp,
            working_set_bytes: value(usage.memory.working_set),
            available_bytes: usage
                .memory
                .limit
                .and_then(|l| value(l.saturating_sub(usage.memory.working_set))),
            usage_bytes: value(usage.memory.usage),
            rss_bytes: value(usage.memory.rss),
            page_faults: value(usage.memory.page_faults),
            major_page_faults: value(usage.memory.major_page_faults),
            psi: None,
        }),
        writable_layer: Some(p::FilesystemUsage {
            timestamp,
            fs_id: Some(p::FilesystemIdentifier {
                mountpoint: usage.fs_mountpoint.display().to_string(),
            }),
            used_bytes: value(usage.fs_bytes),
            inodes_used: value(usage.fs_inodes),
        }),
        swap: None,
        io: None,
    })
}
