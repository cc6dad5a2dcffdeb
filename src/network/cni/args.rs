//! What plugins are told of a pod: `CNI_ARGS` and the values behind capabilities.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::network::request::PodNetwork;
use crate::types::pod::Protocol;
use crate::types::{Error, Result};

/// Host ports.
pub const PORT_MAPPINGS: &str = "portMappings";
const BANDWIDTH: &str = "bandwidth";
const DNS: &str = "dns";
/// The name under which plugins find a pod's annotations with every CRI runtime.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Kubernetes' own bounds for bandwidth, in bits per second.
const BANDWIDTH_RANGE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// `CNI_ARGS` as pairs.
///
/// # Errors
/// A name of the pod would be read as a further argument.
pub fn cni_args(pod: &PodNetwork) -> Result<Vec<(String, String)>> {
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.id.as_str()),
        ("K8S_POD_UID", &pod.uid),
    ];
    for (key, value) in pairs {
        if value.contains([';', '=', '\0']) {
            let what =
                format!("{key} is {value:?}: names with ';', '=' or NUL cannot be given to CNI plugins");
            return Err(Error::invalid(what));
        }
    }
    Ok(pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into())
}

/// `CNI_ARGS` as the environment carries it.
pub fn join(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(";")
}

/// Values for the capabilities husk knows, as far as the pod has any.
///
/// # Errors
/// A bandwidth annotation is wrong.
pub fn capability_args(pod: &PodNetwork) -> Result<BTreeMap<String, Value>> {
    let mut values = BTreeMap::new();
    let ports = port_mappings(pod);
    if !ports.is_empty() {
        values.insert(PORT_MAPPINGS.to_owned(), Value::Array(ports));
    }
    if let Some(bandwidth) = bandwidth(&pod.annotations)? {
        values.insert(BANDWIDTH.to_owned(), bandwidth);
    }
    if let Some(dns) = &pod.dns {
        let dns = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        values.insert(DNS.to_owned(), dns);
    }
    if !pod.annotations.is_empty() {
        values.insert(ANNOTATIONS.to_owned(), json!(pod.annotations));
    }
    Ok(values)
}

fn port_mappings(pod: &PodNetwork) -> Vec<Value> {
    let published = pod.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
    published
        .map(|mapping| {
            let mut entry = Map::new();
            entry.insert("hostPort".into(), mapping.host_port.into());
            entry.insert("containerPort".into(), mapping.container_port.into());
            entry.insert("protocol".into(), protocol_name(mapping.protocol).into());
            if !mapping.host_ip.is_empty() {
                entry.insert("hostIP".into(), mapping.host_ip.clone().into());
            }
            Value::Object(entry)
        })
        .collect()
}

/// The name of `protocol` as plugins and messages write it.
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Rates in bits per second. The burst is as large as the plugin takes: Kubernetes has no notion of one.
fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>> {
    let mut value = Map::new();
    for (annotation, direction) in [(INGRESS, "ingress"), (EGRESS, "egress")] {
        let Some(text) = annotations.get(annotation) else {
            continue;
        };
        let rate = quantity(text)
            .filter(|rate| BANDWIDTH_RANGE.contains(rate))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "annotation {annotation} is {text:?}: not a bandwidth from 1k to 1P bits per second"
                ))
            })?;
        value.insert(format!("{direction}Rate"), rate.into());
        value.insert(format!("{direction}Burst"), u32::MAX.into());
    }
    Ok((!value.is_empty()).then_some(Value::Object(value)))
}

/// A Kubernetes quantity, rounded up to a whole number. `None` if it is none or not in range.
fn quantity(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let (times, divided) = suffix_factor(suffix)?;
    u64::try_from((mantissa.checked_mul(times)?).div_ceil(scale * divided)).ok()
}

/// What a suffix multiplies and divides by.
fn suffix_factor(suffix: &str) -> Option<(u128, u128)> {
    let decimal = |power: u32| Some((1000u128.pow(power), 1));
    let binary = |power: u32| Some((1024u128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "m" => Some((1, 1000)),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (exponent <= 15).then(|| (10u128.pow(exponent), 1))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::PodId;
    use crate::types::pod::{DnsConfig, PortMapping};

    fn pod() -> PodNetwork {
        let mapping = |host_port, host_ip: &str| PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port,
            host_ip: host_ip.into(),
        };
        PodNetwork {
            id: PodId::random(),
            name: "web".into(),
            namespace: "default".into(),
            uid: "u-1".into(),
            port_mappings: vec![mapping(0, ""), mapping(5353, "127.0.0.1")],
            labels: BTreeMap::new(),
            annotations: BTreeMap::from([(INGRESS.to_owned(), "1.5M".to_owned())]),
            dns: Some(DnsConfig::default()),
        }
    }

    #[test]
    fn args_name_the_pod() {
        let pod = pod();
        let expected = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=u-1",
            pod.id
        );
        assert_eq!(join(&cni_args(&pod).unwrap()), expected);
    }

    #[test]
    fn a_name_cannot_smuggle_an_argument_in() {
        let mut pod = pod();
        pod.name = "x;IP=10.0.0.1".into();
        assert!(cni_args(&pod).unwrap_err().message().contains("K8S_POD_NAME"));
    }

    #[test]
    fn capabilities_carry_what_the_pod_has() {
        let values = capability_args(&pod()).unwrap();
        let ports = json!([{"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"127.0.0.1"}]);
        assert_eq!(values[PORT_MAPPINGS], ports);
        assert_eq!(
            values[BANDWIDTH],
            json!({"ingressRate":1_500_000,"ingressBurst":u32::MAX})
        );
        assert!(values.contains_key(DNS) && values.contains_key(ANNOTATIONS));
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        let cases = [
            ("10M", 10_000_000),
            ("1Ki", 1024),
            ("1.5k", 1500),
            ("5e3", 5000),
            ("1500m", 2),
            (".5k", 500),
        ];
        for (text, expected) in cases {
            assert_eq!(quantity(text), Some(expected), "{text}");
        }
        for text in [
            "",
            ".",
            "k",
            "-1",
            "1 M",
            "1MB",
            "1e99",
            "1.2.3",
            "99999999999999999999",
        ] {
            assert_eq!(quantity(text), None, "{text}");
        }
        let mut pod = pod();
        for text in ["1", "2000P", "fast"] {
            pod.annotations.insert(INGRESS.to_owned(), text.to_owned());
            assert!(capability_args(&pod).is_err(), "{text}");
        }
    }
}
