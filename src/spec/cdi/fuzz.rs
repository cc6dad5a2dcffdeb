//! The entrance for the fuzz target of device descriptions.
//!
//! Nothing in husk calls it.

use std::path::Path;

use super::format;

/// A file of a vendor, as JSON or YAML; how many devices it describes.
///
/// # Errors
/// What is wrong with it.
pub fn file(yaml: bool, bytes: &[u8]) -> Result<usize, String> {
    let path = if yaml {
        "/etc/cdi/x.yaml"
    } else {
        "/etc/cdi/x.json"
    };
    format::parse(Path::new(path), bytes).map(|spec| spec.devices.len())
}
