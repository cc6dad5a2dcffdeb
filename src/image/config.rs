//! The image configuration: which layers there must be, and what the image says about containers made from it.
//!
//! Written by every build tool there is, and by attackers: unknown fields are ignored, `null` counts as absent, wrong types
//! are an error, and everything is bounded by the size the bytes may have.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::Digest as _;

use crate::types::Digest;

/// Most `VOLUME` paths: each becomes a directory and a mount of every container.
const MAX_VOLUMES: usize = 1000;

/// What an image says about containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageDefaults {
    /// `USER`: name or number, perhaps with a group.
    #[serde(rename = "User", deserialize_with = "or_default")]
    pub user: String,
    /// `ENTRYPOINT`.
    #[serde(rename = "Entrypoint", deserialize_with = "one_or_many")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(rename = "Cmd", deserialize_with = "one_or_many")]
    pub cmd: Vec<String>,
    /// `ENV` as `NAME=value`, in order.
    #[serde(rename = "Env", deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// `WORKDIR`.
    #[serde(rename = "WorkingDir", deserialize_with = "or_default")]
    pub working_dir: String,
    /// `VOLUME` paths.
    #[serde(rename = "Volumes", deserialize_with = "keys", serialize_with = "as_set")]
    pub volumes: Vec<String>,
    /// `EXPOSE`, such as `80/tcp`.
    #[serde(rename = "ExposedPorts", deserialize_with = "keys", serialize_with = "as_set")]
    pub exposed_ports: Vec<String>,
    /// `LABEL`.
    #[serde(rename = "Labels", deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`, a name or a number.
    #[serde(rename = "StopSignal", deserialize_with = "or_default")]
    pub stop_signal: String,
}

/// What was read from an image configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed {
    pub defaults: ImageDefaults,
    /// Digests of the layers' archives, bottom first.
    pub diff_ids: Vec<Digest>,
    /// Nanoseconds since the epoch.
    pub created: Option<i64>,
    pub os: String,
    pub architecture: String,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "or_default")]
    config: ImageDefaults,
    rootfs: RawRootfs,
    #[serde(default, deserialize_with = "or_default")]
    created: String,
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// Reads a configuration. An error is a sentence on the content.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|e| format!("the image configuration is not valid: {e}"))?;
    check(&raw.config).map_err(|e| format!("the image configuration is not valid: {e}"))?;
    Ok(Parsed {
        defaults: raw.config,
        diff_ids: raw.rootfs.diff_ids,
        created: instant(&raw.created),
        os: raw.os,
        architecture: raw.architecture,
    })
}

/// Refuses what no container could be made from.
fn check(config: &ImageDefaults) -> Result<(), String> {
    if let Some(entry) = config.env.iter().find(|e| e.contains('\0')) {
        let name = entry.split('=').next().unwrap_or_default();
        return Err(format!("variable {name:?} contains a zero byte"));
    }
    let words = config.entrypoint.iter().chain(&config.cmd).chain(&config.volumes);
    if let Some(word) = words.chain([&config.working_dir]).find(|w| w.contains('\0')) {
        let shown: String = word.chars().take(80).collect();
        return Err(format!("{shown:?} contains a zero byte"));
    }
    if config.volumes.len() > MAX_VOLUMES {
        return Err(format!(
            "it declares {} volumes, husk makes at most {MAX_VOLUMES}",
            config.volumes.len()
        ));
    }
    Ok(())
}

/// A time that cannot be read is as good as none: nothing but a table shows it.
fn instant(text: &str) -> Option<i64> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}

/// The name of the layers up to and including each one, as OCI defines chain ids, bottom first.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let mut hasher = sha2::Sha256::new();
                hasher.update(below.as_str());
                hasher.update(" ");
                hasher.update(diff_id.as_str());
                Digest::from_sha256(&hasher.finalize().into())
            }
        };
        chain.push(next);
    }
    chain
}

/// Splits `USER` into a number or a name; a group is left out, as CRI has no place for it.
pub(super) fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// docker once allowed a bare string here.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::deserialize(from)? {
        None => Vec::new(),
        Some(OneOrMany::One(one)) => vec![one],
        Some(OneOrMany::Many(many)) => many,
    })
}

/// A set is written as an object whose values mean nothing.
fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let set: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(from)?;
    Ok(set.unwrap_or_default().into_keys().collect())
}

