//! ListContainers and StreamContainers: from memory, at least once a second.

use crate::cri::convert::container;
use crate::cri::list::{self, Items};
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::Realm;
use crate::types::error::Result;

pub(super) async fn call(runtime: &Runtime, request: p::ListContainersRequest) -> Result<Items> {
    let filter = container::filter(request.filter)?;
    let found = runtime.index().list_containers(Realm::K8s, &filter);
    Ok(Items {
        encoded: found.iter().map(|(c, s)| container::encoded(c, *s)).collect(),
    })
}

/// The same list, as of now, of which each part is encoded when the client takes it.
pub(super) async fn stream(
    runtime: &Runtime,
    request: p::StreamContainersRequest,
) -> Result<list::Stream<Items>> {
    let filter = container::filter(request.filter)?;
    let found = runtime.index().list_containers(Realm::K8s, &filter);
    Ok(list::stream(
        found.into_iter().map(|(c, s)| container::encoded(&c, s)),
        bytes::Bytes::len,
        |encoded| Items { encoded },
    ))
}
