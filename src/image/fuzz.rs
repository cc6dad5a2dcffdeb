//! Entrances for the fuzz targets of `e2e/fuzz` to parsers of images that are nobody else's business.
//!
//! Nothing in husk calls them, and they decide nothing: bytes go in, and what was understood or why not comes out.

use super::config::{self, ImageDefaults};
use super::manifest::{self, Document};

pub use super::layer::fuzz::archive;
pub use super::registry::fuzz::{challenge, hosts};

/// An image configuration as the registry sent it.
///
/// # Errors
/// What the client of a pull is told.
pub fn config(bytes: &[u8]) -> Result<ImageDefaults, String> {
    let parsed = config::parse(bytes)?;
    config::chain_ids(&parsed.diff_ids);
    config::user(&parsed.defaults.user);
    Ok(parsed.defaults)
}

/// A manifest or index as the registry sent it; the number of layers, or `None` for an index.
///
/// # Errors
/// What the client of a pull is told.
pub fn manifest(bytes: &[u8], content_type: Option<&str>) -> Result<Option<usize>, String> {
    Ok(match manifest::parse(bytes, content_type)? {
        Document::Image(image) => Some(image.layers.len()),
        Document::Index(_) => None,
    })
}
