//! UpdateRuntimeConfig: kubelet tells the node's pod ranges, and again after each of its own starts.

use std::sync::Arc;

use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    request: p::UpdateRuntimeConfigRequest,
) -> Result<p::UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.and_then(|c| c.network_config);
    let cidr = network.map(|n| n.pod_cidr).unwrap_or_default();
    if !cidr.is_empty() {
        runtime.set_pod_cidr(&cidr).await?;
    }
    Ok(p::UpdateRuntimeConfigResponse {})
}
