//! ListPodSandbox: from memory, at least once a second.

use crate::cri::convert::pod;
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::Realm;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Runtime,
    request: p::ListPodSandboxRequest,
) -> Result<p::ListPodSandboxResponse> {
    let filter = pod::filter(request.filter)?;
    let items = runtime
        .index()
        .pods(Realm::K8s, &filter)
        .iter()
        .map(|p| pod::item(p))
        .collect();
    Ok(p::ListPodSandboxResponse { items })
}
