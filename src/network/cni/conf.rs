//! Network configurations: which file counts, what is in it, whether its plugins exist.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::version::Version;

/// No sane configuration is longer; one that is would be copied into each pod's record.
const MAX_BYTES: u64 = 1 << 20;

/// A chain of plugins under one network name.
#[derive(Debug, Clone)]
pub struct NetworkList {
    /// The file it came from.
    pub file: PathBuf,
    /// Network name.
    pub name: String,
    /// Version all plugins are called with.
    pub version: Version,
    /// The configuration forbids GC.
    pub disable_gc: bool,
    /// The plugins in the order of ADD; never empty.
    pub plugins: Vec<Plugin>,
    /// The configuration as a list, for records and status.
    pub raw: Value,
}

/// One plugin of a chain.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// `type`: the name of its binary.
    pub kind: String,
    /// Capabilities declared `true`.
    pub capabilities: BTreeSet<String>,
    /// Its configuration as written.
    pub raw: Map<String, Value>,
}

/// Reads the configuration that counts: the first file by name. `None` if the directory holds none or is missing.
///
/// # Errors
/// The file cannot be read or used; the message names it. A broken first file is not passed over for the second: the
/// second describes another network.
pub fn load(dir: &Path) -> Result<Option<NetworkList>, String> {
    let Some(file) = candidates(dir)?.into_iter().next() else {
        return Ok(None);
    };
    let named = |problem: String| format!("CNI configuration {}: {problem}", file.display());
    let bytes = read_bounded(&file).map_err(named)?;
    let value = serde_json::from_slice(&bytes).map_err(|e| named(format!("not valid JSON: {e}")))?;
    let list = if extension(&file) == Some("conflist") {
        add_from_directory(value, dir).map_err(named)?
    } else {
        as_list(value).map_err(named)?
    };
    NetworkList::from_value(&file, list).map(Some)
}

/// Whether the directory holds a configuration besides `own`.
///
/// # Errors
/// The directory cannot be read.
pub fn others(dir: &Path, own: &Path) -> Result<bool, String> {
    Ok(candidates(dir)?.iter().any(|file| file != own))
}

/// Configuration files in the directory, by name.
fn candidates(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("CNI configuration directory {}: {e}", dir.display())),
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| matches!(extension(path), Some("conf" | "conflist" | "json")) && path.is_file())
        .collect();
    files.sort();
    Ok(files)
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|e| e.to_str())
}

/// Wraps the configuration of a single plugin into a list.
fn as_list(plugin: Value) -> Result<Value, String> {
    let Value::Object(fields) = &plugin else {
        return Err("not a JSON object".into());
    };
    if fields.contains_key("plugins") {
        return Err("a list of plugins belongs into a file named *.conflist".into());
    }
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        if let Some(value) = fields.get(key) {
            list.insert(key.into(), value.clone());
        }
    }
    list.insert("plugins".into(), Value::Array(vec![plugin]));
    Ok(Value::Object(list))
}

/// Specification 1.1: a list is completed by the plugins in a directory named after the network, unless it says
/// `"loadOnlyInlinedPlugins": true`.
fn add_from_directory(mut list: Value, dir: &Path) -> Result<Value, String> {
    if list.get("loadOnlyInlinedPlugins").is_some_and(is_true) {
        return Ok(list);
    }
    let mut found = Vec::new();
    for file in candidates(&dir.join(network_name(&list)?))? {
        let named = |problem: String| format!("{}: {problem}", file.display());
        let bytes = read_bounded(&file).map_err(named)?;
        found.push(
            serde_json::from_slice::<Value>(&bytes).map_err(|e| named(format!("not valid JSON: {e}")))?,
        );
    }
    let Some(list_fields) = list.as_object_mut().filter(|_| !found.is_empty()) else {
        return Ok(list);
    };
    let plugins = list_fields
        .entry("plugins")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(plugins) = plugins {
        plugins.extend(found);
    }
    Ok(list)
}

fn read_bounded(file: &Path) -> Result<Vec<u8>, String> {
    let size = fs::metadata(file).map_err(|e| e.to_string())?.len();
    if size > MAX_BYTES {
        return Err(format!("{size} bytes are more than the {MAX_BYTES} allowed"));
    }
    fs::read(file).map_err(|e| e.to_string())
}

impl NetworkList {
    /// Understands a configuration list.
    ///
    /// # Errors
    /// What is wrong, with the file's name.
    pub fn from_value(file: &Path, raw: Value) -> Result<Self, String> {
        Self::understand(file, raw).map_err(|e| format!("CNI configuration {}: {e}", file.display()))
    }

