//! Entrances for the fuzz targets of `e2e/fuzz` to what CNI configurations, plugins and pods say.
//!
//! Nothing in husk calls them, and they decide nothing: bytes go in, and what was understood or why not comes out.

use std::path::Path;

use super::cni::{args, conf, result};
use super::request::{Attachment, PodNetwork};
use crate::types::Result;

/// What a plugin printed for ADD when called with `version`, and with it the addresses of a pod's `eth0`.
///
/// # Errors
/// What the client of RunPodSandbox is told.
pub fn result(printed: &[u8], version: &str) -> Result<Attachment, String> {
    let value = result::accept(printed, version.parse()?)?;
    result::attachment(&value, "eth0").map(|(attachment, _)| attachment)
}

/// A network configuration; the names of its plugins.
///
/// # Errors
/// What `NetworkReady` says.
pub fn configuration(bytes: &[u8]) -> Result<Vec<String>, String> {
    let value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let list = conf::NetworkList::from_value(Path::new("/etc/cni/net.d/10-x.conflist"), value)?;
    Ok(list.plugins.into_iter().map(|p| p.kind).collect())
}

/// What plugins are told of a pod.
///
/// # Errors
/// A name or an annotation that cannot be passed on.
pub fn arguments(pod: &PodNetwork) -> Result<String> {
    args::capability_args(pod)?;
    args::cni_args(pod).map(|pairs| args::join(&pairs))
}
