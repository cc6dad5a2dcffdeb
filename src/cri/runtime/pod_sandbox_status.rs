//! PodSandboxStatus: from memory; the verbose map also reads the cached network result.

use std::collections::HashMap;

use serde_json::json;

use crate::cri::convert::{container, pod};
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::pod::sandbox::Pod;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Runtime,
    request: p::PodSandboxStatusRequest,
) -> Result<p::PodSandboxStatusResponse> {
    let pod = runtime.find_pod(&request.pod_sandbox_id)?;
    let view = runtime.view(&pod);
    Ok(p::PodSandboxStatusResponse {
        status: Some(pod::status(&view)),
        info: if request.verbose {
            info(runtime, &pod)
        } else {
            HashMap::new()
        },
        // What kubelet reads when events are its source: as of the same moment, on the events' clock.
        containers_statuses: container::statuses(&view),
        timestamp: view.at,
    })
}

fn info(runtime: &Runtime, pod: &Pod) -> HashMap<String, String> {
    let supervisor = pod.supervisor().map(|s| s.facts).unwrap_or_default();
    let network: serde_json::Value = runtime
        .network_result(&pod.id)
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(serde_json::Value::Null);
    let info = json!({
        "pid": supervisor.pid,
        "netns": supervisor.netns,
        "runtimeHandler": pod.config.runtime_handler,
        "config": pod.config,
        "cniResult": network,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
