//! Several places to ask for one registry's content.

use super::fake::{self, Fake};
use super::sample::{Layer, Sample};
use super::*;
use crate::types::Kind;

fn sample() -> Sample {
    Sample::new(&[Layer::gzip(&[("a", b"1")]), Layer::large("b", 300_000)])
}

fn hosts(mirrors: &[&Fake], origin: &Fake) -> String {
    let mut text = format!("server = \"http://{}\"\n", origin.address);
    for mirror in mirrors {
        text += &format!("[host.\"http://{}\"]\n", mirror.address);
    }
    text
}

#[tokio::test]
async fn the_mirror_is_asked_first_and_told_for_whom() {
    let (mirror, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    sample().push(&mirror, "app", "v1");
    node.configure("r.example", &hosts(&[&mirror], &origin));
    let image = node.pull("r.example/app:v1").await.unwrap();
    assert_eq!(image.repo_tags, ["r.example/app:v1"]);
    assert_eq!(origin.asked().len(), 0);
    assert_eq!(mirror.count(|a| !a.path.ends_with("?ns=r.example")), 0);
}

#[tokio::test]
async fn what_the_mirror_lacks_comes_from_the_registry() {
    let (mirror, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    sample().push(&origin, "app", "v1");
    node.configure("r.example", &hosts(&[&mirror], &origin));
    node.pull("r.example/app:v1").await.unwrap();
    assert!(mirror.count(|a| a.path.contains("/manifests/v1")) > 0);
}

#[tokio::test]
async fn a_dead_mirror_and_a_mirror_with_500s_are_passed_over() {
    let (broken, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    sample().push(&origin, "app", "v1");
    broken.rule(|_| Some(fake::status(500)));
    let text = hosts(&[&broken], &origin) + "[host.\"http://127.0.0.1:1\"]\n";
    node.configure("r.example", &text);
    node.pull("r.example/app:v1").await.unwrap();
}

#[tokio::test]
async fn a_transfer_goes_on_at_another_host_where_it_broke() {
    let (mirror, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    let sample = sample();
    for registry in [&mirror, &origin] {
        sample.push(registry, "app", "v1");
    }
    let layer = sample.layers[1].clone();
    let blob = layer.blob.clone();
    mirror.rule(move |asked| {
        asked
            .is_blob(&layer.digest())
            .then(|| fake::torn(&layer.blob, 0, 100_000))
    });
    node.configure("r.example", &hosts(&[&mirror], &origin));
    node.pull("r.example/app:v1").await.unwrap();
    let asked = origin.asked();
    assert_eq!(asked.len(), 1);
    let start: usize = asked[0]
        .header("range")
        .unwrap()
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap();
    assert!(start > 0 && start <= 100_000 && start < blob.len(), "{start}");
}

#[tokio::test]
async fn wrong_content_in_a_mirror_is_replaced_by_the_registrys() {
    let (mirror, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    let sample = sample();
    for registry in [&mirror, &origin] {
        sample.push(registry, "app", "v1");
    }
    let mut wrong = sample.layers[1].blob.to_vec();
    wrong[200_000] ^= 1;
    mirror.put_lie(&sample.layers[1].digest(), wrong);
    node.configure("r.example", &hosts(&[&mirror], &origin));
    node.pull("r.example/app:v1").await.unwrap();
    assert!(origin.count(|a| a.is_blob(&sample.layers[1].digest())) > 0);
}

#[tokio::test]
async fn tags_are_not_resolved_by_hosts_that_may_not() {
    let (mirror, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    let sample = sample();
    for registry in [&mirror, &origin] {
        sample.push(registry, "app", "v1");
    }
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        origin.address, mirror.address
    );
    node.configure("r.example", &text);
    node.pull("r.example/app:v1").await.unwrap();
    assert_eq!(mirror.count(|a| a.path.contains("/manifests/v1")), 0);
    assert_eq!(origin.count(|a| a.path.contains("/blobs/")), 0);
}

#[tokio::test]
async fn credentials_for_the_registry_are_not_shown_to_its_mirror() {
    let (mirror, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    sample().push(&origin, "app", "v1");
    for registry in [&mirror, &origin] {
        registry.rule(|asked| {
            let authorized = asked.header("authorization") == Some("Basic dTpw");
            (!authorized).then(|| fake::with(fake::status(401), "www-authenticate", "Basic realm=x"))
        });
    }
    node.configure("r.example", &hosts(&[&mirror], &origin));
    node.pull_as("r.example/app:v1", basic("u", "p")).await.unwrap();
    assert_eq!(mirror.count(|a| a.header("authorization").is_some()), 0);
}

#[tokio::test]
async fn the_error_names_all_that_was_tried() {
    let (mirror, origin, node) = (Fake::start().await, Fake::start().await, Node::new());
    origin.rule(|_| Some(fake::error(503, "BUSY", "come back later")));
    node.configure("r.example", &hosts(&[&mirror], &origin));
    let error = node.refusal("r.example/app:v1").await;
    assert_eq!(error.kind(), Kind::Unknown);
    assert!(
        error.message().starts_with("RegistryUnavailable: r.example "),
        "{error}"
    );
    for part in [&mirror.address, &origin.address, "404", "503", "come back later"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn changed_configuration_counts_at_the_next_pull() {
    let (first, second, node) = (Fake::start().await, Fake::start().await, Node::new());
    sample().push(&first, "app", "v1");
    sample().push(&second, "app", "v2");
    node.configure("r.example", &hosts(&[], &first));
    node.pull("r.example/app:v1").await.unwrap();
    node.configure("r.example", &hosts(&[], &second));
    node.pull("r.example/app:v2").await.unwrap();
    node.configure("r.example", "server = 1");
    let error = node.pull("r.example/app:v2").await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.message().contains("hosts.toml"), "{error}");
}
