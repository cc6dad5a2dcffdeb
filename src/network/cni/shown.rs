//! The current configuration in the form that containerd shows it in, which people's scripts read from `crictl info`.

use serde_json::{Map, Value, json};

use super::conf::{NetworkList, Plugin};
use crate::network::NetworkConfig;

/// The interfaces of a pod are called so and by number; husk makes the first.
const PREFIX: &str = "eth";

/// What `list` is and where it comes from, which has no networks if there is none.
pub fn config(config: &NetworkConfig, list: Option<&NetworkList>, ifname: &str) -> Value {
    let networks: Vec<_> = list.iter().map(|list| network(list, ifname)).collect();
    json!({
        "PluginDirs": config.cni_bin_dirs,
        "PluginConfDir": config.cni_conf_dir,
        // The first file by name is the network.
        "PluginMaxConfNum": 1,
        "Prefix": PREFIX,
        "Networks": networks,
    })
}

fn network(list: &NetworkList, ifname: &str) -> Value {
    json!({
        "Config": {
            "Name": list.name,
            // As written; absent is the oldest there is.
            "CNIVersion": text(list.raw.get("cniVersion")),
            "Plugins": list.plugins.iter().map(plugin).collect::<Vec<_>>(),
            "Source": list.raw.to_string(),
        },
        "IFName": ifname,
    })
}

/// `Network` has the fields that every plugin may have, `Source` all of them as text.
fn plugin(plugin: &Plugin) -> Value {
    let mut common = Map::new();
    for key in ["cniVersion", "name", "type", "capabilities", "dns"] {
        if let Some(value) = plugin.raw.get(key) {
            common.insert(key.into(), value.clone());
        }
    }
    let mut ipam = Map::new();
    if let Some(kind) = plugin.raw.get("ipam").and_then(|ipam| ipam.get("type")) {
        ipam.insert("type".into(), kind.clone());
    }
    common.insert("ipam".into(), ipam.into());
    json!({
        "Network": common,
        "Source": Value::Object(plugin.raw.clone()).to_string(),
    })
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}
