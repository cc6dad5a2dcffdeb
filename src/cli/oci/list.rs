//! `list` and `state`: what containers there are.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::types::error::Context;
use crate::types::{Error, Result};

use super::args::{List, ListFormat};
use super::log::Log;
use super::state::{Home, State};

/// `state`.
pub(super) fn state(root: &Path, id: &str) -> Result<()> {
    let home = Home::find(root, id)?;
    let state = home.load()?;
    let text = serde_json::to_string_pretty(&shown(&home, &state)).context("encode state")?;
    println!("{text}");
    Ok(())
}

/// `list`.
pub(super) fn list(root: &Path, args: &List, log: &Log) -> Result<()> {
    let all = all(root, log)?;
    if args.quiet {
        all.iter().for_each(|(_, state)| println!("{}", state.id));
        return Ok(());
    }
    match args.format {
        ListFormat::Json => {
            let list: Vec<Value> = all.iter().map(|(home, state)| shown(home, state)).collect();
            println!("{}", Value::from(list));
        }
        ListFormat::Table => print_table(&all),
    }
    Ok(())
}

fn print_table(all: &[(Home, State)]) {
    let width = all.iter().map(|(_, s)| s.id.len()).max().unwrap_or(0).max(2);
    println!(
        "{:width$}  {:<10}  {:<8}  {:<30}  BUNDLE",
        "ID", "PID", "STATUS", "CREATED"
    );
    for (home, state) in all {
        let oci = shown(home, state);
        println!(
            "{:width$}  {:<10}  {:<8}  {:<30}  {}",
            state.id,
            oci["pid"].as_i64().unwrap_or_default(),
            oci["status"].as_str().unwrap_or_default(),
            state.created,
            state.bundle.display()
        );
    }
}

/// The OCI state and what runc adds to it.
fn shown(home: &Home, state: &State) -> Value {
    let mut oci = state.to_oci(home.status(state));
    oci["rootfs"] = json!(state.rootfs);
    oci["created"] = json!(state.created);
    oci["owner"] = json!("");
    oci
}

fn all(root: &Path, log: &Log) -> Result<Vec<(Home, State)>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::internal(format!("read {}: {e}", root.display()))),
    };
    let mut out = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| format!("read {}", root.display()))?
            .file_name();
        let id = name.to_string_lossy();
        match Home::find(root, &id).and_then(|home| Ok((home.load()?, home))) {
            Ok((state, home)) => out.push((home, state)),
            // One that is being made or removed just now.
            Err(e) => log.warn(&e.to_string()),
        }
    }
    out.sort_by(|a, b| a.1.id.cmp(&b.1.id));
    Ok(out)
}
