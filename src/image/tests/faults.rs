//! Registries that fail, stall and lie: the right error, and nothing left behind.

use bytes::Bytes;

use super::fake::{self, Fake};
use super::sample::{INDEX, Layer, MANIFEST, Sample, manifest};
use super::*;
use crate::types::{Digest, Kind};

fn sample() -> Sample {
    Sample::new(&[Layer::gzip(&[("a", b"1")]), Layer::large("b", 300_000)])
}

struct Case {
    registry: Fake,
    node: Node,
    sample: Sample,
    reference: String,
}

async fn case() -> Case {
    let (registry, sample) = (Fake::start().await, sample());
    sample.push(&registry, "app", "v1");
    let reference = format!("{}/app:v1", registry.address);
    Case {
        node: Node::with(|c| c.stall_timeout = Duration::from_millis(300)),
        registry,
        sample,
        reference,
    }
}

/// The first `times` requests for the large layer are answered by `answer`, from the byte they start at.
fn spoil(case: &Case, times: usize, answer: impl Fn(&Bytes, usize) -> fake::Answer + Send + 'static) {
    let (layer, mut left) = (case.sample.layers[1].clone(), times);
    case.registry.rule(move |asked| {
        if left == 0 || !asked.is_blob(&layer.digest()) {
            return None;
        }
        left -= 1;
        let start = asked
            .header("range")
            .map_or(0, |r| r[6..r.len() - 1].parse().unwrap());
        Some(answer(&layer.blob, start))
    });
}

