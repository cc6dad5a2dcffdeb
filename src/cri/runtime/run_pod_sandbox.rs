//! RunPodSandbox: makes a pod and returns when its network is up.

use std::sync::Arc;

use crate::cri::convert::pod;
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::Realm;
use crate::types::error::{Error, Result};

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    request: p::RunPodSandboxRequest,
) -> Result<p::RunPodSandboxResponse> {
    let config = request
        .config
        .ok_or_else(|| Error::invalid("RunPodSandbox: config is missing"))?;
    let config = pod::config(config, request.runtime_handler)?;
    let id = runtime.run_pod(Realm::K8s, config).await?;
    Ok(p::RunPodSandboxResponse {
        pod_sandbox_id: id.to_string(),
    })
}
