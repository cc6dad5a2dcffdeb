//! Who may have what: credentials, challenges, tokens, redirects, TLS.

use http::Method;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::fake::{self, Asked, Fake};
use super::sample::{Layer, Sample};
use super::*;
use crate::types::Kind;

fn sample() -> Sample {
    Sample::new(&[Layer::gzip(&[("a", b"1")]), Layer::gzip(&[("b", b"2")])])
}

fn challenge(text: &str) -> fake::Answer {
    fake::with(
        fake::error(401, "UNAUTHORIZED", "authentication required"),
        "www-authenticate",
        text,
    )
}

/// Lets through only what carries `header`, and asks others for it with `text`.
fn guard(registry: &Fake, header: &'static str, text: String) {
    registry.rule(move |asked| (asked.header("authorization") != Some(header)).then(|| challenge(&text)));
}

/// A token server that gives out `token-1`, `token-2` and so on to whoever it likes.
async fn token_server(likes: impl Fn(&Asked) -> bool + Send + 'static) -> Fake {
    let server = Fake::start().await;
    let mut count = 0;
    server.rule(move |asked| {
        if !likes(asked) {
            return Some(fake::error(401, "DENIED", "who are you"));
        }
        count += 1;
        Some(fake::whole(format!(
            r#"{{"token":"token-{count}","expires_in":60}}"#
        )))
    });
    server
}

fn bearer(tokens: &Fake) -> String {
    format!(
        r#"Bearer realm="http://{}/token?x=1",service="fake",scope="repository:app:pull""#,
        tokens.address
    )
}

#[tokio::test]
async fn an_anonymous_token() {
    let (registry, node) = (Fake::start().await, Node::new());
    let tokens = token_server(|asked| asked.header("authorization").is_none()).await;
    sample().push(&registry, "app", "v1");
    guard(&registry, "Bearer token-1", bearer(&tokens));
    node.pull(format!("{}/app:v1", registry.address)).await.unwrap();
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "one login serves the whole pull");
    assert_eq!(
        asked[0].path,
        "/token?x=1&scope=repository%3Aapp%3Apull&service=fake"
    );
}

