//! Results of plugins: reading them, and handing one made by another version on.
//!
//! A result is kept as the plugin wrote it; only what differs between versions is rewritten. So fields that husk does
//! not know reach the next plugin.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::version::Version;
use crate::network::cidr::Cidr;
use crate::network::request::{Attachment, Interface};

/// Understands what a plugin printed for ADD and brings it into the form of `version`.
///
/// # Errors
/// It is no result.
pub fn accept(printed: &[u8], version: Version) -> Result<Value, String> {
    if printed.iter().all(u8::is_ascii_whitespace) {
        return Err("it printed no result".into());
    }
    let value: Value =
        serde_json::from_slice(printed).map_err(|e| format!("its result is not valid JSON: {e}"))?;
    let Value::Object(result) = value else {
        return Err("its result is not a JSON object".into());
    };
    let made_by = match result.get("cniVersion") {
        Some(Value::String(text)) if !text.is_empty() => text.parse()?,
        _ => version,
    };
    convert(result, made_by, version).map(Value::Object)
}

fn convert(mut result: Map<String, Value>, from: Version, to: Version) -> Result<Map<String, Value>, String> {
    if from < Version::V0_3_0 && to >= Version::V0_3_0 {
        let ips = ips_of_old(&result)?;
        let routes = routes_of_old(&result);
        result.retain(|key, _| key == "dns");
        result.insert("ips".into(), Value::Array(ips));
        result.insert("routes".into(), Value::Array(routes));
    }
    if let Some(Value::Array(ips)) = result.get_mut("ips") {
        for ip in ips.iter_mut().filter_map(Value::as_object_mut) {
            set_family(ip, to);
        }
    }
    result.insert("cniVersion".into(), to.to_string().into());
    Ok(result)
}

/// `version` of an address is demanded before 1.0 and unknown after.
fn set_family(ip: &mut Map<String, Value>, to: Version) {
    ip.remove("version");
    let v6 = ip
        .get("address")
        .and_then(Value::as_str)
        .is_some_and(|a| a.contains(':'));
    if to < Version::V1_0_0 {
        ip.insert("version".into(), if v6 { "6" } else { "4" }.into());
    }
}

/// `ip4` and `ip6` of specification 0.1 and 0.2.
fn old_families(result: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    ["ip4", "ip6"]
        .into_iter()
        .filter_map(|key| result.get(key).and_then(Value::as_object))
}

fn ips_of_old(result: &Map<String, Value>) -> Result<Vec<Value>, String> {
    old_families(result)
        .map(|family| {
            let address = family
                .get("ip")
                .and_then(Value::as_str)
                .ok_or("its result has an address without \"ip\"")?;
            let mut ip = json!({ "address": address });
            if let Some(gateway) = family.get("gateway") {
                ip["gateway"] = gateway.clone();
            }
            Ok(ip)
        })
        .collect()
}

fn routes_of_old(result: &Map<String, Value>) -> Vec<Value> {
    old_families(result)
        .filter_map(|family| family.get("routes").and_then(Value::as_array))
        .flatten()
        .cloned()
        .collect()
}

/// What the pod got, with the network of each address.
///
/// # Errors
/// The result has no usable address: kubelet would take the pod for broken and make it anew for ever.
pub fn attachment(result: &Value, ifname: &str) -> Result<(Attachment, Vec<Cidr>), String> {
    let interfaces = interfaces(result);
    let mut addresses = pod_addresses(result, &interfaces, ifname)?;
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(address.addr()));
    if addresses.is_empty() {
        return Err(format!(
            "the plugins gave interface {ifname} no address; their result was {result}"
        ));
    }
    let ips: Vec<IpAddr> = addresses.iter().map(Cidr::addr).collect();
    let attachment = Attachment {
        ips,
        interfaces,
        result_json: result.to_string(),
    };
    Ok((attachment, addresses))
}

fn interfaces(result: &Value) -> Vec<Interface> {
    let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let listed = result.get("interfaces").and_then(Value::as_array);
    listed
        .into_iter()
        .flatten()
        .map(|interface| Interface {
            name: text(interface, "name"),
            mac: text(interface, "mac"),
            sandbox: text(interface, "sandbox"),
        })
        .collect()
}

