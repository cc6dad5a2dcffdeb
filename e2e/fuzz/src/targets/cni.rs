//! What CNI plugins print and what their configuration says.

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "\"cniVersion\"",
    "\"0.1.0\"",
    "\"0.3.1\"",
    "\"1.1.0\"",
    "\"99.0.0\"",
    "\"ips\"",
    "\"ip4\"",
    "\"ip6\"",
    "\"interfaces\"",
    "\"interface\"",
    "\"address\"",
    "\"sandbox\"",
    "\"eth0\"",
    "10.0.0.2/24",
    "/33",
    "/129",
    "::/0",
    "\"plugins\"",
    "\"type\"",
    "\"name\"",
    "../",
    "null",
    "18446744073709551615",
    "-1",
];

pub(super) fn result(data: &[u8]) -> Said {
    let said: Vec<Said> = ["0.2.0", "0.4.0", "1.1.0"]
        .iter()
        .map(|version| match husk::network::fuzz::result(data, version) {
            Ok(attachment) => {
                assert!(!attachment.ips.is_empty());
                // It is kept in the pod's record and handed to the next plugin.
                let again = husk::network::fuzz::result(attachment.result_json.as_bytes(), version);
                assert_eq!(again.as_ref(), Ok(&attachment));
                format!(
                    "{} addresses {} interfaces",
                    attachment.ips.len(),
                    attachment.interfaces.len()
                )
            }
            Err(e) => e,
        })
        .collect();
    said.join("; ")
}

pub(super) fn configuration(data: &[u8]) -> Said {
    match husk::network::fuzz::configuration(data) {
        Ok(plugins) => {
            // Each becomes the name of a file in the plugin directories.
            assert!(
                plugins.iter().all(|p| !p.contains('/') && p != ".."),
                "{plugins:?}"
            );
            format!("{} plugins", plugins.len())
        }
        Err(e) => e,
    }
}
