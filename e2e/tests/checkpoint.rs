//! Checkpoints: containers written down by criu, and going on from there.
//!
//! What is husk's part is tested with a stand-in for criu, and all of it with criu itself. A criu that is older than the kernel often cannot work at all. Where that is so the tests see that husk says so;
//! `HUSK_E2E_CRIU` names another one. On the node of `make vm` Debian's criu works.

mod refusals;
mod stand_in;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, namespaces, script, sleeper};
use husk_e2e::husk::shared_registry;
use husk_e2e::image::{Entry, Image, Kind, Layer};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Options, eventually, logs, process, run_with};
use tonic::Code;

/// The criu to test with; `None` if there is none that works on this node.
fn criu() -> Option<PathBuf> {
    let path = std::env::var("HUSK_E2E_CRIU").unwrap_or_else(|_| "/usr/sbin/criu".into());
    let check = Command::new(&path).arg("check").output();
    check.is_ok_and(|o| o.status.success()).then(|| path.into())
}

/// A configuration with that level.
fn level(level: &str) -> Options {
    let criu = criu().map_or(String::new(), |path| path.display().to_string());
    Options::new()
        .builtin_network()
        .toml(&format!("[checkpoint]\nlevel = {level:?}\ncriu = {criu:?}\n"))
}

/// Runs a test where criu works. Where it does not, a checkpoint is refused with the reason, which is all there is to see.
async fn where_criu_works(test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    run_with(level("restore"), async |husk| {
        if criu().is_some() {
            return test(husk).await;
        }
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("refused")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let location = husk.dir().join("refused.tar");
        let refused = checkpoint(husk, &id, &location)
            .await
            .refused_with(Code::Unimplemented)?;
        ensure!(refused.message().contains("criu"), "{refused:?}");
        ensure!(!location.exists(), "something was written");
        eprintln!("not tested further: {}", refused.message());
        Ok(())
    })
    .await
}

async fn checkpoint(husk: &Husk, id: &str, location: &Path) -> Result<(), tonic::Status> {
    let request = CheckpointContainerRequest {
        container_id: id.into(),
        location: location.display().to_string(),
        timeout: 0,
    };
    husk.cri.runtime().checkpoint_container(request).await.map(drop)
}

/// Counts in memory, on stdout and in a file; has changed, made and deleted files. SIGTERM ends it with 7.
const COUNTER: &str = "echo begun >> /begun; rm /etc/passwd; trap 'exit 7' TERM; \
                       i=0; while :; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.2; done";

/// The names in an archive.
fn names(archive: &Path) -> Result<Vec<String>> {
    let listed = Command::new("tar").arg("tf").arg(archive).output()?;
    ensure!(listed.status.success(), "{listed:?}");
    Ok(String::from_utf8(listed.stdout)?
        .lines()
        .map(str::to_owned)
        .collect())
}

/// A container as kubelet would have it: filtered, without new privileges, with parts of `/proc` and `/sys` hidden.
fn counter(name: &str, image: &str) -> ContainerConfig {
    let mut config = script(name, image, COUNTER);
    let paths = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
    let security = config.security();
    security.no_new_privs = true;
    security.masked_paths = paths(&[
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/sys/firmware",
    ]);
    security.readonly_paths = paths(&[
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]);
    security.namespace_options = Some(namespaces(
        NamespaceMode::Pod,
        NamespaceMode::Container,
        NamespaceMode::Pod,
    ));
    config
}

/// The same, to be made from a checkpoint.
fn restored(name: &str, from: &str) -> ContainerConfig {
    let mut config = counter(name, from);
    config.command.clear();
    config
}

/// The last number in a container's log, once there is one.
async fn counted(husk: &Husk, id: &str) -> Result<u64> {
    let path = husk.cri.status(id).await?.log_path;
    eventually("the container counts", async || {
        let log = logs::read(path.as_ref())?;
        Ok(log.last().map(|r| String::from_utf8_lossy(&r.text).into_owned()))
    })
    .await?
    .parse()
    .context("a number")
}

