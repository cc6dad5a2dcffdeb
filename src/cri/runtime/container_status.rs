//! ContainerStatus: from memory; the verbose map also reads the container's spec.

use std::collections::HashMap;

use serde_json::json;

use crate::cri::convert::{container, inspect};
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::pod::container::Container;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Runtime,
    request: p::ContainerStatusRequest,
) -> Result<p::ContainerStatusResponse> {
    let found = runtime.find_container(&request.container_id)?;
    let info = if request.verbose {
        info(runtime, &found).await
    } else {
        HashMap::new()
    };
    Ok(p::ContainerStatusResponse {
        status: Some(container::status(&found)),
        info,
    })
}

async fn info(runtime: &Runtime, container: &Container) -> HashMap<String, String> {
    let facts = &container.facts;
    let spec = runtime.container_spec(container).await.ok();
    let status = container.status();
    let info = json!({
        "sandboxID": facts.pod,
        "pid": status.pid,
        "removing": status.removing,
        "config": inspect::container(&facts.config),
        "privileged": facts.config.security.privileged,
        "restored": facts.restored_on.is_some(),
        "timeline": inspect::timeline(facts, &status),
        "runtimeSpec": spec,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
