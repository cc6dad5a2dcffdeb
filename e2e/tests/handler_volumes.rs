//! What husk mounts for the containers of OCI runtimes: images, volumes that propagate, and everything with mapped ids.

use anyhow::{Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, host_network, sleeper};
use husk_e2e::mounted::Mounted;
use husk_e2e::runtimes::{pod, runc, with_each};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, eventually, run_with};

use crate::image_volumes::{data, mounts_of_the_node, volume};

#[tokio::test]
async fn an_image_is_a_volume_of_their_containers_too() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let (_, id) = data(husk, &format!("by-{handler}")).await?;
        let pod = pod(husk, handler, "images").await?;
        let before = mounts_of_the_node(husk)?;
        let asked = vec![
            volume(&id, "/img", ""),
            volume(&id, "/part", "conf"),
            volume(&id, "/file", "conf/one"),
        ];
        let main = sleeper("main", &image);
        let main = husk.cri.create_with_mounts(&pod, main, asked).await?;
        husk.cri.start(&main).await?;
        let text = "cat /img/conf/one /part/two /file; ls /part | wc -l; /img/bin/tool; \
                    for f in /img/x /part/x /file; do touch $f 2>&1; done | grep -c Read-only";
        let seen = husk.cri.sh(&main, text).await?;
        let one = format!("one of by-{handler}");
        ensure!(seen == format!("{one}two{one}2\nit runs\n3"), "{seen:?}");
        ensure!(
            mounts_of_the_node(husk)? == before,
            "an image volume shows on the node"
        );
        // The container keeps the image, and lets it go.
        husk.cri.remove_image(&id).await?;
        ensure!(husk.cri.sh(&main, "cat /img/conf/one").await? == one);
        husk.cri.stop(&main, 0).await?;
        husk.cri.remove(&main).await?;
        let layers = husk.dir().join("root/images/layers");
        eventually("the layers' end", async || {
            // Busybox has one.
            Ok((std::fs::read_dir(&layers)?.count() == 1).then_some(()))
        })
        .await?;

        let (_, id) = data(husk, &format!("by-{handler}")).await?;
        let missing = vec![volume(&id, "/img", "not/there")];
        let refused = husk
            .cri
            .create_with_mounts(&pod, sleeper("missing", &image), missing)
            .await
            .refused()?;
        ensure!(
            refused.message().starts_with("ImageVolumeMountFailed: ")
                && refused.message().contains("\"not/there\""),
            "{refused:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn mounts_propagate_into_their_containers_and_out_of_them() -> Result<()> {
    with_each(async |husk, handler| {
        let shared = Mounted::shared(husk.share("shared")?)?;
        shared.add("before")?;
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("propagation");
        config.security().privileged = true;
        let pod = husk.cri.pod_by(handler, config).await?;
        let mut ids = Vec::new();
        for (name, propagation) in [
            ("private", MountPropagation::PropagationPrivate),
            ("slave", MountPropagation::PropagationHostToContainer),
            ("shared", MountPropagation::PropagationBidirectional),
        ] {
            let config = sleeper(name, &image)
                .mounted(shared.path(), "/mnt", |m| m.propagation = propagation.into())
                .secured(|s| s.privileged = true);
            ids.push(husk.cri.launch(&pod, config).await?);
        }
        shared.add("after")?;
        for (id, seen) in ids.iter().zip(["before", "after before", "after before"]) {
            let text = "cd /mnt; for f in */file; do printf '%s ' $(cat $f); done";
            let got = husk.cri.sh(id, text).await?;
            ensure!(got.trim() == seen, "{got:?} is not {seen:?}");
        }
        for (n, id) in ids.iter().enumerate() {
            let text = format!("mkdir /mnt/inside-{n} && mount -t tmpfs e2e /mnt/inside-{n}");
            husk.cri.sh(id, &text).await?;
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let seen: Vec<_> = (0..3).map(|n| table.contains(&format!("inside-{n} "))).collect();
        ensure!(seen == [false, false, true], "the node sees {seen:?}");
        husk.cri.sh(&ids[2], "umount /mnt/inside-2").await?;
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(
            !table.contains("inside-2 "),
            "the end of a mount does not propagate"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn volumes_of_the_node_are_read_only_where_they_should_be() -> Result<()> {
    with_each(async |husk, handler| {
        let (readonly, writable) = (husk.share("readonly")?, husk.share("writable")?);
        std::fs::write(readonly.join("file"), "from the node")?;
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "binds").await?;
        let config = sleeper("main", &image)
            .mounted(&readonly, "/made/for/it", |m| m.readonly = true)
            .mounted(&readonly.join("file"), "/etc/one-file", |m| m.readonly = true)
            .mounted(&writable, "/w", |_| {});
        let id = husk.cri.launch(&pod, config).await?;
        let text = "cat /made/for/it/file /etc/one-file; echo out > /w/file; \
                    touch /made/for/it/x /etc/one-file 2>&1 | grep -c Read-only";
        let seen = husk.cri.sh(&id, text).await?;
        ensure!(seen == format!("{}2", "from the node".repeat(2)), "{seen:?}");
        ensure!(std::fs::read_to_string(writable.join("file"))? == "out\n");
        Ok(())
    })
    .await
}

/// First id on the node of a user namespace of 65536.
const FIRST: u32 = 20 << 16;

#[tokio::test]
async fn their_pods_can_have_user_namespaces() -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    run_with(runc(), async |husk| {
        let maps = || {
            vec![IdMapping {
                host_id: FIRST,
                container_id: 0,
                length: 1 << 16,
            }]
        };
        let mut options = host_network();
        options.userns_options = Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: maps(),
            gids: maps(),
        });
        let (plain, mapped) = (husk.share("plain")?, husk.share("mapped")?);
        for dir in [&plain, &mapped] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))?;
        }
        let image = husk.busybox().await?;
        let (_, data) = data(husk, "mapped-by-runc").await?;
        let config = husk.pod_config("users").with_namespaces(options.clone());
        let pod = husk.cri.pod_by("runc", config).await?;
        let mut config = sleeper("main", &image)
            .with_namespaces(options)
            .mounted(&plain, "/plain", |_| {})
            .mounted(&mapped, "/mapped", |m| {
                m.uid_mappings = maps();
                m.gid_mappings = maps();
            });
        config.devices.push(Device {
            container_path: "/dev/everyones".into(),
            host_path: "/dev/zero".into(),
            permissions: "rwm".into(),
        });
        let image_volume = vec![volume(&data, "/img", "conf")];
        let id = husk.cri.create_with_mounts(&pod, config, image_volume).await?;
        husk.cri.start(&id).await?;
        let pid = husk.cri.pid(&id).await?;
        ensure!(std::fs::metadata(format!("/proc/{pid}"))?.uid() == FIRST);
        let text = "id -u; touch /new /plain/new /mapped/new; \
                    stat -c %u /bin/busybox /img/one /new /plain/new /mapped/new | tr '\\n' ' '; cat /img/two; \
                    touch /img/x 2>&1 | grep -c Read-only; head -c 2 /dev/everyones | od -An -tx1; \
                    echo again > /proc/self/fd/1; awk '{print $2}' /proc/self/uid_map";
        let seen = husk.cri.sh(&id, text).await?;
        ensure!(
            seen == format!("0\n0 0 0 0 0 two1\n 00 00\nagain\n{FIRST}"),
            "{seen}"
        );
        let owner = |path: std::path::PathBuf| std::fs::metadata(path).map(|m| (m.uid(), m.gid()));
        ensure!(owner(plain.join("new"))? == (FIRST, FIRST));
        ensure!(owner(mapped.join("new"))? == (0, 0));
        ensure!(mounts_of_the_node(husk)? == 0, "its mounts show on the node");
        husk.cri.stop(&id, 0).await?;
        Ok(())
    })
    .await
}
