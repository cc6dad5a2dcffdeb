//! A disk that is too small for an image: said before the transfer where it can be known, and nothing left either way.

use anyhow::{Context, Result, ensure};
use husk_e2e::fake::FakeRegistry;
use husk_e2e::image::{Image, Layer};
use husk_e2e::{CriExt, Husk, run};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tonic::Code;

#[tokio::test]
async fn a_pull_that_does_not_fit_says_so_and_leaves_room_for_one_that_does() -> Result<()> {
    run(async |husk| {
        let root = husk.dir().join("root");
        husk.stop().await?;
        mount(
            Some("small"),
            &root,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=16m"),
        )?;
        let outcome = pulls(husk).await;
        let stopped = husk.stop().await;
        umount2(&root, MntFlags::MNT_DETACH)?;
        husk.start_again().await?;
        stopped.and(outcome)
    })
    .await
}

async fn pulls(husk: &mut Husk) -> Result<()> {
    husk.start_again().await?;
    let registry = FakeRegistry::start()?;
    let layer = |name: &str, data: Vec<u8>| Image::new().layer(Layer::new().file(name, data, 0o644)).build();

    // Larger than the disk even when compressed.
    let noise = layer("noise", super::registries::noise(20 << 20))?;
    let digest = noise.layers[0].digest.clone();
    let noise = registry.add("full/noise", "1", &noise);
    let status = husk
        .cri
        .pull(&noise)
        .await
        .refused_with(Code::ResourceExhausted)?;
    ensure!(
        status.message().contains("need more than ") && status.message().contains(" free"),
        "{status:?}"
    );
    let asked = registry.asked();
    ensure!(
        !asked.iter().any(|a| a.path.ends_with(&digest)),
        "it was fetched nevertheless"
    );

    // Small until it is unpacked.
    let zeros = registry.add("full/zeros", "1", &layer("zeros", vec![0; 64 << 20])?);
    let status = husk
        .cri
        .pull(&zeros)
        .await
        .refused_with(Code::ResourceExhausted)?;
    ensure!(status.message().contains("No space left"), "{status:?}");

    ensure!(husk.cri.list_images().await?.is_empty());
    let small = registry.add("full/small", "1", &layer("small", b"fits".to_vec())?);
    husk.cri.pull(&small).await.context("an image that fits")?;
    husk.cri.remove_image(&small).await?;
    Ok(())
}
