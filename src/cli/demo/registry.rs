//! A registry in a corner of this process: the read half of the OCI distribution protocol over plain HTTP on loopback,
//! for images that are in memory. The demo pulls from it, and so do tests.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::image::{Blob, DemoImage};

/// How long to leave a port alone that does not give out connections.
const RETRY: Duration = Duration::from_millis(50);

type Answer = Response<Full<Bytes>>;

/// A running registry. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct DemoRegistry {
    /// Where it listens.
    pub addr: SocketAddr,
    images: Arc<[DemoImage]>,
    task: JoinHandle<()>,
}

impl DemoRegistry {
    /// Serves `images` on a free port of loopback. Needs a tokio runtime.
    ///
    /// # Errors
    /// When there is no image, or no port to be had.
    pub async fn start(images: Vec<DemoImage>) -> Result<Self> {
        ensure!(!images.is_empty(), "a registry needs an image to serve");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("listen on 127.0.0.1")?;
        let addr = listener.local_addr().context("ask for the port")?;
        let images: Arc<[DemoImage]> = images.into();
        let task = tokio::spawn(accept(listener, images.clone()));
        Ok(Self { addr, images, task })
    }

    /// What to pull to get the first image.
    pub fn reference(&self) -> String {
        self.images
            .first()
            .map(|image| format!("{}/{}:{}", self.addr, image.name, image.tag))
            .unwrap_or_default()
    }
}

impl Drop for DemoRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connections live and die with this task.
async fn accept(listener: TcpListener, images: Arc<[DemoImage]>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // For want of file descriptors, most likely. Some may come free.
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let images = images.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&images, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that hangs up half-way is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(images: &[DemoImage], request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "this registry only serves",
        );
    }
    let Some(path) = request.uri().path().strip_prefix("/v2/") else {
        return refusal(
            StatusCode::NOT_FOUND,
            "UNSUPPORTED",
            "not a path of the distribution protocol",
        );
    };
    if path.is_empty() {
        return reply(StatusCode::OK, "application/json", Bytes::from_static(b"{}"));
    }
    if let Some((name, reference)) = path.rsplit_once("/manifests/") {
        return match manifest(images, name, reference) {
            Some(manifest) => with_digest(
                reply(StatusCode::OK, manifest.media_type, manifest.bytes.clone()),
                manifest,
            ),
            None => refusal(
                StatusCode::NOT_FOUND,
                "MANIFEST_UNKNOWN",
                &format!("no manifest {name}:{reference}"),
            ),
        };
    }
    if let Some((name, digest)) = path.rsplit_once("/blobs/") {
        return match blob(images, name, digest) {
            Some(blob) => with_digest(part(blob, request), blob),
            None => refusal(
                StatusCode::NOT_FOUND,
                "BLOB_UNKNOWN",
                &format!("no blob {digest} in {name}"),
            ),
        };
    }
    if let Some(name) = path.strip_suffix("/tags/list") {
        let tags: Vec<_> = images
            .iter()
            .filter(|image| image.name == name)
            .map(|image| &image.tag)
            .collect();
        if !tags.is_empty() {
            let body = json!({"name": name, "tags": tags}).to_string();
            return reply(StatusCode::OK, "application/json", body.into());
        }
    }
    refusal(
        StatusCode::NOT_FOUND,
        "NAME_UNKNOWN",
        "only tags, manifests and blobs of the images served are here",
    )
}

fn manifest<'a>(images: &'a [DemoImage], name: &str, reference: &str) -> Option<&'a Blob> {
    images
        .iter()
        .filter(|image| image.name == name)
        .find_map(|image| {
            let digest = if image.tag == reference {
                image.digest.as_str()
            } else {
                reference
            };
            image
                .manifests
                .iter()
                .find(|manifest| manifest.digest.as_str() == digest)
        })
}

fn blob<'a>(images: &'a [DemoImage], name: &str, digest: &str) -> Option<&'a Blob> {
    let mut blobs = images
        .iter()
        .filter(|image| image.name == name)
        .flat_map(|image| &image.blobs);
    blobs.find(|blob| blob.digest.as_str() == digest)
}

/// All of a blob, or the range that was asked for.
fn part(blob: &Blob, request: &Request<Incoming>) -> Answer {
    let length = blob.bytes.len();
    let asked = request
        .headers()
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let mut answer = match asked.map(|range| bounds(range, length)) {
        None => reply(StatusCode::OK, "application/octet-stream", blob.bytes.clone()),
        Some(None) => {
            let mut answer = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "no such range");
            set(&mut answer, header::CONTENT_RANGE, &format!("bytes */{length}"));
            answer
        }
        Some(Some(range)) => {
            let text = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let mut answer = reply(
                StatusCode::PARTIAL_CONTENT,
                "application/octet-stream",
                blob.bytes.slice(range),
            );
            set(&mut answer, header::CONTENT_RANGE, &text);
            answer
        }
    };
    set(&mut answer, header::ACCEPT_RANGES, "bytes");
    answer
}

/// `first-last`, `first-` or `-count`, within `length` bytes.
fn bounds(range: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = range.split_once('-')?;
    let range = if first.is_empty() {
        length.saturating_sub(last.parse().ok()?)..length
    } else {
        let end = if last.is_empty() {
            length
        } else {
            last.parse::<usize>().ok()?.saturating_add(1).min(length)
        };
        first.parse().ok()?..end
    };
    (!range.is_empty()).then_some(range)
}

fn reply(status: StatusCode, media_type: &str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    set(&mut answer, header::CONTENT_TYPE, media_type);
    set(
        &mut answer,
        header::HeaderName::from_static("docker-distribution-api-version"),
        "registry/2.0",
    );
    answer
}

fn with_digest(mut answer: Answer, blob: &Blob) -> Answer {
    set(
        &mut answer,
        header::HeaderName::from_static("docker-content-digest"),
        blob.digest.as_str(),
    );
    answer
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
    let mut answer = reply(status, "application/json", body.into());
    if status == StatusCode::METHOD_NOT_ALLOWED {
        set(&mut answer, header::ALLOW, "GET, HEAD");
    }
    answer
}

fn set(answer: &mut Answer, name: header::HeaderName, value: &str) {
    // All values here are made of digests, numbers and constants.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests;
