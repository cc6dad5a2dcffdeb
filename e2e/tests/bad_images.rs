//! Images and registries that lie, attack or do not answer: a clear error, nothing listed, nothing outside touched.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::fake::{Answer, FakeRegistry};
use husk_e2e::husk::shared_registry;
use husk_e2e::image::{self, Blob, Built, Compression, Entry, Image, Kind, Layer, descriptor};
use husk_e2e::registry::free_port;
use husk_e2e::{CriExt, Husk, run};
use serde_json::json;
use tonic::Code;

fn small() -> Result<Built> {
    Image::new()
        .layer(Layer::new().file("file", "content", 0o644))
        .build()
}

async fn assert_nothing_listed(husk: &Husk) -> Result<()> {
    let images = husk.cri.list_images().await?;
    ensure!(images.is_empty(), "listed: {images:?}");
    Ok(())
}

#[tokio::test]
async fn references_that_are_none_are_refused() -> Result<()> {
    run(async |husk| {
        for reference in [
            "",
            " ",
            "name/UPPER",
            "host/a//b",
            "name:",
            "name:tag with space",
            "name@sha256:short",
            "name@sha256:zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
            "../../etc/passwd",
            "127.0.0.1:5000/../../x:1",
            "name:\0",
        ] {
            let status = husk.cri.pull(reference).await.refused_with(Code::InvalidArgument);
            status.with_context(|| format!("{reference:?}"))?;
        }
        husk.cri
            .pull(&"a".repeat(5000))
            .await
            .refused_with(Code::InvalidArgument)?;
        let none = husk_e2e::v1::PullImageRequest::default();
        husk.cri
            .images()
            .pull_image(none)
            .await
            .refused_with(Code::InvalidArgument)?;
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn registries_that_cannot_be_reached_are_told_in_kubelets_words() -> Result<()> {
    run(async |husk| {
        let refused = format!("{}/x/y:1", free_port()?);
        for reference in [refused.as_str(), "no-such-host.invalid/x/y:1"] {
            // kubelet recognises the prefix under this code only.
            let status = husk.cri.pull(reference).await.refused_with(Code::Unknown)?;
            let host = reference.split('/').next().unwrap_or_default();
            ensure!(status.message().starts_with("RegistryUnavailable:"), "{status:?}");
            ensure!(status.message().contains(host), "{host} is not named: {status:?}");
        }
        let broken = FakeRegistry::start_with(|_, _| Some(Answer::status(500)))?;
        let status = husk
            .cri
            .pull(&format!("{}/x/y:1", broken.host()))
            .await
            .refused_with(Code::Unknown)?;
        ensure!(status.message().starts_with("RegistryUnavailable:"), "{status:?}");
        assert_nothing_listed(husk).await
    })
    .await
}

#[tokio::test]
async fn what_a_registry_does_not_have_or_give_is_told() -> Result<()> {
    run(async |husk| {
        let missing = format!("{}/no/such:image", shared_registry()?.host());
        let status = husk.cri.pull(&missing).await.refused_with(Code::NotFound)?;
        ensure!(status.message().contains("no/such"), "{status:?}");
        let forbidden = FakeRegistry::start_with(|_, _| Some(Answer::status(403)))?;
        let status = husk
            .cri
            .pull(&format!("{}/x/y:1", forbidden.host()))
            .await
            .refused()?;
        ensure!(
            !status.message().starts_with("RegistryUnavailable"),
            "the registry is there: {status:?}"
        );
        ensure!(
            status.message().contains("403") || status.message().contains("denied"),
            "{status:?}"
        );
        Ok(())
    })
    .await
}

/// What a registry makes of the bytes it should serve.
type Lie = dyn Fn(&[u8]) -> Vec<u8>;

#[tokio::test]
async fn bytes_that_do_not_match_their_digest_are_refused() -> Result<()> {
    run(async |husk| {
        let fake = FakeRegistry::start()?;
        // Each case has layers of its own: one that was verified once may be used again.
        let good = |mark: &str| Image::new().layer(Layer::new().file("file", mark, 0o644)).build();
        let flip = |data: &[u8]| {
            let mut data = data.to_vec();
            let middle = data.len() / 2;
            data[middle] ^= 1;
            data
        };
        let mut references = Vec::new();
        let lies: [(&str, &Lie); 3] = [
            ("flipped", &flip),
            ("longer", &|data| [data, &[0]].concat()),
            ("shorter", &|data| data[..data.len() - 1].to_vec()),
        ];
        for (name, lie) in lies {
            let image = good(name)?;
            references.push(fake.add("lies/layer", name, &image));
            fake.add_blob("lies/layer", &image.layers[0].digest, &lie(&image.layers[0].data));
            let image = good(&format!("config of {name}"))?;
            references.push(fake.add("lies/config", name, &image));
            fake.add_blob("lies/config", &image.config.digest, &lie(&image.config.data));
            // A manifest asked for by digest.
            let image = good(&format!("manifest of {name}"))?;
            fake.add("lies/manifest", name, &image);
            let wrong = Blob {
                data: lie(&image.manifest.data),
                digest: image.manifest.digest.clone(),
            };
            fake.add_manifest("lies/manifest", name, &wrong, &image.media_type);
            references.push(format!("{}/lies/manifest@{}", fake.host(), image.manifest.digest));
        }
        for reference in references {
            husk.cri
                .pull(&reference)
                .await
                .refused()
                .context(reference.clone())?;
            ensure!(
                husk.cri.image(&reference).await?.is_none(),
                "{reference} is there"
            );
            assert_nothing_listed(husk).await?;
        }
        // The same image from an honest place is not tainted by the lies before.
        let image = good("flipped")?;
        ensure!(husk.cri.pull(&fake.add("honest/image", "1", &image)).await? == image.config.digest);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_layer_that_is_not_the_one_the_configuration_names_is_refused() -> Result<()> {
    run(async |husk| {
        let fake = FakeRegistry::start()?;
        let (mut image, other) = (small()?, image::busybox()?.build()?);
        // The manifest is truthful about the blob; only the uncompressed digest in the configuration differs.
        let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.data)?;
        manifest["layers"][0] = descriptor(&other.layers[0], "application/vnd.oci.image.layer.v1.tar+gzip");
        image.manifest = Blob::new(serde_json::to_vec(&manifest)?);
        image.layers = other.layers;
        let status = husk
            .cri
            .pull(&fake.add("lies/diff-id", "1", &image))
            .await
            .refused()?;
        ensure!(status.message().to_lowercase().contains("diff"), "{status:?}");
        assert_nothing_listed(husk).await
    })
    .await
}

#[tokio::test]
async fn manifests_that_make_no_sense_are_refused() -> Result<()> {
    run(async |husk| {
        let fake = FakeRegistry::start()?;
        let good = small()?;
        let manifest: serde_json::Value = serde_json::from_slice(&good.manifest.data)?;
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut changed = manifest.clone();
            change(&mut changed);
            serde_json::to_vec(&changed)
        };
        let huge = with(&|m| m["layers"] = json!(vec![m["layers"][0].clone(); 20_000]))?;
        let cases: [(&str, Vec<u8>); 11] = [
            ("empty", Vec::new()),
            ("text", b"<html>captive portal</html>".to_vec()),
            ("null", b"null".to_vec()),
            ("deep", [vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
            ("huge", huge),
            ("schema", with(&|m| m["schemaVersion"] = json!(1))?),
            (
                "digest",
                with(&|m| m["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"))?,
            ),
            (
                "algorithm",
                with(&|m| m["config"]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e"))?,
            ),
            ("size", with(&|m| m["layers"][0]["size"] = json!(-1))?),
            ("wrong-size", with(&|m| m["layers"][0]["size"] = json!(1))?),
            (
                "media-type",
                with(&|m| m["layers"][0]["mediaType"] = json!("application/x-not-a-layer"))?,
            ),
        ];
        for (name, body) in cases {
            fake.add("odd/manifest", name, &good);
            fake.add_manifest("odd/manifest", name, &Blob::new(body), &good.media_type);
            let reference = format!("{}/odd/manifest:{name}", fake.host());
            husk.cri.pull(&reference).await.refused().context(name)?;
            assert_nothing_listed(husk).await.context(name)?;
        }
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused() -> Result<()> {
    run(async |husk| {
        let fake = FakeRegistry::start()?;
        for (name, text) in [
            ("text", "hello"),
            ("no-rootfs", r#"{"os":"linux","architecture":"amd64","config":{}}"#),
            ("too-many", r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000","sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#),
        ] {
            let mut image = small()?;
            image.config = Blob::new(text.into());
            let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.data)?;
            manifest["config"] = descriptor(&image.config, "application/vnd.oci.image.config.v1+json");
            image.manifest = Blob::new(serde_json::to_vec(&manifest)?);
            husk.cri.pull(&fake.add("odd/config", name, &image)).await.refused().context(name)?;
            assert_nothing_listed(husk).await.context(name)?;
        }
        Ok(())
    })
    .await
}

/// A place outside every root file system, and what it must still look like afterwards.
struct Victim(std::path::PathBuf);

impl Victim {
    fn new(husk: &Husk) -> Result<Self> {
        let dir = husk.share("victim")?;
        std::fs::write(dir.join("precious"), "precious")?;
        Ok(Self(dir))
    }

    /// Without the leading slash.
    fn path(&self) -> String {
        self.0.display().to_string().trim_start_matches('/').to_owned()
    }

    fn assert_untouched(&self) -> Result<()> {
        let names: Vec<_> = std::fs::read_dir(&self.0)?
            .flatten()
            .map(|e| e.file_name())
            .collect();
        ensure!(names == ["precious"], "{names:?}");
        let file = self.0.join("precious");
        let meta = file.symlink_metadata()?;
        ensure!(
            std::fs::read_to_string(&file)? == "precious",
            "the file was written to"
        );
        ensure!(
            meta.is_file() && std::os::unix::fs::MetadataExt::nlink(&meta) == 1,
            "the file was linked"
        );
        ensure!(
            std::os::unix::fs::MetadataExt::mode(&meta) & 0o7777 == 0o644,
            "the file's mode was changed"
        );
        Ok(())
    }
}

#[tokio::test]
async fn archives_that_try_to_escape_do_not() -> Result<()> {
    run(async |husk| {
        let victim = Victim::new(husk)?;
        let path = victim.path();
        let up = "../".repeat(40);
        let file = |name: &str| {
            Entry::new(name, Kind::File(b"owned".into()))
                .mode(0o777)
                .owner(1, 1)
        };
        let attacks: Vec<(&str, Layer)> = vec![
            ("dotdot", Layer::new().entry(file(&format!("{up}{path}/owned")))),
            (
                "inner-dotdot",
                Layer::new().dir("a").entry(file(&format!("a/{up}{path}/owned"))),
            ),
            ("absolute", Layer::new().entry(file(&format!("/{path}/owned")))),
            (
                "link-dir",
                Layer::new()
                    .symlink("d", &format!("/{path}"))
                    .entry(file("d/owned")),
            ),
            (
                "link-up",
                Layer::new()
                    .symlink("d", &up)
                    .entry(file(&format!("d/{path}/owned"))),
            ),
            (
                "link-file",
                Layer::new()
                    .symlink("f", &format!("/{path}/precious"))
                    .entry(file("f")),
            ),
            (
                "hardlink",
                Layer::new()
                    .hardlink("h", &format!("{up}{path}/precious"))
                    .entry(file("h")),
            ),
            (
                "hardlink-abs",
                Layer::new()
                    .hardlink("h", &format!("/{path}/precious"))
                    .entry(file("h")),
            ),
            (
                "hardlink-via-link",
                Layer::new()
                    .symlink("d", &format!("/{path}"))
                    .hardlink("h", "d/precious")
                    .entry(file("h")),
            ),
            (
                "whiteout",
                Layer::new()
                    .symlink("d", &format!("/{path}"))
                    .entry(file("d/.wh.precious")),
            ),
            (
                "whiteout-dotdot",
                Layer::new().entry(file(&format!("{up}{path}/.wh.precious"))),
            ),
            ("whiteout-dot", Layer::new().dir("d").entry(file("d/.wh.."))),
            ("whiteout-parent", Layer::new().dir("d").entry(file("d/.wh..."))),
            (
                "opaque",
                Layer::new()
                    .symlink("d", &format!("/{path}"))
                    .entry(file("d/.wh..wh..opq")),
            ),
            (
                "chmod",
                Layer::new()
                    .symlink("d", &format!("/{path}"))
                    .entry(Entry::new("d", Kind::Dir).mode(0o777).owner(1, 1))
                    .entry(Entry::new("d/precious", Kind::Dir).mode(0o777)),
            ),
            (
                "root",
                Layer::new().entry(file(".")).entry(file("/")).entry(file("..")),
            ),
            ("empty-name", Layer::new().entry(file(""))),
            ("nul", Layer::new().entry(file("a\0b"))),
            ("newline", Layer::new().entry(file("a\nb"))),
            ("long", Layer::new().entry(file(&"x/".repeat(3000)))),
            ("long-part", Layer::new().entry(file(&"y".repeat(300)))),
        ];
        for (name, layer) in attacks {
            let hostile = image::busybox()?.layer(layer).build()?;
            let reference = shared_registry()?.push("hostile/archives", name, &hostile)?;
            // Refused or made harmless: both are fine, and what was accepted must run.
            if husk.cri.pull(&reference).await.is_ok() {
                let pod = husk.cri.pod(husk.pod_config(name)).await?;
                let id = husk
                    .cri
                    .launch(&pod, sleeper("main", &reference))
                    .await
                    .context(name)?;
                husk.cri.sh(&id, "true").await.context(name)?;
                husk.cri.remove_pod(&pod.id).await?;
                husk.cri.remove_image(&reference).await?;
            }
            victim.assert_untouched().context(name)?;
            assert_nothing_listed(husk).await.context(name)?;
        }
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn links_in_one_layer_do_not_lead_the_next_one_out() -> Result<()> {
    run(async |husk| {
        let victim = Victim::new(husk)?;
        let path = format!("/{}", victim.path());
        let hostile = image::busybox()?
            .layer(Layer::new().symlink("way", &path).symlink("etc2", "/etc"))
            .layer(
                Layer::new()
                    .file("way/owned", "owned", 0o644)
                    .file("etc2/owned", "owned", 0o644),
            )
            .build()?;
        let reference = shared_registry()?.push("hostile/links", "1", &hostile)?;
        if husk.cri.pull(&reference).await.is_ok() {
            let pod = husk.cri.pod(husk.pod_config("links")).await?;
            husk.cri.launch(&pod, sleeper("main", &reference)).await?;
        }
        victim.assert_untouched()?;
        ensure!(
            !Path::new("/etc/owned").exists(),
            "/etc of the host was written to"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn links_in_an_image_do_not_lead_the_runtime_out() -> Result<()> {
    run(async |husk| {
        let victim = Victim::new(husk)?;
        let path = format!("/{}", victim.path());
        // Where a runtime mounts and writes: each of these leads to the host.
        let hostile = image::busybox()?
            .layer(
                Layer::new()
                    .whiteout("etc")
                    .symlink("etc", &path)
                    .symlink("proc", &path)
                    .symlink("dev", &path)
                    .symlink("sys", &path)
                    .symlink("mnt", &format!("../../../../../..{path}")),
            )
            .build()?;
        let reference = shared_registry()?.push("hostile/mountpoints", "1", &hostile)?;
        husk.cri.pull(&reference).await?;
        let pod = husk.cri.pod(husk.pod_config("mountpoints")).await?;
        let share = husk.share("inside")?;
        let mut config = sleeper("main", &reference);
        config.working_dir = "/mnt/made".into();
        config = husk_e2e::config::ContainerConfigExt::mounted(config, &share, "/mnt/new/point", |_| {});
        // Started or refused; the host is not to be touched either way.
        let _ = husk.cri.launch(&pod, config).await;
        victim.assert_untouched()
    })
    .await
}

#[tokio::test]
async fn archives_that_lie_about_sizes_or_stop_half_way_are_refused() -> Result<()> {
    run(async |husk| {
        let noise = vec![0xa5; 4096];
        let lie = |size: u64| Layer::new().entry(Entry::new("f", Kind::File(b"x".into())).claim_size(size));
        let cases: Vec<(&str, Layer)> = vec![
            ("too-big", lie(1 << 40)),
            ("near-overflow", lie(u64::MAX)),
            ("noise", Layer::from_tar(noise)),
        ];
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for (name, layer) in &cases {
                let tag = format!("{name}-{compression:?}").to_lowercase();
                let built = Image::new()
                    .layer(layer.clone().compressed(compression))
                    .build()?;
                let reference = shared_registry()?.push("hostile/sizes", &tag, &built)?;
                husk.cri.pull(&reference).await.refused().context(tag.clone())?;
                assert_nothing_listed(husk).await.context(tag)?;
            }
        }
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn compressed_streams_that_are_broken_are_refused() -> Result<()> {
    run(async |husk| {
        let fake = FakeRegistry::start()?;
        for (name, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
            let layer = Layer::new()
                .file("f", vec![7; 100_000], 0o644)
                .compressed(compression);
            let mut image = Image::new().layer(layer).build()?;
            let manifest: serde_json::Value = serde_json::from_slice(&image.manifest.data)?;
            let media_type = manifest["layers"][0]["mediaType"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            // Truthful digests over a stream that ends too early.
            let half = Blob::new(image.layers[0].data[..image.layers[0].data.len() / 2].to_vec());
            let mut manifest = manifest;
            manifest["layers"][0] = descriptor(&half, &media_type);
            image.layers = vec![half];
            image.manifest = Blob::new(serde_json::to_vec(&manifest)?);
            husk.cri
                .pull(&fake.add("broken/stream", name, &image))
                .await
                .refused()
                .context(name)?;
            assert_nothing_listed(husk).await.context(name)?;
        }
        Ok(())
    })
    .await
}
