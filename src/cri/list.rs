//! Lists on the wire: items that were encoded once are sent as they are, in one message or cut into a stream of several.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prost::Message;
use tonic::Status;

use crate::types::error::Result;

use super::status::status;

/// Objects that are looked at together where their items have to be worked out.
const BATCH: usize = 64;

/// Most bytes of items in one message of a stream, unless a single item is larger. Far below what clients accept, and
/// all that is in memory of a stream at a time.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Stands for the messages of CRI that hold nothing but a list in field 1, such as `ListContainersResponse`. On the wire
/// a list of messages is a list of byte strings.
#[derive(Clone, PartialEq, Message)]
pub struct Items {
    /// The items, each an encoded message.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub encoded: Vec<Bytes>,
}

impl Items {
    /// The items, for clients.
    ///
    /// # Errors
    /// An item is no `T`.
    pub fn decode<T: Message + Default>(self) -> std::result::Result<Vec<T>, prost::DecodeError> {
        self.encoded.into_iter().map(T::decode).collect()
    }
}

/// An item on the wire.
pub fn encode(item: &impl Message) -> Bytes {
    item.encode_to_vec().into()
}

/// How many bytes an item takes on the wire.
pub fn size(item: &impl Message) -> usize {
    item.encoded_len()
}

/// The messages of a stream. Each is made when the client is ready for it: one that stops reading holds the list of what
/// is to come and nothing else, and one that goes away ends the stream by that.
pub type Stream<M> = Pin<Box<dyn tokio_stream::Stream<Item = std::result::Result<M, Status>> + Send>>;

/// A stream of all `items` in messages of bounded size. `bytes` tells the encoded size of an item, `message` makes a
/// message of several. An empty list is a stream without messages.
pub fn stream<T, M: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static,
    bytes: impl Fn(&T) -> usize + Send + 'static,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Stream<M>
where
    T: Send + 'static,
{
    Box::pin(stream::iter(
        chunks(items, bytes).map(move |chunk| Ok(message(chunk))),
    ))
}

/// As [`stream()`], of items that `make` works out for some of `objects` at a time. An error of it is the stream's last word.
pub fn stream_made<O, I, M, F>(
    objects: Vec<O>,
    make: impl Fn(Vec<O>) -> F + Send + 'static,
    message: impl Fn(Vec<I>) -> M + Send + 'static,
) -> Stream<M>
where
    O: Send + 'static,
    I: Message + 'static,
    M: Send + 'static,
    F: Future<Output = Result<Vec<I>>> + Send + 'static,
{
    let made = stream::unfold((objects.into_iter(), make), async |(mut rest, make)| {
        let batch: Vec<O> = rest.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return None;
        }
        let work = make(batch);
        let made = work.await;
        if made.is_err() {
            rest = Vec::new().into_iter();
        }
        Some((made, (rest, make)))
    });
    Box::pin(made.flat_map(move |made| {
        let messages: Vec<_> = match made {
            Ok(items) => chunks(items.into_iter(), size)
                .map(|chunk| Ok(message(chunk)))
                .collect(),
            Err(error) => vec![Err(status(error))],
        };
        stream::iter(messages)
    }))
}