#[tokio::test]
async fn a_token_for_a_password() {
    let (registry, node) = (Fake::start().await, Node::new());
    let tokens = token_server(|asked| asked.header("authorization") == Some("Basic dTpw")).await;
    sample().push(&registry, "app", "v1");
    guard(&registry, "Bearer token-1", bearer(&tokens));
    let reference = format!("{}/app:v1", registry.address);
    let error = node.refusal(&reference).await;
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(error.message().starts_with("pull access denied for "), "{error}");
    let error = node.pull_as(&reference, basic("u", "wrong")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(!error.message().contains("wrong"), "{error}");
    node.pull_as(&reference, basic("u", "p")).await.unwrap();
    assert!(registry.count(|a| a.header("authorization").is_some_and(|h| h.starts_with("Basic"))) == 0);
}

#[tokio::test]
async fn a_token_for_an_identity_token() {
    let (registry, node) = (Fake::start().await, Node::new());
    let tokens = token_server(|asked| {
        let body = String::from_utf8_lossy(&asked.body);
        asked.method == Method::POST
            && [
                "grant_type=refresh_token",
                "refresh_token=id%2F1",
                "service=fake",
                "client_id=husk",
            ]
            .iter()
            .all(|part| body.contains(part))
    })
    .await;
    sample().push(&registry, "app", "v1");
    guard(&registry, "Bearer token-1", bearer(&tokens));
    let auth = Auth {
        identity_token: "id/1".into(),
        ..Auth::default()
    };
    node.pull_as(format!("{}/app:v1", registry.address), auth)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is() {
    let (registry, node) = (Fake::start().await, Node::new());
    sample().push(&registry, "app", "v1");
    guard(&registry, "Bearer given", "Basic realm=x".into());
    let reference = format!("{}/app:v1", registry.address);
    let auth = |token: &str| Auth {
        registry_token: token.into(),
        ..Auth::default()
    };
    node.pull_as(&reference, auth("given")).await.unwrap();
    assert_eq!(registry.count(|a| a.header("authorization").is_none()), 0);
    let error = node.pull_as(&reference, auth("other")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
}

#[tokio::test]
async fn a_password_goes_to_the_registry_that_asks() {
    let (registry, node) = (Fake::start().await, Node::new());
    sample().push(&registry, "app", "v1");
    guard(&registry, "Basic dTpw", "Basic realm=\"x\"".into());
    let reference = format!("{}/app:v1", registry.address);
    node.pull_as(&reference, basic("u", "p")).await.unwrap();
    let elsewhere = Auth {
        server_address: "https://other.example".into(),
        ..basic("u", "p")
    };
    assert_eq!(
        node.pull_as(&reference, elsewhere).await.unwrap_err().kind(),
        Kind::PermissionDenied
    );
    let bad = Auth {
        auth: "?".into(),
        ..Auth::default()
    };
    assert_eq!(
        node.pull_as(&reference, bad).await.unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

#[tokio::test]
async fn a_token_that_expires_during_the_pull_is_renewed() {
    let (registry, node) = (Fake::start().await, Node::new());
    let tokens = token_server(|_| true).await;
    let sample = sample();
    sample.push(&registry, "app", "v1");
    let (text, blob) = (bearer(&tokens), sample.layers[1].digest());
    registry.rule(move |asked| {
        let wanted = if asked.is_blob(&blob) {
            "Bearer token-2"
        } else {
            "Bearer token-1"
        };
        let given = asked.header("authorization").unwrap_or_default();
        (given != wanted && given != "Bearer token-2").then(|| challenge(&text))
    });
    node.pull(format!("{}/app:v1", registry.address)).await.unwrap();
    assert_eq!(tokens.asked().len(), 2);
}

#[tokio::test]
async fn a_broken_token_server_is_not_a_refusal() {
    let (registry, node) = (Fake::start().await, Node::new());
    sample().push(&registry, "app", "v1");
    guard(
        &registry,
        "Bearer x",
        "Bearer realm=\"http://127.0.0.1:1/token\"".into(),
    );
    let error = node.refusal(format!("{}/app:v1", registry.address)).await;
    assert_eq!(error.kind(), Kind::Unknown);
    assert!(
        error
            .message()
            .starts_with(&format!("RegistryUnavailable: {} ", registry.address)),
        "{error}"
    );

    let silly = Fake::start().await;
    silly.rule(|_| Some(fake::whole("{}")));
    guard(&registry, "Bearer x", bearer(&silly));
    let error = node.refusal(format!("{}/app:v1", registry.address)).await;
    assert!(error.message().contains("no token"), "{error}");
}

#[tokio::test]
async fn a_redirect_does_not_take_the_password_along() {
    let (registry, storage, node) = (Fake::start().await, Fake::start().await, Node::new());
    let sample = sample();
    sample.push(&registry, "app", "v1");
    sample.push(&storage, "app", "v1");
    let to = storage.address.clone();
    registry.rule(move |asked| {
        if asked.header("authorization") != Some("Basic dTpw") {
            return Some(challenge("Basic realm=x"));
        }
        let path = asked.path.clone();
        path.contains("/blobs/")
            .then(|| fake::with(fake::status(307), "location", &format!("http://{to}{path}")))
    });
    node.configure(
        &registry.address,
        &format!(
            "server = \"http://{}\"\n[header]\nx-secret = \"s\"\n",
            registry.address
        ),
    );
    node.pull_as(format!("{}/app:v1", registry.address), basic("u", "p"))
        .await
        .unwrap();
    let asked = storage.asked();
    assert_eq!(asked.len(), 3);
    for request in asked {
        assert_eq!(
            (request.header("authorization"), request.header("x-secret")),
            (None, None)
        );
    }
    assert_eq!(registry.count(|a| a.header("x-secret") != Some("s")), 0);
}

#[tokio::test]
async fn redirects_without_end_are_given_up() {
    let (registry, node) = (Fake::start().await, Node::new());
    sample().push(&registry, "app", "v1");
    registry.rule(|_| {
        Some(fake::with(
            fake::status(302),
            "location",
            "/v2/app/manifests/again",
        ))
    });
    let error = node.refusal(format!("{}/app:v1", registry.address)).await;
    assert!(error.message().contains("redirected more than"), "{error}");
}

fn tls() -> rustls::ServerConfig {
    let pem = include_bytes!("localhost.pem");
    let chain = vec![CertificateDer::from_pem_slice(pem).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pem).unwrap();
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

#[tokio::test]
async fn a_registry_on_this_machine_may_speak_tls_with_any_certificate() {
    let (registry, node) = (Fake::start_tls(tls()).await, Node::new());
    sample().push(&registry, "app", "v1");
    node.pull(format!("{}/app:v1", registry.address)).await.unwrap();
}

#[tokio::test]
async fn certificates_are_checked_against_configured_authorities() {
    let (registry, node) = (Fake::start_tls(tls()).await, Node::new());
    sample().push(&registry, "app", "v1");
    let port = registry.address.rsplit_once(':').unwrap().1.to_owned();
    let server = format!("server = \"https://localhost:{port}\"\n");

    node.configure("r.example", &server);
    let error = node.refusal("r.example/app:v1").await;
    assert_eq!(error.kind(), Kind::Unknown);
    assert!(
        error.message().starts_with("RegistryUnavailable: r.example "),
        "{error}"
    );
    assert!(error.message().contains("TLS"), "{error}");

    std::fs::write(
        node.dir.path().join("certs.d/r.example/ca.pem"),
        include_bytes!("localhost.pem"),
    )
    .unwrap();
    node.configure("r.example", &format!("{server}ca = \"ca.pem\"\n"));
    node.pull("r.example/app:v1").await.unwrap();

    let node = Node::new();
    node.configure("r.example", &format!("{server}skip_verify = true\n"));
    node.pull("r.example/app:v1").await.unwrap();

    let node = Node::new();
    node.configure("r.example", &format!("{server}ca = \"missing.pem\"\n"));
    let error = node.refusal("r.example/app:v1").await;
    assert!(error.message().contains("missing.pem"), "{error}");
}
