//! A layer on its way from a registry into the unpacker: a stream that survives broken connections.

use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};

use super::endpoint::Endpoint;
use super::failure::Failure;
use super::session::Session;
use super::tries::Need;
use crate::image::manifest::Descriptor;
use crate::image::pipe::Writer;
use crate::types::Result;

impl Session {
    /// Sends the bytes of a blob into `sink`, from whichever host has them, continuing where a broken transfer stopped.
    /// Ends the stream properly only when all of it was sent.
    ///
    /// # Errors
    /// As every host failed; [`crate::types::Kind::Cancelled`] when the other end of `sink` is gone.
    pub(crate) async fn stream(&self, descriptor: &Descriptor, sink: &mut Writer) -> Result<()> {
        let mut tries = self.tries(Need::Pull);
        while let Some(endpoint) = tries.next().await {
            let before = sink.position();
            match self.stream_from(&endpoint, descriptor, sink).await {
                Ok(()) => {
                    sink.finish().await;
                    return Ok(());
                }
                Err(failure) => {
                    if sink.position() > before {
                        tries.progressed();
                    }
                    tries.failed(&endpoint, located(failure, sink.position(), descriptor.size));
                }
            }
        }
        Err(tries.conclude(&self.reference, &format!("layer {}", descriptor.digest)))
    }

    /// Asks the hosts that `sink`'s content came from last, should they be asked again.
    pub(crate) fn shun_source(&self, source: Option<&str>) -> bool {
        let Some(bad) = self
            .hosts
            .iter()
            .find(|e| Some(e.host.authority.as_str()) == source)
        else {
            return false;
        };
        let first_time = !bad.is_shunned();
        bad.shun();
        first_time && self.endpoints(Need::Pull).iter().any(|e| !e.is_shunned())
    }

    async fn stream_from(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        sink: &mut Writer,
    ) -> Result<(), Failure> {
        let start = sink.position();
        if start == descriptor.size && start > 0 {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        if start > 0 {
            let range = HeaderValue::try_from(format!("bytes={start}-"));
            headers.insert(RANGE, range.map_err(|e| Failure::Content(e.to_string()))?);
        }
        let response = self.open_blob(endpoint, &descriptor.digest, headers).await?;
        // A host that ignores the range sends all of it again: pass over what is there already.
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                check_range(response.headers(), start)?;
                0
            }
            _ => start,
        };
        check_length(&response, descriptor.size - (start - skip))?;
        sink.note_source(&endpoint.host.authority);
        let mut body = response.into_body();
        while let Some(mut chunk) = endpoint.transport.chunk(&mut body).await? {
            let over = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= over as u64;
            bytes::Buf::advance(&mut chunk, over);
            if sink.position() + chunk.len() as u64 > descriptor.size {
                return Err(Failure::Content(format!(
                    "sent more than the {} bytes the manifest promised",
                    descriptor.size
                )));
            }
            if !chunk.is_empty() && !sink.send(chunk).await {
                return Err(Failure::Abandoned);
            }
        }
        match sink.position() == descriptor.size {
            true => Ok(()),
            false => Err(Failure::Broken("ended the transfer early".into())),
        }
    }
}

/// A length that contradicts the manifest shows before the transfer.
fn check_length<B: hyper::body::Body>(response: &http::Response<B>, expected: u64) -> Result<(), Failure> {
    match response.body().size_hint().exact() {
        Some(length) if length != expected => Err(Failure::Content(format!(
            "announced {length} bytes where the manifest promised {expected}"
        ))),
        _ => Ok(()),
    }
}

fn check_range(headers: &HeaderMap, start: u64) -> Result<(), Failure> {
    let range = headers.get(CONTENT_RANGE).and_then(|r| r.to_str().ok());
    let begins = range.and_then(|r| {
        r.strip_prefix("bytes ")?
            .split('-')
            .next()?
            .trim()
            .parse::<u64>()
            .ok()
    });
    match begins {
        Some(begin) if begin == start => Ok(()),
        _ => Err(Failure::Content(format!(
            "was asked to go on at byte {start} and sent {range:?}"
        ))),
    }
}

/// Adds to a broken transfer how far it came.
fn located(failure: Failure, position: u64, size: u64) -> Failure {
    match failure {
        Failure::Broken(reason) => Failure::Broken(format!("{reason} after {position} of {size} bytes")),
        other => other,
    }
}
