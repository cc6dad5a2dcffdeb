//! How often the kernel killed a process of a cgroup for want of memory.

use std::path::Path;

/// Processes killed so far, from version 1's `memory.oom_control` or version 2's `memory.events` (the `oom_kill N` line
/// of either). 0 if the file cannot be read: then nobody can tell.
pub fn oom_kills(path: &Path) -> u64 {
    let (Some(dir), Some(file)) = (path.parent(), path.file_name().and_then(|f| f.to_str())) else {
        return 0;
    };
    super::file::value_of(dir, file, "oom_kill").unwrap_or(0)
}
