//! UpdateContainerResources: changes the limits of a container; what is zero or empty stays.

use std::sync::Arc;

use crate::cri::convert::resources;
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    request: p::UpdateContainerResourcesRequest,
) -> Result<p::UpdateContainerResourcesResponse> {
    let wanted = resources::from(request.linux.unwrap_or_default());
    runtime.update_container(&request.container_id, wanted).await?;
    Ok(p::UpdateContainerResourcesResponse {})
}
