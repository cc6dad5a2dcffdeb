//! Entrances for the fuzz targets of what registries and their configuration say; see `image::fuzz`.

use std::path::Path;

use http::HeaderMap;
use http::header::{HeaderValue, WWW_AUTHENTICATE};

use super::{auth, hosts as places, hosts_file};
use crate::types::Error;

/// `WWW-Authenticate` headers of a 401 answer; what they ask for, in words.
pub fn challenge(values: &[&[u8]]) -> Option<String> {
    let mut headers = HeaderMap::new();
    for value in values.iter().filter_map(|v| HeaderValue::from_bytes(v).ok()) {
        headers.append(WWW_AUTHENTICATE, value);
    }
    auth::challenge(&headers).map(|challenge| format!("{challenge:?}"))
}

/// The text of a `hosts.toml` for `registry`; the places to ask.
///
/// # Errors
/// What the client of a pull is told.
pub fn hosts(text: &str, registry: &str) -> Result<Vec<places::Host>, Error> {
    let entries = hosts_file::parse(text, Path::new("/etc/husk/certs.d")).map_err(Error::precondition)?;
    let last = entries.len() - 1;
    entries
        .into_iter()
        .enumerate()
        .map(|(i, entry)| places::build(entry, registry, i == last))
        .collect()
}
