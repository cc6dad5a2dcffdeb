//! Where to ask for the content of a registry: its mirrors, then the registry itself.
//!
//! Configured as for containerd: `<hosts dir>/<host[_port_]>/hosts.toml`, else `_default`. Files are read anew for every
//! pull, so changes need no restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, Uri};

use super::hosts_file::{self, HostEntry};
use crate::types::{Error, Result};

/// How long a connection may take to be made where the configuration does not say.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by digest.
    pub pull: bool,
    /// What a tag stands for.
    pub resolve: bool,
    /// Uploads.
    pub push: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            pull: true,
            resolve: true,
            push: true,
        }
    }
}

/// A client certificate; the key may be in the same file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// PEM file.
    pub certificate: PathBuf,
    /// PEM file.
    pub key: Option<PathBuf>,
}

/// How to speak TLS with a host, beyond the system's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// Authorities to trust besides the system's, PEM files.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub client: Vec<ClientCertificate>,
    /// Accept any certificate. `None` is not configured.
    pub skip_verify: Option<bool>,
}

impl TlsOptions {
    fn is_configured(&self) -> bool {
        *self != Self::default()
    }
}

/// What to speak on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// TLS.
    Https,
    /// Plain HTTP, but TLS if that turns out to be what the server speaks.
    Either,
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What to speak.
    pub scheme: Scheme,
    /// Host name or address, and port if given.
    pub authority: String,
    /// What goes before `/<repository>/…`: `/v2` as a rule.
    pub path: String,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// TLS options.
    pub tls: TlsOptions,
    /// Sent with every request to this host.
    pub headers: HeaderMap,
    /// How long a connection may take to be made.
    pub dial_timeout: Duration,
    /// The registry a mirror is asked to stand in for (`?ns=`).
    pub namespace: Option<String>,
    /// This is the registry itself, not a mirror: credentials for the registry belong here.
    pub origin: bool,
}

/// The places to ask for content of `registry`, in order. `dirs` are searched in order too; the first that has anything
/// for the registry decides.
///
/// # Errors
/// [`crate::types::Kind::FailedPrecondition`] when the configuration cannot be read or understood.
pub fn hosts_for(dirs: &[PathBuf], registry: &str) -> Result<Vec<Host>> {
    let entries = match find_dir(dirs, registry) {
        Some(dir) => hosts_file::read(&dir)?,
        None => vec![HostEntry::default()],
    };
    let last = entries.len() - 1;
    entries
        .into_iter()
        .enumerate()
        .map(|(i, entry)| build(entry, registry, i == last))
        .collect()
}

fn find_dir(dirs: &[PathBuf], registry: &str) -> Option<PathBuf> {
    let with_port = registry
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = [with_port.as_deref(), Some(registry), Some("_default")];
    dirs.iter().find_map(|dir| {
        names
            .iter()
            .flatten()
            .map(|n| dir.join(n))
            .find(|p| Path::is_dir(p))
    })
}

pub(super) fn build(entry: HostEntry, registry: &str, origin: bool) -> Result<Host> {
    let (scheme, authority, path) = match &entry.url {
        Some(url) => split_url(url, entry.override_path)?,
        None => (None, default_authority(registry).to_owned(), "/v2".to_owned()),
    };
    let mut tls = entry.tls;
    let scheme = match scheme {
        Some(Scheme::Http) if tls.is_configured() && port(&authority) != Some("80") => Scheme::Either,
        Some(scheme) => scheme,
        None if is_localhost(&authority) => local_scheme(&authority, &mut tls),
        None => Scheme::Https,
    };
    let namespace = (authority != default_authority(registry)).then(|| registry.to_owned());
    Ok(Host {
        scheme,
        authority,
        path,
        capabilities: entry.capabilities,
        tls,
        headers: entry.headers,
        dial_timeout: entry.dial_timeout.unwrap_or(DIAL_TIMEOUT),
        namespace,
        origin,
    })
}

/// Without configuration, registries on this machine may be plain HTTP, or TLS with any certificate.
fn local_scheme(authority: &str, tls: &mut TlsOptions) -> Scheme {
    match port(authority) {
        Some("80") => Scheme::Http,
        None | Some("443") => {
            tls.skip_verify.get_or_insert(true);
            Scheme::Https
        }
        Some(_) => {
            tls.skip_verify.get_or_insert(true);
            Scheme::Either
        }
    }
}

