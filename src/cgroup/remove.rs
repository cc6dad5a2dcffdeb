//! Removing cgroups, children first.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::types::{Error, Kind, Result};

use super::kill::{children, describe, is_empty, wait_until};

/// How long a cgroup may stay busy: its last process is on its way out, or the kernel still works on it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Deepest nesting that is removed. A container with a writable cgroup tree can nest as it likes.
const MAX_DEPTH: usize = 128;

/// Removes the directories and what is below them, waiting for all of them together. Fine if they are gone already.
///
/// # Errors
/// `FailedPrecondition` if processes are in one and stay; the first failure, after trying all.
pub(super) fn remove<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let mut left: Vec<&Path> = dirs.into_iter().collect();
    let mut failures: Vec<(&Path, io::Error)> = Vec::new();
    wait_until(PATIENCE, || {
        failures.retain(|(_, e)| !busy(e));
        for dir in std::mem::take(&mut left) {
            if let Err(e) = remove_once(dir, MAX_DEPTH) {
                // Anything but busy will not pass by waiting.
                if busy(&e) {
                    left.push(dir);
                }
                failures.push((dir, e));
            }
        }
        left.is_empty()
    });
    failures.first().map_or(Ok(()), |(dir, e)| Err(failure(dir, e)))
}

/// Removes the directory and what is below it if no process is in there, without waiting. `false`: one is, or the kernel
/// still works on it.
///
/// # Errors
/// The kernel refuses for another reason.
pub(super) fn remove_if_empty(dir: &Path) -> Result<bool> {
    let removed = match fs::remove_dir(dir) {
        // Not before it is known that nobody is below: who is might want the empty ones.
        Err(e) if busy(&e) && is_empty(dir) => remove_once(dir, MAX_DEPTH),
        other => other,
    };
    match removed {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if busy(&e) => Ok(false),
        Err(e) => Err(failure(dir, &e)),
    }
}

fn remove_once(dir: &Path, depth: usize) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // The kernel says busy for children as well as for processes.
        Err(e) if busy(&e) && depth > 0 => {
            let below = children(dir);
            if below.is_empty() {
                return Err(e);
            }
            // Each is tried: one that stays must not keep the others, of which there may be many.
            let tried = below.iter().map(|child| remove_once(child, depth - 1));
            tried.fold(Ok(()), io::Result::and)?;
            match fs::remove_dir(dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        }
        other => other,
    }
}

fn busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

fn failure(dir: &Path, error: &io::Error) -> Error {
    let kind = if busy(error) {
        Kind::FailedPrecondition
    } else {
        Kind::Internal
    };
    Error::new(
        kind,
        format!(
            "remove cgroup {}: {error}: it has {}",
            dir.display(),
            describe(dir)
        ),
    )
}
