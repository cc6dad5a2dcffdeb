//! Verifiers that allow, refuse, misbehave.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::types::Digest;

struct Case {
    dir: tempfile::TempDir,
    verifier: Verifier,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        let verifier = Verifier {
            dir: dir.path().join("bin"),
            limit: Duration::from_secs(60),
        };
        Self { dir, verifier }
    }

    /// Installs a shell script; `$D` is a directory for what it has to tell.
    fn script(&self, name: &str, text: &str) {
        let path = self.verifier.dir.join(name);
        let text = format!("#!/bin/sh\nD={}\n{text}\n", self.dir.path().display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn told(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(file)).unwrap_or_default()
    }

    async fn verify(&self) -> Result<()> {
        let programs = self.verifier.programs().await?;
        let image = ImageRef::parse("registry.example/app:v1").unwrap();
        let content = Content {
            bytes: bytes::Bytes::from_static(b"{}"),
            media_type: Some("application/vnd.oci.image.index.v1+json".into()),
            digest: Digest::sha256(b"{}"),
        };
        self.verifier.verify(&programs, &image, &content).await
    }

    async fn refusal(&self) -> String {
        let error = self.verify().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unknown);
        let start = format!(
            "SignatureValidationFailed: registry.example/app:v1 ({}): verifier ",
            Digest::sha256(b"{}")
        );
        assert!(error.message().starts_with(&start), "{error}");
        error.message()[start.len()..].to_owned()
    }
}

#[tokio::test]
async fn without_verifiers_everything_is_allowed() {
    let case = Case::new();
    assert_eq!(case.verify().await, Ok(()));
    std::fs::remove_dir(&case.verifier.dir).unwrap();
    assert_eq!(case.verify().await, Ok(()));
    let none = Verifier {
        dir: PathBuf::new(),
        limit: Duration::from_secs(1),
    };
    assert_eq!(none.programs().await, Ok(Vec::new()));
    // What is there and cannot be read is another matter.
    std::fs::write(&case.verifier.dir, "").unwrap();
    let error = case.verify().await.unwrap_err();
    assert!(
        error
            .message()
            .starts_with("SignatureValidationFailed: verifiers in "),
        "{error}"
    );
}

#[tokio::test]
async fn a_verifier_is_told_what_the_contract_says() {
    let case = Case::new();
    case.script(
        "check",
        "printf '%s\\n' \"$@\" > $D/args; cat > $D/stdin; pwd > $D/cwd; echo fine",
    );
    case.verify().await.unwrap();
    let digest = Digest::sha256(b"{}");
    assert_eq!(
        case.told("args"),
        format!(
            "-name\nregistry.example/app:v1\n-digest\n{digest}\n-stdin-media-type\n\
             application/vnd.oci.descriptor.v1+json\n"
        )
    );
    let stdin: serde_json::Value = serde_json::from_str(&case.told("stdin")).unwrap();
    assert_eq!(
        stdin,
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": 2,
        })
    );
    assert_eq!(case.told("cwd"), "/\n");
}

#[tokio::test]
async fn all_have_to_allow_it() {
    let case = Case::new();
    case.script("10-yes", "echo 10 >> $D/order");
    case.script(
        "20-no",
        "echo 20 >> $D/order; echo 'not  signed\nby us'; echo noise >&2; exit 3",
    );
    case.script("30-yes", "echo 30 >> $D/order");
    assert_eq!(
        case.refusal().await,
        "20-no refuses it (exit status: 3): not signed by us"
    );
    assert_eq!(case.told("order"), "10\n20\n");
    std::fs::remove_file(case.verifier.dir.join("20-no")).unwrap();
    case.verify().await.unwrap();
    case.script("40-silent", "exit 1");
    assert_eq!(
        case.refusal().await,
        "40-silent refuses it without a reason (exit status: 1)"
    );
}

#[tokio::test]
async fn one_that_cannot_be_asked_allows_nothing() {
    let case = Case::new();
    std::fs::write(case.verifier.dir.join("README"), "not a program").unwrap();
    let text = case.refusal().await;
    assert!(
        text.starts_with("README gave no verdict: it cannot be run: "),
        "{text}"
    );
    std::fs::remove_file(case.verifier.dir.join("README")).unwrap();
    case.script("killed", "kill -9 $$");
    let text = case.refusal().await;
    assert!(text.contains("signal: 9"), "{text}");
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_with_its_children() {
    let mut case = Case::new();
    case.verifier.limit = Duration::from_millis(300);
    case.script("slow", "sleep 1000 & echo $! > $D/child; wait");
    assert_eq!(
        case.refusal().await,
        "slow gave no verdict: it did not end within 0.3 s and was killed"
    );
    let child = case.told("child");
    // Slow machines may not have come that far.
    while !child.is_empty() && Path::new("/proc").join(child.trim()).join("exe").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn floods_are_cut_and_what_is_left_behind_does_not_hold_it_up() {
    let case = Case::new();
    case.script(
        "flood",
        "head -c 3000000 /dev/zero | tr '\\0' 'x'; head -c 3000000 /dev/zero >&2; exit 9",
    );
    let text = case.refusal().await;
    assert!(
        text.starts_with("flood refuses it (exit status: 9): xxx"),
        "{text}"
    );
    assert!(text.ends_with("x…") && text.chars().count() < MAX_REASON + 100);
    std::fs::remove_file(case.verifier.dir.join("flood")).unwrap();
    // The background process has the pipes; the verdict is there.
    case.script("daemon", "sleep 1000 & echo $! > $D/child; echo fine");
    case.verify().await.unwrap();
    let child: i32 = case.told("child").trim().parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn the_descriptor_has_a_media_type_even_if_the_registry_gave_none() {
    for (bytes, expected) in [
        (
            r#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#,
            "application/vnd.docker.distribution.manifest.v2+json",
        ),
        (r#"{"manifests":[]}"#, "application/vnd.oci.image.index.v1+json"),
        (r#"{"layers":[]}"#, "application/vnd.oci.image.manifest.v1+json"),
        ("not json", "application/vnd.oci.image.manifest.v1+json"),
    ] {
        let content = Content {
            bytes: bytes::Bytes::from(bytes),
            media_type: None,
            digest: Digest::sha256(bytes.as_bytes()),
        };
        assert_eq!(descriptor(&content).media_type, expected, "{bytes}");
    }
}
