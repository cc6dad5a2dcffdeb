//! Image references as people and kubelet write them: `[registry/]repository[:tag][@digest]`.
//!
//! Short names mean what docker and containerd take them to mean: `busybox` is `docker.io/library/busybox:latest`.
//! Parsing is pure and the result is canonical: equal references are equal values.

use std::fmt;
use std::str::FromStr;

use crate::types::{Digest, Error, Result};

/// The registry of short names.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of references that name none.
const DEFAULT_TAG: &str = "latest";
/// Most characters of registry and repository together, as the distribution specification has it.
const MAX_NAME: usize = 255;
/// Most characters of a tag.
const MAX_TAG: usize = 128;

/// A parsed reference. Has a tag, a digest, or both; with both, the digest decides and the tag is a remark.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Parses `text`; names without a registry, tag or digest get the usual defaults.
    ///
    /// # Errors
    /// [`crate::types::Kind::InvalidArgument`] that says what is wrong with the reference.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|reason| {
            let shown: String = text.chars().take(MAX_NAME + MAX_TAG).collect();
            Error::invalid(format!("image reference {shown:?} is not valid: {reason}"))
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|e: Error| e.to_string())?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if name.is_empty() {
            return Err("it names no repository".into());
        }
        if is_bare_id(name) || text.parse::<Digest>().is_ok() {
            return Err("this is an image id, not a repository".into());
        }
        let (registry, path) = split_registry(name);
        let registry = match registry {
            None | Some("index.docker.io") => DEFAULT_REGISTRY,
            Some(registry) => registry,
        };
        check_registry(registry)?;
        check_repository(path)?;
        let repository = match path.contains('/') || registry != DEFAULT_REGISTRY {
            true => path.to_owned(),
            false => format!("library/{path}"),
        };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(format!(
                "registry and repository are longer than {MAX_NAME} characters"
            ));
        }
        tag.map_or(Ok(()), check_tag)?;
        let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }

    /// Host name, and port if it has one, of the registry: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository in its registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `name:tag` as images list it; `None` when a digest decides.
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// `name@digest` for `digest`, as images list it.
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What to ask the registry for: the digest, or else the tag.
    pub fn target(&self) -> &str {
        self.digest
            .as_ref()
            .map(Digest::as_str)
            .or(self.tag.as_deref())
            .unwrap_or(DEFAULT_TAG)
    }

    /// The form people type: without `docker.io/library/` or `docker.io/`, unless that would mean something else, as for
    /// `docker.io/team.example/app`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = ["docker.io/library/", "docker.io/"]
            .into_iter()
            .filter_map(|prefix| full.strip_prefix(prefix))
            .find(|short| Self::parse(short).as_ref() == Ok(self));
        short.map_or_else(|| full.clone(), str::to_owned)
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A colon after the last slash starts a tag; one before it belongs to the registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// The part before the first slash is a registry if it cannot be part of a repository path.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn is_bare_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("{address:?} is not an IPv6 address"));
            }
            (None, rest.strip_prefix(':').or((!rest.is_empty()).then_some("")))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if port.is_some_and(|p| !p.bytes().all(|b| b.is_ascii_digit()) || p.parse::<u16>().is_err()) {
        return Err(format!("the registry {registry:?} has no valid port"));
    }
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match host {
        Some(host) if !host.split('.').all(label) => {
            Err(format!("the registry {registry:?} is not a host name"))
        }
        _ => Ok(()),
    }
}

fn check_repository(path: &str) -> Result<(), String> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("repository names are lower-case".into());
    }
    path.split('/')
        .try_for_each(|part| match is_path_component(part) {
            true => Ok(()),
            false => Err(format!("{part:?} cannot be part of a repository name")),
        })
}

/// Letters and digits, joined by single `.`, one or two `_`, or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    plain(first)
        && plain(last)
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
            })
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.bytes().next().is_some_and(word)
        && tag.len() <= MAX_TAG
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
    if valid {
        Ok(())
    } else {
        Err(format!("{tag:?} is not a tag"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn canonical_forms() {
        let long = "a".repeat(128);
        for (text, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            (
                "library/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            // Shorter, these would name another registry and another repository.
            (
                "docker.io/team.example/app",
                "docker.io/team.example/app:latest",
                "docker.io/team.example/app:latest",
            ),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            (
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
            ),
            ("LOCALHOST/app", "LOCALHOST/app:latest", "LOCALHOST/app:latest"),
            (
                "127.0.0.1:5000/a/b/c",
                "127.0.0.1:5000/a/b/c:latest",
                "127.0.0.1:5000/a/b/c:latest",
            ),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("[fe80::1]/app", "[fe80::1]/app:latest", "[fe80::1]/app:latest"),
            (
                "registry.k8s.io/pause:3.9",
                "registry.k8s.io/pause:3.9",
                "registry.k8s.io/pause:3.9",
            ),
            (
                "gcr.io/a-b/c__d/e.f-----g",
                "gcr.io/a-b/c__d/e.f-----g:latest",
                "gcr.io/a-b/c__d/e.f-----g:latest",
            ),
            ("a/b:V_1.2-x", "docker.io/a/b:V_1.2-x", "a/b:V_1.2-x"),
            (
                &format!("x:{long}"),
                &format!("docker.io/library/x:{long}"),
                &format!("x:{long}"),
            ),
            (
                &format!("busybox@{D}"),
                &format!("docker.io/library/busybox@{D}"),
                &format!("busybox@{D}"),
            ),
            (
                &format!("q.io:443/a:t@{D}"),
                &format!("q.io:443/a:t@{D}"),
                &format!("q.io:443/a:t@{D}"),
            ),
        ] {
            let parsed = ImageRef::parse(text).unwrap();
            assert_eq!(parsed.to_string(), canonical, "{text}");
            assert_eq!(parsed.familiar(), familiar, "{text}");
            assert_eq!(ImageRef::parse(canonical).unwrap(), parsed, "{text}");
            assert_eq!(ImageRef::parse(familiar).unwrap(), parsed, "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            ":tag",
            "@",
            "Busybox",
            "docker.io/Foo",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a: b",
            "a b",
            "a:b:c",
            "-a",
            "a_",
            "a___b",
            "a..b",
            "a.-b",
            "http://a/b",
            "a.b:port/c",
            "a.b:99999/c",
            "a.b:/c",
            "a..b/c",
            "-a.b/c",
            "[::1/a",
            "[zz]:1/a",
            "[::1]x/a",
            "a@sha256:123",
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "a/../b",
            "a\0b",
            "ä",
            &"a".repeat(256),
            &format!("a:{}", "t".repeat(129)),
            &"0123456789abcdef".repeat(4),
            D,
            &format!("a@{D}@{D}"),
        ] {
            let error = ImageRef::parse(text).unwrap_err();
            assert_eq!(error.kind(), crate::types::Kind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn a_digest_decides_over_a_tag() {
        let both = ImageRef::parse(&format!("a:t@{D}")).unwrap();
        assert_eq!(both.target(), D);
        assert_eq!(both.repo_tag(), None);
        assert_eq!(
            both.repo_digest(both.digest().unwrap()),
            format!("docker.io/library/a@{D}")
        );
        let tag = ImageRef::parse("a").unwrap();
        assert_eq!(tag.target(), "latest");
        assert_eq!(tag.repo_tag().unwrap(), "docker.io/library/a:latest");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_stable(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
            if let Ok(parsed) = ImageRef::parse(&text) {
                proptest::prop_assert_eq!(ImageRef::parse(&parsed.to_string()).unwrap(), parsed);
            }
        }
    }
}
