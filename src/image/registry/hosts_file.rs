//! What a host directory of `certs.d` says: `hosts.toml`, or docker's bare certificate files.
//!
//! The format is containerd's. Unknown keys are ignored, as containerd does: the files are shared with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::hosts::{Capabilities, ClientCertificate, TlsOptions};
use crate::types::error::Context as _;
use crate::types::{Error, Result};

/// Largest hosts.toml that is read.
const MAX_FILE: u64 = 1 << 20;

/// One host as configured; what is absent stays absent.
#[derive(Debug, Default)]
pub(super) struct HostEntry {
    /// As written: `https://mirror.example/path`; `None` for the registry itself when `server` is not set.
    pub url: Option<String>,
    pub capabilities: Capabilities,
    pub tls: TlsOptions,
    pub headers: HeaderMap,
    pub override_path: bool,
    pub dial_timeout: Option<Duration>,
}

/// Reads `dir`: the hosts in the order of the file, the registry itself last.
///
/// # Errors
/// [`crate::types::Kind::FailedPrecondition`] when the file cannot be understood.
pub(super) fn read(dir: &Path) -> Result<Vec<HostEntry>> {
    let path = dir.join("hosts.toml");
    match read_bounded(&path) {
        Ok(text) if !text.trim().is_empty() => parse(&text, dir)
            .map_err(|e| Error::precondition(format!("read the registry hosts in {}: {e}", path.display()))),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::precondition(format!(
            "read the registry hosts in {}: {e}",
            path.display()
        ))),
        _ => Ok(vec![HostEntry {
            tls: certificates(dir)?,
            ..HostEntry::default()
        }]),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_FILE)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    top: Entry,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    capabilities: Vec<String>,
    ca: OneOrMany,
    client: Certificates,
    skip_verify: Option<bool>,
    header: BTreeMap<String, OneOrMany>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(s) => vec![s],
            Self::Many(v) => v,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a file, a list of files, or a list of [certificate, key]"
)]
enum Certificates {
    #[default]
    None,
    One(String),
    Many(Vec<Certificate>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Certificate {
    Whole(String),
    Pair(String, String),
}

pub(super) fn parse(text: &str, dir: &Path) -> Result<Vec<HostEntry>, String> {
    let file: File = toml::from_str(text).map_err(|e| mistake(text, &e))?;
    let mut hosts: Vec<_> = file.host.into_iter().collect();
    hosts.sort_by_key(|(url, _)| url.span().start);
    let mut entries = Vec::with_capacity(hosts.len() + 1);
    for (url, entry) in hosts {
        entries.push(convert(Some(url.into_inner()), entry, dir)?);
    }
    entries.push(convert(file.server.filter(|s| !s.is_empty()), file.top, dir)?);
    Ok(entries)
}

/// Where and what. Not the whole text of the error if it has a place: it then quotes the line, which may hold a secret.
fn mistake(text: &str, error: &toml::de::Error) -> String {
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => {
            let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
            format!("line {line}: {}", error.message())
        }
        // Names the key, if it names anything.
        None => error.to_string().trim_end().to_owned(),
    }
}

fn convert(url: Option<String>, entry: Entry, dir: &Path) -> Result<HostEntry, String> {
    let client = match entry.client {
        Certificates::None => Vec::new(),
        Certificates::One(whole) => vec![Certificate::Whole(whole)],
        Certificates::Many(list) => list,
    };
    let client = client.into_iter().map(|c| match c {
        Certificate::Whole(whole) => ClientCertificate {
            certificate: dir.join(whole),
            key: None,
        },
        Certificate::Pair(cert, key) => ClientCertificate {
            certificate: dir.join(cert),
            key: Some(dir.join(key)),
        },
    });
    Ok(HostEntry {
        url,
        capabilities: capabilities(&entry.capabilities)?,
        tls: TlsOptions {
            ca: entry.ca.into_vec().into_iter().map(|p| dir.join(p)).collect(),
            client: client.collect(),
            skip_verify: entry.skip_verify,
        },
        headers: headers(entry.header)?,
        override_path: entry.override_path,
        dial_timeout: entry.dial_timeout.as_deref().map(duration).transpose()?,
    })
}

fn capabilities(names: &[String]) -> Result<Capabilities, String> {
    if names.is_empty() {
        return Ok(Capabilities::default());
    }
    let mut found = Capabilities {
        pull: false,
        resolve: false,
        push: false,
    };
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "pull" => found.pull = true,
            "resolve" => found.resolve = true,
            "push" => found.push = true,
            other => {
                return Err(format!(
                    "unknown capability {other:?}; known are pull, resolve and push"
                ));
            }
        }
    }
    Ok(found)
}