async fn own_network(husk: &Husk, name: &str) -> Result<husk_e2e::Pod> {
    Ok(husk.cri.pod(husk.pod_config(name).with_own_network()).await?)
}

/// Whether this process has `CAP_SYS_RESOURCE`, and so husk.
fn may_set_limits() -> bool {
    let own = process::status(std::process::id().cast_signed());
    let effective = own
        .get("CapEff")
        .and_then(|set| u64::from_str_radix(set, 16).ok());
    effective.is_some_and(|set| set & (1 << 24) != 0)
}

#[tokio::test]
async fn a_container_goes_on_from_its_checkpoint_in_another_pod() -> Result<()> {
    where_criu_works(async |husk| {
        let image = husk.busybox().await?;
        let first = own_network(husk, "first").await?;
        let id = husk.cri.launch(&first, counter("counter", &image)).await?;
        eventually("it has counted to 3", async || {
            Ok((counted(husk, &id).await? >= 3).then_some(()))
        })
        .await?;
        let location = husk.dir().join("checkpoint.tar");
        checkpoint(husk, &id, &location).await?;

        // It goes on where it is, as if nothing had been.
        let seen = counted(husk, &id).await?;
        eventually("it goes on", async || {
            Ok((counted(husk, &id).await? > seen).then_some(()))
        })
        .await?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&location)?.permissions());
        ensure!(mode & 0o777 == 0o600, "{mode:o}: it holds memory");
        let listed = names(&location)?;
        for name in [
            "config.dump",
            "spec.dump",
            "status",
            "rootfs-diff.tar",
            "dump.log",
            "stats-dump",
            "checkpoint/inventory.img",
            "checkpoint/descriptors.json",
        ] {
            ensure!(
                listed.iter().any(|l| l == name),
                "{name} is missing in {listed:?}"
            );
        }

        // In another pod, while the first one lives.
        let second = own_network(husk, "second").await?;
        let again = husk
            .cri
            .create(&second, restored("again", &location.display().to_string()))
            .await?;
        husk.cri.start(&again).await?;
        let status = husk.cri.status(&again).await?;
        ensure!(status.state() == ContainerState::ContainerRunning, "{status:?}");
        let log = logs::read(status.log_path.as_ref())?;
        let reached = counted(husk, &again).await?;
        let log = if log.is_empty() {
            logs::read(status.log_path.as_ref())?
        } else {
            log
        };
        let first_line = String::from_utf8_lossy(&log[0].text).parse::<u64>()?;
        ensure!(
            first_line >= 3 && first_line <= seen + 1,
            "it went on at {first_line}, not at {seen}"
        );
        ensure!(reached >= first_line);

        // Its files, and not those of a container that starts.
        let files = husk
            .cri
            .sh(&again, "cat /begun; ls /etc; cat /etc/hostname")
            .await?;
        ensure!(files.matches("begun").count() == 1, "it began anew: {files}");
        ensure!(!files.contains("passwd"), "a deleted file is back: {files}");
        // What the pod has, it has: network, cgroup, limits on what it may do.
        let pid = husk.cri.pid(&again).await?;
        let other = husk.cri.pid(&id).await?;
        // Once the helper that ran criu has ended, its parent is the supervisor.
        let sandbox = eventually("the supervisor is its parent", async || {
            let parent = process::parent(pid)?;
            // The helper has mounts of its own.
            let mounts = |pid: &str| process::namespace(pid, "mnt").ok();
            Ok((mounts(&parent.to_string()) == mounts("self")).then_some(parent))
        })
        .await?;
        for kind in ["net", "ipc", "uts"] {
            let of = |pid: i32| process::namespace(&pid.to_string(), kind);
            ensure!(of(pid)? == of(sandbox)? && of(pid)? != of(other)?, "{kind}");
        }
        let status_of = |pid: i32| process::status(pid);
        for key in [
            "CapEff",
            "CapBnd",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
            "Uid",
            "Groups",
        ] {
            ensure!(status_of(pid).get(key) == status_of(other).get(key), "{key}");
        }
        let look =
            "wc -c < /proc/keys; ls /sys/firmware | wc -l; (echo 1 > /proc/sys/kernel/panic) 2>&1 || true";
        let hidden = husk.cri.sh(&again, look).await?;
        ensure!(
            hidden.starts_with("0\n0\n") && hidden.contains("Read-only"),
            "{hidden:?}"
        );
        let cgroup = |pid: i32| process::cgroup_dir(pid, "memory");
        ensure!(
            cgroup(pid)?.to_string_lossy().contains(&again),
            "{:?}",
            cgroup(pid)?
        );

        // It ends as any other, and so does the first.
        for container in [&again, &id] {
            husk.cri.stop(container, 10).await?;
            let status = husk.cri.status(container).await?;
            ensure!(status.exit_code == 7 && status.reason == "Error", "{status:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_image_can_be_a_checkpoint() -> Result<()> {
    where_criu_works(async |husk| {
        let image = husk.busybox().await?;
        let pod = own_network(husk, "image").await?;
        let volume = husk.share("volume")?;
        std::fs::write(volume.join("kept"), "old")?;
        let with_volume = |config: ContainerConfig| config.mounted(&volume, "/volume", |_| {});
        let id = husk
            .cri
            .launch(&pod, with_volume(counter("counter", &image)))
            .await?;
        counted(husk, &id).await?;
        let location = husk.dir().join("checkpoint.tar");
        checkpoint(husk, &id, &location).await?;
        husk.cri.remove_pod(&pod.id).await?;

        let registry = shared_registry()?;
        let built = Image::new()
            .layer(Layer::from_tar(std::fs::read(&location)?))
            .build()?;
        registry.push("checkpoints/counter", "1", &built)?;
        let reference = format!("{}/checkpoints/counter:1", registry.host());
        husk.cri.pull(&reference).await?;
        // The image below it is fetched again: nobody has to know of it.
        husk.cri.remove_image(&image).await?;

        std::fs::write(volume.join("kept"), "new")?;
        let pod = own_network(husk, "again").await?;
        let again = husk
            .cri
            .create(&pod, with_volume(restored("again", &reference)))
            .await?;
        husk.cri.start(&again).await?;
        counted(husk, &again).await?;
        ensure!(husk.cri.sh(&again, "cat /volume/kept /begun").await? == "newbegun");
        // It can be written down again, and that too goes on.
        let location = husk.dir().join("again.tar");
        checkpoint(husk, &again, &location).await?;
        let config = with_volume(restored("third", &location.display().to_string()));
        let third = husk.cri.launch(&pod, config).await?;
        ensure!(husk.cri.sh(&third, "cat /begun").await? == "begun");
        let status = husk.cri.status(&again).await?;
        let image = husk.cri.image(&reference).await?.context("the image is here")?;
        ensure!(status.image_id == image.id, "{status:?}");
        husk.cri.stop(&again, 10).await?;
        ensure!(husk.cri.status(&again).await?.exit_code == 7);
        // Without the volume it cannot go on, and the reason is told.
        let refused = husk.cri.create(&pod, restored("lost", &reference)).await;
        let refused = refused.refused_with(Code::InvalidArgument)?;
        ensure!(refused.message().contains("\"/volume\""), "{refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_container_is_in_the_middle_of_goes_along() -> Result<()> {
    where_criu_works(async |husk| {
        let image = husk.busybox().await?;
        // criu reads the limits of another user's processes, which takes a capability that not every machine has.
        let user = if may_set_limits() { 1000 } else { 0 };
        // Process ids are the container's own, or shared in the pod.
        for (name, pids) in [("own", NamespaceMode::Container), ("shared", NamespaceMode::Pod)] {
            let options = namespaces(NamespaceMode::Pod, pids, NamespaceMode::Pod);
            let pod_config = |suffix: &str| {
                let config = husk.pod_config(&format!("{name}-{suffix}"));
                config.with_namespaces(options.clone())
            };
            let config = |from: &str| {
                // A user of its own, a pipe in between, a listener, a connection, a file that is open and deleted.
                let text = "nc -ll -p 8080 -e cat & nc 127.0.0.1 8080 < /dev/zero > /dev/null & \
                            exec 5> /tmp/gone; rm /tmp/gone; trap 'exit 9' TERM; \
                            (while :; do echo tick; sleep 0.1; done) | while read x; do echo $x; echo $x >&5; done & \
                            read line; echo got $line; wait";
                let mut config = script("busy", from, text);
                config.stdin = true;
                config.security().run_as_user = Some(Int64Value { value: user });
                config.security().namespace_options = Some(options.clone());
                config
            };
            let pod = husk.cri.pod(pod_config("first")).await?;
            let id = husk.cri.launch(&pod, config(&image)).await?;
            let log = husk.cri.status(&id).await?.log_path;
            let ticks = async |log: &str, more: usize| {
                eventually("it ticks", async || Ok((logs::read(log.as_ref())?.len() >= more).then_some(()))).await
            };
            ticks(&log, 3).await?;
            let listening = "nc -w 2 127.0.0.1 8080 < /etc/hostname | grep -c .";
            let location = husk.dir().join(format!("{name}.tar"));
            checkpoint(husk, &id, &location).await.with_context(|| name.to_owned())?;
            let seen = logs::read(log.as_ref())?.len();
            ticks(&log, seen + 3).await?;
            ensure!(husk.cri.sh(&id, listening).await? == "1", "{name}: it no longer listens");
            husk.cri.remove_pod(&pod.id).await?;

            let pod = husk.cri.pod(pod_config("second")).await?;
            let mut again = config(&location.display().to_string());
            again.command.clear();
            let id = husk.cri.create(&pod, again).await?;
            husk.cri.start(&id).await.with_context(|| name.to_owned())?;
            let log = husk.cri.status(&id).await?.log_path;
            ticks(&log, 3).await?;
            ensure!(husk.cri.sh(&id, listening).await? == "1", "{name}: the listener is lost");
            ensure!(husk.cri.sh(&id, "id -u").await? == user.to_string());
            let open = husk.cri.sh(&id, "ls -l /proc/1/fd /proc/[0-9]*/fd 2>/dev/null | grep -c 'gone (deleted)'");
            ensure!(open.await? != "0", "{name}: the open file is lost");
            husk.cri.stop(&id, 10).await?;
            ensure!(husk.cri.status(&id).await?.exit_code == 9, "{name}");
            husk.cri.remove_pod(&pod.id).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_daemon_in_between_changes_nothing() -> Result<()> {
    where_criu_works(async |husk| {
        let image = husk.busybox().await?;
        let pod = own_network(husk, "between").await?;
        let id = husk.cri.launch(&pod, counter("counter", &image)).await?;
        counted(husk, &id).await?;
        let location = husk.dir().join("checkpoint.tar");
        checkpoint(husk, &id, &location).await?;
        husk.cri.remove(&id).await?;
        let again = husk
            .cri
            .create(&pod, restored("again", &location.display().to_string()))
            .await?;
        husk.kill()?;
        husk.start_again().await?;
        husk.cri.start(&again).await?;
        counted(husk, &again).await?;
        husk.kill()?;
        husk.start_again().await?;
        // The image under it is in use, even if a client removes it and the daemon forgets who uses it.
        husk.cri.remove_image(&image).await?;
        husk.kill()?;
        husk.start_again().await?;
        ensure!(husk.cri.sh(&again, "ls /bin/busybox").await? == "/bin/busybox");
        let reached = counted(husk, &again).await?;
        eventually("it goes on", async || {
            Ok((counted(husk, &again).await? > reached).then_some(()))
        })
        .await?;
        husk.cri.stop(&again, 10).await?;
        ensure!(husk.cri.status(&again).await?.exit_code == 7);
        // One that is never started leaves nothing either.
        husk.cri
            .create(&pod, restored("idle", &location.display().to_string()))
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_no_checkpoint_is_refused_in_words() -> Result<()> {
    where_criu_works(async |husk| {
        let image = husk.busybox().await?;
        let pod = own_network(husk, "bad").await?;
        let dir = husk.dir().join("bad");
        std::fs::create_dir(&dir)?;
        let tar = |name: &str, layer: Layer| -> Result<String> {
            let path = dir.join(name);
            let built = Image::new()
                .layer(layer.compressed(husk_e2e::image::Compression::None))
                .build()?;
            std::fs::write(&path, &built.layers[0].data)?;
            Ok(path.display().to_string())
        };
        std::fs::write(dir.join("garbage"), vec![b'x'; 100_000])?;
        let config = |text: &str| {
            Layer::new()
                .file("config.dump", text, 0o644)
                .file("spec.dump", r#"{"ociVersion":"1.2.0"}"#, 0o644)
                .dir("checkpoint/")
        };
        let of_image = format!(r#"{{"rootfsImage":{image:?}}}"#);
        for (name, code, words) in [
            (dir.join("garbage").display().to_string(), None, "unpack"),
            (
                tar("empty", Layer::new())?,
                Some(Code::InvalidArgument),
                "not a checkpoint",
            ),
            (
                tar("no-json", config("{"))?,
                Some(Code::InvalidArgument),
                "config.dump",
            ),
            (
                tar("no-image", config("{}"))?,
                Some(Code::InvalidArgument),
                "which image",
            ),
            (
                tar("links", config(&of_image).symlink("config.dump", "/etc/passwd"))?,
                Some(Code::InvalidArgument),
                "not a checkpoint",
            ),
            (
                tar(
                    "streams",
                    config(&of_image).file("checkpoint/descriptors.json", "7", 0o644),
                )?,
                Some(Code::InvalidArgument),
                "descriptors.json",
            ),
            (
                tar(
                    "changes",
                    config(&of_image).file("rootfs-diff.tar", vec![b'x'; 5000], 0o644),
                )?,
                None,
                "rootfs-diff.tar",
            ),
            (
                tar(
                    "pipe",
                    config(&of_image).entry(Entry::new("checkpoint/core-1.img", Kind::Fifo)),
                )?,
                Some(Code::InvalidArgument),
                "not a plain file",
            ),
            (
                tar(
                    "linked",
                    config(&of_image).symlink("checkpoint/pages-1.img", "/etc/passwd"),
                )?,
                Some(Code::InvalidArgument),
                "not a plain file",
            ),
            (
                tar(
                    "changes-linked",
                    config(&of_image).symlink("rootfs-diff.tar", "/etc/passwd"),
                )?,
                Some(Code::InvalidArgument),
                "rootfs-diff.tar",
            ),
            (
                dir.join("missing").display().to_string(),
                Some(Code::NotFound),
                "No such file",
            ),
        ] {
            let refused = husk.cri.create(&pod, restored("bad", &name)).await.refused()?;
            ensure!(refused.message().contains(words), "{name}: {refused:?}");
            ensure!(
                code.is_none_or(|code| refused.code() == code),
                "{name}: {refused:?}"
            );
        }
        // criu's own images are criu's to judge.
        let hollow = tar("hollow", config(&of_image))?;
        let id = husk.cri.create(&pod, restored("hollow", &hollow)).await?;
        let refused = husk.cri.start(&id).await.refused()?;
        ensure!(refused.message().contains("restore.log"), "{refused:?}");
        ensure!(husk.cri.status(&id).await?.reason == "StartError");
        Ok(())
    })
    .await
}
