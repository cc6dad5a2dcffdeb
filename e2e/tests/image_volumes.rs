//! Image volumes: what a container sees of them, what is refused, and that the image stays as long as it is used.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::husk::shared_registry;
use husk_e2e::image::{Image, Layer};
use husk_e2e::late::{ImageSpec, Mount};
use husk_e2e::{CriExt, Husk, Pod, eventually, run};
use tonic::Code;

/// The word that kubelet looks for.
const WORD: &str = "ImageVolumeMountFailed: ";

/// An image of files only, which no container could run.
pub(crate) async fn data(husk: &Husk, name: &str) -> Result<(String, String)> {
    let image = Image::new()
        .layer(
            Layer::new()
                .dir("conf")
                .file("conf/one", format!("one of {name}"), 0o644)
                .file("conf/gone", "", 0o644)
                .file("bin/tool", "#!/bin/sh\necho it runs\n", 0o755),
        )
        .layer(
            Layer::new()
                .whiteout("conf/gone")
                .file("conf/two", "two", 0o644)
                .symlink("link", "/conf")
                .symlink("escape", "/../../../../etc"),
        )
        .build()?;
    let reference = shared_registry()?.push(&format!("volumes/{name}"), "1", &image)?;
    let id = husk.cri.pull(&reference).await?;
    Ok((reference, id))
}

pub(crate) fn volume(image: &str, at: &str, part: &str) -> Mount {
    Mount {
        container_path: at.into(),
        readonly: true,
        image: Some(ImageSpec {
            image: image.into(),
            user_specified_image: "what/the/user:wrote".into(),
            ..Default::default()
        }),
        image_sub_path: part.into(),
    }
}

async fn launch(husk: &Husk, pod: &Pod, name: &str, mounts: Vec<Mount>) -> Result<String> {
    let image = husk.busybox().await?;
    let id = husk
        .cri
        .create_with_mounts(pod, sleeper(name, &image), mounts)
        .await?;
    husk.cri.start(&id).await?;
    Ok(id)
}

#[tokio::test]
async fn an_image_is_seen_read_only_and_in_parts() -> Result<()> {
    run(async |husk| {
        let (_, id) = data(husk, "seen").await?;
        let pod = husk.cri.pod(husk.pod_config("seen")).await?;
        let before = mounts_of_the_node(husk)?;
        let asked = vec![
            volume(&id, "/img", ""),
            volume(&id, "/part", "conf"),
            volume(&id, "/file", "conf/one"),
            volume(&id, "/linked", "link"),
        ];
        let container = launch(husk, &pod, "main", asked.clone()).await?;
        let text = husk
            .cri
            .sh(
                &container,
                "cat /img/conf/one /part/two /file /linked/one; ls /part | wc -l; /img/bin/tool; \
                 touch /img/x /part/x 2>&1 | grep -c Read-only; ls /img/escape/ | grep -c passwd",
            )
            .await?;
        // Seen from the container, the last link leads to the container's own /etc.
        ensure!(
            text == "one of seentwoone of seenone of seen2\nit runs\n2\n1",
            "{text:?}"
        );
        ensure!(
            mounts_of_the_node(husk)? == before,
            "an image volume shows on the node"
        );
        let shown = husk.cri.mounts(&container).await?;
        for (asked, shown) in asked.into_iter().zip(shown) {
            let image = ImageSpec {
                image_ref: id.clone(),
                ..asked.image.clone().context("no image")?
            };
            let expected = Mount {
                image: Some(image),
                ..asked
            };
            ensure!(shown == expected, "{shown:?} is not {expected:?}");
        }
        Ok(())
    })
    .await
}

/// How many mounts the node sees that have to do with this daemon.
pub(crate) fn mounts_of_the_node(husk: &Husk) -> Result<usize> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let dir = husk.dir().display().to_string();
    Ok(mounts.lines().filter(|l| l.contains(&dir)).count())
}

#[tokio::test]
async fn what_cannot_be_mounted_says_so_in_the_way_kubelet_reads() -> Result<()> {
    run(async |husk| {
        let (reference, id) = data(husk, "refused").await?;
        let busybox = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("refused")).await?;
        let writable = Mount {
            readonly: false,
            ..volume(&id, "/img", "")
        };
        for (what, mount, code, part) in [
            ("writable", writable, Code::InvalidArgument, "readonly"),
            (
                "no such part",
                volume(&id, "/img", "not/there"),
                Code::InvalidArgument,
                "\"not/there\"",
            ),
            (
                "hidden by a whiteout",
                volume(&id, "/img", "conf/gone"),
                Code::InvalidArgument,
                "nothing there",
            ),
            (
                "a link out",
                volume(&reference, "/img", "escape"),
                Code::InvalidArgument,
                "nothing there",
            ),
            (
                "no such image",
                volume("no/such:1", "/img", ""),
                Code::NotFound,
                "pull it first",
            ),
            (
                "a directory on a file",
                volume(&id, "/etc/passwd", ""),
                Code::Internal,
                "etc/passwd",
            ),
        ] {
            let config = sleeper("main", &busybox);
            let status = husk
                .cri
                .create_with_mounts(&pod, config, vec![mount])
                .await
                .refused()?;
            ensure!(
                status.code() == code
                    && status.message().starts_with(WORD)
                    && status.message().contains(part),
                "{what}: {status:?}"
            );
        }
        ensure!(husk.cri.list(None).await?.is_empty());
        // What failed holds nothing.
        husk.cri.remove_image(&id).await?;
        ensure!(husk.cri.image(&id).await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_removed_image_stays_until_the_last_container_that_mounts_it_is_gone() -> Result<()> {
    run(async |husk| {
        let (reference, id) = data(husk, "kept").await?;
        // No image shares the layers, and husk's own directory of the data tells when they are freed.
        let dir = husk.dir().join("root/images/layers");
        let layers = || -> Result<usize> { Ok(std::fs::read_dir(&dir)?.count()) };
        husk.busybox().await?;
        let with_data = layers()?;
        let pod = husk.cri.pod(husk.pod_config("kept")).await?;
        let one = launch(husk, &pod, "one", vec![volume(&id, "/img", "")]).await?;
        let two = launch(husk, &pod, "two", vec![volume(&id, "/img", "conf")]).await?;
        husk.cri.remove_image(&reference).await?;
        ensure!(husk.cri.image(&id).await?.is_none(), "a removed image is listed");
        ensure!(husk.cri.sh(&one, "cat /img/conf/one").await? == "one of kept");

        husk.kill()?;
        husk.start_again().await?;
        ensure!(husk.cri.sh(&one, "cat /img/conf/two").await? == "two");
        ensure!(husk.cri.sh(&two, "cat /img/two").await? == "two");
        ensure!(layers()? == with_data, "the layers went with the daemon");
        let shown = husk.cri.mounts(&two).await?;
        ensure!(
            shown[0].image.as_ref().is_some_and(|i| i.image_ref == id),
            "{shown:?}"
        );

        husk.cri.stop(&one, 0).await?;
        husk.cri.remove(&one).await?;
        ensure!(husk.cri.sh(&two, "cat /img/one").await? == "one of kept");
        ensure!(layers()? == with_data, "the layers went with the first container");
        husk.cri.stop(&two, 0).await?;
        // An exited container can still be looked into, by its status; its image stays with it.
        ensure!(layers()? == with_data);
        husk.cri.remove(&two).await?;
        eventually("the layers' end", async || {
            Ok((layers()? == with_data - 2).then_some(()))
        })
        .await
    })
    .await
}
