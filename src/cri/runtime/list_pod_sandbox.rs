//! ListPodSandbox and StreamPodSandboxes: from memory, at least once a second.

use crate::cri::convert::pod;
use crate::cri::list::{self, Items};
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::Realm;
use crate::types::error::Result;

pub(super) async fn call(runtime: &Runtime, request: p::ListPodSandboxRequest) -> Result<Items> {
    let filter = pod::filter(request.filter)?;
    let found = runtime.index().list_pods(Realm::K8s, &filter);
    Ok(Items {
        encoded: found.iter().map(|(p, s)| pod::encoded(p, *s)).collect(),
    })
}

/// The same list, as of now, of which each part is encoded when the client takes it.
pub(super) async fn stream(
    runtime: &Runtime,
    request: p::StreamPodSandboxesRequest,
) -> Result<list::Stream<Items>> {
    let filter = pod::filter(request.filter)?;
    let found = runtime.index().list_pods(Realm::K8s, &filter);
    Ok(list::stream(
        found.into_iter().map(|(p, s)| pod::encoded(&p, s)),
        bytes::Bytes::len,
        |encoded| Items { encoded },
    ))
}
