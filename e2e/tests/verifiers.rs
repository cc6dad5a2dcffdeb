//! Image verifiers in containerd's sense: what they refuse is not pulled, and kubelet is told in its words.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use husk_e2e::husk::{shared_busybox, shared_registry};
use husk_e2e::image::{Image, Layer};
use husk_e2e::{CriExt, Options, run_with};
use tonic::Code;

#[tokio::test]
async fn what_a_verifier_refuses_is_not_pulled() -> Result<()> {
    let dir = tempfile::tempdir_in(husk_e2e::base_dir())?;
    let program = dir.path().join("only-base");
    // Refuses by name, and by a descriptor that is not the one named on the command line.
    let script = "#!/bin/sh\ngrep -q \"\\\"digest\\\":\\\"$4\\\"\" || { echo 'another descriptor'; exit 2; }\n\
                  case $2 in */base/*) echo fine;; *) echo \"$2 is not from base\"; exit 1;; esac\n";
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let toml = format!("[image]\nverifier_dir = {:?}\n", dir.path().display().to_string());
    let busybox = shared_busybox()?;
    let other = Image::new().layer(Layer::new().file("x", "x", 0o644)).build()?;
    let other = shared_registry()?.push("foreign/image", "1", &other)?;
    run_with(Options::new().toml(&toml), async |husk| {
        let status = husk.cri.pull(&other).await.refused_with(Code::Unknown)?;
        ensure!(
            status
                .message()
                .starts_with(&format!("SignatureValidationFailed: {other} (sha256:"))
                && status.message().contains("verifier only-base refuses it")
                && status.message().contains(&format!("{other} is not from base")),
            "{status:?}"
        );
        ensure!(husk.cri.list_images().await?.is_empty());
        husk.cri.pull(&busybox).await.context("what is allowed")?;
        Ok(())
    })
    .await
}
