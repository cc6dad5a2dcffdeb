//! UpdatePodSandboxResources: remembers what kubelet is about to write into the pod's cgroup. An error would veto it.

use std::sync::Arc;

use crate::cri::convert::resources;
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    request: p::UpdatePodSandboxResourcesRequest,
) -> Result<p::UpdatePodSandboxResourcesResponse> {
    let (overhead, resources) = (
        request.overhead.map(resources::from),
        request.resources.map(resources::from),
    );
    runtime
        .update_pod(&request.pod_sandbox_id, overhead, resources)
        .await?;
    Ok(p::UpdatePodSandboxResourcesResponse {})
}
