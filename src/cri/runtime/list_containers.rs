//! ListContainers: from memory, at least once a second.

use crate::cri::convert::container;
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::Realm;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Runtime,
    request: p::ListContainersRequest,
) -> Result<p::ListContainersResponse> {
    let filter = container::filter(request.filter)?;
    let containers = runtime
        .index()
        .containers(Realm::K8s, &filter)
        .iter()
        .map(|c| container::item(c))
        .collect();
    Ok(p::ListContainersResponse { containers })
}
