//! Pulls and layers in flight at the same time, and callers that leave.

use tokio::sync::Notify;

use super::fake::{self, Fake};
use super::sample::{Layer, Sample};
use super::*;

/// Lets the blob of `layer` go no further than its first half, until told; counts nothing else.
fn hold_back(registry: &Fake, layer: &Layer) -> Arc<Notify> {
    let reached = Arc::new(Notify::new());
    let (tell, layer) = (Arc::clone(&reached), layer.clone());
    registry.rule(move |asked| {
        if !asked.is_blob(&layer.digest()) {
            return None;
        }
        tell.notify_one();
        Some(fake::stuck(&layer.blob, 0, layer.blob.len() / 2))
    });
    reached
}

#[tokio::test]
async fn callers_of_one_image_share_one_download() {
    let (registry, node) = (Fake::start().await, Node::new());
    let sample = Sample::new(&[Layer::large("a", 1 << 20), Layer::gzip(&[("b", b"")])]);
    sample.push(&registry, "app", "v1");
    let reference = format!("{}/app:v1", registry.address);
    let pulls: Vec<_> = (0..8).map(|_| node.pull(&reference)).collect();
    for image in futures_util::future::join_all(pulls).await {
        assert_eq!(image.unwrap().id, sample.id());
    }
    for layer in &sample.layers {
        assert_eq!(registry.count(|a| a.is_blob(&layer.digest())), 1);
    }
}

#[tokio::test]
async fn images_share_a_layer_in_flight() {
    let (registry, node) = (Fake::start().await, Node::new());
    let shared = Layer::large("shared", 1 << 20);
    let images: Vec<_> = (0..4)
        .map(|i| Sample::new(&[shared.clone(), Layer::gzip(&[(&format!("own{i}"), b"")])]))
        .collect();
    for (i, image) in images.iter().enumerate() {
        image.push(&registry, "app", &format!("v{i}"));
    }
    let pulls = (0..4).map(|i| node.pull(format!("{}/app:v{i}", registry.address)));
    for image in futures_util::future::join_all(pulls).await {
        image.unwrap();
    }
    assert_eq!(node.store.list().len(), 4);
    assert_eq!(registry.count(|a| a.is_blob(&shared.digest())), 1);
}

#[tokio::test]
async fn one_caller_that_leaves_does_not_stop_the_others() {
    let stall = Duration::from_millis(300);
    let (registry, node) = (Fake::start().await, Node::with(|c| c.stall_timeout = stall));
    let sample = Sample::new(&[Layer::large("a", 1 << 20)]);
    sample.push(&registry, "app", "v1");
    let reached = hold_back(&registry, &sample.layers[0]);
    let reference = format!("{}/app:v1", registry.address);
    let (store, name) = (Arc::clone(&node.store), reference.clone());
    let leaver = tokio::spawn(async move { store.pull(&name, None, None).await });
    reached.notified().await;
    let (store, name) = (Arc::clone(&node.store), reference.clone());
    let stayer = tokio::spawn(async move { store.pull(&name, None, None).await });
    tokio::task::yield_now().await;
    leaver.abort();
    assert!(leaver.await.unwrap_err().is_cancelled());
    registry.rule(|_| None);
    assert_eq!(stayer.await.unwrap().unwrap().id, sample.id());
    let asked = registry.asked();
    let transfers: Vec<_> = asked
        .iter()
        .filter(|a| a.is_blob(&sample.layers[0].digest()))
        .collect();
    assert_eq!(transfers.len(), 2);
    assert!(
        transfers[1].header("range").is_some(),
        "the transfer went on, it was not begun again"
    );
}

#[tokio::test]
async fn when_all_leave_the_pull_stops_and_finished_layers_stay() {
    let (registry, node) = (Fake::start().await, Node::new());
    let (done, stuck) = (Layer::gzip(&[("done", b"1")]), Layer::large("stuck", 1 << 20));
    let sample = Sample::new(&[done.clone(), stuck.clone()]);
    sample.push(&registry, "app", "v1");
    let reached = hold_back(&registry, &stuck);
    let reference = format!("{}/app:v1", registry.address);
    let (store, name) = (Arc::clone(&node.store), reference.clone());
    let pull = tokio::spawn(async move { store.pull(&name, None, None).await });
    reached.notified().await;
    while node.dirs("layers").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pull.abort();
    let _ = pull.await;
    while !node.dirs("staging").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.store.list(), []);
    assert_eq!(node.store.resolve(&reference), None);
    node.store.collect();

    registry.rule(|_| None);
    registry.forget_asked();
    assert_eq!(node.pull(&reference).await.unwrap().id, sample.id());
    assert_eq!(
        registry.count(|a| a.is_blob(&done.digest())),
        0,
        "the finished layer was found again"
    );
}

#[tokio::test]
async fn no_more_than_so_many_layers_at_once() {
    let (registry, node) = (Fake::start().await, Node::with(|c| c.max_downloads_total = 2));
    let layers: Vec<_> = (0..6).map(|i| Layer::large(&format!("f{i}"), 100_000)).collect();
    for (i, pair) in layers.chunks(3).enumerate() {
        Sample::new(pair).push(&registry, "app", &format!("v{i}"));
    }
    let blobs: Vec<_> = layers.iter().map(Layer::digest).collect();
    // Every transfer stops halfway: those that were let in are all that is asked for.
    registry.rule(move |asked| {
        let layer = layers.iter().find(|l| asked.is_blob(&l.digest()))?;
        Some(fake::stuck(&layer.blob, 0, 50_000))
    });
    let pulls: Vec<_> = (0..2)
        .map(|i| {
            let (store, name) = (Arc::clone(&node.store), format!("{}/app:v{i}", registry.address));
            tokio::spawn(async move { store.pull(&name, None, None).await })
        })
        .collect();
    let transfers = || registry.count(|a| blobs.iter().any(|b| a.is_blob(b)));
    while transfers() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(transfers(), 2);
    pulls.iter().for_each(tokio::task::JoinHandle::abort);
}
