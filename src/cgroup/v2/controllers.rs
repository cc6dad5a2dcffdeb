//! Handing controllers down the tree: a cgroup has those that its parent's `cgroup.subtree_control` names.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::file::{read, write};

/// What husk has a use for, if the kernel has it.
const WANTED: [&str; 8] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];

/// Most parents remembered. Forgetting costs one read per level.
const MAX_CACHED: usize = 4096;

/// Parents that hand down all they can, by directory and inode: one of the same name that was made anew does not yet.
#[derive(Debug, Default)]
pub(in crate::cgroup) struct Enabled(Mutex<HashMap<PathBuf, u64>>);

impl Enabled {
    /// Enables the controllers in every cgroup from `mount` down to the parent of `path`. A level that refuses is left as
    /// it is: what that costs shows when a limit cannot be written, and not before.
    pub(in crate::cgroup) fn down_to(&self, mount: &Path, path: &Path) {
        let Some(parent) = path.parent() else { return };
        let inode = fs::metadata(parent).map_or(0, |m| m.ino());
        if inode != 0 && self.lock().get(parent) == Some(&inode) {
            return;
        }
        let Ok(below) = parent.strip_prefix(mount) else {
            return;
        };
        let mut level = mount.to_owned();
        let mut complete = enable(&level);
        for part in below {
            level.push(part);
            complete &= enable(&level);
        }
        if complete {
            self.remember(parent, inode);
        }
    }

    fn remember(&self, parent: &Path, inode: u64) {
        let mut cache = self.lock();
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(parent.to_owned(), inode);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One write for all that are missing; one by one only if that is refused. Whether all were had.
fn enable(dir: &Path) -> bool {
    let missing = missing(dir);
    if missing.is_empty() {
        return true;
    }
    let line = missing
        .iter()
        .map(|c| format!("+{c}"))
        .collect::<Vec<_>>()
        .join(" ");
    if write(dir, "cgroup.subtree_control", &line).is_ok() {
        return true;
    }
    let refused = missing
        .iter()
        .filter(|c| write(dir, "cgroup.subtree_control", &format!("+{c}")).is_err());
    refused.count() == 0
}

/// Wanted, available and not yet enabled.
fn missing(dir: &Path) -> Vec<&'static str> {
    let available = read(dir, "cgroup.controllers").unwrap_or_default();
    let enabled = read(dir, "cgroup.subtree_control").unwrap_or_default();
    let has = |list: &str, name: &str| list.split_whitespace().any(|c| c == name);
    WANTED
        .into_iter()
        .filter(|c| has(&available, c) && !has(&enabled, c))
        .collect()
}
