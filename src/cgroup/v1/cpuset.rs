//! Version 1's cpuset: a new cgroup starts with no CPUs and no memory nodes, and takes no process until it has both.

use std::path::Path;

use crate::types::error::Context;
use crate::types::{Error, Result};

use super::super::file::{read, set};

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Gives `dir`, and whatever above it up to `mount` has none, the CPUs and memory nodes of its parent.
///
/// # Errors
/// The files cannot be read or written.
pub(super) fn inherit(mount: &Path, dir: &Path) -> Result<()> {
    let present = values(dir)?;
    if present.iter().all(|v| !v.is_empty()) || dir == mount {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    inherit(mount, parent)?;
    for ((file, present), from) in FILES.into_iter().zip(present).zip(values(parent)?) {
        if present.is_empty() {
            set(dir, file, from)?;
        }
    }
    Ok(())
}

fn values(dir: &Path) -> Result<[String; 2]> {
    let value = |file| {
        let text = read(dir, file).with_context(|| format!("read {}", dir.join(file).display()))?;
        Ok::<_, Error>(text.trim().to_owned())
    };
    Ok([value(FILES[0])?, value(FILES[1])?])
}
