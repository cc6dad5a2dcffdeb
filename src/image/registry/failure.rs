//! Why a host did not give what it was asked for, whether asking again helps, and what the client is told in the end.

use std::time::Duration;

use http::StatusCode;

use super::hosts::Host;
use crate::image::reference::ImageRef;
use crate::types::error::REGISTRY_UNAVAILABLE;
use crate::types::{Error, Kind};

/// Longest that a registry may make husk wait before the next try.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Most characters taken over from what a registry says of an error.
const MAX_MESSAGE: usize = 300;

/// Why one host did not deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection: name, TCP, TLS or proxy.
    Connect(String),
    /// The connection broke or fell silent.
    Broken(String),
    /// An answer that is not the one wanted.
    Status {
        status: StatusCode,
        message: String,
        retry_after: Option<Duration>,
        /// It came from where the host had sent us, so it says nothing about the host.
        redirected: bool,
    },
    /// Content that is not what it must be.
    Content(String),
    /// The one who wanted the content is gone.
    Abandoned,
}

impl Failure {
    /// Whether the same host may do better a moment later. `under_way`: it has delivered part of this before.
    pub(super) fn may_pass(&self, under_way: bool) -> bool {
        match self {
            Self::Connect(_) => under_way,
            Self::Broken(_) => true,
            Self::Status { redirected: true, .. } => true,
            Self::Status {
                status, retry_after, ..
            } => is_temporary(*status) && retry_after.is_none_or(|t| t <= MAX_RETRY_AFTER),
            Self::Content(_) | Self::Abandoned => false,
        }
    }

    /// How long the host asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Connect(reason) | Self::Broken(reason) | Self::Content(reason) => reason.clone(),
            Self::Status {
                status,
                message,
                redirected,
                ..
            } => {
                let whence = if *redirected {
                    " from where it redirected to"
                } else {
                    ""
                };
                match message.is_empty() {
                    true => format!("answered {status}{whence}"),
                    false => format!("answered {status}{whence}: {message}"),
                }
            }
            Self::Abandoned => "nobody wants it any more".into(),
        }
    }
}

fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// The error for the client once no host is left: `failures` in the order of the hosts, each with its host. The
/// registry's own word counts most, else the last one; kubelet reads the kind and the first word.
pub(super) fn conclude(image: &ImageRef, what: &str, failures: &[(Host, Failure)]) -> Error {
    let registry = image.registry();
    let tried: Vec<String> = failures
        .iter()
        .map(|(host, f)| format!("{} {}", host.authority, f.describe()))
        .collect();
    let tried = tried.join("; ");
    let deciding = failures.iter().find(|(host, _)| host.origin).or(failures.last());
    let unavailable = || {
        Error::new(
            Kind::Unknown,
            format!("{REGISTRY_UNAVAILABLE}: {registry} {what} of {image}: {tried}"),
        )
    };
    match deciding.map(|(_, failure)| failure) {
        None => Error::precondition(format!(
            "{what} of {image}: no host of {registry} is configured for this: see its hosts.toml"
        )),
        Some(Failure::Connect(_) | Failure::Broken(_)) => unavailable(),
        Some(Failure::Status {
            status: StatusCode::TOO_MANY_REQUESTS,
            ..
        }) => Error::new(
            Kind::ResourceExhausted,
            format!("{what} of {image}: {registry} limits the rate of requests, try again later: {tried}"),
        ),
        Some(Failure::Status {
            status, redirected, ..
        }) if is_temporary(*status) || *redirected => unavailable(),
        Some(Failure::Status {
            status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
            ..
        }) => Error::new(
            Kind::PermissionDenied,
            format!(
                "pull access denied for {}: repository does not exist or may require authorization: {tried}",
                image.name()
            ),
        ),
        Some(Failure::Status {
            status: StatusCode::NOT_FOUND,
            ..
        }) => Error::not_found(format!("{image}: not found: {what}: {tried}")),
        Some(Failure::Abandoned) => Error::new(Kind::Cancelled, format!("{what} of {image} was cancelled")),
        Some(Failure::Status { .. } | Failure::Content(_)) => {
            Error::precondition(format!("{what} of {image}: {tried}"))
        }
    }
}

