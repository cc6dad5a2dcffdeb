//! Status: is husk ready, is the network ready, what can the handlers do.

use std::collections::HashMap;

use serde_json::json;

use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::error::Result;

pub(super) async fn call(runtime: &Runtime, request: p::StatusRequest) -> Result<p::StatusResponse> {
    let network = runtime.network_condition();
    let conditions = vec![
        condition("RuntimeReady", true, "", ""),
        condition("NetworkReady", network.ready, &network.reason, &network.message),
    ];
    let offered = runtime.host().features();
    // Clients look a handler up by its exact name, and a pod without a RuntimeClass asks for "".
    let handlers = runtime.handlers().listed().into_iter();
    let handlers = handlers.map(|(name, features)| p::RuntimeHandler {
        name: name.into(),
        features: Some(p::RuntimeHandlerFeatures {
            recursive_read_only_mounts: features.recursive_read_only,
            user_namespaces: features.user_namespaces,
        }),
    });
    Ok(p::StatusResponse {
        status: Some(p::RuntimeStatus { conditions }),
        info: if request.verbose {
            info(runtime)
        } else {
            HashMap::new()
        },
        runtime_handlers: handlers.collect(),
        features: Some(p::RuntimeFeatures {
            supplemental_groups_policy: offered.supplemental_groups_policy,
            user_namespaces_host_network: offered.user_namespaces_host_network,
        }),
    })
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> p::RuntimeCondition {
    p::RuntimeCondition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
    }
}

fn info(runtime: &Runtime) -> HashMap<String, String> {
    let config = runtime.config();
    let (last_load, cni) = runtime.cni_status();
    let mut shown = json!(config);
    // Clients look for the directory of the runtime's state under this name.
    shown["stateDir"] = json!(config.run);
    HashMap::from([
        ("config".to_owned(), shown.to_string()),
        ("cniconfig".to_owned(), cni.to_string()),
        ("lastCNILoadStatus".to_owned(), last_load),
        (
            "husk".to_owned(),
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "podCIDR": runtime.pod_cidr(),
                "host": runtime.host(),
            })
            .to_string(),
        ),
    ])
}
