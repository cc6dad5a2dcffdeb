//! What registries ask for and where they are said to be.

use crate::Said;

pub(super) const HOSTS_WORDS: &[&str] = &[
    "server = ",
    "[host.\"",
    "\"]\n",
    "capabilities = [\"pull\"]",
    "skip_verify = true",
    "dial_timeout = \"",
    "1e308s",
    "99999999h",
    "override_path = true",
    "client = ",
    ".header]\n",
    "https://",
    "http://",
    "@",
    "[::1]",
    ":99999",
    "/v2",
    "\"\"\"",
    "'''",
    "\u{fe}",
];

pub(super) const CHALLENGE_WORDS: &[&str] = &[
    "Bearer ",
    "Basic ",
    "realm=",
    "realm=\"",
    "\"",
    "\\",
    ",",
    "service=",
    "scope=",
    "Negotiate",
    "=",
    " ",
    "\t",
];

pub(super) fn hosts(data: &[u8]) -> Said {
    let text = String::from_utf8_lossy(data);
    match husk::image::fuzz::hosts(&text, "registry.example:5000") {
        Ok(hosts) => {
            assert!(
                hosts.last().is_some_and(|h| h.origin),
                "the registry itself comes last"
            );
            assert!(
                hosts
                    .iter()
                    .all(|h| !h.authority.is_empty() && !h.authority.contains('@'))
            );
            format!("{} hosts", hosts.len())
        }
        Err(e) => e.to_string(),
    }
}

/// Input: one header value per line.
pub(super) fn challenge(data: &[u8]) -> Said {
    let values: Vec<&[u8]> = data.split(|b| *b == b'\n').collect();
    match husk::image::fuzz::challenge(&values) {
        Some(challenge) => challenge.chars().take(24).collect(),
        None => "nothing".into(),
    }
}
