//! What the database holds of images and layers. JSON with defaults, so that fields can be added.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::state::{Op, Table};
use crate::types::{Digest, Error, Result};

/// An image. Key: its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    /// Digest of the configuration.
    pub id: Digest,
    /// The manifest of this machine's variant.
    pub manifest: Digest,
    /// The configuration as the registry sent it.
    pub config: String,
    /// Directory names of the layers, bottom first.
    pub layers: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// `name:tag`, and the digest the tag stood for.
    pub tags: BTreeMap<String, Digest>,
    /// `name@digest`.
    pub digests: BTreeSet<String>,
    /// Nanoseconds since the epoch.
    pub pulled_at: i64,
    /// Removed by the client, kept for the containers that use it.
    #[serde(default)]
    pub removed: bool,
}

/// An unpacked layer. Key: its directory's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub diff_id: Digest,
    /// Set when something in the layer was taken from those below it, so that it fits on top of them only.
    #[serde(default)]
    pub chain_id: Option<Digest>,
    /// The compressed form it came in.
    pub blob: Digest,
    pub blob_size: u64,
    pub media_type: String,
    /// Bytes on disk.
    pub size: u64,
    pub inodes: u64,
    /// Hides all layers below.
    #[serde(default)]
    pub opaque_root: bool,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// The boot during which it was written, as long as it is not known to be on disk: whole if the node has not been
    /// rebooted since, worthless if it has.
    #[serde(default)]
    pub unsynced: Option<String>,
}

/// The change that stores `record` under `key`.
pub(super) fn put<T: Serialize>(table: Table, key: &str, record: &T) -> Result<Op> {
    let value =
        serde_json::to_vec(record).map_err(|e| Error::internal(format!("encode the record {key}: {e}")))?;
    Ok(Op::Put(table, key.to_owned(), value))
}

/// Reads a record. What cannot be read is reported and counts as absent: the store repairs itself by pulling again.
pub(super) fn read<T: DeserializeOwned>(table: Table, key: &str, value: &[u8]) -> Option<T> {
    serde_json::from_slice(value)
        .inspect_err(
            |error| tracing::warn!(table = table.name(), key, %error, "dropping an unreadable record"),
        )
        .ok()
}
