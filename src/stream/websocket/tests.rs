//! Messages there and back; and channels with a client of the library's own making.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tokio::net::{TcpListener, TcpStream};

use super::super::socket::{Tcp, Wire};
use super::*;

const BINARY: Codec = Codec {
    base64: false,
    closes: true,
};
const BASE64_TEXT: Codec = Codec {
    base64: true,
    closes: false,
};

fn bytes_of(message: Message) -> Bytes {
    message.into_data()
}

proptest! {
    #[test]
    fn messages_come_back(channel in 0..255u8, data in prop::collection::vec(any::<u8>(), 0..200), base64: bool) {
        let codec = Codec { base64, closes: false };
        let channel = if base64 { channel % 10 } else { channel };
        let message = codec.write(channel, &data);
        prop_assert_eq!(message.is_text(), base64);
        let found = codec.read(&bytes_of(message)).unwrap();
        prop_assert_eq!(found, Incoming::Data { channel, data: data.into() });
    }

    #[test]
    fn no_message_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..100), base64: bool, closes: bool) {
        let _ = Codec { base64, closes }.read(&bytes.into());
    }
}

#[test]
fn channels_are_closed_by_those_who_may() {
    let close = Bytes::from_static(&[255, 0]);
    assert_eq!(BINARY.read(&close), Ok(Incoming::Close(0)));
    assert_eq!(BINARY.read(&Bytes::from_static(&[255])), Err(MessageError::Close));
    assert_eq!(
        BINARY.read(&Bytes::from_static(&[255, 0, 1])),
        Err(MessageError::Close)
    );
    let older = Codec {
        base64: false,
        closes: false,
    };
    let data = Bytes::from_static(&[0]);
    assert_eq!(older.read(&close), Ok(Incoming::Data { channel: 255, data }));
    assert_eq!(BINARY.read(&Bytes::new()), Ok(Incoming::Nothing));
    assert_eq!(
        BASE64_TEXT.read(&Bytes::from_static(b"0!!!")),
        Err(MessageError::Base64)
    );
    let data = Bytes::from_static(b"foo\n");
    assert_eq!(
        BASE64_TEXT.read(&Bytes::from_static(b"0Zm9vCg==")),
        Ok(Incoming::Data { channel: 0, data })
    );
}

type Client = WebSocketStream<TcpStream>;

async fn connect(codec: Codec, readable: &[bool]) -> (Client, Channels) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    let client = WebSocketStream::from_raw_socket(ours.unwrap(), Role::Client, None).await;
    let socket = Socket::new(Wire::Plain(Tcp::new(theirs.unwrap().0)), Bytes::new());
    let channels = Channels::start(socket, codec, readable, Activity::start()).await;
    (client, channels)
}

async fn next(client: &mut Client) -> Message {
    client.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn channels_carry_data_and_end() {
    let (mut client, channels) = connect(BINARY, &[true, false]).await;
    let input = channels.input(0).unwrap();
    assert!(channels.input(1).is_none() && channels.input(9).is_none());
    for message in [&b"\0in"[..], b"\x01ignored", b"\x09nowhere", b"", b"\xff\x00"] {
        client
            .send(Message::binary(Bytes::copy_from_slice(message)))
            .await
            .unwrap();
    }
    assert_eq!(input.pop().await.unwrap(), "in");
    assert_eq!(input.pop().await, Err(End::Finished));
    let output = channels.output(1);
    output.send(Bytes::new()).await.unwrap();
    output.send(Bytes::from(vec![7; MAX_DATA + 1])).await.unwrap();
    assert_eq!(bytes_of(next(&mut client).await), [1][..]);
    assert_eq!(next(&mut client).await.len(), 1 + MAX_DATA);
    assert_eq!(bytes_of(next(&mut client).await), [1, 7][..]);
    client.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(next(&mut client).await, Message::Pong("are you there".into()));
    let (message, ()) = tokio::join!(next(&mut client), channels.close());
    assert!(matches!(message, Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
    // The library's client answers when it reads on, and waits for us to hang up.
    let (end, ()) = tokio::join!(client.next(), async {
        channels.watch().wait_for(|closed| *closed).await.unwrap();
        drop(channels);
    });
    assert!(end.is_none());
}

#[tokio::test]
async fn a_client_that_is_gone_or_breaks_the_rules_loses_its_channels() {
    let (client, channels) = connect(BINARY, &[true]).await;
    drop(client);
    assert_eq!(channels.input(0).unwrap().pop().await, Err(End::Lost));
    for bad in [
        Message::binary(Bytes::from_static(&[255, 0, 0])),
        Message::binary(vec![0; MAX_MESSAGE + 1]),
    ] {
        let (mut client, channels) = connect(BINARY, &[true]).await;
        // The connection may break while the client still sends.
        let _ = client.send(bad).await;
        assert_eq!(channels.input(0).unwrap().pop().await, Err(End::Lost));
        channels.watch().wait_for(|closed| *closed).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_is_seen_although_nobody_takes_what_it_sent() {
    let (mut client, channels) = connect(BINARY, &[true]).await;
    let chunk = vec![0; 64 * 1024];
    let mut watch = channels.watch();
    // Far more than the queue takes; the rest stays in the socket.
    for _ in 0..8 {
        client.send(Message::binary(chunk.clone())).await.unwrap();
    }
    drop(client);
    watch.wait_for(|closed| *closed).await.unwrap();
}
