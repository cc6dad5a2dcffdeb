//! Reading the file and its drop-ins (`<file>.d/*.toml`, in order of name), later ones overriding earlier ones by key.

use std::path::{Path, PathBuf};

use crate::types::error::{Context, Error, Result};

use super::Config;

/// Reads `path` and its drop-ins. A missing file is fine unless it was `named` on the command line.
///
/// # Errors
/// An unreadable file, invalid TOML, an unknown key or a value of the wrong type; the message names file and line.
pub fn load(path: &Path, named: bool) -> Result<Config> {
    let mut merged = toml::Table::new();
    let mut files = drop_ins(path)?;
    if path.exists() || named {
        files.insert(0, path.to_owned());
    }
    for file in &files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("read configuration {}", file.display()))?;
        // Parsed as a whole configuration first: the error then points at the file and line it is in.
        toml::from_str::<Config>(&text).map_err(|e| explain(file, &e))?;
        let table: toml::Table = toml::from_str(&text).map_err(|e| explain(file, &e))?;
        merge(&mut merged, table);
    }
    let config: Config = merged
        .try_into()
        .map_err(|e| Error::invalid(format!("configuration {}: {e}", path.display())))?;
    config
        .check()
        .map_err(|e| e.context(format!("configuration {}", path.display())))?;
    Ok(config)
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>> {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(Error::internal(format!(
                "read directory {}: {e}",
                Path::new(&dir).display()
            )));
        }
    };
    let mut files: Vec<_> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|x| x == "toml"))
        .collect();
    files.sort();
    Ok(files)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn explain(file: &Path, error: &toml::de::Error) -> Error {
    let text = error.to_string();
    let hint = unknown_key(&text)
        .and_then(|(key, known)| nearest(key, &known))
        .unwrap_or_default();
    Error::invalid(format!(
        "configuration {}: {}{hint}",
        file.display(),
        text.trim_end()
    ))
}

/// Takes the key and the known keys out of serde's ``unknown field `x`, expected one of `a`, `b` ``.
fn unknown_key(text: &str) -> Option<(&str, Vec<&str>)> {
    let rest = text.split_once("unknown field `")?.1;
    let (key, rest) = rest.split_once('`')?;
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

fn nearest(key: &str, known: &[&str]) -> Option<String> {
    let best = known.iter().min_by_key(|k| distance(key, k))?;
    (distance(key, best) <= 3).then(|| format!("\ndid you mean `{best}`?"))
}

/// Levenshtein distance of two short keys.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Config {
    /// Refuses values that parse but cannot work, from a file or a flag.
    ///
    /// # Errors
    /// The key and what it must be.
    pub fn check(&self) -> Result<()> {
        for (key, path) in [("root", &self.root), ("run", &self.run)] {
            if !path.is_absolute() {
                return Err(Error::invalid(format!(
                    "{key} = {:?} must be an absolute path",
                    path.display()
                )));
            }
        }
        if self.image.max_concurrent_downloads == 0 {
            return Err(Error::invalid(
                "image.max_concurrent_downloads must be at least 1",
            ));
        }
        let verifiers = &self.image.verifier_dir;
        if !verifiers.as_os_str().is_empty() && !verifiers.is_absolute() {
            return Err(Error::invalid(format!(
                "image.verifier_dir = {:?} must be an absolute path, or empty",
                verifiers.display()
            )));
        }
        if self.image.verifier_timeout_secs == 0 {
            return Err(Error::invalid("image.verifier_timeout_secs must be at least 1"));
        }
        if self.container.max_log_line_bytes < 64 {
            return Err(Error::invalid("container.max_log_line_bytes must be at least 64"));
        }
        let nri = &self.nri;
        if nri.enabled && !nri.socket.is_absolute() {
            return Err(Error::invalid(format!(
                "nri.socket = {:?} must be an absolute path",
                nri.socket.display()
            )));
        }
        if nri.plugin_registration_timeout_secs == 0 || nri.plugin_request_timeout_secs == 0 {
            return Err(Error::invalid("nri: the timeouts must be at least 1 second"));
        }
        if self.stream.creation_timeout_secs == 0 {
            return Err(Error::invalid("stream.creation_timeout_secs must be at least 1"));
        }
        let (cert, key) = (&self.stream.tls_cert, &self.stream.tls_key);
        if cert.as_os_str().is_empty() != key.as_os_str().is_empty() {
            return Err(Error::invalid(
                "stream.tls_cert and stream.tls_key must be given together",
            ));
        }
        for (name, handler) in &self.runtime {
            handler.check(name)?;
        }
        let defaults: Vec<_> = self
            .runtime
            .iter()
            .filter(|(_, h)| h.default)
            .map(|(n, _)| n.as_str())
            .collect();
        if defaults.len() > 1 {
            return Err(Error::invalid(format!(
                "runtime handlers {} are all marked default: only one can be",
                defaults.join(", ")
            )));
        }
        Ok(())
    }
}
