//! The registry over the wire, spoken by hand.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::image::{Compression, LayerSource, build};
use super::*;

struct Received {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

async fn ask(registry: &DemoRegistry, method: &str, path: &str, extra: &str) -> Received {
    let mut stream = TcpStream::connect(registry.addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{extra}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(all[..end].to_vec())
        .unwrap()
        .to_ascii_lowercase();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    Received {
        status,
        headers: headers.to_owned(),
        body: all[end + 4..].to_vec(),
    }
}

async fn registry() -> DemoRegistry {
    let layer = LayerSource {
        tar: vec![0; 1024],
        compression: Compression::None,
    };
    DemoRegistry::start(vec![build("test/image", "v1", &[layer], json!({})).unwrap()])
        .await
        .unwrap()
}

#[tokio::test]
async fn manifests_by_tag_and_by_digest() {
    let registry = registry().await;
    assert_eq!(ask(&registry, "GET", "/v2/", "").await.status, 200);
    let by_tag = ask(&registry, "GET", "/v2/test/image/manifests/v1", "").await;
    let digest = crate::types::Digest::sha256(&by_tag.body);
    assert_eq!(by_tag.status, 200);
    assert!(
        by_tag
            .headers
            .contains(&format!("docker-content-digest: {digest}")),
        "{}",
        by_tag.headers
    );
    assert!(
        by_tag
            .headers
            .contains("content-type: application/vnd.oci.image.manifest.v1+json")
    );
    let by_digest = ask(
        &registry,
        "GET",
        &format!("/v2/test/image/manifests/{digest}"),
        "",
    )
    .await;
    assert_eq!(by_digest.body, by_tag.body);
    let head = ask(&registry, "HEAD", "/v2/test/image/manifests/v1", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(
        head.headers
            .contains(&format!("content-length: {}", by_tag.body.len())),
        "{}",
        head.headers
    );
    let tags = ask(&registry, "GET", "/v2/test/image/tags/list", "").await;
    assert_eq!(tags.body, br#"{"name":"test/image","tags":["v1"]}"#);
    assert_eq!(registry.reference(), format!("{}/test/image:v1", registry.addr));
}

#[tokio::test]
async fn blobs_whole_and_in_parts() {
    let registry = registry().await;
    let manifest = ask(&registry, "GET", "/v2/test/image/manifests/v1", "").await;
    let manifest: Value = serde_json::from_slice(&manifest.body).unwrap();
    let digest = manifest["config"]["digest"].as_str().unwrap();
    let path = format!("/v2/test/image/blobs/{digest}");
    let whole = ask(&registry, "GET", &path, "").await;
    assert_eq!(crate::types::Digest::sha256(&whole.body).as_str(), digest);
    let n = whole.body.len();
    for (range, expected) in [
        ("10-19".to_owned(), 10..20),
        ("10-".to_owned(), 10..n),
        ("-7".to_owned(), n - 7..n),
        (format!("5-{}", n + 100), 5..n),
    ] {
        let part = ask(&registry, "GET", &path, &format!("range: bytes={range}\r\n")).await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.body, whole.body[expected.clone()], "{range}");
        let text = format!("content-range: bytes {}-{}/{n}", expected.start, expected.end - 1);
        assert!(part.headers.contains(&text), "{}", part.headers);
    }
    for range in [
        format!("{n}-"),
        "9-3".into(),
        "x-".into(),
        "-0".into(),
        format!("{n}-{n}"),
    ] {
        let refused = ask(&registry, "GET", &path, &format!("range: bytes={range}\r\n")).await;
        assert_eq!(refused.status, 416, "{range}");
        assert!(refused.headers.contains(&format!("content-range: bytes */{n}")));
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_done() {
    let registry = registry().await;
    for (path, code) in [
        ("/v2/test/image/manifests/v2", "MANIFEST_UNKNOWN"),
        ("/v2/other/manifests/v1", "MANIFEST_UNKNOWN"),
        ("/v2/test/image/blobs/sha256:00", "BLOB_UNKNOWN"),
        ("/v2/other/tags/list", "NAME_UNKNOWN"),
        ("/v2/_catalog", "NAME_UNKNOWN"),
        ("/", "UNSUPPORTED"),
    ] {
        let answer = ask(&registry, "GET", path, "").await;
        assert_eq!(answer.status, 404, "{path}");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{path}");
    }
    assert_eq!(
        ask(&registry, "PUT", "/v2/test/image/manifests/v1", "")
            .await
            .status,
        405
    );
    assert!(DemoRegistry::start(Vec::new()).await.is_err());
}

#[tokio::test]
async fn dropping_it_frees_the_port() {
    let registry = registry().await;
    let addr = registry.addr;
    let mut open = TcpStream::connect(addr).await.unwrap();
    open.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    open.read_exact(&mut answer).await.unwrap();
    drop(registry);
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest).await;
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
