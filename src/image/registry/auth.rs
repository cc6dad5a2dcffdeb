//! Credentials: what a client may send along with a pull, which hosts may see it, and what registries ask for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{HeaderValue, WWW_AUTHENTICATE};

use super::hosts::Host;
use crate::types::{Error, Result};

/// Credentials as CRI and docker's config.json carry them; any part may be empty. Never stored, never logged.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// `user:password` in base64.
    pub auth: String,
    /// The registry these are for; empty means the one in the image reference.
    pub server_address: String,
    /// OAuth refresh token.
    pub identity_token: String,
    /// Bearer token, sent as it is.
    pub registry_token: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// What [`Auth`] comes down to.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// None.
    Anonymous,
    /// User and password.
    Basic(String, String),
    /// A refresh token to buy bearer tokens with.
    Identity(String),
    /// A bearer token.
    Token(String),
}

impl Auth {
    /// # Errors
    /// [`crate::types::Kind::InvalidArgument`] when `auth` is not what it should be.
    pub(super) fn credentials(&self) -> Result<Credentials> {
        if !self.registry_token.is_empty() {
            return Ok(Credentials::Token(self.registry_token.clone()));
        }
        if !self.identity_token.is_empty() {
            return Ok(Credentials::Identity(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            return Ok(Credentials::Basic(self.username.clone(), self.password.clone()));
        }
        if self.auth.is_empty() {
            return Ok(Credentials::Anonymous);
        }
        // The text is a secret: not in the message.
        let invalid = || Error::invalid("registry credentials: `auth` is not the base64 of user:password");
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Credentials::Basic(
            user.to_owned(),
            password.trim_end_matches('\0').to_owned(),
        ))
    }

    /// Whether `host`, asked for content of `registry`, may see these credentials.
    pub(super) fn belongs_to(&self, host: &Host, registry: &str) -> bool {
        if self.server_address.is_empty() {
            return host.origin;
        }
        let wanted = canonical(&self.server_address);
        wanted == canonical(&host.authority) || (host.origin && wanted == canonical(registry))
    }
}

/// Host and port in one spelling: no scheme, path or default port, lower case, Docker Hub by its one name.
fn canonical(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
    let default_port = if address.starts_with("http://") {
        ":80"
    } else {
        ":443"
    };
    let authority = authority.strip_suffix(default_port).unwrap_or(&authority);
    match authority {
        "index.docker.io" | "registry-1.docker.io" | "auth.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// The `Authorization` header for a user and password.
pub(super) fn basic(user: &str, password: &str) -> HeaderValue {
    sensitive(&format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    ))
    .unwrap_or(HeaderValue::from_static("Basic"))
}

/// The `Authorization` header for a token; `None` when the token cannot be in a header.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a registry asks for with a 401 answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from elsewhere.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The challenge to answer: bearer before basic. `None` when there is none that husk understands.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Some(parsed) = value
            .to_str()
            .ok()
            .and_then(|v| http_auth::parse_challenges(v).ok())
        else {
            continue;
        };
        for challenge in parsed {
            let param = |name: &str| {
                let (_, value) = challenge
                    .params
                    .iter()
                    .find(|(k, _)| k.eq_ignore_ascii_case(name))?;
                Some(value.to_unescaped()).filter(|v| !v.is_empty())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = param("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: param("service"),
                        scope: param("scope"),
                    });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::image::registry::hosts::hosts_for;

    fn auth(change: impl FnOnce(&mut Auth)) -> Auth {
        let mut auth = Auth::default();
        change(&mut auth);
        auth
    }

    #[test]
    fn what_credentials_come_down_to() {
        let basic = |u: &str, p: &str| Credentials::Basic(u.into(), p.into());
        for (auth, expected) in [
            (Auth::default(), Credentials::Anonymous),
            (
                auth(|a| (a.username, a.password) = ("u".into(), "p:q".into())),
                basic("u", "p:q"),
            ),
            (auth(|a| a.auth = STANDARD.encode("u:p:q")), basic("u", "p:q")),
            (auth(|a| a.auth = STANDARD.encode("u:p\0\0")), basic("u", "p")),
            (
                auth(|a| a.identity_token = "i".into()),
                Credentials::Identity("i".into()),
            ),
            (
                auth(|a| (a.username, a.registry_token) = ("u".into(), "t".into())),
                Credentials::Token("t".into()),
            ),
        ] {
            assert!(auth.credentials().unwrap() == expected);
        }
        for bad in ["!!", &STANDARD.encode("no colon"), &STANDARD.encode(b"\xff:\xfe")] {
            let error = auth(|a| a.auth = bad.to_owned())
                .credentials()
                .map(|_| ())
                .unwrap_err();
            assert!(!error.message().contains(bad), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let auth = auth(|a| {
            for field in [
                &mut a.username,
                &mut a.password,
                &mut a.auth,
                &mut a.identity_token,
                &mut a.registry_token,
            ] {
                *field = "hush".into();
            }
        });
        assert!(!format!("{auth:?}").contains("hush"));
        assert!(!format!("{:?}", basic("hush", "hush")).contains("aHVzaDpodXNo"));
        assert!(!format!("{:?}", bearer("hush")).contains("hush"));
    }

    #[test]
    fn credentials_go_only_where_they_belong() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docker.io")).unwrap();
        let file = dir.path().join("docker.io/hosts.toml");
        std::fs::write(file, "[host.\"https://mirror.example\"]\n").unwrap();
        let hosts = hosts_for(&[dir.path().to_owned()], "docker.io").unwrap();
        let who = |address: &str| {
            let auth = auth(|a| a.server_address = address.into());
            hosts
                .iter()
                .map(|h| auth.belongs_to(h, "docker.io"))
                .collect::<Vec<_>>()
        };
        for hub in [
            "",
            "docker.io",
            "https://index.docker.io/v1/",
            "https://registry-1.docker.io",
            "DOCKER.IO:443",
        ] {
            assert_eq!(who(hub), [false, true], "{hub}");
        }
        assert_eq!(who("https://mirror.example/v2"), [true, false]);
        assert_eq!(who("other.example"), [false, false]);
        assert_eq!(who("http://docker.io:443"), [false, false]);
    }

    #[test]
    fn challenges() {
        let parse = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for v in values {
                headers.append(WWW_AUTHENTICATE, v.parse().unwrap());
            }
            challenge(&headers)
        };
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let own = |s: &str| s.to_owned();
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(own),
                scope: scope.map(own),
            })
        };
        assert_eq!(
            parse(&[
                r#"Bearer realm="https://a/t",service="r.io",scope="repository:a/b:pull,push",error="invalid_token""#
            ]),
            bearer("https://a/t", Some("r.io"), Some("repository:a/b:pull,push"))
        );
        assert_eq!(
            parse(&[r#"Basic realm="x", bearer Realm="https://q\"t""#]),
            bearer("https://q\"t", None, None)
        );
        assert_eq!(
            parse(&["Basic realm=\"x\"", "Bearer realm=\"http://y\""]),
            bearer("http://y", None, None)
        );
        assert_eq!(parse(&["BASIC realm=x"]), Some(Challenge::Basic));
        for nothing in [
            "Negotiate",
            "Bearer service=\"x\"",
            "",
            "Bearer realm=\"",
            "Digest realm=\"x\"",
        ] {
            assert_eq!(parse(&[nothing]), None, "{nothing}");
        }
    }
}
