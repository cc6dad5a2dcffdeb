//! Network names and CNI configurations that cannot collide with another test's.

use std::path::Path;

use serde_json::{Value, json};

/// Where the plugins of Debian's containernetworking-plugins are.
pub const CNI_BIN_DIR: &str = "/usr/lib/cni";

/// A bridge and a subnet of one test.
#[derive(Debug, Clone)]
pub struct Names {
    /// At most 15 characters.
    pub bridge: String,
    /// Such as `10.130.7.0/24`.
    pub subnet: String,
}

impl Names {
    /// Derived from this process and a serial number within it.
    pub fn new(serial: u32) -> Self {
        let pid = std::process::id();
        Self {
            bridge: format!("hk{pid}-{}", serial % 1000),
            subnet: format!("10.{}.{}.0/24", 128 + pid % 64, serial % 256),
        }
    }

    /// The same with a subnet for four thousand pods.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.subnet = format!("10.{}.0.0/20", 128 + std::process::id() % 64);
        self
    }

    /// What every address in the subnet begins with, or the first 256 of a wide one.
    pub fn prefix(&self) -> &str {
        self.subnet.split_once("0/").map_or("", |(prefix, _)| prefix)
    }
}

/// A configuration list with the reference plugins: bridge, host-local, portmap.
pub fn conflist(name: &str, names: &Names, data: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": name,
        "plugins": [
            {
                "type": "bridge", "bridge": names.bridge, "isGateway": true, "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": data,
                    "ranges": [[{ "subnet": names.subnet }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}
