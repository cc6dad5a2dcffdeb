//! ListMetricDescriptors, ListPodSandboxMetrics and its stream.

use std::sync::Arc;

use crate::cgroup::Detail;
use crate::cri::convert::stats as convert;
use crate::cri::list;
use crate::cri::proto as p;
use crate::pod::index::PodFilter;
use crate::pod::sandbox::Pod;
use crate::stats::{Stats, metrics};
use crate::types::error::Result;
use crate::types::{PodState, Realm};

pub(super) fn descriptors(stats: &Stats) -> p::ListMetricDescriptorsResponse {
    let families = metrics::available(stats.runtime().host());
    p::ListMetricDescriptorsResponse {
        descriptors: families.map(convert::descriptor).collect(),
    }
}

pub(super) async fn list(stats: &Arc<Stats>) -> Result<p::ListPodSandboxMetricsResponse> {
    Ok(p::ListPodSandboxMetricsResponse {
        pod_metrics: sample(Arc::clone(stats), ready(stats)).await?,
    })
}

pub(super) fn stream(stats: &Arc<Stats>) -> list::Stream<p::StreamPodSandboxMetricsResponse> {
    let found = ready(stats);
    let stats = Arc::clone(stats);
    list::stream_made(
        found,
        move |part| sample(Arc::clone(&stats), part),
        |pod_sandbox_metrics| p::StreamPodSandboxMetricsResponse { pod_sandbox_metrics },
    )
}

fn ready(stats: &Stats) -> Vec<Arc<Pod>> {
    let filter = PodFilter {
        state: Some(PodState::Ready),
        ..Default::default()
    };
    stats.runtime().index().pods(Realm::K8s, &filter)
}

async fn sample(stats: Arc<Stats>, list: Vec<Arc<Pod>>) -> Result<Vec<p::PodSandboxMetrics>> {
    let samples = stats.pods(list, Detail::Full).await?;
    let file_system = stats.file_system();
    let alive = samples.iter().filter(|s| s.reading.is_some());
    Ok(alive
        .map(|s| convert::metrics(stats.runtime(), s, &file_system))
        .collect())
}
