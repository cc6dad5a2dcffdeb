//! The streaming lists: what the unary list would have, a chunk at a time, made as the client takes it.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic_prost::prost::Message;

use crate::types::error::Result;

use super::status::status;

/// Objects looked at for one chunk.
const OBJECTS: usize = 64;
/// Bytes after which a chunk is sent though more objects are at hand. Far below what clients take of one message; a
/// single object may be larger.
const BYTES: usize = 1 << 20;
/// Chunks made ahead of the client.
const AHEAD: usize = 2;

/// A stream of chunks.
pub(super) type Chunks<M> = ReceiverStream<Result<M, Status>>;

/// Streams the items that `make` gives for `objects`, each once, in order. Ends when the client goes away.
pub(super) fn stream<O, I, M, F>(
    objects: Vec<O>,
    make: impl Fn(Vec<O>) -> F + Send + 'static,
    wrap: impl Fn(Vec<I>) -> M + Send + 'static,
) -> Chunks<M>
where
    O: Send + 'static,
    I: Message + 'static,
    M: Send + 'static,
    F: Future<Output = Result<Vec<I>>> + Send,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut objects = objects.into_iter();
        loop {
            let part: Vec<O> = objects.by_ref().take(OBJECTS).collect();
            if part.is_empty() {
                return;
            }
            match make(part).await {
                Ok(items) => {
                    for chunk in split(items) {
                        if sender.send(Ok(wrap(chunk))).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    // If the client has gone there is nobody to tell.
                    let _ = sender.send(Err(status(error))).await;
                    return;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// Splits items into chunks of at most [`BYTES`], or of one item that is larger.
fn split<I: Message>(items: Vec<I>) -> Vec<Vec<I>> {
    let mut chunks: Vec<Vec<I>> = Vec::new();
    let mut room = 0;
    for item in items {
        let size = item.encoded_len();
        match chunks.last_mut() {
            Some(chunk) if size <= room => {
                room -= size;
                chunk.push(item);
            }
            _ => {
                room = BYTES.saturating_sub(size);
                chunks.push(vec![item]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cri::proto::UInt64Value;
    use crate::cri::proto::VersionRequest;
    use tokio_stream::StreamExt;

    fn sized(bytes: usize) -> VersionRequest {
        VersionRequest {
            version: "x".repeat(bytes),
        }
    }

    #[test]
    fn chunks_are_bounded_by_size_and_lose_nothing() {
        let items: Vec<_> = [10, BYTES - 30, 30, BYTES * 2, 1, 1].map(sized).into();
        let lengths: Vec<_> = split(items)
            .iter()
            .map(|chunk| chunk.iter().map(|i| i.version.len()).collect::<Vec<_>>())
            .collect();
        assert_eq!(
            lengths,
            [vec![10, BYTES - 30], vec![30], vec![BYTES * 2], vec![1, 1]]
        );
        assert!(split(Vec::<VersionRequest>::new()).is_empty());
    }

    #[tokio::test]
    async fn every_item_comes_once_and_in_order() {
        let objects: Vec<u64> = (0..1000).collect();
        let make = async |part: Vec<u64>| Ok(part.into_iter().map(|value| UInt64Value { value }).collect());
        let chunks: Vec<_> = stream(objects, make, |items: Vec<UInt64Value>| items)
            .collect()
            .await;
        assert!(chunks.len() > 10);
        let values = chunks.into_iter().flat_map(|c| c.unwrap()).map(|v| v.value);
        assert!(values.eq(0..1000));
    }

    #[tokio::test]
    async fn an_error_ends_the_stream_and_is_told() {
        let make = async |part: Vec<u64>| match part.contains(&100) {
            true => Err(crate::types::Error::internal("no more")),
            false => Ok(vec![UInt64Value { value: 1 }]),
        };
        let chunks: Vec<_> = stream((0..200).collect(), make, |items: Vec<UInt64Value>| items)
            .collect()
            .await;
        assert_eq!(chunks.len(), 2);
        assert!(chunks[0].is_ok() && chunks[1].is_err());
    }
}
