//! One HTTP exchange, with a clock that runs only while nothing happens.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::{ConnectError, Connector};
use super::failure::{self, Failure};
use super::hosts::TlsOptions;
use super::tls::SystemRoots;

/// How long an idle connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);
/// Most bytes read from a connection at once: what a transfer may hold in memory is a small multiple of this.
const READ_BUFFER: usize = 128 << 10;
/// Most bytes read of the body of an unwanted answer.
const MAX_COMPLAINT: usize = 16 << 10;
/// How many times the stall limit a small answer may take in all.
const TRICKLE: u32 = 5;

/// What the requests of one pull to the hosts with the same TLS options share: connections, names looked up.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Full<Bytes>>,
    proxies: Arc<Matcher>,
    stall: Duration,
}

impl Transport {
    /// `stall`: how long a connection may be silent.
    pub(super) fn new(
        tls: &TlsOptions,
        roots: Arc<SystemRoots>,
        dial_timeout: Duration,
        proxies: Arc<Matcher>,
        stall: Duration,
    ) -> Self {
        let connector = Connector::new(tls.clone(), roots, dial_timeout, Arc::clone(&proxies));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(4)
            .http1_max_buf_size(READ_BUFFER)
            .build(connector);
        Self {
            client,
            proxies,
            stall,
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn exchange(
        &self,
        method: Method,
        url: Uri,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("husk/", env!("CARGO_PKG_VERSION"))),
        );
        if url.scheme_str() == Some("http")
            && let Some(auth) = self.proxies.intercept(&url).and_then(|p| p.basic_auth().cloned())
        {
            headers.insert(http::header::PROXY_AUTHORIZATION, auth);
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        match tokio::time::timeout(self.stall, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(Failure::Broken(format!(
                "gave no answer for {} s",
                self.stall.as_secs_f32()
            ))),
        }
    }

    /// As [`Transport::exchange`], with the whole body of at most `limit` bytes.
    pub(super) async fn exchange_whole(
        &self,
        method: Method,
        url: Uri,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let response = self.exchange(method, url, headers, body).await?;
        let status = response.status();
        Ok((status, self.whole(response.into_body(), limit).await?))
    }

    /// All of a body. For small things: one that trickles in is given up on.
    pub(super) async fn whole(&self, mut body: Incoming, limit: usize) -> Result<Bytes, Failure> {
        let collect = async {
            let mut all = BytesMut::new();
            while let Some(chunk) = self.chunk(&mut body).await? {
                if all.len() + chunk.len() > limit {
                    return Err(Failure::Content(format!(
                        "sent more than the {limit} bytes allowed for this"
                    )));
                }
                all.extend_from_slice(&chunk);
            }
            Ok(all.freeze())
        };
        let total = self.stall * TRICKLE;
        let late = || {
            Err(Failure::Broken(format!(
                "sent only part of its answer in {} s",
                total.as_secs_f32()
            )))
        };
        tokio::time::timeout(total, collect)
            .await
            .unwrap_or_else(|_| late())
    }

    /// The next piece of a body; `None` at its end.
    pub(super) async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            match tokio::time::timeout(self.stall, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => return Err(Failure::Broken(chain(&error))),
                Err(_) => {
                    return Err(Failure::Broken(format!(
                        "sent nothing for {} s",
                        self.stall.as_secs_f32()
                    )));
                }
            }
        }
    }

    /// The failure that an answer other than the one wanted stands for.
    pub(super) async fn unwanted(&self, response: Response<Incoming>, redirected: bool) -> Failure {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let body = self.beginning(response.into_body()).await;
        Failure::Status {
            status,
            message: failure::message(&body),
            retry_after,
            redirected,
        }
    }

    /// What an answer says, as far as it can be had without effort.
    async fn beginning(&self, mut body: Incoming) -> Bytes {
        let mut all = BytesMut::new();
        while all.len() < MAX_COMPLAINT {
            match self.chunk(&mut body).await {
                Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                _ => break,
            }
        }
        all.truncate(MAX_COMPLAINT);
        all.freeze()
    }
}

/// Seconds or a date.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let now = jiff::Timestamp::from_nanosecond(crate::types::time::now_nanos().into()).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

fn explain(error: &hyper_util::client::legacy::Error) -> Failure {
    if let Some(cause) = error.source().and_then(|e| e.downcast_ref::<ConnectError>()) {
        return Failure::Connect(cause.to_string());
    }
    let text = chain(error);
    if error.is_connect() {
        Failure::Connect(text)
    } else {
        Failure::Broken(text)
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn waits_asked_for() {
        let parse = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(parse("17"), Some(Duration::from_secs(17)));
        assert_eq!(parse("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(parse("Tue, 31 Dec 2199 23:59:59 GMT").unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(parse("soon"), None);
    }
}
