//! Descriptions of devices that vendors put on the node.

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "cdiVersion",
    "kind",
    "devices",
    "containerEdits",
    "deviceNodes",
    "mounts",
    "hooks",
    "hookName",
    "path",
    "hostPath",
    "&a",
    "*a",
    "- ",
    "{",
    "}",
    "[*a,*a,*a,*a]",
    "!!binary ",
    "|\n",
    "---\n",
    "<<: *a",
    "0.6.0",
    "createContainer",
    "\"",
    "null",
    "..",
];

/// Input: a file, YAML if it does not begin as JSON does.
pub(super) fn file(data: &[u8]) -> Said {
    match husk::spec::cdi::fuzz::file(!data.starts_with(b"{"), data) {
        Ok(devices) => format!("{} devices", "I".repeat(devices.min(9))),
        Err(e) => e,
    }
}
