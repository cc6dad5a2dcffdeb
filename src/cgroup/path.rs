//! Paths of cgroups: normalised, and never out of the hierarchy.

use std::path::{Path, PathBuf};

use crate::types::{Error, Result};

/// Longest path in bytes; the kernel's own limit for one is `PATH_MAX`.
const MAX_PATH: usize = 2048;

/// Longest component in bytes, as in any file system.
const MAX_NAME: usize = 255;

/// `/a//b/./c` and `a/b/c` alike become `a/b/c`, relative to a hierarchy's mount point.
///
/// # Errors
/// `InvalidArgument`: `..`, control characters, too long, or the root cgroup itself, which is nobody's container.
pub(super) fn normalise(path: &str) -> Result<PathBuf> {
    let bad = |why: &str| Err(Error::invalid(format!("cgroup path {path:?}: {why}")));
    if path.len() > MAX_PATH {
        return Err(Error::invalid(format!(
            "cgroup path: longer than {MAX_PATH} bytes"
        )));
    }
    let mut out = PathBuf::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return bad("\"..\" is not allowed");
        }
        if part.len() > MAX_NAME {
            return bad("a component is longer than 255 bytes");
        }
        if part.chars().any(char::is_control) {
            return bad("contains control characters");
        }
        out.push(part);
    }
    if out.as_os_str().is_empty() {
        return bad("names the root cgroup");
    }
    Ok(out)
}

/// The directory name of the cgroup of one exec. It differs from its parent's, so that a set of directories shows which
/// of them are the exec's own.
///
/// # Errors
/// `InvalidArgument` for anything but letters, digits, `.`, `_` and `-`.
pub(super) fn exec_name(name: &str, parent: &Path) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
        return Err(Error::invalid(format!(
            "exec cgroup {name:?}: a name is 1 to 128 letters, digits, '.', '_' or '-'"
        )));
    }
    let mut name = format!("exec-{name}");
    if parent.file_name().is_some_and(|p| *p == *name) {
        name.push('_');
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn absolute_and_relative_forms_are_one() {
        for path in ["/kubepods/pod1/c", "kubepods/pod1/c", "//kubepods/./pod1//c/"] {
            assert_eq!(normalise(path).unwrap(), Path::new("kubepods/pod1/c"), "{path}");
            assert!(normalise(path).unwrap().is_relative());
        }
    }

    #[test]
    fn nothing_leads_out() {
        let long = "x".repeat(300);
        for path in [
            "",
            "/",
            ".",
            "a/../b",
            "..",
            "/../../etc",
            "a\nb",
            "a\0b",
            long.as_str(),
        ] {
            assert!(normalise(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn exec_names_are_plain_and_differ_from_the_parents() {
        let parent = Path::new("/sys/fs/cgroup/freezer/exec-1");
        assert_eq!(exec_name("1", parent).unwrap(), "exec-1_");
        assert_eq!(exec_name("2", parent).unwrap(), "exec-2");
        for name in ["", "a/b", "..\0", "a b", "ä"] {
            assert!(exec_name(name, parent).is_err(), "{name:?}");
        }
    }
}
