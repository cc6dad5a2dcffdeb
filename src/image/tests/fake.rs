//! A registry for tests: serves what was put into it, writes down what it was asked, and misbehaves by rule.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::types::Digest;

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;
type Rule = Box<dyn FnMut(&Asked) -> Option<Answer> + Send>;

/// One request as it came in.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub method: Method,
    /// With the query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub(super) fn is_blob(&self, digest: &Digest) -> bool {
        self.method == Method::GET && self.path.contains(digest.as_str())
    }
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Bytes>,
    manifests: HashMap<String, (String, Bytes)>,
    asked: Vec<Asked>,
    rule: Option<Rule>,
}

/// The registry. Stops when dropped.
pub(super) struct Fake {
    pub address: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(super) async fn start() -> Self {
        Self::serve(None).await
    }

    pub(super) async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::serve(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => converse(tcp, state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                converse(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task }
    }

    pub(super) fn put_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.state.lock().unwrap().blobs.insert(digest.to_string(), bytes);
        digest
    }

    /// Serves `bytes` under a digest that is not theirs.
    pub(super) fn put_lie(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        self.state
            .lock()
            .unwrap()
            .blobs
            .insert(digest.to_string(), bytes.into());
    }

    pub(super) fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &str) -> Digest {
        let digest = Digest::sha256(bytes.as_bytes());
        let entry = (media_type.to_owned(), Bytes::from(bytes.to_owned()));
        let mut state = self.state.lock().unwrap();
        state
            .manifests
            .insert(format!("{repository}:{tag}"), entry.clone());
        state.manifests.insert(format!("{repository}:{digest}"), entry);
        digest
    }

    /// From now on `rule` sees every request first; `None` is the usual answer.
    pub(super) fn rule(&self, rule: impl FnMut(&Asked) -> Option<Answer> + Send + 'static) {
        self.state.lock().unwrap().rule = Some(Box::new(rule));
    }

    /// All requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(super) fn count(&self, what: impl Fn(&Asked) -> bool) -> usize {
        self.state
            .lock()
            .unwrap()
            .asked
            .iter()
            .filter(|a| what(a))
            .count()
    }

    pub(super) fn forget_asked(&self) {
        self.state.lock().unwrap().asked.clear();
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<Mutex<State>>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let path = head.uri.path_and_query().map_or("", |p| p.as_str()).to_owned();
            let asked = Asked {
                method: head.method,
                path,
                headers: head.headers,
                body,
            };
            Ok::<_, Infallible>(answer(&mut state.lock().unwrap(), asked))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(state: &mut State, asked: Asked) -> Answer {
    state.asked.push(asked.clone());
    if let Some(answer) = state.rule.as_mut().and_then(|rule| rule(&asked)) {
        return answer;
    }
    let path = asked.path.split('?').next().unwrap_or_default();
    let Some(rest) = path.strip_prefix("/v2/") else {
        return status(404);
    };
    if let Some((repository, reference)) = rest.split_once("/manifests/") {
        let Some((media_type, bytes)) = state.manifests.get(&format!("{repository}:{reference}")) else {
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let digest = Digest::sha256(bytes);
        let mut answer = whole(bytes.clone());
        answer
            .headers_mut()
            .insert("content-type", media_type.parse().unwrap());
        answer
            .headers_mut()
            .insert("docker-content-digest", digest.as_str().parse().unwrap());
        return answer;
    }
    let Some((_, digest)) = rest.split_once("/blobs/") else {
        return status(404);
    };
    let Some(bytes) = state.blobs.get(digest) else {
        return error(404, "BLOB_UNKNOWN", "blob unknown");
    };
    match asked
        .header("range")
        .map(|r| r.strip_prefix("bytes=").unwrap().trim_end_matches('-'))
    {
        Some(start) => range(bytes, start.parse().unwrap()),
        None => whole(bytes.clone()),
    }
}

pub(super) fn whole(bytes: impl Into<Bytes>) -> Answer {
    Response::new(
        Full::new(bytes.into())
            .map_err(|e: Infallible| match e {})
            .boxed_unsync(),
    )
}

pub(super) fn status(code: u16) -> Answer {
    let mut answer = whole("");
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

pub(super) fn error(code: u16, name: &str, message: &str) -> Answer {
    let mut answer = whole(format!(
        r#"{{"errors":[{{"code":"{name}","message":"{message}"}}]}}"#
    ));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

pub(super) fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers_mut().append(name, value.parse().unwrap());
    answer
}

fn range(bytes: &Bytes, start: usize) -> Answer {
    let mut answer = whole(bytes.slice(start..));
    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    with(
        answer,
        "content-range",
        &format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
    )
}

/// Announces all of `bytes` from `start` on, sends `length` of them, then breaks the connection.
pub(super) fn torn(bytes: &Bytes, start: usize, length: usize) -> Answer {
    use futures_util::stream::{self, StreamExt as _};
    let part = Ok(Frame::data(bytes.slice(start..(start + length).min(bytes.len()))));
    // Not at once: the server would drop what it has not sent yet.
    let tear = stream::once(async {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        Err(std::io::Error::other("torn on purpose"))
    });
    unfinished(bytes, start, stream::iter([part]).chain(tear))
}

/// Announces all of `bytes` from `start` on, sends `length` of them, then nothing.
pub(super) fn stuck(bytes: &Bytes, start: usize, length: usize) -> Answer {
    use futures_util::stream::{self, StreamExt as _};
    let part = Ok(Frame::data(bytes.slice(start..start + length)));
    unfinished(bytes, start, stream::iter([part]).chain(stream::pending()))
}

fn unfinished(
    bytes: &Bytes,
    start: usize,
    frames: impl futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static,
) -> Answer {
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    answer
        .headers_mut()
        .insert("content-length", (bytes.len() - start).into());
    if start > 0 {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        answer
            .headers_mut()
            .insert("content-range", range.parse().unwrap());
    }
    answer
}

/// Sends `bytes` without saying how many there are.
pub(super) fn unannounced(bytes: &Bytes) -> Answer {
    let frames = futures_util::stream::iter([Ok(Frame::data(bytes.clone()))]);
    Response::new(StreamBody::new(frames).boxed_unsync())
}
