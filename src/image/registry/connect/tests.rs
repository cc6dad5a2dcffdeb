#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn connector(proxies: Matcher) -> Connector {
    Connector::new(
        TlsOptions::default(),
        Arc::default(),
        Duration::from_secs(5),
        Arc::new(proxies),
    )
}

async fn connect(connector: &Connector, url: &str) -> Result<Stream, ConnectError> {
    let mut connector = connector.clone();
    tower_service::Service::call(&mut connector, url.parse().unwrap())
        .await
        .map(TokioIo::into_inner)
}

#[tokio::test]
async fn names_of_this_machine_need_no_dns() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = connector(Matcher::builder().build());
    for host in ["localhost", "LocalHost", "127.0.0.1"] {
        assert!(
            connect(&plain, &format!("http://{host}:{port}/")).await.is_ok(),
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_second_address_is_tried_when_the_first_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let bad = SocketAddr::from(([127, 0, 0, 1], 1));
    assert!(first_to_answer("x", [bad, good].into_iter()).await.is_ok());
    assert!(matches!(
        first_to_answer("x", [bad].into_iter()).await,
        Err(ConnectError::Tcp { .. })
    ));
    assert!(matches!(
        first_to_answer("x", [].into_iter()).await,
        Err(ConnectError::Dns { .. })
    ));
}

/// A proxy that takes one connection, reads the head of the request, answers `answer`, and returns what it read.
async fn proxy(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        tcp.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap()
    });
    (address, task)
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_and_plain_http_does_not() {
    let (address, seen) = proxy("HTTP/1.1 403 no\r\n\r\n").await;
    let through = connector(Matcher::builder().all(format!("http://u:p@{address}")).build());
    let error = connect(&through, "https://r.example/v2/").await.err().unwrap();
    assert!(
        matches!(&error, ConnectError::Proxy { proxy, .. } if *proxy == address),
        "{error}"
    );
    let head = seen.await.unwrap();
    assert!(head.starts_with("CONNECT r.example:443 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase()
            .contains("proxy-authorization: basic dtpw"),
        "{head}"
    );

    let (address, _seen) = proxy("").await;
    let through = connector(Matcher::builder().all(format!("http://{address}")).build());
    let stream = connect(&through, "http://r.example/v2/").await.unwrap();
    assert!(stream.connected().is_proxied());
}

#[tokio::test]
async fn what_needs_no_proxy_is_asked_directly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let matcher = Matcher::builder()
        .all("http://127.0.0.1:1")
        .no("127.0.0.0/8")
        .build();
    let stream = connect(&connector(matcher), &format!("http://127.0.0.1:{port}/"))
        .await
        .unwrap();
    assert!(!stream.connected().is_proxied());
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_given_up() {
    // The tunnel's far end never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = Connector::new(
        TlsOptions::default(),
        Arc::default(),
        Duration::from_millis(50),
        Arc::new(Matcher::builder().all(format!("http://{address}")).build()),
    );
    let error = connect(&silent, "https://r.example/").await.err().unwrap();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
}