fn as_set<S: serde::Serializer>(keys: &[String], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Nothing {}
    to.collect_map(keys.iter().map(|k| (k, Nothing {})))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_full_configuration() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2020-01-02T03:04:05.678901234Z","history":[{{}}],
            "config":{{"User":"app:staff","Entrypoint":["/e"],"Cmd":["-x"],"Env":["A=1","A=2"],"WorkingDir":"/w",
            "Volumes":{{"/b":{{}},"/a":{{}}}},"ExposedPorts":{{"80/tcp":{{}}}},"Labels":{{"l":"v"}},
            "StopSignal":"SIGQUIT","Healthcheck":{{"Test":["CMD"]}},"OnBuild":null}},
            "rootfs":{{"type":"layers","diff_ids":["{D}"]}}}}"#
        );
        let parsed = parse(text.as_bytes()).unwrap();
        let d = &parsed.defaults;
        assert_eq!(
            (d.user.as_str(), d.working_dir.as_str(), d.stop_signal.as_str()),
            ("app:staff", "/w", "SIGQUIT")
        );
        assert_eq!(
            (&d.entrypoint[..], &d.cmd[..]),
            (&["/e".to_owned()][..], &["-x".to_owned()][..])
        );
        assert_eq!(d.env, ["A=1", "A=2"]);
        assert_eq!(d.volumes, ["/a", "/b"]);
        assert_eq!(d.exposed_ports, ["80/tcp"]);
        assert_eq!(d.labels["l"], "v");
        assert_eq!(parsed.created, Some(1_577_934_245_678_901_234));
        assert_eq!(parsed.diff_ids[0].as_str(), D);
        let again: ImageDefaults = serde_json::from_str(&serde_json::to_string(d).unwrap()).unwrap();
        assert_eq!(again, *d);
    }

    #[test]
    fn null_and_absent_are_the_same() {
        let text = r#"{"config":{"User":null,"Entrypoint":null,"Cmd":"one","Env":null,"WorkingDir":null,"Volumes":null,
            "ExposedPorts":null,"Labels":null,"StopSignal":null},"rootfs":{"diff_ids":null},"created":null,"os":null}"#;
        let expected = ImageDefaults {
            cmd: vec!["one".into()],
            ..ImageDefaults::default()
        };
        assert_eq!(parse(text.as_bytes()).unwrap().defaults, expected);
        assert_eq!(
            parse(br#"{"config":null,"rootfs":{}}"#).unwrap().defaults,
            ImageDefaults::default()
        );
        assert_eq!(
            parse(br#"{"rootfs":{},"created":"yesterday"}"#).unwrap().created,
            None
        );
    }

    #[test]
    fn wrong_types_are_an_error_not_a_panic() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"rootfs":"x"}"#,
            r#"{"rootfs":{"diff_ids":["sha256:short"]}}"#,
            r#"{"rootfs":{"diff_ids":{}}}"#,
            r#"{"rootfs":{},"config":"x"}"#,
            r#"{"rootfs":{},"config":{"Env":{"A":"b"}}}"#,
            r#"{"rootfs":{},"config":{"Cmd":[1]}}"#,
            r#"{"rootfs":{},"config":{"Labels":{"a":1}}}"#,
            r#"{"rootfs":{},"config":{"Volumes":["/a"]}}"#,
            r#"{"rootfs":{},"config":{"Env":["A=\u0000"]}}"#,
            r#"{"rootfs":{},"config":{"WorkingDir":"/\u0000"}}"#,
            r#"{"rootfs":{},"config":{"Cmd":["a\u0000b"]}}"#,
        ] {
            assert!(
                parse(text.as_bytes()).unwrap_err().contains("not valid"),
                "{text}"
            );
        }
        let volumes: Vec<String> = (0..1001).map(|n| format!("\"/{n}\":{{}}")).collect();
        let many = format!(
            r#"{{"rootfs":{{}},"config":{{"Volumes":{{{}}}}}}}"#,
            volumes.join(",")
        );
        assert!(parse(many.as_bytes()).unwrap_err().contains("1001 volumes"));
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn users() {
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("0"), (Some(0), String::new()));
        assert_eq!(user("1002:1003"), (Some(1002), String::new()));
        assert_eq!(user("nobody"), (None, "nobody".into()));
        assert_eq!(user("www-data:33"), (None, "www-data".into()));
        assert_eq!(user(":33"), (None, String::new()));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let ids = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(ids, [a.clone(), Digest::sha256(format!("{a} {b}").as_bytes())]);
        assert_eq!(chain_ids(&[]), []);
    }
}
