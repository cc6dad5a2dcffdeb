//! What a pull asks of a registry: manifests, small blobs, layers. Every answer is checked against its digest before it
//! is returned; the only exception is a layer on its way into the unpacker, which checks it there.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response};
use hyper::body::Incoming;
use sha2::Digest as _;

use super::endpoint::{Call, Endpoint};
use super::failure::Failure;
use super::session::Session;
use super::tries::Need;
use crate::image::manifest::{self, Descriptor};
use crate::types::{Digest, Result};

/// Largest manifest or index in bytes.
const MAX_MANIFEST: usize = 8 << 20;
/// Says which digest a tag stands for.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A manifest or index as the registry sent it, checked.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub bytes: Bytes,
    pub media_type: Option<String>,
    pub digest: Digest,
}

impl Session {
    /// Which digest `target`, a tag or a digest, stands for now. `None` when no host says so in a form that can be relied
    /// on: then the manifest itself must be fetched.
    ///
    /// # Errors
    /// None of its own: a registry that cannot answer this is asked for the manifest next, which gives the better error.
    pub(crate) async fn head(&self, target: &str) -> Option<Digest> {
        let endpoint = self.endpoints(need(target)).into_iter().next()?;
        let call = self.call(Method::HEAD, format!("manifests/{target}"), true);
        let response = endpoint.call(&call).await.ok()?;
        response
            .headers()
            .get(CONTENT_DIGEST)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// The manifest or index that `target`, a tag or a digest, stands for.
    ///
    /// # Errors
    /// As every host that may be asked failed; see [`super::failure::conclude`].
    pub(crate) async fn manifest(&self, target: &str) -> Result<Content> {
        let mut tries = self.tries(need(target));
        while let Some(endpoint) = tries.next().await {
            match self.manifest_from(&endpoint, target).await {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => tries.failed(&endpoint, failure),
            }
        }
        Err(tries.conclude(&self.reference, "manifest"))
    }

    async fn manifest_from(&self, endpoint: &Endpoint, target: &str) -> Result<Content, Failure> {
        let call = self.call(Method::GET, format!("manifests/{target}"), false);
        let response = endpoint.call(&call).await?;
        let header = |name: &HeaderName| response.headers().get(name).and_then(|v| v.to_str().ok());
        let media_type = header(&CONTENT_TYPE).map(|t| t.split(';').next().unwrap_or(t).trim().to_owned());
        let promised: Option<Digest> = match target.parse() {
            Ok(digest) => Some(digest),
            Err(_) => header(&CONTENT_DIGEST).and_then(|d| d.parse().ok()),
        };
        let bytes = endpoint
            .transport
            .whole(response.into_body(), MAX_MANIFEST)
            .await?;
        let digest = match promised {
            Some(promised) => verify("manifest", &bytes, &promised)?,
            None => Digest::sha256(&bytes),
        };
        Ok(Content {
            bytes,
            media_type,
            digest,
        })
    }

    /// A small blob, whole: the image configuration.
    ///
    /// # Errors
    /// As every host that may be asked failed.
    pub(crate) async fn blob(&self, descriptor: &Descriptor, what: &str) -> Result<Bytes> {
        let mut tries = self.tries(Need::Pull);
        while let Some(endpoint) = tries.next().await {
            match self.blob_from(&endpoint, descriptor, what).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => tries.failed(&endpoint, failure),
            }
        }
        Err(tries.conclude(&self.reference, what))
    }

    async fn blob_from(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        what: &str,
    ) -> Result<Bytes, Failure> {
        let response = self
            .open_blob(endpoint, &descriptor.digest, HeaderMap::new())
            .await?;
        let limit = usize::try_from(descriptor.size).unwrap_or(usize::MAX);
        let bytes = endpoint.transport.whole(response.into_body(), limit).await?;
        if bytes.len() != limit {
            return Err(Failure::Broken(format!(
                "sent {} of {} bytes",
                bytes.len(),
                descriptor.size
            )));
        }
        verify(what, &bytes, &descriptor.digest)?;
        Ok(bytes)
    }

    /// Starts to fetch a blob; `headers` may hold a range.
    pub(super) async fn open_blob(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, Failure> {
        let mut call = self.call(Method::GET, format!("blobs/{digest}"), true);
        call.headers = headers;
        endpoint.call(&call).await
    }

    fn call(&self, method: Method, rest: String, verified: bool) -> Call<'_> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPT));
        Call {
            method,
            repository: self.reference.repository(),
            rest,
            headers,
            verified,
        }
    }

    /// The hosts for a task, the more promising first.
    pub(super) fn endpoints(&self, need: Need) -> Vec<Arc<Endpoint>> {
        let mut able: Vec<_> = self
            .hosts
            .iter()
            .filter(|e| need.is_met_by(&e.host.capabilities))
            .cloned()
            .collect();
        able.sort_by_key(|e| e.is_shunned());
        able
    }
}

fn need(target: &str) -> Need {
    if target.parse::<Digest>().is_ok() {
        Need::Pull
    } else {
        Need::Resolve
    }
}

/// Checks content against the digest it was promised under.
fn verify(what: &str, bytes: &[u8], promised: &Digest) -> Result<Digest, Failure> {
    let actual = match promised.algorithm() {
        "sha512" => crate::types::id::hex(&sha2::Sha512::digest(bytes)),
        _ => crate::types::id::hex(&sha2::Sha256::digest(bytes)),
    };
    if actual == promised.hex() {
        return Ok(promised.clone());
    }
    Err(Failure::Content(format!(
        "sent wrong content: the digest of the {what} is {}:{actual}, but {promised} was promised",
        promised.algorithm()
    )))
}