fn chunks<T>(
    mut items: impl Iterator<Item = T>,
    bytes: impl Fn(&T) -> usize,
) -> impl Iterator<Item = Vec<T>> {
    let mut next = None;
    std::iter::from_fn(move || {
        let (mut chunk, mut size) = (Vec::new(), 0);
        while let Some(item) = next.take().or_else(|| items.next()) {
            // The item's key and length come on top; ten bytes are more than they take.
            size += bytes(&item) + 10;
            if size > CHUNK_BYTES && !chunk.is_empty() {
                next = Some(item);
                break;
            }
            chunk.push(item);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::*;
    use crate::cri::proto as p;

    /// What protoc would make of the messages that `Items` stands for.
    #[derive(Clone, PartialEq, Message)]
    struct Typed {
        #[prost(message, repeated, tag = "1")]
        items: Vec<p::Container>,
    }

    #[test]
    fn a_list_of_bytes_reads_as_a_list_of_messages() {
        let one = p::Container {
            id: "one".into(),
            ..Default::default()
        };
        let items = Items {
            encoded: vec![one.encode_to_vec().into(), Bytes::new()],
        };
        let wire = items.encode_to_vec();
        let typed = Typed {
            items: vec![one, p::Container::default()],
        };
        assert_eq!(wire, typed.encode_to_vec());
        assert_eq!(<Typed as Message>::decode(wire.as_slice()).unwrap(), typed);
        let items = <Items as Message>::decode(wire.as_slice()).unwrap();
        assert_eq!(items.decode::<p::Container>().unwrap(), typed.items);
    }

    #[test]
    fn every_item_comes_once_in_order_and_no_chunk_is_large() {
        for sizes in [
            vec![],
            vec![0; 3],
            vec![CHUNK_BYTES / 3; 10],
            vec![1, CHUNK_BYTES * 2, 1, 1],
            vec![700; 20_000],
        ] {
            let items: Vec<(usize, usize)> = sizes.into_iter().enumerate().collect();
            let cut: Vec<_> = chunks(items.clone().into_iter(), |i| i.1).collect();
            assert!(cut.iter().all(|c| !c.is_empty()));
            assert!(
                cut.iter()
                    .all(|c| c.len() == 1 || c.iter().map(|i| i.1).sum::<usize>() <= CHUNK_BYTES)
            );
            assert_eq!(cut.concat(), items);
        }
    }

    #[tokio::test]
    async fn items_that_are_worked_out_come_once_and_in_order() {
        let objects: Vec<u64> = (0..1000).collect();
        let make =
            async |part: Vec<u64>| Ok(part.into_iter().map(|value| p::UInt64Value { value }).collect());
        let messages = stream_made(objects, make, |items: Vec<p::UInt64Value>| items);
        let messages: Vec<_> = messages.collect().await;
        assert!(messages.len() > 10);
        let values = messages.into_iter().flat_map(|m| m.unwrap()).map(|v| v.value);
        assert!(values.eq(0..1000));
        let large = async |part: Vec<usize>| {
            let item = |bytes| p::VersionRequest {
                version: "x".repeat(bytes),
            };
            Ok(part.into_iter().map(item).collect())
        };
        let sizes = vec![10, CHUNK_BYTES, 30, CHUNK_BYTES * 2, 1, 1];
        let messages = stream_made(sizes, large, |items: Vec<p::VersionRequest>| items.len());
        let lengths: Vec<_> = messages.map(|m| m.unwrap()).collect().await;
        assert_eq!(lengths, [1, 1, 1, 1, 2]);
    }

    #[tokio::test]
    async fn an_error_ends_the_stream_and_is_told() {
        let make = async |part: Vec<u64>| match part.contains(&100) {
            true => Err(crate::types::Error::internal("no more")),
            false => Ok(vec![p::UInt64Value { value: 1 }]),
        };
        let messages = stream_made((0..1000).collect(), make, |items: Vec<p::UInt64Value>| items);
        let messages: Vec<_> = messages.collect().await;
        assert_eq!(messages.len(), 2);
        assert!(messages[0].is_ok());
        let told = messages[1].as_ref().unwrap_err();
        assert!(told.message().contains("no more"), "{told}");
    }

    #[test]
    fn nothing_is_made_before_it_is_asked_for() {
        let made = Cell::new(0);
        let items = (0..1000).inspect(|_| made.set(made.get() + 1));
        let mut cut = chunks(items, |_| CHUNK_BYTES / 4);
        assert_eq!(made.get(), 0);
        assert_eq!(cut.next().unwrap().len(), 3);
        assert_eq!(made.get(), 4);
    }
}