#[tokio::test]
async fn what_is_not_there() {
    let case = case().await;
    for name in ["app:v2", "other:v1"] {
        let error = case
            .node
            .refusal(format!("{}/{name}", case.registry.address))
            .await;
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(
            error.message().contains("not found") && error.message().contains("manifest unknown"),
            "{error}"
        );
    }
    let absent = Digest::sha256(b"absent");
    let error = case
        .node
        .refusal(format!("{}/app@{absent}", case.registry.address))
        .await;
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(case.node.refusal("Not/Valid").await.kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn nobody_there() {
    let node = Node::new();
    for (reference, part) in [
        ("127.0.0.1:1/app:v1", "refused"),
        ("no-such-host.invalid/app:v1", "no-such-host.invalid"),
        ("no-such-host.invalid:5000/app:v1", "look up"),
    ] {
        let error = node.refusal(reference).await;
        assert_eq!(error.kind(), Kind::Unknown);
        let registry = reference.split('/').next().unwrap();
        assert!(
            error
                .message()
                .starts_with(&format!("RegistryUnavailable: {registry} ")),
            "{error}"
        );
        assert!(error.message().contains(part), "{error}");
    }
}

#[tokio::test]
async fn errors_that_pass_are_waited_for() {
    for code in [500, 502, 503, 429, 408] {
        let case = case().await;
        let mut left = 2;
        case.registry.rule(move |_| {
            left -= i32::from(left > 0);
            (left > 0).then(|| fake::status(code))
        });
        case.node.pull(&case.reference).await.unwrap();
    }
}

#[tokio::test]
async fn errors_that_stay_are_told() {
    for (code, kind, start) in [
        (500, Kind::Unknown, "RegistryUnavailable: "),
        (503, Kind::Unknown, "RegistryUnavailable: "),
        (429, Kind::ResourceExhausted, "manifest of "),
        (403, Kind::PermissionDenied, "pull access denied for "),
        (418, Kind::FailedPrecondition, "manifest of "),
    ] {
        let case = case().await;
        case.registry
            .rule(move |_| Some(fake::error(code, "CODE", "because of tests")));
        let error = case.node.refusal(&case.reference).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.message().starts_with(start) && error.message().contains("because of tests"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_registry_that_wants_a_long_wait_is_not_waited_for() {
    let case = case().await;
    case.registry
        .rule(|_| Some(fake::with(fake::status(429), "retry-after", "3600")));
    assert_eq!(
        case.node.refusal(&case.reference).await.kind(),
        Kind::ResourceExhausted
    );
    assert_eq!(case.registry.asked().len(), 1);
}

#[tokio::test]
async fn silence_is_an_error_that_says_how_far_it_came() {
    let case = case().await;
    spoil(&case, usize::MAX, |blob, start| fake::stuck(blob, start, 0));
    let error = case.node.refusal(&case.reference).await;
    assert_eq!(error.kind(), Kind::Unknown);
    assert!(error.message().starts_with("RegistryUnavailable: "), "{error}");
    assert!(
        error.message().contains("sent nothing for 0.3 s after 0 of "),
        "{error}"
    );
}

#[tokio::test]
async fn a_stalled_transfer_goes_on_where_it_stopped() {
    let case = case().await;
    spoil(&case, 1, |blob, start| fake::stuck(blob, start, 100_000));
    case.node.pull(&case.reference).await.unwrap();
    let digest = case.sample.layers[1].digest();
    assert_eq!(
        case.registry
            .count(|a| a.is_blob(&digest) && a.header("range") == Some("bytes=100000-")),
        1
    );
}

#[tokio::test]
async fn a_transfer_that_breaks_again_and_again_still_ends() {
    let case = case().await;
    spoil(&case, 12, |blob, start| fake::torn(blob, start, 20_000));
    case.node.pull(&case.reference).await.unwrap();
    let digest = case.sample.layers[1].digest();
    assert!(
        case.registry.count(|a| a.is_blob(&digest)) > 4,
        "more breaks than rounds, each with progress"
    );
}

#[tokio::test]
async fn a_registry_without_ranges_sends_all_again() {
    let case = case().await;
    let (layer, mut first) = (case.sample.layers[1].clone(), true);
    case.registry.rule(move |asked| {
        if !asked.is_blob(&layer.digest()) {
            return None;
        }
        if std::mem::take(&mut first) {
            return Some(fake::torn(&layer.blob, 0, 100_000));
        }
        Some(fake::whole(layer.blob.clone()))
    });
    case.node.pull(&case.reference).await.unwrap();
}

#[tokio::test]
async fn a_range_that_is_not_the_one_asked_for_is_refused() {
    let case = case().await;
    let (layer, mut first) = (case.sample.layers[1].clone(), true);
    case.registry.rule(move |asked| {
        if !asked.is_blob(&layer.digest()) {
            return None;
        }
        if std::mem::take(&mut first) {
            return Some(fake::torn(&layer.blob, 0, 100_000));
        }
        Some(fake::torn(&layer.blob, 5, 100_000))
    });
    let error = case.node.refusal(&case.reference).await;
    assert!(error.message().contains("was asked to go on at byte"), "{error}");
}

#[tokio::test]
async fn lengths_that_contradict_the_manifest() {
    let case = case().await;
    spoil(&case, usize::MAX, |blob, _| fake::whole(blob.slice(..1000)));
    let error = case.node.refusal(&case.reference).await;
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(
        error
            .message()
            .contains("announced 1000 bytes where the manifest promised"),
        "{error}"
    );

    let longer = Bytes::from([&case.sample.layers[1].blob[..], b"more"].concat());
    spoil(&case, usize::MAX, move |_, _| fake::unannounced(&longer));
    let error = case.node.refusal(&case.reference).await;
    assert!(error.message().contains("sent more than the"), "{error}");
}

#[tokio::test]
async fn digests_that_do_not_hold() {
    let case = case().await;
    let name = format!("{}/app", case.registry.address);
    let wrong = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    // A layer.
    let layer = &case.sample.layers[1];
    case.registry.put_lie(&layer.digest(), wrong(&layer.blob));
    let error = case.node.refusal(&case.reference).await;
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.message().contains(layer.digest().as_str()), "{error}");
    case.registry.put_blob(layer.blob.clone());
    // The configuration.
    case.registry
        .put_lie(&case.sample.id(), wrong(case.sample.config.as_bytes()));
    let error = case.node.refusal(&case.reference).await;
    assert!(
        error
            .message()
            .contains("wrong content: the digest of the image configuration"),
        "{error}"
    );
    case.registry.put_blob(case.sample.config.clone());
    // A manifest by digest.
    case.registry.rule(|asked| {
        asked
            .path
            .contains("/manifests/sha256")
            .then(|| fake::whole("{}"))
    });
    let error = case
        .node
        .refusal(format!("{name}@{}", case.sample.manifest_digest()))
        .await;
    assert!(
        error
            .message()
            .contains("wrong content: the digest of the manifest"),
        "{error}"
    );
    // A manifest by tag, under a header that names another.
    case.registry.rule(|asked| {
        let lie = Digest::sha256(b"lie");
        let answer = fake::with(fake::whole("{}"), "docker-content-digest", lie.as_str());
        asked.path.contains("/manifests/v1").then_some(answer)
    });
    let error = case.node.refusal(&case.reference).await;
    assert!(
        error
            .message()
            .contains("wrong content: the digest of the manifest"),
        "{error}"
    );
}

#[tokio::test]
async fn a_layer_that_is_not_the_one_of_the_configuration() {
    let (registry, node) = (Fake::start().await, Node::new());
    let (promised, sent) = (Layer::gzip(&[("a", b"1")]), Layer::gzip(&[("a", b"2")]));
    let sample = Sample::new(&[promised]);
    registry.put_blob(sample.config.clone());
    registry.put_blob(sent.blob.clone());
    registry.put_manifest("app", "v1", MANIFEST, &manifest(&sample.config, &[sent]));
    let error = node.refusal(format!("{}/app:v1", registry.address)).await;
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.message().contains("diff id"), "{error}");
}

#[tokio::test]
async fn manifests_that_are_none() {
    let case = case().await;
    let name = format!("{}/app", case.registry.address);
    let sample = &case.sample;
    let nested = |digest: &Digest| format!(r#"{{"manifests":[{{"digest":"{digest}","size":1}}]}}"#);
    let mut index = case
        .registry
        .put_manifest("app", "v1", MANIFEST, &sample.manifest);
    for _ in 0..4 {
        index = case.registry.put_manifest("app", "deep", INDEX, &nested(&index));
    }
    case.registry.put_manifest("app", "text", MANIFEST, "hello");
    case.registry
        .put_manifest("app", "schema1", MANIFEST, r#"{"schemaVersion":1,"fsLayers":[]}"#);
    case.registry.put_manifest(
        "app",
        "helm",
        MANIFEST,
        &sample.manifest.replace("oci.image.config", "cncf.helm.config"),
    );
    case.registry.put_manifest(
        "app",
        "uneven",
        MANIFEST,
        &manifest(&sample.config, &sample.layers[..1]),
    );
    case.registry
        .put_manifest("app", "odd", MANIFEST, &manifest("{\"rootfs\":7}", &[]));
    case.registry.put_blob("{\"rootfs\":7}");
    for (tag, part) in [
        ("deep", "leads to an index"),
        ("text", "not valid"),
        ("schema1", "schema 1"),
        ("helm", "not a container image"),
        ("uneven", "the manifest has 1 layers, the configuration 2"),
        ("odd", "the image configuration is not valid"),
    ] {
        let error = case.node.refusal(format!("{name}:{tag}")).await;
        assert_eq!(error.kind(), Kind::FailedPrecondition, "{tag}: {error}");
        assert!(error.message().contains(part), "{tag}: {error}");
    }
}

#[tokio::test]
async fn sizes_are_bounded() {
    let case = case().await;
    case.registry.rule(|_| Some(fake::whole(vec![b' '; 9 << 20])));
    let error = case.node.refusal(&case.reference).await;
    assert!(error.message().contains("bytes allowed for this"), "{error}");
    let huge = case.sample.manifest.replacen(
        &format!("\"size\":{}", case.sample.config.len()),
        &format!("\"size\":{}", 1u64 << 40),
        1,
    );
    case.registry.rule(|_| None);
    case.registry.put_manifest("app", "v1", MANIFEST, &huge);
    let error = case.node.refusal(&case.reference).await;
    assert!(error.message().contains("at most"), "{error}");
    let layer = format!("\"size\":{}", case.sample.layers[1].blob.len());
    let huge = case
        .sample
        .manifest
        .replacen(&layer, &format!("\"size\":{}", u64::MAX), 1);
    case.registry.put_manifest("app", "v1", MANIFEST, &huge);
    let error = case.node.refusal(&case.reference).await;
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    assert!(error.message().contains("free"), "{error}");
}

#[tokio::test]
async fn a_bad_layer_takes_the_others_with_it_but_not_for_good() {
    let case = case().await;
    case.registry
        .put_lie(&case.sample.layers[0].digest(), "not gzip, not the right bytes");
    case.node.refusal(&case.reference).await;
    case.registry.put_blob(case.sample.layers[0].blob.clone());
    case.node.pull(&case.reference).await.unwrap();
}
