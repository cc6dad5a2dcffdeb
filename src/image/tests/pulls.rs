//! What a pull leads to when all goes well: identity, names, files.

use super::fake::Fake;
use super::sample::{INDEX, Layer, Sample, descriptor};
use super::*;
use crate::image::{LayerState, Progress, platform};

fn two_layers() -> Sample {
    Sample::new(&[
        Layer::gzip(&[("etc/name", b"below"), ("etc/only", b"x")]),
        Layer::gzip(&[("etc/name", b"above")]),
    ])
}

#[tokio::test]
async fn an_image_by_tag() {
    let (registry, node) = (Fake::start().await, Node::new());
    let sample = two_layers();
    let manifest = sample.push(&registry, "team/app", "v1");
    let name = format!("{}/team/app", registry.address);
    let image = node.pull(format!("{name}:v1")).await.unwrap();

    assert_eq!(image.id, sample.id());
    assert_eq!(image.repo_tags, [format!("{name}:v1")]);
    assert_eq!(image.repo_digests, [format!("{name}@{manifest}")]);
    assert_eq!(image.user(), (Some(1000), String::new()));
    assert_eq!(image.config.cmd, ["/run"]);
    assert_eq!(&*image.raw_config, sample.config);
    assert_eq!(
        image.diff_ids,
        sample.layers.iter().map(Layer::diff_id).collect::<Vec<_>>()
    );
    assert!(image.size > 0 && !image.pinned);
    assert_eq!(node.store.list(), [Arc::clone(&image)]);

    let id = image.id.as_str();
    for text in [
        id,
        image.id.hex(),
        &image.id.hex()[..12],
        &format!("sha256:{}", &image.id.hex()[..4]),
        &format!("{name}:v1"),
        &format!("{name}@{manifest}"),
        &format!("{name}:whatever@{manifest}"),
    ] {
        assert_eq!(node.store.resolve(text).as_ref(), Some(&image), "{text}");
    }
    for text in [
        "",
        "sha256:",
        &image.id.hex()[..3],
        &name,
        manifest.as_str(),
        "no such",
        "UPPER",
    ] {
        assert_eq!(node.store.resolve(text), None, "{text}");
    }

    let rootfs = node.store.lease(&image.id, "c1").unwrap();
    assert_eq!(rootfs.layers.len(), 2);
    assert_eq!(
        std::fs::read(rootfs.layers[0].join("etc/name")).unwrap(),
        b"above"
    );
    assert_eq!(std::fs::read(rootfs.layers[1].join("etc/only")).unwrap(), b"x");
    let usage = node.store.fs_usage();
    assert!(usage.used_bytes > 0 && usage.inodes_used > 0 && usage.mountpoint.is_dir());
}

#[tokio::test]
async fn every_compression_and_no_layers_at_all() {
    let (registry, node) = (Fake::start().await, Node::new());
    let sample = Sample::new(&[
        Layer::plain(&[("a", b"1")]),
        Layer::gzip(&[("b", b"2")]),
        Layer::zstd(&[("c", b"3")]),
        Layer::plain(&[("a", b"1")]),
    ]);
    sample.push(&registry, "app", "all");
    let image = node.pull(format!("{}/app:all", registry.address)).await.unwrap();
    let rootfs = node.store.lease(&image.id, "c").unwrap();
    assert_eq!(
        rootfs.layers.len(),
        3,
        "a layer that occurs twice is stacked once"
    );
    assert!(rootfs.layers[0].join("a").exists() && rootfs.layers[1].join("c").exists());

    Sample::new(&[]).push(&registry, "app", "none");
    let image = node.pull(format!("{}/app:none", registry.address)).await.unwrap();
    assert!(image.size > 0);
    let rootfs = node.store.lease(&image.id, "d").unwrap();
    assert_eq!(rootfs.layers.len(), 1);
    assert_eq!(std::fs::read_dir(&rootfs.layers[0]).unwrap().count(), 0);
}

#[tokio::test]
async fn by_digest_there_is_no_tag() {
    let (registry, node) = (Fake::start().await, Node::new());
    let digest = two_layers().push(&registry, "app", "v1");
    let name = format!("{}/app", registry.address);
    let image = node.pull(format!("{name}@{digest}")).await.unwrap();
    assert_eq!(image.repo_tags, Vec::<String>::new());
    assert_eq!(image.repo_digests, [format!("{name}@{digest}")]);
    let image = node.pull(format!("{name}:v1")).await.unwrap();
    assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (1, 1));
}

