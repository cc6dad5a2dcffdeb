//! Configurations as JSON for the verbose maps, with CRI's names: people script against them.

use serde_json::{Map, Value, json};

use crate::types::pod::PodConfig;
use crate::types::resources::Resources;
use crate::types::security::Namespaces;
use crate::types::{ContainerConfig, ContainerState};

use crate::pod::container::{ContainerFacts, ContainerStatus};

/// A container's configuration, named as in CRI's `ContainerConfig`.
pub fn container(config: &ContainerConfig) -> Value {
    let mut shown = object(json!(config));
    let pair = |(key, value): &(String, String)| json!({"key": key, "value": value});
    shown.insert("envs".into(), config.envs.iter().map(pair).collect());
    let cdi = config.cdi_devices.iter().map(|name| json!({"name": name}));
    shown.remove("cdi_devices");
    shown.insert("CDI_devices".into(), cdi.collect());
    shown.remove("resources");
    let security = security(shown.remove("security"), &config.security.namespaces);
    shown.insert(
        "linux".into(),
        json!({"resources": resources(&config.resources), "security_context": security}),
    );
    Value::Object(shown)
}

/// A pod's configuration, named as in CRI's `PodSandboxConfig`.
pub fn pod(config: &PodConfig) -> Value {
    let mut shown = object(json!(config));
    if let Some(dns) = shown.remove("dns") {
        shown.insert("dns_config".into(), dns);
    }
    let security = security(shown.remove("security"), &config.security.namespaces);
    let mut linux = Map::new();
    for key in ["cgroup_parent", "sysctls"] {
        linux.extend(shown.remove(key).map(|value| (key.to_owned(), value)));
    }
    for (key, limits) in [("overhead", &config.overhead), ("resources", &config.resources)] {
        shown.remove(key);
        linux.extend(limits.as_ref().map(|l| (key.to_owned(), resources(l))));
    }
    linux.insert("security_context".into(), security);
    shown.insert("linux".into(), Value::Object(linux));
    Value::Object(shown)
}

/// Limits, named as in CRI's `LinuxContainerResources`.
pub fn resources(limits: &Resources) -> Value {
    let mut shown = object(json!(limits));
    shown.remove("pids_limit");
    for (own, cri) in [
        ("memory_limit", "memory_limit_in_bytes"),
        ("memory_swap_limit", "memory_swap_limit_in_bytes"),
    ] {
        if let Some(value) = shown.remove(own) {
            shown.insert(cri.to_owned(), value);
        }
    }
    let pages = limits.hugepage_limits.iter();
    let pages = pages.map(|(size, limit)| json!({"page_size": size, "limit": limit}));
    shown.insert("hugepage_limits".into(), pages.collect());
    Value::Object(shown)
}

/// When a container came to each state, in RFC 3339; only what has happened.
pub fn timeline(facts: &ContainerFacts, status: &ContainerStatus) -> Value {
    let ended = status.state == ContainerState::Exited;
    let times = [
        ("created", facts.created_at),
        ("started", status.started_at),
        ("finished", if ended { status.finished_at } else { 0 }),
    ];
    let known = times.into_iter().filter(|(_, nanos)| *nanos != 0);
    Value::Object(
        known
            .map(|(name, nanos)| (name.to_owned(), time(nanos)))
            .collect(),
    )
}

/// Nanoseconds since the epoch in RFC 3339.
pub fn time(nanos: i64) -> Value {
    jiff::Timestamp::from_nanosecond(nanos.into()).map_or(Value::Null, |t| t.to_string().into())
}

fn security(shown: Option<Value>, namespaces: &Namespaces) -> Value {
    let mut shown = object(shown.unwrap_or_default());
    shown.remove("namespaces");
    shown.insert(
        "namespace_options".into(),
        json!({
            "network": namespaces.network, "pid": namespaces.pid, "ipc": namespaces.ipc,
            "target_id": namespaces.target, "userns_options": namespaces.user,
        }),
    );
    Value::Object(shown)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_cri() {
        let mut config = ContainerConfig::default();
        config.metadata.name = "web".into();
        config.envs.push(("A".into(), "1".into()));
        config.resources.memory_limit = 7;
        config.security.privileged = true;
        let shown = container(&config);
        assert_eq!(shown["metadata"]["name"], "web");
        assert_eq!(shown["envs"][0], json!({"key": "A", "value": "1"}));
        let linux = &shown["linux"];
        assert_eq!(linux["resources"]["memory_limit_in_bytes"], 7);
        assert_eq!(linux["security_context"]["privileged"], true);
        assert!(shown.get("security").is_none() && shown.get("resources").is_none());

        let mut config = PodConfig {
            cgroup_parent: "/pods".into(),
            overhead: Some(Resources::default()),
            ..Default::default()
        };
        config.metadata.uid = "u".into();
        let shown = pod(&config);
        assert_eq!(
            (&shown["metadata"]["uid"], &shown["linux"]["cgroup_parent"]),
            (&json!("u"), &json!("/pods"))
        );
        assert!(shown["linux"]["overhead"].is_object() && shown["linux"].get("resources").is_none());
    }

    #[test]
    fn times_are_written_as_people_read_them() {
        assert_eq!(time(1_500_000_000), "1970-01-01T00:00:01.5Z");
    }
}