    fn understand(file: &Path, raw: Value) -> Result<Self, String> {
        if !raw.is_object() {
            return Err("not a JSON object".into());
        }
        let plugins = match raw.get("plugins") {
            Some(Value::Array(plugins)) if !plugins.is_empty() => plugins
                .iter()
                .enumerate()
                .map(|(at, p)| Plugin::understand(at, p))
                .collect::<Result<Vec<_>, _>>()?,
            Some(Value::Array(_)) | None => return Err("it lists no plugins".into()),
            Some(_) => return Err("\"plugins\" is no list".into()),
        };
        Ok(Self {
            file: file.to_owned(),
            name: network_name(&raw)?,
            version: version_of(&raw)?,
            disable_gc: raw.get("disableGC").is_some_and(is_true),
            plugins,
            raw,
        })
    }

    /// Whether a plugin of the chain declares `capability`.
    pub fn has_capability(&self, capability: &str) -> bool {
        self.plugins
            .iter()
            .any(|plugin| plugin.capabilities.contains(capability))
    }

    /// The first plugin whose binary is missing, as an error message.
    ///
    /// # Errors
    /// If there is one.
    pub fn check_binaries(&self, dirs: &[PathBuf]) -> Result<(), String> {
        for plugin in &self.plugins {
            find_binary(&plugin.kind, dirs)
                .map_err(|e| format!("network {} ({}): {e}", self.name, self.file.display()))?;
        }
        Ok(())
    }
}

impl Plugin {
    fn understand(at: usize, raw: &Value) -> Result<Self, String> {
        let at = at + 1;
        let Value::Object(raw) = raw else {
            return Err(format!("plugin {at} is not a JSON object"));
        };
        let kind = match raw.get("type") {
            Some(Value::String(kind)) if !kind.is_empty() => kind.clone(),
            _ => return Err(format!("plugin {at} has no \"type\"")),
        };
        if kind.contains('/') || kind.starts_with('.') {
            return Err(format!(
                "plugin {at} has type {kind:?}, which is not the plain name of a binary"
            ));
        }
        let capabilities = match raw.get("capabilities") {
            Some(Value::Object(declared)) => declared
                .iter()
                .filter(|(_, on)| is_true(on))
                .map(|(name, _)| name.clone())
                .collect(),
            _ => BTreeSet::new(),
        };
        Ok(Self {
            kind,
            capabilities,
            raw: raw.clone(),
        })
    }
}

/// Finds the binary of a plugin.
///
/// # Errors
/// It is in none of the directories, or cannot be executed.
pub fn find_binary(kind: &str, dirs: &[PathBuf]) -> Result<PathBuf, String> {
    let mut unusable = None;
    for dir in dirs {
        let path = dir.join(kind);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(path),
            Ok(_) => unusable = Some(path),
            Err(_) => {}
        }
    }
    if let Some(path) = unusable {
        return Err(format!(
            "plugin {kind:?}: {} is not an executable file",
            path.display()
        ));
    }
    let searched: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
    let searched = if searched.is_empty() {
        "no directory".to_owned()
    } else {
        searched.join(", ")
    };
    Err(format!("plugin {kind:?} is not installed; searched {searched}"))
}

/// Some configurations write booleans as text, and libcni takes both.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(on) => *on,
        Value::String(text) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

fn network_name(list: &Value) -> Result<String, String> {
    let name = match list.get("name") {
        Some(Value::String(name)) if !name.is_empty() => name,
        _ => return Err("it has no \"name\"".into()),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    {
        Ok(name.clone())
    } else {
        Err(format!(
            "network name {name:?}: letters, digits, '_', '.' and '-' only, the first a letter or digit"
        ))
    }
}

/// The version to use: the newest that husk speaks of `cniVersion` and `cniVersions`.
fn version_of(list: &Value) -> Result<Version, String> {
    let mut offered = Vec::new();
    match list.get("cniVersion") {
        Some(Value::String(text)) if !text.is_empty() => offered.push(text.parse::<Version>()?),
        Some(Value::String(_)) | None => {}
        Some(_) => return Err("\"cniVersion\" is no text".into()),
    }
    if let Some(Value::Array(more)) = list.get("cniVersions") {
        for text in more.iter().filter_map(Value::as_str) {
            offered.push(text.parse()?);
        }
    }
    if offered.is_empty() {
        return Ok(Version::OLDEST);
    }
    offered
        .iter()
        .filter(|v| v.is_supported())
        .max()
        .copied()
        .ok_or_else(|| {
            let offered: Vec<String> = offered.iter().map(ToString::to_string).collect();
            format!(
                "CNI version {} is not supported; husk speaks {} to {}",
                offered.join(", "),
                Version::OLDEST,
                Version::NEWEST
            )
        })
}

#[cfg(test)]
#[path = "conf_tests.rs"]
mod tests;
