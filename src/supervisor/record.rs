//! The exit record: how a container ended, on disk before anybody is told.
//!
//! Owns the file's form and how it is replaced. The daemon reads it when it was down at the time of the exit.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::types::error::Context as _;
use crate::types::{Error, Result};

/// How a container ended. Fields are only ever added; a reader ignores what it does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitRecord {
    /// Its first process, as the node counted.
    pub pid: i32,
    /// 128 + signal if a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of this container for want of memory, not necessarily the first one.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch; 0 if it never ran.
    pub started_at: i64,
    /// Nanoseconds since the epoch, never before `started_at`.
    pub finished_at: i64,
    /// Why it never ran; empty if it did.
    pub start_error: String,
}

impl ExitRecord {
    /// Writes the record beside `path` and renames it there: a reader finds all of it or none.
    ///
    /// # Errors
    /// [`crate::types::Kind::Internal`] if the directory is gone or full.
    pub fn write(&self, path: &Path) -> Result<()> {
        let what = || format!("write exit record {}", path.display());
        let json = serde_json::to_vec(self).with_context(what)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(&json))
            .and_then(|()| std::fs::rename(&beside, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written.with_context(what)
    }

    /// Reads the record at `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`crate::types::Kind::Internal`] if there is something that is no exit record.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let what = || format!("read exit record {}", path.display());
        match std::fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).map(Some).with_context(what),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::internal(format!("{}: {e}", what()))),
        }
    }
}
