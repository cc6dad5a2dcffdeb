//! One host during one pull: which scheme it speaks, what it wants to see before it answers, where it redirects to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::auth::{self, Challenge, Credentials};
use super::client::Transport;
use super::failure::Failure;
use super::hosts::{Host, Scheme};
use super::token::{self, Order};

/// Most redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// Most times that one request is repeated with fresh authorization.
const MAX_LOGINS: usize = 2;

/// A host and what was learned of it during this pull.
pub(super) struct Endpoint {
    pub host: Host,
    pub transport: Transport,
    /// Those that belong here: [`Credentials::Anonymous`] if none do.
    credentials: Credentials,
    /// For [`Scheme::Either`]: it turned out to speak TLS.
    speaks_tls: AtomicBool,
    authorization: Mutex<Authorization>,
    /// One login at a time; the others then use its result.
    login: tokio::sync::Mutex<()>,
    /// It sent content with a wrong digest, or could not be reached: others go first.
    shunned: AtomicBool,
}

/// The header to send, and how often it was replaced.
#[derive(Clone, Default)]
struct Authorization {
    header: Option<HeaderValue>,
    generation: usize,
}

/// What to ask of a host, below its API root.
pub(super) struct Call<'a> {
    pub method: Method,
    /// `library/busybox`.
    pub repository: &'a str,
    /// `manifests/latest`.
    pub rest: String,
    pub headers: HeaderMap,
    /// Following an https host to http is fine: the content is checked against its digest.
    pub verified: bool,
}

impl Endpoint {
    pub(super) fn new(host: Host, transport: Transport, credentials: Credentials) -> Self {
        let header = match &credentials {
            Credentials::Token(token) => auth::bearer(token),
            _ => None,
        };
        Self {
            host,
            transport,
            credentials,
            speaks_tls: AtomicBool::new(false),
            authorization: Mutex::new(Authorization {
                header,
                generation: 0,
            }),
            login: tokio::sync::Mutex::default(),
            shunned: AtomicBool::new(false),
        }
    }

    /// Asks the others first from now on.
    pub(super) fn shun(&self) {
        self.shunned.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_shunned(&self) -> bool {
        self.shunned.load(Ordering::Relaxed)
    }

    /// Makes the call, logging in and following redirects as needed. Any answer with a 2xx status is a success.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Response<Incoming>, Failure> {
        let mut logins = 0;
        loop {
            let authorization = self.authorization();
            let (response, redirected) = self.follow(call, authorization.header.as_ref()).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && !redirected && logins < MAX_LOGINS {
                logins += 1;
                let challenge = auth::challenge(response.headers());
                let refusal = self.transport.unwanted(response, false).await;
                let Some(challenge) = challenge else {
                    return Err(refusal);
                };
                if self
                    .log_in(challenge, call.repository, authorization.generation)
                    .await?
                {
                    continue;
                }
                return Err(refusal);
            }
            return Err(self.transport.unwanted(response, redirected).await);
        }
    }

    /// One request and the redirects it leads to. Says whether the answer comes from elsewhere.
    async fn follow(
        &self,
        call: &Call<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), Failure> {
        let mut headers = call.headers.clone();
        for (name, value) in &self.host.headers {
            headers.append(name, value.clone());
        }
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let mut url = self.url(call)?;
        let mut response = self.first(call, &mut url, &headers).await?;
        for _ in 0..MAX_REDIRECTS {
            if !is_redirect(response.status()) {
                let elsewhere = !same_place(&url, &self.url(call)?);
                return Ok((response, elsewhere));
            }
            let next = target(&url, response.headers())?;
            if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !call.verified {
                return Err(Failure::Content(format!(
                    "redirected from TLS to {next}, without it"
                )));
            }
            if !same_place(&url, &next) {
                // Nothing that was meant for this host goes to another.
                strip(&mut headers, &self.host.headers);
            }
            url = next;
            response = self
                .transport
                .exchange(call.method.clone(), url.clone(), headers.clone(), Bytes::new())
                .await?;
        }
        Err(Failure::Content(format!(
            "redirected more than {MAX_REDIRECTS} times"
        )))
    }

