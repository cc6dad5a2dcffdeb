//! Loads AppArmor profiles with the node's `apparmor_parser`, which alone can compile them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::types::error::Context as _;
use crate::types::{Error, Kind, Result};

/// Most of what the parser said that is passed on.
const MAX_COMPLAINT: usize = 1024;

/// Loads the profile with this source, replacing one of the same name. Blocks for as long as it takes to compile it.
///
/// # Errors
/// There is no parser, or it refuses.
pub fn load(parser: &Path, source: &str) -> Result<()> {
    let what = || format!("load an AppArmor profile with {}", parser.display());
    let mut child = Command::new(parser)
        // Replace, and leave the node's cache alone.
        .arg("-Kr")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                Kind::FailedPrecondition,
                format!("{}: {e}; install the package apparmor", what()),
            ),
            _ => Error::internal(format!("{}: {e}", what())),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A parser that does not read says why below.
        let _ = stdin.write_all(source.as_bytes());
    }
    let output = child.wait_with_output().with_context(what)?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if let Some((at, _)) = said.char_indices().nth(MAX_COMPLAINT) {
        said.truncate(at);
    }
    Err(Error::internal(format!("{}: {}: {said}", what(), output.status)))
}
