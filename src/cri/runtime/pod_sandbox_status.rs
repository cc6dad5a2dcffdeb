//! PodSandboxStatus: from memory; the verbose map also reads the cached network result.

use std::collections::HashMap;

use serde_json::json;

use crate::cri::convert::{container, inspect, pod};
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::pod::sandbox::{Pod, SupervisorFacts};
use crate::types::error::Result;
use crate::types::security::NamespaceMode;

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
    let (overhead, resources) = pod.limits();
    let alive = pod.supervisor().is_some();
    let info = json!({
        "pid": supervisor.pid,
        "processStatus": if alive { "running" } else { "stopped" },
        "netNamespaceClosed": supervisor.netns.is_none(),
        // There is no pause container.
        "image": "",
        "netns": supervisor.netns,
        "runtimeHandler": pod.config.runtime_handler,
        "config": inspect::pod(&pod.config),
        "overhead": overhead.as_ref().map(inspect::resources),
        "resources": resources.as_ref().map(inspect::resources),
        "runtimeSpec": runtime_spec(pod, &supervisor),
        "cniResult": network,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The sandbox as people look for it: there is no container behind it, but they find its namespaces here.
fn runtime_spec(pod: &Pod, supervisor: &SupervisorFacts) -> serde_json::Value {
    let mut namespaces = Vec::new();
    if supervisor.pid != 0 {
        let own = &pod.config.security.namespaces;
        if let Some(netns) = &supervisor.netns {
            namespaces.push(json!({"type": "network", "path": netns}));
            namespaces.push(json!({"type": "uts", "path": format!("/proc/{}/ns/uts", supervisor.pid)}));
        }
        if own.ipc != NamespaceMode::Node {
            namespaces.push(json!({"type": "ipc", "path": format!("/proc/{}/ns/ipc", supervisor.pid)}));
        }
        if let Some(init) = supervisor.pidns_init {
            namespaces.push(json!({"type": "pid", "path": format!("/proc/{init}/ns/pid")}));
        }
    }
    json!({
        "ociVersion": "1.2.0",
        "hostname": pod.config.hostname,
        "annotations": pod.config.annotations,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": pod.config.cgroup_parent,
            "sysctl": pod.config.sysctls,
        },
    })
}