    /// The request to the host itself. Finds out which scheme it speaks where that is open.
    async fn first(
        &self,
        call: &Call<'_>,
        url: &mut Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Failure> {
        let ask = |url: &Uri| {
            self.transport
                .exchange(call.method.clone(), url.clone(), headers.clone(), Bytes::new())
        };
        let outcome = ask(url).await;
        let undecided = self.host.scheme == Scheme::Either && !self.speaks_tls.load(Ordering::Relaxed);
        let looks_like_tls = match &outcome {
            Ok(response) => response.status() == StatusCode::BAD_REQUEST,
            Err(failure) => matches!(failure, Failure::Broken(_)),
        };
        if !undecided || !looks_like_tls {
            return outcome;
        }
        self.speaks_tls.store(true, Ordering::Relaxed);
        let secure = self.url(call)?;
        match ask(&secure).await {
            Ok(response) => {
                *url = secure;
                Ok(response)
            }
            Err(_) => {
                self.speaks_tls.store(false, Ordering::Relaxed);
                outcome
            }
        }
    }

    fn url(&self, call: &Call<'_>) -> Result<Uri, Failure> {
        let scheme = if self.is_secure() { "https" } else { "http" };
        let Host {
            authority,
            path,
            namespace,
            ..
        } = &self.host;
        let query = namespace
            .as_deref()
            .map(|n| format!("?ns={n}"))
            .unwrap_or_default();
        let url = format!(
            "{scheme}://{authority}{path}/{}/{}{query}",
            call.repository, call.rest
        );
        url.parse()
            .map_err(|_| Failure::Content(format!("cannot be asked: {url:?} is not a URL")))
    }

    fn is_secure(&self) -> bool {
        match self.host.scheme {
            Scheme::Http => false,
            Scheme::Https => true,
            Scheme::Either => self.speaks_tls.load(Ordering::Relaxed),
        }
    }

    fn authorization(&self) -> Authorization {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gets what the challenge asks for. False when there is nothing (more) to offer.
    async fn log_in(
        &self,
        challenge: Challenge,
        repository: &str,
        generation: usize,
    ) -> Result<bool, Failure> {
        let _one = self.login.lock().await;
        if self.authorization().generation != generation {
            return Ok(true);
        }
        let header = match (challenge, &self.credentials) {
            (_, Credentials::Token(_)) => return Ok(false),
            (Challenge::Basic, Credentials::Basic(user, password)) if generation == 0 => {
                auth::basic(user, password)
            }
            (Challenge::Basic, _) => return Ok(false),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                credentials,
            ) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                let order = Order {
                    realm,
                    service,
                    scope,
                };
                token::buy(&self.transport, &order, credentials, self.is_secure()).await?
            }
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Authorization {
            header: Some(header),
            generation: generation + 1,
        };
        Ok(true)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn same_place(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

/// Where a redirect leads: a whole URL, or a path on the same host.
fn target(from: &Uri, headers: &HeaderMap) -> Result<Uri, Failure> {
    let location = headers.get(LOCATION).and_then(|l| l.to_str().ok());
    let location = location.ok_or_else(|| Failure::Content("redirected to nowhere".into()))?;
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |a| a.as_str());
    let url = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let dir = from.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
    };
    let usable =
        |u: &Uri| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some_and(|h| !h.is_empty());
    url.parse()
        .ok()
        .filter(usable)
        .ok_or_else(|| Failure::Content("redirected to what is not a URL".into()))
}

fn strip(headers: &mut HeaderMap, configured: &HeaderMap) {
    headers.remove(AUTHORIZATION);
    let names: Vec<&HeaderName> = configured.keys().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn where_redirects_lead() {
        let from: Uri = "https://r.example:8443/v2/a/blobs/x?ns=y".parse().unwrap();
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            target(&from, &headers).map(|u| u.to_string()).ok()
        };
        assert_eq!(to("http://cdn/a?b=c").as_deref(), Some("http://cdn/a?b=c"));
        assert_eq!(to("//cdn/a").as_deref(), Some("https://cdn/a"));
        assert_eq!(to("/a/b").as_deref(), Some("https://r.example:8443/a/b"));
        assert_eq!(
            to("z?q").as_deref(),
            Some("https://r.example:8443/v2/a/blobs/z?q")
        );
        for bad in ["ftp://x/", "file:///etc/passwd", "http://", "https:// x"] {
            assert_eq!(to(bad), None, "{bad}");
        }
        assert!(target(&from, &HeaderMap::new()).is_err());
    }
}