/// Addresses of `ifname`. One that names no interface belongs to the pod; one on the node or on a further interface of
/// the pod does not count.
fn pod_addresses(result: &Value, interfaces: &[Interface], ifname: &str) -> Result<Vec<Cidr>, String> {
    let old: Vec<Value>;
    let listed = match result.get("ips").and_then(Value::as_array) {
        Some(ips) => ips,
        None => {
            old = result
                .as_object()
                .map(ips_of_old)
                .transpose()?
                .unwrap_or_default();
            &old
        }
    };
    let mut found = Vec::new();
    for ip in listed {
        let index = ip
            .get("interface")
            .and_then(Value::as_u64)
            .and_then(|i| usize::try_from(i).ok());
        let at = index.and_then(|i| interfaces.get(i));
        if at.is_some_and(|i| i.sandbox.is_empty() || i.name != ifname) {
            continue;
        }
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        found.push(
            text.parse()
                .map_err(|e| format!("the plugins' result has a bad address: {e}"))?,
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn accepted(value: &Value, version: &str) -> Value {
        accept(value.to_string().as_bytes(), version.parse().unwrap()).unwrap()
    }

    fn ips(value: &Value) -> Vec<String> {
        attachment(value, "eth0")
            .unwrap()
            .0
            .ips
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn results_of_all_versions_are_understood() {
        let cases = [
            (
                json!({"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},
                    "ip6":{"ip":"fd00::2/64"}}),
                "0.2.0",
            ),
            (
                json!({"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/24"},
                    {"version":"6","address":"fd00::2/64"}]}),
                "0.3.1",
            ),
            (
                json!({"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]}),
                "1.0.0",
            ),
        ];
        for (value, version) in cases {
            assert_eq!(
                ips(&accepted(&value, version)),
                ["10.0.0.2", "fd00::2"],
                "{version}"
            );
            let newer = accepted(&value, "1.1.0");
            assert_eq!(newer["cniVersion"], "1.1.0");
            assert_eq!(newer["ips"][0].get("version"), None);
            assert_eq!(ips(&newer), ["10.0.0.2", "fd00::2"], "{version} as 1.1.0");
        }
    }

    #[test]
    fn a_new_result_is_given_to_old_plugins_in_their_form() {
        let new = json!({"cniVersion":"1.0.0","ips":[{"address":"fd00::2/64"}],"odd":1});
        let old = accepted(&new, "0.4.0");
        assert_eq!(old["ips"][0]["version"], "6");
        assert_eq!(old["odd"], 1);
        assert_eq!(old["cniVersion"], "0.4.0");
    }

    #[test]
    fn only_addresses_of_the_pods_own_interface_count() {
        let result = json!({"cniVersion":"1.0.0",
            "interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/run/x"},{"name":"net1","sandbox":"/run/x"}],
            "ips":[{"interface":0,"address":"10.0.0.1/24"},{"interface":2,"address":"10.9.0.2/24"},
                   {"interface":1,"address":"10.0.0.2/24"},{"interface":1,"address":"10.0.0.2/24"},
                   {"interface":9,"address":"10.0.0.3/24"}]});
        assert_eq!(ips(&result), ["10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn garbage_is_refused_in_words() {
        let version = Version::V1_0_0;
        assert!(accept(b" \n", version).unwrap_err().contains("no result"));
        assert!(accept(b"hello", version).unwrap_err().contains("JSON"));
        assert!(accept(b"[]", version).unwrap_err().contains("object"));
        assert!(accept(br#"{"cniVersion":"x"}"#, version).is_err());
        assert!(attachment(&json!({}), "eth0").unwrap_err().contains("no address"));
        assert!(
            attachment(&json!({"ips":[{"address":"10.0.0.2"}]}), "eth0")
                .unwrap_err()
                .contains("bad address")
        );
        assert!(attachment(&json!({"ips":[7]}), "eth0").is_err());
    }
}
