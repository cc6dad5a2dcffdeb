//! Who may end a forwarded connection, and what the client still gets then.
#![allow(clippy::unwrap_used)]

use futures_util::StreamExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::stream::activity::Activity;
use crate::stream::queue::Queue;
use crate::stream::socket::{Socket, Tcp, Wire};
use crate::stream::websocket::Codec;

/// Ends a test that would wait for ever.
const PATIENCE: Duration = Duration::from_secs(20);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

/// A client whose input is `queue`. All that it was sent comes back with the outcome.
async fn forward(queue: Arc<Queue>, pod: TcpStream) -> (Result<()>, String) {
    let (client, server) = pair().await;
    let codec = Codec {
        base64: false,
        closes: false,
    };
    let socket = Socket::new(Wire::Plain(Tcp::new(server)), Bytes::new());
    let channels = Channels::start(socket, codec, &[], Activity::start()).await;
    let client: JoinHandle<String> = tokio::spawn(async move {
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let mut text = String::new();
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Binary(data) => text += std::str::from_utf8(&data[1..]).unwrap(),
                _ => break,
            }
        }
        let _ = client.close(None).await;
        text
    });
    let (input, output) = (Input::Channel(queue), Output::Channel(channels.output(0)));
    let outcome = tokio::time::timeout(PATIENCE, exchange(&input, &output, pod)).await;
    channels.close().await;
    (outcome.expect("it does not end"), client.await.unwrap())
}

/// A pod that says `answer` and goes away with something unread, which resets the connection.
async fn rude_pod(answer: &str) -> TcpStream {
    let (mut ours, mut pod) = pair().await;
    ours.write_all(b"unread").await.unwrap();
    pod.readable().await.unwrap();
    pod.write_all(answer.as_bytes()).await.unwrap();
    drop(pod);
    ours
}

#[tokio::test]
async fn a_pod_that_closes_first_ends_it_although_the_client_is_silent() {
    let (ours, mut pod) = pair().await;
    pod.write_all(b"bye").await.unwrap();
    drop(pod);
    let (outcome, text) = forward(Arc::default(), ours).await;
    assert_eq!((outcome.unwrap(), text.as_str()), ((), "bye"));
}

#[tokio::test]
async fn a_pod_that_closes_its_end_and_takes_nothing_does_not_hold_the_client() {
    let (ours, mut pod) = pair().await;
    pod.shutdown().await.unwrap();
    let queue = Arc::new(Queue::default());
    // More than a connection takes that nobody reads.
    queue.push(Bytes::from(vec![0; 32 << 20]));
    forward(queue, ours).await.0.unwrap();
    drop(pod);
}

#[tokio::test]
async fn an_answer_is_delivered_although_the_pod_takes_nothing_more() {
    let ours = rude_pod("too large").await;
    let queue = Arc::new(Queue::default());
    queue.push(Bytes::from_static(b"more"));
    let (outcome, text) = forward(queue, ours).await;
    assert_eq!((outcome.unwrap(), text.as_str()), ((), "too large"));
}

#[tokio::test]
async fn a_reset_behind_an_answer_is_an_end() {
    let ours = rude_pod("too large").await;
    let (outcome, text) = forward(Arc::default(), ours).await;
    assert_eq!((outcome.unwrap(), text.as_str()), ((), "too large"));
}

#[tokio::test]
async fn a_pod_that_breaks_the_connection_without_an_answer_is_an_error() {
    for more in [None, Some("more")] {
        let ours = rude_pod("").await;
        let queue = Arc::new(Queue::default());
        if let Some(more) = more {
            queue.push(Bytes::from_static(more.as_bytes()));
        }
        let (outcome, text) = forward(queue, ours).await;
        let error = outcome.unwrap_err();
        assert!(error.message().contains("broke") && text.is_empty(), "{error}");
    }
}

#[tokio::test]
async fn a_client_that_is_done_gets_a_late_answer() {
    let (ours, mut pod) = pair().await;
    let server = tokio::spawn(async move {
        let mut request = String::new();
        pod.read_to_string(&mut request).await.unwrap();
        tokio::time::sleep(GRACE + GRACE / 2).await;
        pod.write_all(format!("got {request}").as_bytes()).await.unwrap();
    });
    let queue = Arc::new(Queue::default());
    queue.push(Bytes::from_static(b"it"));
    queue.end(End::Finished);
    let (outcome, text) = forward(queue, ours).await;
    assert_eq!((outcome.unwrap(), text.as_str()), ((), "got it"));
    server.await.unwrap();
}