#[tokio::test]
async fn three_tags_are_one_image() {
    let (registry, node) = (Fake::start().await, Node::new());
    let name = format!("{}/app", registry.address);
    for tag in ["c", "a", "b"] {
        two_layers().push(&registry, "app", tag);
        node.pull(format!("{name}:{tag}")).await.unwrap();
    }
    let images = node.store.list();
    assert_eq!(images.len(), 1);
    assert_eq!(
        images[0].repo_tags,
        ["a", "b", "c"].map(|t| format!("{name}:{t}"))
    );
    assert_eq!(
        registry.count(|a| a.path.contains("/blobs/")),
        3,
        "only the first pull fetched anything"
    );
}

#[tokio::test]
async fn a_moved_tag_leaves_its_old_image() {
    let (registry, node) = (Fake::start().await, Node::new());
    let name = format!("{}/app", registry.address);
    let old = two_layers().push(&registry, "app", "v1");
    let first = node.pull(format!("{name}:v1")).await.unwrap();
    let new = Sample::new(&[Layer::gzip(&[("new", b"")])]).push(&registry, "app", "v1");
    let second = node.pull(format!("{name}:v1")).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(second.repo_digests, [format!("{name}@{new}")]);
    let first = node.store.resolve(first.id.as_str()).unwrap();
    assert_eq!(first.repo_tags, Vec::<String>::new());
    assert_eq!(first.repo_digests, [format!("{name}@{old}")]);
}

#[tokio::test]
async fn the_same_image_from_two_registries_has_one_id() {
    let (here, there, node) = (Fake::start().await, Fake::start().await, Node::new());
    for registry in [&here, &there] {
        two_layers().push(registry, "app", "v1");
        node.pull(format!("{}/app:v1", registry.address)).await.unwrap();
    }
    let images = node.store.list();
    assert_eq!(images.len(), 1);
    assert_eq!((images[0].repo_tags.len(), images[0].repo_digests.len()), (2, 2));
    assert_eq!(
        there.count(|a| a.path.contains("/blobs/")),
        0,
        "nothing had to be fetched again"
    );
    assert!(
        there.count(|a| a.path.contains("/manifests/")) > 0,
        "but the registry was asked"
    );
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_machine() {
    let (registry, node) = (Fake::start().await, Node::new());
    let (ours, other) = (two_layers(), Sample::new(&[Layer::gzip(&[("other", b"")])]));
    let host = platform::host();
    let entry = |sample: &Sample, arch: &str| {
        sample.push(&registry, "app", "unused");
        let platform = format!(r#","platform":{{"os":"linux","architecture":"{arch}"}}"#);
        descriptor(super::sample::MANIFEST, sample.manifest.as_bytes(), &platform)
    };
    let entries = [entry(&other, "mips"), entry(&ours, &host.architecture)].join(",");
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entries}]}}"#);
    let index = registry.put_manifest("app", "multi", INDEX, &index);
    let name = format!("{}/app", registry.address);
    let image = node.pull(format!("{name}:multi")).await.unwrap();
    assert_eq!(image.id, ours.id());
    assert_eq!(
        image.repo_digests,
        [format!("{name}@{index}")],
        "the digest is the one users see"
    );

    let image = node
        .pull(format!("{name}@{}", ours.manifest_digest()))
        .await
        .unwrap();
    assert_eq!(image.id, ours.id());
    assert_eq!(image.repo_digests.len(), 2);

    let only = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry(&other, "mips"));
    registry.put_manifest("app", "foreign", INDEX, &only);
    let error = node.pull(format!("{name}:foreign")).await.unwrap_err();
    assert!(error.message().contains("linux/mips"), "{error}");
}

#[tokio::test]
async fn an_unchanged_tag_costs_one_request() {
    let (registry, node) = (Fake::start().await, Node::new());
    two_layers().push(&registry, "app", "v1");
    let reference = format!("{}/app:v1", registry.address);
    let first = node.pull(&reference).await.unwrap();
    registry.forget_asked();
    assert_eq!(node.pull(&reference).await.unwrap(), first);
    let asked = registry.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].method, http::Method::HEAD);
}