fn split_url(url: &str, override_path: bool) -> Result<(Option<Scheme>, String, String)> {
    let invalid = |why: &str| Error::precondition(format!("registry host {url:?} in hosts.toml: {why}"));
    let full = if url.contains("://") {
        url.to_owned()
    } else {
        format!("https://{url}")
    };
    let uri: Uri = full.parse().map_err(|_| invalid("not a URL"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(invalid("only http and https can be used")),
    };
    let authority = uri.authority().ok_or_else(|| invalid("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(invalid("credentials do not belong into the URL; use a header"));
    }
    let path = uri.path().trim_end_matches('/');
    let path = match override_path || path.ends_with("/v2") {
        true => path.to_owned(),
        false => format!("{path}/v2"),
    };
    Ok((Some(scheme), authority.as_str().to_owned(), path))
}

/// Where the content of a registry really is: only Docker Hub lives under another name.
fn default_authority(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

fn port(authority: &str) -> Option<&str> {
    authority
        .rsplit_once(':')
        .map(|(_, port)| port)
        .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
}

fn is_localhost(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn only(registry: &str) -> Host {
        let mut hosts = hosts_for(&[], registry).unwrap();
        assert_eq!(hosts.len(), 1);
        hosts.remove(0)
    }

    fn write(dir: &Path, host: &str, text: &str) {
        std::fs::create_dir_all(dir.join(host)).unwrap();
        std::fs::write(dir.join(host).join("hosts.toml"), text).unwrap();
    }

    #[test]
    fn without_configuration() {
        for (registry, scheme, authority) in [
            ("docker.io", Scheme::Https, "registry-1.docker.io"),
            ("registry.k8s.io", Scheme::Https, "registry.k8s.io"),
            ("example.com:5000", Scheme::Https, "example.com:5000"),
            ("localhost", Scheme::Https, "localhost"),
            ("localhost:443", Scheme::Https, "localhost:443"),
            ("localhost:80", Scheme::Http, "localhost:80"),
            ("localhost:5000", Scheme::Either, "localhost:5000"),
            ("127.0.0.1:5000", Scheme::Either, "127.0.0.1:5000"),
            ("127.9.9.9:5000", Scheme::Either, "127.9.9.9:5000"),
            ("[::1]:5000", Scheme::Either, "[::1]:5000"),
            ("[::1]", Scheme::Https, "[::1]"),
            (
                "127.0.0.1.example.com:5000",
                Scheme::Https,
                "127.0.0.1.example.com:5000",
            ),
        ] {
            let host = only(registry);
            assert_eq!(
                (host.scheme, host.authority.as_str()),
                (scheme, authority),
                "{registry}"
            );
            assert_eq!(host.path, "/v2");
            assert_eq!(host.namespace, None, "{registry}");
            assert!(host.origin);
        }
        assert_eq!(only("localhost:5000").tls.skip_verify, Some(true));
        assert_eq!(only("example.com").tls.skip_verify, None);
    }

    #[test]
    fn mirrors_come_first_and_stand_in_by_name() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "docker.io",
            "server = \"https://registry-1.docker.io\"\n\
             [host.\"http://10.0.0.1:5000\"]\ncapabilities = [\"pull\"]\n\
             [host.\"https://m.example/hub\"]\n[host.\"m2.example/x/\"]\noverride_path = true\n",
        );
        let hosts = hosts_for(&[dir.path().to_owned()], "docker.io").unwrap();
        let seen: Vec<_> = hosts
            .iter()
            .map(|h| {
                (
                    h.scheme,
                    h.authority.as_str(),
                    h.path.as_str(),
                    h.namespace.as_deref(),
                    h.origin,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (Scheme::Http, "10.0.0.1:5000", "/v2", Some("docker.io"), false),
                (Scheme::Https, "m.example", "/hub/v2", Some("docker.io"), false),
                (Scheme::Https, "m2.example", "/x", Some("docker.io"), false),
                (Scheme::Https, "registry-1.docker.io", "/v2", None, true),
            ]
        );
        assert!(!hosts[0].capabilities.resolve);
    }

    #[test]
    fn the_first_directory_that_fits_decides() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(a.path(), "_default", "server = \"http://default\"");
        write(a.path(), "r.example", "server = \"http://plain\"");
        write(a.path(), "r.example_5000_", "server = \"http://port\"");
        write(b.path(), "q.example", "server = \"http://second\"");
        let dirs = [a.path().to_owned(), b.path().to_owned()];
        let server = |registry: &str| hosts_for(&dirs, registry).unwrap().pop().unwrap().authority;
        assert_eq!(server("r.example:5000"), "port");
        assert_eq!(server("r.example"), "plain");
        assert_eq!(server("q.example"), "default");
        assert_eq!(hosts_for(&dirs[1..], "q.example").unwrap()[0].authority, "second");
    }

    #[test]
    fn http_with_tls_options_may_be_either() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "r.example",
            "[host.\"http://m:5000\"]\nskip_verify = true\n[host.\"http://m:80\"]\nskip_verify = true\n",
        );
        let hosts = hosts_for(&[dir.path().to_owned()], "r.example").unwrap();
        assert_eq!(hosts[0].scheme, Scheme::Either);
        assert_eq!(hosts[1].scheme, Scheme::Http);
        assert_eq!(
            (hosts[2].scheme, hosts[2].authority.as_str()),
            (Scheme::Https, "r.example")
        );
    }

    #[test]
    fn bad_configuration_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "server =",
            "server = \"ftp://x\"",
            "server = \"https://user:pw@x\"",
            "server = \"https://\"",
        ] {
            write(dir.path(), "r.example", text);
            let error = hosts_for(&[dir.path().to_owned()], "r.example").unwrap_err();
            assert!(error.message().contains("hosts.toml"), "{error}");
        }
    }
}
