//! Bearer tokens: bought at the place a registry names, for credentials or for nothing.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Uri};
use serde::Deserialize;

use super::auth::{self, Credentials};
use super::client::Transport;
use super::failure::Failure;

/// Who asks, as OAuth wants to know.
const CLIENT_ID: &str = "husk";
/// Largest token answer.
const MAX_ANSWER: usize = 1 << 20;

/// What a bearer challenge asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub realm: String,
    pub service: Option<String>,
    pub scope: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// Buys a token and returns the `Authorization` header to use. `secure`: the registry was reached by TLS, so its token
/// server must be too.
pub(super) async fn buy(
    transport: &Transport,
    order: &Order,
    credentials: &Credentials,
    secure: bool,
) -> Result<HeaderValue, Failure> {
    let realm: Uri = order.realm.parse().map_err(|_| {
        Failure::Content(format!(
            "names a token server {:?} that is not a URL",
            order.realm
        ))
    })?;
    if secure && realm.scheme_str() != Some("https") {
        return Err(Failure::Content(format!(
            "names a token server without TLS, {:?}",
            order.realm
        )));
    }
    let response = match credentials {
        Credentials::Identity(refresh) => by_post(transport, realm, order, refresh).await?,
        _ => by_get(transport, order, credentials).await?,
    };
    let (status, body) = response;
    if !status.is_success() {
        let message = super::failure::message(&body);
        return Err(Failure::Status {
            status,
            message: format!("from the token server {}: {message}", order.realm),
            retry_after: None,
            redirected: false,
        });
    }
    let unusable = |why: &str| Failure::Content(format!("token server {}: {why}", order.realm));
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| unusable("its answer holds no token"))?;
    let token = if answer.token.is_empty() {
        answer.access_token
    } else {
        answer.token
    };
    if token.is_empty() {
        return Err(unusable("its answer holds no token"));
    }
    auth::bearer(&token).ok_or_else(|| unusable("its token has invalid characters"))
}

type Reply = (http::StatusCode, Bytes);

async fn by_get(transport: &Transport, order: &Order, credentials: &Credentials) -> Result<Reply, Failure> {
    let mut query = vec![("scope", order.scope.as_str())];
    query.extend(order.service.as_deref().map(|s| ("service", s)));
    let mut headers = HeaderMap::new();
    if let Credentials::Basic(user, password) = credentials {
        query.push(("account", user));
        headers.insert(AUTHORIZATION, auth::basic(user, password));
    }
    let joint = if order.realm.contains('?') { '&' } else { '?' };
    let url = format!("{}{joint}{}", order.realm, form(&query));
    let url = url
        .parse()
        .map_err(|_| Failure::Content("names a token server that is not a URL".into()))?;
    transport
        .exchange_whole(Method::GET, url, headers, Bytes::new(), MAX_ANSWER)
        .await
}

async fn by_post(transport: &Transport, realm: Uri, order: &Order, refresh: &str) -> Result<Reply, Failure> {
    let mut fields = vec![
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT_ID),
        ("scope", order.scope.as_str()),
        ("refresh_token", refresh),
    ];
    fields.extend(order.service.as_deref().map(|s| ("service", s)));
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    let body = Bytes::from(form(&fields));
    transport
        .exchange_whole(Method::POST, realm, headers, body, MAX_ANSWER)
        .await
}

/// `name=value&…`, everything but letters, digits and `-._~` in percent form.
fn form(fields: &[(&str, &str)]) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for (name, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        for b in value.bytes() {
            match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(b))
                }
                _ => {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "%{b:02X}");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_fields_are_escaped() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull"), ("x", "ä&=+ ~")]),
            "scope=repository%3Aa%2Fb%3Apull&x=%C3%A4%26%3D%2B%20~"
        );
    }
}
