//! CreateContainer: makes a container that waits at the gate.

use std::sync::Arc;

use crate::cri::convert::container;
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::error::{Error, Result};

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    request: p::CreateContainerRequest,
) -> Result<p::CreateContainerResponse> {
    let config = request
        .config
        .ok_or_else(|| Error::invalid("CreateContainer: config is missing"))?;
    let id = runtime
        .create_container(&request.pod_sandbox_id, container::config(config)?)
        .await?;
    Ok(p::CreateContainerResponse {
        container_id: id.to_string(),
    })
}
