//! libcni's result cache: what other runtimes on the node leave there, and what husk leaves for them.
//!
//! husk does not need it (its own records hold more), but GC must spare the attachments of others, and they ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::network::record::{CniRecord, replace};
use crate::types::PodId;

const KIND: &str = "cniCacheV1";
/// Bounds on what is read of other people's files.
const MAX_FILES: usize = 65_536;
const MAX_BYTES: u64 = 4 << 20;

/// Leaves the attachment of `pod` for others to see.
///
/// # Errors
/// The file cannot be written.
pub fn write(dir: &Path, network: &str, pod: &PodId, record: &CniRecord) -> io::Result<()> {
    let args: Vec<[&str; 2]> = record
        .args
        .iter()
        .map(|(k, v)| [k.as_str(), v.as_str()])
        .collect();
    let entry = json!({
        "kind": KIND,
        "containerId": pod.as_str(),
        "config": STANDARD.encode(record.config.to_string()),
        "ifName": record.ifname,
        "networkName": network,
        "cniArgs": args,
        "capabilityArgs": record.capability_args,
        "result": record.result,
    });
    fs::create_dir_all(dir)?;
    replace(
        &path(dir, network, pod, &record.ifname),
        entry.to_string().as_bytes(),
        false,
    )
}

/// Takes it away. Idempotent.
pub fn remove(dir: &Path, network: &str, pod: &PodId, ifname: &str) {
    let _ = fs::remove_file(path(dir, network, pod, ifname));
}

/// All attachments of `network`, by whichever runtime: container id and interface name.
///
/// # Errors
/// An entry cannot be read: then nobody knows what is in use.
pub fn attachments(dir: &Path, network: &str) -> io::Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let prefix = format!("{network}-");
    let mut found = Vec::new();
    for (count, entry) in entries.enumerate() {
        if count >= MAX_FILES {
            return Err(io::Error::other("too many files"));
        }
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(&prefix) || name.ends_with(".tmp") {
            continue;
        }
        let Some(text) = read(&path)? else {
            continue;
        };
        let entry: Value = serde_json::from_slice(&text)?;
        let field = |key: &str| {
            entry
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        if field("networkName") == network {
            found.push((field("containerId"), field("ifName")));
        }
    }
    Ok(found)
}

/// `None` if the file has gone meanwhile.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let bounded = |length| {
        if length > MAX_BYTES {
            Err(io::Error::other("too long"))
        } else {
            fs::read(path)
        }
    };
    match fs::metadata(path).and_then(|found| bounded(found.len())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        Ok(bytes) => Ok(Some(bytes)),
    }
}

fn path(dir: &Path, network: &str, pod: &PodId, ifname: &str) -> PathBuf {
    dir.join(format!("{network}-{pod}-{ifname}"))
}
