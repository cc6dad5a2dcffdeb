//! Reading a bundle's `config.json`.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde_json::Value;

use crate::types::error::Context;
use crate::types::{Capability, Error, Result};

use super::log::Log;

/// A spec is not read further.
const MAX_SPEC: u64 = 16 << 20;

/// A bundle, ready to run.
pub(super) struct Bundle {
    /// Its directory.
    pub path: PathBuf,
    /// `config.json`, with absolute paths.
    pub spec: Spec,
    /// The root file system.
    pub rootfs: PathBuf,
}

/// Reads the bundle in `path`.
pub(super) fn load(path: &Path, log: &Log) -> Result<Bundle> {
    let path = path
        .canonicalize()
        .with_context(|| format!("open bundle {}", path.display()))?;
    let mut json = read_json(&path.join("config.json"))?;
    drop_unknown_capabilities(&mut json["process"], log);
    let mut spec: Spec = parse(json, "config.json")?;
    let rootfs = rootfs(&spec, &path)?;
    if let Some(mounts) = spec.mounts_mut() {
        for mount in mounts {
            let is_bind = mount.typ().as_deref() == Some("bind")
                || mount
                    .options()
                    .iter()
                    .flatten()
                    .any(|o| o == "bind" || o == "rbind");
            if let Some(source) = mount.source().clone().filter(|s| is_bind && !s.is_absolute()) {
                mount.set_source(Some(path.join(source)));
            }
        }
    }
    Ok(Bundle { path, spec, rootfs })
}

/// Reads the process of an exec.
pub(super) fn load_process(path: &Path, log: &Log) -> Result<Process> {
    let mut json = read_json(path)?;
    drop_unknown_capabilities(&mut json, log);
    parse(json, &path.display().to_string())
}

fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::invalid("config.json: root is missing"))?;
    let path = bundle.join(root.path());
    let path = path
        .canonicalize()
        .with_context(|| format!("config.json: root.path {}", path.display()))?;
    if path.is_dir() {
        Ok(path)
    } else {
        Err(Error::invalid(format!(
            "config.json: root.path {} is not a directory",
            path.display()
        )))
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let what = || format!("read {}", path.display());
    let size = fs::metadata(path).with_context(what)?.len();
    if size > MAX_SPEC {
        return Err(Error::invalid(format!(
            "{} has {size} bytes, more than {MAX_SPEC}",
            path.display()
        )));
    }
    let bytes = fs::read(path).with_context(what)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

fn parse<T: serde::de::DeserializeOwned>(json: Value, what: &str) -> Result<T> {
    serde_json::from_value(json).map_err(|e| Error::invalid(format!("{what}: {e}")))
}

/// One name that the parser does not know would make it refuse the whole spec; runc warns and goes on.
fn drop_unknown_capabilities(process: &mut Value, log: &Log) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else {
        return;
    };
    for (set, names) in sets {
        if let Some(names) = names.as_array_mut() {
            names.retain(|name| {
                let known = name.as_str().is_none_or(|n| Capability::parse(n).is_ok());
                if !known {
                    log.warn(&format!("unknown capability {name} in {set} is ignored"));
                }
                known
            });
        }
    }
}