#[tokio::test]
async fn a_hard_link_into_a_lower_layer() {
    let (registry, node) = (Fake::start().await, Node::new());
    let below = Layer::gzip(&[("bin/tool", b"code")]);
    let above = Layer::gzip_of(super::sample::tar_link("bin/alias", "bin/tool"));
    Sample::new(&[below.clone(), above.clone()]).push(&registry, "app", "v1");
    let image = node.pull(format!("{}/app:v1", registry.address)).await.unwrap();
    let rootfs = node.store.lease(&image.id, "c").unwrap();
    let name = |path: &Path| {
        path.parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(name(&rootfs.layers[1]), below.diff_id().hex());
    assert_ne!(
        name(&rootfs.layers[0]),
        above.diff_id().hex(),
        "it fits on this layer only"
    );

    let alone = Sample::new(&[Layer::gzip(&[("x", b"")]), above]);
    alone.push(&registry, "app", "broken");
    let again = node.pull(format!("{}/app:v1", registry.address)).await.unwrap();
    assert_eq!(again, image);
}

#[tokio::test]
async fn a_directory_taken_for_granted_looks_as_it_does_below() {
    use std::os::unix::fs::PermissionsExt as _;
    let (registry, node) = (Fake::start().await, Node::new());
    let bare = Layer::gzip_of(super::sample::tar_bare("data/file", b"x"));
    let below = |mode| Layer::gzip_of(super::sample::tar_dir("data/", mode));
    let images = [
        ("private", Sample::new(&[below(0o700), bare.clone()]), 0o700),
        ("sticky", Sample::new(&[below(0o1777), bare.clone()]), 0o1777),
        ("alone", Sample::new(std::slice::from_ref(&bare)), 0o755),
        (
            "elsewhere",
            Sample::new(&[Layer::gzip(&[("other", b"")]), bare.clone()]),
            0o755,
        ),
    ];
    for (tag, sample, _) in &images {
        sample.push(&registry, "app", tag);
    }
    // At once, so that they share the layer's transfer; and each on its own.
    let pulls = images
        .iter()
        .map(|(tag, ..)| node.pull(format!("{}/app:{tag}", registry.address)));
    let mut pulled = Vec::new();
    for outcome in futures_util::future::join_all(pulls).await {
        pulled.push(outcome.unwrap());
    }
    for (image, (tag, _, mode)) in pulled.iter().zip(&images) {
        let rootfs = node.store.lease(&image.id, tag).unwrap();
        let top = rootfs.layers[0].join("data");
        assert_eq!(
            top.metadata().unwrap().permissions().mode() & 0o7777,
            *mode,
            "{tag}"
        );
        assert_eq!(std::fs::read(top.join("file")).unwrap(), b"x");
    }
    let used = node.dirs("layers").len();
    let fresh = Node::new();
    for (tag, sample, _) in &images {
        let image = fresh
            .pull(format!("{}/app:{tag}", registry.address))
            .await
            .unwrap();
        assert_eq!(image.id, sample.id());
    }
    assert_eq!(fresh.dirs("layers").len(), used);
}

#[tokio::test]
async fn pinned_images_are_marked() {
    let (registry, node) = (
        Fake::start().await,
        Node::with(|c| c.pinned = vec!["*keep/*".into()]),
    );
    two_layers().push(&registry, "keep/app", "v1");
    assert!(
        node.pull(format!("{}/keep/app:v1", registry.address))
            .await
            .unwrap()
            .pinned
    );
}

#[tokio::test]
async fn progress_ends_complete() {
    let (registry, node) = (Fake::start().await, Node::new());
    let sample = two_layers();
    sample.push(&registry, "app", "v1");
    let (sender, receiver) = tokio::sync::watch::channel(Progress::default());
    let reference = format!("{}/app:v1", registry.address);
    node.store.pull(&reference, None, Some(sender)).await.unwrap();
    let progress = receiver.borrow().clone();
    assert_eq!(progress.layers.len(), 2);
    for (layer, sample) in progress.layers.iter().zip(&sample.layers) {
        assert_eq!((layer.state, layer.done), (LayerState::Done, layer.total));
        assert_eq!(
            (&layer.digest, layer.total),
            (&sample.digest(), sample.blob.len() as u64)
        );
    }
}
