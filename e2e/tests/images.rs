//! Images: what a pull gives, under which names, and what removal takes away.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{script, sleeper};
use husk_e2e::cri::spec;
use husk_e2e::husk::{shared_busybox, shared_registry};
use husk_e2e::image::{self, Compression, Format, Image, Layer};
use husk_e2e::v1::{ImageFilter, ImageFsInfoRequest, ListImagesRequest};
use husk_e2e::{CriExt, logs, run};
use serde_json::json;

/// Busybox and a file that makes the image unlike any other.
fn marked(mark: &str) -> Result<Image> {
    Ok(image::busybox()?.layer(Layer::new().file("mark", mark, 0o644)))
}

/// `host/repository:tag` without the tag.
fn repository(reference: &str) -> &str {
    reference.rsplit_once(':').map_or(reference, |(name, _)| name)
}

#[tokio::test]
async fn every_kind_of_manifest_and_compression_can_be_pulled_and_run() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("kinds")).await?;
        for format in [Format::Docker, Format::Oci] {
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let mark = format!("{format:?}-{compression:?}").to_lowercase();
                let built = marked(&mark)?.format(format).compressed(compression).build()?;
                let reference = shared_registry()?.push("images/kinds", &mark, &built)?;
                let id = husk.cri.pull(&reference).await.context(mark.clone())?;
                ensure!(
                    id == built.config.digest,
                    "{mark}: id {id}, config {}",
                    built.config.digest
                );
                let status = husk
                    .cri
                    .run_to_end(&pod, script(&mark, &reference, "cat /mark"))
                    .await?;
                let log = logs::read(status.log_path.as_ref())?;
                ensure!(
                    log.len() == 1 && log[0].text == mark.as_bytes(),
                    "{mark}: {log:?}"
                );
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_index_gives_the_image_of_this_platform() -> Result<()> {
    run(async |husk| {
        for format in [Format::Docker, Format::Oci] {
            let name = format!("images/index-{format:?}").to_lowercase();
            let registry = shared_registry()?;
            let arm = marked(&format!("arm {format:?}"))?
                .format(format)
                .platform("linux", "arm64")
                .build()?;
            let here = marked(&format!("amd {format:?}"))?.format(format).build()?;
            let windows = marked("win")?
                .format(format)
                .platform("windows", "amd64")
                .build()?;
            for (tag, image) in [("arm", &arm), ("amd", &here), ("win", &windows)] {
                registry.push(&name, tag, image)?;
            }
            let (index, media_type) = image::index(format, &[&windows, &arm, &here])?;
            registry.push_manifest(&name, "multi", &index, media_type)?;
            let reference = format!("{}/{name}:multi", registry.host());
            let id = husk.cri.pull(&reference).await?;
            ensure!(id == here.config.digest, "{format:?}: pulled {id}");
            let image = husk.cri.image(&reference).await?.context("not listed")?;
            let wanted = format!("{}@{}", repository(&reference), index.digest);
            ensure!(
                image.repo_digests == [wanted.clone()],
                "{:?} is not {wanted}",
                image.repo_digests
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_index_without_this_platform_is_refused_by_name() -> Result<()> {
    run(async |husk| {
        let registry = shared_registry()?;
        let other = marked("other")?.platform("linux", "s390x").build()?;
        registry.push("images/foreign", "one", &other)?;
        let (index, media_type) = image::index(Format::Oci, &[&other])?;
        registry.push_manifest("images/foreign", "multi", &index, media_type)?;
        let reference = format!("{}/images/foreign:multi", registry.host());
        let status = husk.cri.pull(&reference).await.refused()?;
        ensure!(
            status.message().contains("amd64"),
            "the message should name the platform: {status:?}"
        );
        ensure!(husk.cri.list_images().await?.is_empty(), "something is listed");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn one_id_names_the_image_in_every_answer() -> Result<()> {
    run(async |husk| {
        let reference = shared_busybox()?;
        let id = husk.cri.pull(&reference).await?;
        let image = husk.cri.image(&reference).await?.context("not there")?;
        ensure!(image.id == id, "ImageStatus says {}, PullImage {id}", image.id);
        ensure!(
            image.size > 0 && image.repo_tags == [reference.clone()],
            "{image:?}"
        );
        let pod = husk.cri.pod(husk.pod_config("identity")).await?;
        // kubelet resolves the name first and then creates the container by id.
        let mut config = sleeper("main", &id);
        if let Some(spec) = &mut config.image {
            spec.user_specified_image = reference.clone();
        }
        let container = husk.cri.launch(&pod, config).await?;
        let status = husk.cri.status(&container).await?;
        ensure!(
            status.image_id == id,
            "ContainerStatus.image_id is {}",
            status.image_id
        );
        ensure!(
            image.repo_digests.contains(&status.image_ref),
            "{} is no digest reference",
            status.image_ref
        );
        let listed = husk.cri.list(None).await?;
        ensure!(listed.len() == 1 && listed[0].image_id == id, "{listed:?}");
        let named = status.image.unwrap_or_default().image;
        ensure!(named == reference, "kubelet shows people {named}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_image_is_found_by_id_tag_and_digest() -> Result<()> {
    run(async |husk| {
        let reference = shared_busybox()?;
        let id = husk.cri.pull(&reference).await?;
        let digest = husk
            .cri
            .image(&reference)
            .await?
            .context("not there")?
            .repo_digests
            .remove(0);
        let bare = id.trim_start_matches("sha256:");
        for name in [id.as_str(), bare, &bare[..16], &digest, &reference] {
            let found = husk
                .cri
                .image(name)
                .await?
                .with_context(|| format!("not found by {name}"))?;
            ensure!(found.id == id, "{name} found {}", found.id);
            let filter = Some(ImageFilter {
                image: Some(spec(name)),
            });
            let listed = husk
                .cri
                .images()
                .list_images(ListImagesRequest { filter })
                .await?
                .into_inner()
                .images;
            ensure!(
                listed.len() == 1 && listed[0].id == id,
                "the filter {name} gave {listed:?}"
            );
        }
        for name in [
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "no/such:image",
        ] {
            ensure!(husk.cri.image(name).await?.is_none(), "{name} should not exist");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_same_image_from_two_repositories_is_one_image() -> Result<()> {
    run(async |husk| {
        let built = marked("twice")?.build()?;
        let one = shared_registry()?.push("images/twice-a", "1", &built)?;
        let two = shared_registry()?.push("images/twice-b", "1", &built)?;
        let id = husk.cri.pull(&one).await?;
        ensure!(husk.cri.pull(&two).await? == id, "two ids for one image");
        let images = husk.cri.list_images().await?;
        ensure!(images.len() == 1, "{images:?}");
        ensure!(
            images[0].repo_tags.len() == 2 && images[0].repo_digests.len() == 2,
            "{images:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pulled_by_digest_an_image_has_no_tag() -> Result<()> {
    run(async |husk| {
        let built = marked("by digest")?.build()?;
        let tagged = shared_registry()?.push("images/by-digest", "1", &built)?;
        let reference = format!("{}@{}", repository(&tagged), built.manifest.digest);
        let id = husk.cri.pull(&reference).await?;
        let image = husk.cri.image(&id).await?.context("not there")?;
        ensure!(
            image.repo_tags.is_empty() && image.repo_digests == [reference],
            "{image:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn removing_one_of_three_tags_removes_the_image() -> Result<()> {
    run(async |husk| {
        let built = marked("three tags")?.build()?;
        let mut names = Vec::new();
        for tag in ["1", "2", "3"] {
            names.push(shared_registry()?.push("images/tags", tag, &built)?);
            husk.cri.pull(&names[names.len() - 1]).await?;
        }
        let images = husk.cri.list_images().await?;
        ensure!(images.len() == 1, "{images:?}");
        let mut tags = images[0].repo_tags.clone();
        tags.sort();
        ensure!(tags == names, "{tags:?}");
        husk.cri.remove_image(&names[1]).await?;
        for name in &names {
            ensure!(husk.cri.image(name).await?.is_none(), "{name} is still there");
        }
        ensure!(husk.cri.list_images().await?.is_empty());
        husk.cri
            .remove_image(&names[0])
            .await
            .context("removing what is gone must succeed")
    })
    .await
}

#[tokio::test]
async fn a_tag_that_moved_is_followed() -> Result<()> {
    run(async |husk| {
        let (old, new) = (marked("old")?.build()?, marked("new")?.build()?);
        let reference = shared_registry()?.push("images/moving", "1", &old)?;
        let first = husk.cri.pull(&reference).await?;
        shared_registry()?.push("images/moving", "1", &new)?;
        let second = husk.cri.pull(&reference).await?;
        ensure!(
            first == old.config.digest && second == new.config.digest,
            "{first} {second}"
        );
        ensure!(
            husk.cri.image(&reference).await?.context("gone")?.id == second,
            "the tag stayed behind"
        );
        if let Some(image) = husk.cri.image(&first).await? {
            ensure!(image.repo_tags.is_empty(), "two images have the tag: {image:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn removal_does_not_harm_a_container_that_uses_the_image() -> Result<()> {
    run(async |husk| {
        let built = marked("in use")?.build()?;
        let reference = shared_registry()?.push("images/in-use", "1", &built)?;
        let id = husk.cri.pull(&reference).await?;
        let pod = husk.cri.pod(husk.pod_config("user")).await?;
        let container = husk.cri.launch(&pod, sleeper("main", &reference)).await?;
        husk.cri.remove_image(&id).await?;
        ensure!(
            husk.cri.image(&id).await?.is_none() && husk.cri.list_images().await?.is_empty(),
            "still listed"
        );
        ensure!(husk.cri.sh(&container, "cat /mark").await? == "in use");
        ensure!(
            husk.cri.status(&container).await?.image_id == id,
            "status forgot the image"
        );
        // And the same image can come back while its layers are still in use.
        ensure!(husk.cri.pull(&reference).await? == id);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn simultaneous_removals_all_succeed() -> Result<()> {
    run(async |husk| {
        let reference = husk.busybox().await?;
        let removals: Vec<_> = (0..10)
            .map(|_| {
                let (cri, reference) = (husk.cri.clone(), reference.clone());
                tokio::spawn(async move { cri.remove_image(&reference).await })
            })
            .collect();
        for removal in removals {
            removal.await??;
        }
        ensure!(husk.cri.list_images().await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_user_of_an_image_is_a_number_or_a_name() -> Result<()> {
    run(async |husk| {
        for (user, uid, name) in [
            ("", Some(0), ""),
            ("1001", Some(1001), ""),
            ("1001:1002", Some(1001), ""),
            ("web", None, "web"),
            ("web:extra", None, "web"),
        ] {
            let tag = format!("user-{}", user.replace(':', "-"));
            let built = marked(&tag)?.set("User", json!(user)).build()?;
            let reference = shared_registry()?.push("images/users", tag.trim_end_matches('-'), &built)?;
            husk.cri.pull(&reference).await?;
            let image = husk.cri.image(&reference).await?.context("not there")?;
            let got = image.uid.map(|u| u.value);
            // kubelet takes no user at all for root, and some runtimes say so explicitly.
            let same_uid = got == uid || (user.is_empty() && got.is_none());
            ensure!(
                same_uid && image.username == name,
                "{user:?}: {got:?} {:?}",
                image.username
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_file_system_of_images_is_a_real_one_and_grows() -> Result<()> {
    run(async |husk| {
        let usage = async || -> Result<u64> {
            let info = husk
                .cri
                .images()
                .image_fs_info(ImageFsInfoRequest {})
                .await?
                .into_inner();
            let usage = info
                .image_filesystems
                .first()
                .context("no image file system")?
                .clone();
            let mountpoint = usage.fs_id.context("no fs_id")?.mountpoint;
            ensure!(
                std::path::Path::new(&mountpoint).is_dir(),
                "{mountpoint:?} is no directory"
            );
            ensure!(
                usage.timestamp > 0 && usage.inodes_used.is_some(),
                "timestamp or inodes missing"
            );
            Ok(usage
                .used_bytes
                .context("used_bytes is nil, which kubelet does not survive")?
                .value)
        };
        let before = usage().await?;
        husk.busybox().await?;
        let after = usage().await?;
        ensure!(
            after >= before + 1_000_000,
            "busybox took {before}..{after} bytes"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn images_survive_a_restart_of_the_daemon() -> Result<()> {
    run(async |husk| {
        let reference = husk.busybox().await?;
        let before = husk.cri.image(&reference).await?;
        husk.kill()?;
        husk.start_again().await?;
        let after = husk.cri.image(&reference).await?;
        ensure!(before.is_some() && before == after, "{before:?} became {after:?}");
        Ok(())
    })
    .await
}