/// The readable part of a registry's error body, on one line and bounded.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Entry {
        code: String,
        message: String,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(body) => {
            let entries = body.errors.iter().take(3).map(|e| match e.message.is_empty() {
                true => e.code.clone(),
                false => format!("{}: {}", e.code, e.message),
            });
            entries.collect::<Vec<_>>().join(", ")
        }
        // An HTML page from some proxy tells nobody anything.
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let clean = text.split_whitespace().collect::<Vec<_>>().join(" ");
    clean
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::image::registry::hosts::hosts_for;

    fn status(code: u16) -> Failure {
        Failure::Status {
            status: StatusCode::from_u16(code).unwrap(),
            message: "CODE: text".into(),
            retry_after: None,
            redirected: false,
        }
    }

    #[test]
    fn what_kubelet_is_told() {
        let image = ImageRef::parse("r.example/a:1").unwrap();
        let host = hosts_for(&[], "r.example").unwrap().remove(0);
        let told = |failure: Failure| conclude(&image, "manifest", &[(host.clone(), failure)]);
        for failure in [
            Failure::Connect("x".into()),
            Failure::Broken("y".into()),
            status(500),
            status(503),
        ] {
            let error = told(failure.clone());
            assert_eq!(error.kind(), Kind::Unknown, "{failure:?}");
            assert!(
                error.message().starts_with("RegistryUnavailable: r.example "),
                "{error}"
            );
        }
        for (code, kind, start) in [
            (401, Kind::PermissionDenied, "pull access denied for r.example/a"),
            (403, Kind::PermissionDenied, "pull access denied for r.example/a"),
            (404, Kind::NotFound, "r.example/a:1: not found"),
            (429, Kind::ResourceExhausted, "manifest of r.example/a:1"),
            (400, Kind::FailedPrecondition, "manifest of r.example/a:1"),
        ] {
            let error = told(status(code));
            assert_eq!(error.kind(), kind, "{code}");
            assert!(
                error.message().starts_with(start) && error.message().contains("CODE: text"),
                "{error}"
            );
        }
        assert_eq!(conclude(&image, "manifest", &[]).kind(), Kind::FailedPrecondition);
    }

    #[test]
    fn the_registry_itself_decides_over_its_mirrors() {
        let image = ImageRef::parse("r.example/a:1").unwrap();
        let origin = hosts_for(&[], "r.example").unwrap().remove(0);
        let mirror = Host {
            authority: "m.example".into(),
            origin: false,
            ..origin.clone()
        };
        let error = conclude(
            &image,
            "manifest",
            &[(mirror.clone(), status(404)), (origin.clone(), status(502))],
        );
        assert_eq!(error.kind(), Kind::Unknown);
        assert!(error.message().contains("m.example answered 404"), "{error}");
        let error = conclude(
            &image,
            "manifest",
            &[(mirror, Failure::Connect("x".into())), (origin, status(404))],
        );
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn bodies_become_one_clean_line() {
        assert_eq!(
            message(br#"{"errors":[{"code":"A","message":"b\nc"},{"code":"D"}]}"#),
            "A: b c, D"
        );
        assert_eq!(message(b"<html>\nno"), "");
        assert_eq!(message(b"plain \x1b[31m\ntext"), "plain [31m text");
        assert_eq!(message(&[b'x'; 5000]).len(), MAX_MESSAGE);
        assert_eq!(message(br#"{"errors":null}"#), r#"{"errors":null}"#);
    }

    #[test]
    fn what_is_worth_another_try() {
        assert!(!Failure::Connect("x".into()).may_pass(false));
        assert!(Failure::Connect("x".into()).may_pass(true));
        assert!(Failure::Broken("x".into()).may_pass(false));
        for (code, again) in [
            (500, true),
            (503, true),
            (429, true),
            (408, true),
            (404, false),
            (401, false),
        ] {
            assert_eq!(status(code).may_pass(false), again, "{code}");
        }
        let Failure::Status {
            status: code,
            message,
            ..
        } = status(429)
        else {
            unreachable!()
        };
        let late = Failure::Status {
            status: code,
            message,
            retry_after: Some(Duration::from_secs(3600)),
            redirected: false,
        };
        assert!(!late.may_pass(true));
    }
}
