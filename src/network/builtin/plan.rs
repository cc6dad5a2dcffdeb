//! What the built-in network has decided on, and what follows from it for a pod.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ipam::GATEWAY;
use super::{IFNAME, bridge};
use crate::network::cidr::Cidr;
use crate::network::record::BuiltinRecord;
use crate::network::request::{Attachment, Interface};

/// What was decided, kept on disk as long as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the bridge.
    pub bridge: String,
    /// husk made the bridge, so husk may remove it.
    pub made: bool,
    /// The pods' networks, IPv4 first.
    pub subnets: Vec<Cidr>,
}

impl Plan {
    /// The node's own addresses in the subnets.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.gateway_addresses().iter().map(Cidr::addr).collect()
    }

    /// The same, with prefixes.
    pub fn gateway_addresses(&self) -> Vec<Cidr> {
        self.addresses(GATEWAY)
    }

    /// The addresses at `index`, each with the prefix of its subnet.
    pub fn addresses(&self, index: u32) -> Vec<Cidr> {
        self.subnets
            .iter()
            .filter_map(|subnet| Cidr::new(subnet.nth(index.into())?, subnet.prefix()))
            .collect()
    }
}

/// The attachment of the pod whose namespace is at `path`, as CNI would describe it.
pub fn describe(record: &BuiltinRecord, path: &Path, plan: &Plan, addresses: &[Cidr]) -> Attachment {
    let mac = |addresses: &[Cidr]| {
        let bytes = bridge::hardware_address(addresses);
        bytes.map(|byte| format!("{byte:02x}")).join(":")
    };
    let interface = |name: &str, mac: String, sandbox: String| Interface {
        name: name.into(),
        mac,
        sandbox,
    };
    let interfaces = vec![
        interface(&plan.bridge, mac(&plan.gateway_addresses()), String::new()),
        interface(&record.host_interface, String::new(), String::new()),
        interface(IFNAME, mac(addresses), path.display().to_string()),
    ];
    let gateways = plan.gateways();
    let ips: Vec<_> = addresses
        .iter()
        .zip(&gateways)
        .map(|(address, gateway)| json!({ "address": address, "gateway": gateway, "interface": 2 }))
        .collect();
    let result = json!({ "cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips });
    let ips = addresses.iter().map(Cidr::addr).collect();
    Attachment {
        ips,
        interfaces,
        result_json: result.to_string(),
    }
}
