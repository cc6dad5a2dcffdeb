//! Mounts: binds of directories, files and links, read-only and propagated; and what the root file system shows.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, sleeper};
use husk_e2e::mounted::Mounted;
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Pod, run};

async fn with_mount(
    husk: &Husk,
    pod: &Pod,
    name: &str,
    host: &Path,
    inside: &str,
    change: impl FnOnce(&mut Mount),
) -> Result<String> {
    let image = husk.busybox().await?;
    Ok(husk
        .cri
        .launch(pod, sleeper(name, &image).mounted(host, inside, change))
        .await?)
}

#[tokio::test]
async fn directories_files_and_links_are_bound() -> Result<()> {
    run(async |husk| {
        let share = husk.share("bind")?;
        std::fs::write(share.join("file"), "from the host")?;
        std::os::unix::fs::symlink(&share, husk.dir().join("share/link"))?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("bind")).await?;
        let config = sleeper("main", &image)
            .mounted(&share, "/dir/made/for/it", |_| {})
            .mounted(&share.join("file"), "/etc/one-file", |m| m.readonly = true)
            .mounted(&husk.dir().join("share/link"), "/through/link", |_| {});
        let wanted = config.mounts.clone();
        let id = husk.cri.launch(&pod, config).await?;
        let text = "cat /dir/made/for/it/file /etc/one-file /through/link/file; echo hello > /dir/made/for/it/answer";
        ensure!(husk.cri.sh(&id, text).await? == "from the host".repeat(3));
        ensure!(std::fs::read_to_string(share.join("answer"))? == "hello\n");
        ensure!(husk.cri.exec_sync(&id, &["sh", "-c", "echo x > /etc/one-file"], 20).await?.exit_code != 0);
        // kubelet looks termination messages up in here, by the path it asked for.
        let mounts = husk.cri.status(&id).await?.mounts;
        ensure!(mounts == wanted, "{mounts:?} is not {wanted:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn mounts_may_nest_and_cover_each_other_in_any_order() -> Result<()> {
    run(async |husk| {
        let (outer, inner) = (husk.share("outer")?, husk.share("inner")?);
        std::fs::write(outer.join("where"), "outer")?;
        std::fs::write(inner.join("where"), "inner")?;
        std::fs::create_dir(outer.join("sub"))?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("nest")).await?;
        let config =
            sleeper("main", &image)
                .mounted(&outer, "/mnt", |_| {})
                .mounted(&inner, "/mnt/sub", |m| m.readonly = true);
        let id = husk.cri.launch(&pod, config).await?;
        ensure!(husk.cri.sh(&id, "cat /mnt/where /mnt/sub/where").await? == "outerinner");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_read_only_mount_can_be_so_with_all_that_is_mounted_in_it() -> Result<()> {
    run(async |husk| {
        let tree = Mounted::private(husk.share("tree")?)?;
        tree.add("below")?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("rro")).await?;
        let config = sleeper("main", &image)
            .mounted(tree.path(), "/plain", |m| m.readonly = true)
            .mounted(tree.path(), "/all", |m| {
                (m.readonly, m.recursive_read_only) = (true, true)
            });
        let id = husk.cri.launch(&pod, config).await?;
        for (path, writable) in [
            ("/plain/x", false),
            ("/plain/below/x", true),
            ("/all/x", false),
            ("/all/below/x", false),
        ] {
            let reply = husk.cri.exec_sync(&id, &["touch", path], 20).await?;
            ensure!((reply.exit_code == 0) == writable, "{path}: {reply:?}");
        }
        let told: Vec<bool> = husk
            .cri
            .status(&id)
            .await?
            .mounts
            .iter()
            .map(|m| m.recursive_read_only)
            .collect();
        ensure!(told == [false, true], "{told:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_read_only_mount_refuses_writes() -> Result<()> {
    run(async |husk| {
        let share = husk.share("ro")?;
        let pod = husk.cri.pod(husk.pod_config("ro")).await?;
        let id = with_mount(husk, &pod, "main", &share, "/ro", |m| m.readonly = true).await?;
        let reply = husk.cri.exec_sync(&id, &["touch", "/ro/x"], 20).await?;
        ensure!(reply.exit_code != 0, "{reply:?}");
        ensure!(
            String::from_utf8_lossy(&reply.stderr).contains("Read-only"),
            "{reply:?}"
        );
        ensure!(std::fs::read_dir(&share)?.next().is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn propagation_is_none_into_or_both_ways() -> Result<()> {
    run(async |husk| {
        let shared = Mounted::shared(husk.share("shared")?)?;
        shared.add("before")?;
        let image = husk.busybox().await?;
        let mut pod_config = husk.pod_config("propagation");
        pod_config.security().privileged = true;
        let pod = husk.cri.pod(pod_config).await?;
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
            husk.cri
                .sh(
                    id,
                    &format!("mkdir /mnt/inside-{n} && mount -t tmpfs e2e /mnt/inside-{n}"),
                )
                .await?;
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let seen: Vec<_> = (0..3).map(|n| table.contains(&format!("inside-{n} "))).collect();
        ensure!(seen == [false, false, true], "the host sees {seen:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn bidirectional_propagation_needs_a_shared_mount() -> Result<()> {
    run(async |husk| {
        let private = Mounted::private(husk.share("private")?)?;
        let image = husk.busybox().await?;
        let mut pod_config = husk.pod_config("private");
        pod_config.security().privileged = true;
        let pod = husk.cri.pod(pod_config).await?;
        for propagation in [
            MountPropagation::PropagationHostToContainer,
            MountPropagation::PropagationBidirectional,
        ] {
            let config = sleeper(&format!("{propagation:?}"), &image)
                .mounted(private.path(), "/mnt", |m| m.propagation = propagation.into())
                .secured(|s| s.privileged = true);
            let refused = husk.cri.launch(&pod, config).await.refused()?;
            ensure!(refused.message().contains("shared"), "{refused:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_mount_over_etc_files_wins() -> Result<()> {
    run(async |husk| {
        let share = husk.share("etc")?;
        std::fs::write(share.join("hosts"), "192.0.2.1 managed-by-kubelet\n")?;
        std::fs::write(share.join("log"), "")?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("etc")).await?;
        let config = sleeper("main", &image)
            .mounted(&share.join("hosts"), "/etc/hosts", |_| {})
            .mounted(&share.join("log"), "/dev/termination-log", |_| {});
        let id = husk.cri.launch(&pod, config).await?;
        ensure!(
            husk.cri
                .sh(&id, "cat /etc/hosts; echo bye > /dev/termination-log")
                .await?
                .contains("managed")
        );
        ensure!(std::fs::read_to_string(share.join("log"))? == "bye\n");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_of_a_container_shows_in_the_hosts_mount_table() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let count = || -> Result<usize> {
            let dir = husk.dir().display().to_string();
            Ok(std::fs::read_to_string("/proc/self/mountinfo")?
                .lines()
                .filter(|l| l.contains(&dir))
                .count())
        };
        let pod = husk.cri.pod(husk.pod_config("invisible")).await?;
        let before = count()?;
        for n in 0..3 {
            husk.cri.launch(&pod, sleeper(&format!("c{n}"), &image)).await?;
        }
        ensure!(
            count()? == before,
            "{} mounts for three containers",
            count()? - before
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_read_only_root_refuses_writes_but_not_in_mounts() -> Result<()> {
    run(async |husk| {
        let share = husk.share("rw")?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("roroot")).await?;
        let config = sleeper("main", &image)
            .mounted(&share, "/new/mount/point", |_| {})
            .secured(|s| s.readonly_rootfs = true);
        let id = husk.cri.launch(&pod, config).await?;
        let reply = husk.cri.exec_sync(&id, &["touch", "/x"], 20).await?;
        ensure!(
            reply.exit_code != 0 && String::from_utf8_lossy(&reply.stderr).contains("Read-only"),
            "{reply:?}"
        );
        husk.cri.sh(&id, "touch /new/mount/point/x /dev/shm/x").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_usual_file_systems_and_devices_are_there() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("usual")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let table = husk.cri.sh(&id, "cat /proc/mounts").await?;
        for (path, kind, option) in [
            ("/", "overlay", "rw"),
            ("/proc", "proc", "nosuid"),
            ("/sys", "sysfs", "ro"),
            ("/dev", "tmpfs", "nosuid"),
            ("/dev/pts", "devpts", "noexec"),
            ("/dev/shm", "tmpfs", "nodev"),
            ("/dev/mqueue", "mqueue", "nosuid"),
        ] {
            let fits = |line: &&str| {
                let fields: Vec<_> = line.split(' ').collect();
                fields[1] == path && fields[2] == kind && fields[3].split(',').any(|o| o == option)
            };
            ensure!(table.lines().find(fits).is_some(), "{path} ({kind}, {option}) is not in\n{table}");
        }
        ensure!(table.lines().any(|l| l.split(' ').nth(1).is_some_and(|p| p.starts_with("/sys/fs/cgroup"))), "{table}");
        let text = "cd /dev; for d in null zero full random urandom tty ptmx; do [ -c $d ] || [ -L $d ] || echo no $d; done; \
                    for l in fd stdin stdout stderr; do readlink $l; done; echo x > null; head -c 1 zero | wc -c";
        let got = husk.cri.sh(&id, text).await?;
        let wanted = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n1";
        ensure!(got == wanted, "{got}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn masked_and_read_only_paths_are_so() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("masked")).await?;
        let config = sleeper("main", &image).secured(|s| {
            s.masked_paths = vec![
                "/proc/kcore".into(),
                "/proc/scsi".into(),
                "/sys/firmware".into(),
                "/no/such".into(),
            ];
            s.readonly_paths = vec!["/proc/sys".into(), "/proc/bus".into(), "/no/such".into()];
        });
        let id = husk.cri.launch(&pod, config).await?;
        ensure!(
            husk.cri
                .sh(
                    &id,
                    "ls -A /proc/scsi /sys/firmware 2>/dev/null | grep -v : | wc -w"
                )
                .await?
                == "0"
        );
        ensure!(husk.cri.sh(&id, "head -c 1 /proc/kcore | wc -c").await? == "0");
        let reply = husk
            .cri
            .exec_sync(&id, &["sh", "-c", "echo 1 > /proc/sys/vm/swappiness"], 20)
            .await?;
        ensure!(
            reply.exit_code != 0 && String::from_utf8_lossy(&reply.stderr).contains("Read-only"),
            "{reply:?}"
        );
        // Empty lists mean an unmasked /proc.
        let open = husk.cri.launch(&pod, sleeper("open", &image)).await?;
        let table = husk
            .cri
            .sh(&open, "grep -c ' /proc/' /proc/mounts || true")
            .await?;
        ensure!(table == "0", "{table} mounts below /proc");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn devices_are_given_with_their_permissions() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("devices")).await?;
        // A number without a driver: who may open it is told that there is none, who may not is told that first.
        let node = husk.share("devices")?.join("node");
        ensure!(
            Command::new("mknod")
                .arg(&node)
                .args(["c", "240", "7"])
                .status()?
                .success()
        );
        let mut config = sleeper("main", &image);
        config.devices = vec![
            Device {
                host_path: node.display().to_string(),
                container_path: "/dev/e2e-read".into(),
                permissions: "r".into(),
            },
            Device {
                host_path: "/dev/null".into(),
                container_path: "/dev/e2e-null".into(),
                permissions: "rwm".into(),
            },
        ];
        let id = husk.cri.launch(&pod, config).await?;
        let got = husk
            .cri
            .sh(
                &id,
                "stat -c '%F %t %T' /dev/e2e-null; echo x > /dev/e2e-null; echo fine",
            )
            .await?;
        ensure!(got == "character special file 1 3\nfine", "{got}");
        for (text, refused) in [
            ("cat /dev/e2e-read", false),
            ("echo x > /dev/e2e-read", true),
            ("mknod /dev/other c 240 8 && cat /dev/other", true),
        ] {
            let reply = husk.cri.exec_sync(&id, &["sh", "-c", text], 20).await?;
            let told = String::from_utf8_lossy(&reply.stderr).contains("not permitted");
            ensure!(reply.exit_code != 0 && told == refused, "{text}: {reply:?}");
        }
        Ok(())
    })
    .await
}
