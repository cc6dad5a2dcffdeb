//! Pulls on a node whose administrator wants images verified.

use std::os::unix::fs::PermissionsExt as _;

use http::Method;

use super::fake::Fake;
use super::sample::{Layer, Sample};
use super::*;
use crate::types::Kind;

/// A verifier that allows what the file `allowed` holds the digest of.
fn install(dir: &Path) -> PathBuf {
    let bin = dir.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("by-digest");
    let text = format!(
        "#!/bin/sh\ncat > /dev/null\ngrep -q \"$4\" {} || {{ echo \"$2 is not signed\"; exit 1; }}\n",
        dir.join("allowed").display()
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

#[tokio::test]
async fn nothing_is_fetched_before_it_is_allowed() {
    let (registry, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let sample = Sample::new(&[Layer::gzip(&[("a", b"1")])]);
    let digest = sample.push(&registry, "app", "v1");
    let bin = install(dir.path());
    let node = Node::with(|c| c.verifier_dir = bin);
    let reference = format!("{}/app:v1", registry.address);

    std::fs::write(dir.path().join("allowed"), "").unwrap();
    let error = node.refusal(&reference).await;
    assert_eq!(error.kind(), Kind::Unknown);
    assert!(
        error
            .message()
            .starts_with(&format!("SignatureValidationFailed: {reference} ({digest}): "))
            && error.message().contains(&format!("{reference} is not signed")),
        "{error}"
    );
    assert_eq!(registry.count(|a| a.path.contains("/blobs/")), 0);

    std::fs::write(dir.path().join("allowed"), digest.as_str()).unwrap();
    node.pull(&reference).await.unwrap();

    // An image that is here is verified at the next pull all the same: the policy may have changed.
    std::fs::write(dir.path().join("allowed"), "").unwrap();
    registry.forget_asked();
    let error = node.pull(&reference).await.unwrap_err();
    assert!(
        error.message().starts_with("SignatureValidationFailed: "),
        "{error}"
    );
    assert_eq!(
        registry.count(|a| a.method == Method::GET && a.path.contains("/blobs/")),
        0
    );
    assert_eq!(node.store.list().len(), 1, "what is here stays");
}
