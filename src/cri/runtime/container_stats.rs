//! ContainerStats, ListContainerStats and its stream.

use std::sync::Arc;

use crate::cgroup::Detail;
use crate::cri::convert::{from_map, stats as convert};
use crate::cri::list;
use crate::cri::proto as p;
use crate::pod::container::Container;
use crate::pod::index::ContainerFilter;
use crate::stats::Stats;
use crate::types::error::Result;
use crate::types::{ContainerState, Realm};

pub(super) async fn one(
    stats: &Arc<Stats>,
    request: p::ContainerStatsRequest,
) -> Result<p::ContainerStatsResponse> {
    let found = stats.runtime().find_container(&request.container_id)?;
    let samples = stats.containers(vec![found], Detail::Usage).await?;
    let layers = stats.layers_dir().display().to_string();
    Ok(p::ContainerStatsResponse {
        stats: samples.first().map(|s| convert::container(s, &layers)),
    })
}

pub(super) async fn list(
    stats: &Arc<Stats>,
    request: p::ListContainerStatsRequest,
) -> Result<p::ListContainerStatsResponse> {
    let found = running(stats, request.filter);
    Ok(p::ListContainerStatsResponse {
        stats: sample(Arc::clone(stats), found).await?,
    })
}

pub(super) fn stream(
    stats: &Arc<Stats>,
    request: p::StreamContainerStatsRequest,
) -> list::Stream<p::StreamContainerStatsResponse> {
    let found = running(stats, request.filter);
    let stats = Arc::clone(stats);
    list::stream_made(
        found,
        move |part| sample(Arc::clone(&stats), part),
        |container_stats| p::StreamContainerStatsResponse { container_stats },
    )
}

/// Containers that have ended have no statistics any more.
fn running(stats: &Stats, filter: Option<p::ContainerStatsFilter>) -> Vec<Arc<Container>> {
    let filter = filter.unwrap_or_default();
    let filter = ContainerFilter {
        id: filter.id,
        pod: filter.pod_sandbox_id,
        state: Some(ContainerState::Running),
        labels: from_map(filter.label_selector),
    };
    stats.runtime().index().containers(Realm::K8s, &filter)
}

async fn sample(stats: Arc<Stats>, list: Vec<Arc<Container>>) -> Result<Vec<p::ContainerStats>> {
    let layers = stats.layers_dir().display().to_string();
    let samples = stats.containers(list, Detail::Usage).await?;
    // One that ended while the others were read is left out.
    let alive = samples.iter().filter(|s| s.reading.is_some());
    Ok(alive.map(|s| convert::container(s, &layers)).collect())
}
