//! PodSandboxStats, ListPodSandboxStats and its stream.

use std::sync::Arc;

use crate::cgroup::Detail;
use crate::cri::convert::{from_map, stats as convert};
use crate::cri::list;
use crate::cri::proto as p;
use crate::pod::index::PodFilter;
use crate::pod::sandbox::Pod;
use crate::stats::Stats;
use crate::types::error::Result;
use crate::types::{PodState, Realm};

pub(super) async fn one(
    stats: &Arc<Stats>,
    request: p::PodSandboxStatsRequest,
) -> Result<p::PodSandboxStatsResponse> {
    let found = stats.runtime().find_pod(&request.pod_sandbox_id)?;
    let samples = stats.pods(vec![found], Detail::Usage).await?;
    let layers = stats.layers_dir().display().to_string();
    Ok(p::PodSandboxStatsResponse {
        stats: samples.first().map(|s| convert::pod(s, &layers)),
    })
}

pub(super) async fn list(
    stats: &Arc<Stats>,
    request: p::ListPodSandboxStatsRequest,
) -> Result<p::ListPodSandboxStatsResponse> {
    let found = ready(stats, request.filter);
    Ok(p::ListPodSandboxStatsResponse {
        stats: sample(Arc::clone(stats), found).await?,
    })
}

pub(super) fn stream(
    stats: &Arc<Stats>,
    request: p::StreamPodSandboxStatsRequest,
) -> list::Stream<p::StreamPodSandboxStatsResponse> {
    let found = ready(stats, request.filter);
    let stats = Arc::clone(stats);
    list::stream_made(
        found,
        move |part| sample(Arc::clone(&stats), part),
        |pod_sandbox_stats| p::StreamPodSandboxStatsResponse { pod_sandbox_stats },
    )
}

/// Pods that were stopped have no statistics any more.
fn ready(stats: &Stats, filter: Option<p::PodSandboxStatsFilter>) -> Vec<Arc<Pod>> {
    let filter = filter.unwrap_or_default();
    let filter = PodFilter {
        id: filter.id,
        state: Some(PodState::Ready),
        labels: from_map(filter.label_selector),
    };
    stats.runtime().index().pods(Realm::K8s, &filter)
}

async fn sample(stats: Arc<Stats>, list: Vec<Arc<Pod>>) -> Result<Vec<p::PodSandboxStats>> {
    let layers = stats.layers_dir().display().to_string();
    let samples = stats.pods(list, Detail::Usage).await?;
    // One that was stopped while the others were read is left out.
    let alive = samples.iter().filter(|s| s.reading.is_some());
    Ok(alive.map(|s| convert::pod(s, &layers)).collect())
}