fn headers(raw: BTreeMap<String, OneOrMany>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in raw {
        let key: HeaderName = name
            .parse()
            .map_err(|_| format!("{name:?} is not a header name"))?;
        for value in values.into_vec() {
            // The value may be a secret: not in the message.
            let mut value: HeaderValue = value
                .parse()
                .map_err(|_| format!("the value of header {name:?} has invalid characters"))?;
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

/// A Go duration: numbers with units, such as `1m30s` or `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("dial_timeout {text:?} is not a duration such as \"3s\" or \"500ms\"");
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (value, tail) = rest.split_at(number);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        total += value.parse::<f64>().map_err(|_| invalid())? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total)
        .ok()
        .filter(|d| !d.is_zero())
        .ok_or_else(invalid)
}

/// docker's layout: `*.crt` are authorities, `*.cert` with `*.key` of the same name are client certificates.
fn certificates(dir: &Path) -> Result<TlsOptions> {
    let mut found = TlsOptions::default();
    let entries = match std::fs::read_dir(dir) {
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(found);
        }
        other => other.with_context(|| format!("read the certificate directory {}", dir.display()))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => found.ca.push(path),
            Some("cert") => {
                let key = Some(path.with_extension("key")).filter(|k| k.is_file());
                found.client.push(ClientCertificate {
                    certificate: path,
                    key,
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FULL: &str = r#"
server = "https://registry-1.docker.io"
skip_verify = true

[host."https://z-mirror.example"]
  capabilities = ["pull", "Resolve"]
  ca = "z.crt"
  client = ["one.pem", ["/abs/two.cert", "two.key"]]
  dial_timeout = "1m1.5s"
  unknown_key = 1
[host."https://z-mirror.example".header]
  x-one = "1"
  x-many = ["2", "3"]

[host."http://a-mirror.example:5000/v2/proxy"]
  override_path = true
  ca = ["/a.crt", "b.crt"]
  client = "whole.pem"
"#;

    #[test]
    fn everything_in_the_order_of_the_file() {
        let hosts = parse(FULL, Path::new("/etc/d")).unwrap();
        let urls: Vec<_> = hosts.iter().map(|h| h.url.as_deref().unwrap()).collect();
        assert_eq!(
            urls,
            [
                "https://z-mirror.example",
                "http://a-mirror.example:5000/v2/proxy",
                "https://registry-1.docker.io"
            ]
        );
        assert_eq!(
            hosts[0].capabilities,
            Capabilities {
                pull: true,
                resolve: true,
                push: false
            }
        );
        assert_eq!(hosts[0].tls.ca, [Path::new("/etc/d/z.crt")]);
        assert_eq!(hosts[0].tls.client[0].certificate, Path::new("/etc/d/one.pem"));
        assert_eq!(hosts[0].tls.client[1].certificate, Path::new("/abs/two.cert"));
        assert_eq!(
            hosts[0].tls.client[1].key.as_deref(),
            Some(Path::new("/etc/d/two.key"))
        );
        assert_eq!(hosts[0].dial_timeout, Some(Duration::from_millis(61_500)));
        assert_eq!(hosts[0].headers.get_all("X-Many").iter().count(), 2);
        assert_eq!(hosts[1].capabilities, Capabilities::default());
        assert!(hosts[1].override_path && !hosts[0].override_path);
        assert_eq!(hosts[1].tls.ca.len(), 2);
        assert_eq!(
            (hosts[1].tls.skip_verify, hosts[2].tls.skip_verify),
            (None, Some(true))
        );
    }

    #[test]
    fn dotted_and_quoted_tables_keep_their_order_too() {
        let text = "[host]\n[host.'https://b']\n[host.\"https://a\"]\nskip_verify = false\n";
        let hosts = parse(text, Path::new("/")).unwrap();
        assert_eq!(hosts[0].url.as_deref(), Some("https://b"));
        assert_eq!(hosts[1].url.as_deref(), Some("https://a"));
        assert_eq!(hosts[2].url, None);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("server = 3", "line 1"),
            ("server = \"x\"\n[host.\"y\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"y\"]\ndial_timeout = \"soon\"", "soon"),
            ("[host.\"y\"]\ndial_timeout = \"-1s\"", "-1s"),
            ("[host.\"y\".header]\n\"a b\" = \"1\"", "a b"),
            ("[host.\"y\".header]\nx = \"se\\ncret\"", "header \"x\""),
            ("[host.\"y\"]\nca = 1", "a list of strings"),
            ("[host.\"y\"]\nskip_verify = \"maybe\"", "line 2: "),
            ("[host.\"y\".header]\nx = [\"cret\", 3]", "a list of strings"),
            ("[host]\n\n\"x\" = 3\n", "line 3"),
            ("server = \"x\"\n\nserver = \"y\"", "line 3"),
            ("not toml", "line 1"),
        ] {
            let error = parse(text, Path::new("/")).map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("cret"), "{error}");
            assert!(!error.contains("line 0"), "{error}");
        }
    }

    #[test]
    fn bare_certificates_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.crt", "a.crt", "c.cert", "c.key", "d.cert", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let hosts = read(dir.path()).unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!(
            hosts[0].tls.ca,
            [dir.path().join("a.crt"), dir.path().join("b.crt")]
        );
        assert_eq!(hosts[0].tls.client[0].key, Some(dir.path().join("c.key")));
        assert_eq!(hosts[0].tls.client[1].key, None);
    }
}
