//! Containers that SIGKILL does not end: the call says what holds them, in bounded time, and everything else goes on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, script, sleeper};
use husk_e2e::fuse::Stuck;
use husk_e2e::v1::ContainerState;
use husk_e2e::{CriExt, eventually, run};
use tonic::Code;

#[tokio::test]
async fn a_stop_that_hangs_on_a_file_system_names_it_and_can_be_repeated() -> Result<()> {
    run(async |husk| {
        let dir = husk.share("stuck")?;
        let stuck = Stuck::mount(&dir)?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("stuck")).await?;
        let config = script("reader", &image, "cat /remote/file").mounted(&dir, "/remote", |_| {});
        let id = husk.cri.launch(&pod, config).await?;
        let neighbour = husk.cri.launch(&pod, sleeper("neighbour", &image)).await?;
        let other = husk.cri.pod(husk.pod_config("other")).await?;
        let elsewhere = husk.cri.launch(&other, sleeper("main", &image)).await?;
        eventually("the read", async || Ok((stuck.readers() > 0).then_some(()))).await?;

        let (cri, stuck_id) = (husk.cri.clone(), id.clone());
        let stop = tokio::spawn(async move { cri.stop(&stuck_id, 0).await });
        // Other pods, and the other container of this one, are served meanwhile.
        ensure!(husk.cri.sh(&elsewhere, "echo fine").await? == "fine");
        ensure!(husk.cri.sh(&neighbour, "echo fine").await? == "fine");
        husk.cri.stop(&elsewhere, 0).await?;
        let status = stop.await?.refused_with(Code::DeadlineExceeded)?;
        let text = status.message();
        for part in [
            "(cat) is in state D (uninterruptible sleep)",
            "waiting in request_wait_answer",
            " of /remote/file on /remote (fuse of stuck)",
            "repeated",
        ] {
            ensure!(text.contains(part), "{part:?} is missing: {text}");
        }
        // It is not given up: it still runs, and is not said to have ended.
        ensure!(husk.cri.status(&id).await?.state() == ContainerState::ContainerRunning);
        let status = husk
            .cri
            .stop_pod(&pod.id)
            .await
            .refused_with(Code::DeadlineExceeded)?;
        ensure!(status.message().contains("/remote"), "{status:?}");

        stuck.let_go()?;
        husk.cri.stop(&id, 0).await.context("the repeated stop")?;
        ensure!(husk.cri.wait_exit(&id).await?.exit_code == 137);
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_is_not_held_up_in_silence_by_a_mount_that_does_not_answer() -> Result<()> {
    run(async |husk| {
        let dir = husk.share("silent")?;
        let stuck = Stuck::mount(&dir)?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("held")).await?;
        let source = dir.join("silent");
        let config = sleeper("main", &image).mounted(&source, "/remote", |_| {});
        let (cri, in_pod) = (husk.cri.clone(), pod.clone());
        let create = tokio::spawn(async move { cri.create(&in_pod, config).await });
        eventually("the look at the source", async || {
            Ok((stuck.readers() > 0).then_some(()))
        })
        .await?;

        let status = husk
            .cri
            .stop_pod(&pod.id)
            .await
            .refused_with(Code::DeadlineExceeded)?;
        for part in [
            "create container \"main\"",
            source.to_str().context("a path")?,
            "repeated",
        ] {
            ensure!(status.message().contains(part), "{part:?} is missing: {status:?}");
        }
        // Other pods are served meanwhile.
        husk.cri.pod(husk.pod_config("other")).await?;

        stuck.let_go()?;
        create.await?.refused()?;
        husk.cri.stop_pod(&pod.id).await.context("the repeated stop")?;
        husk.cri.remove_pod(&pod.id).await?;
        Ok(())
    })
    .await
}

/// The freezer's directory of the pod of process `pid`; `None` on a node without a version 1 freezer.
fn pods_freezer(pid: i32) -> Result<Option<PathBuf>> {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = cgroups.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        names.split(',').any(|n| n == "freezer").then_some(path)
    });
    let parent = path.and_then(|p| Path::new(p).parent());
    Ok(parent.map(|p| Path::new("/sys/fs/cgroup/freezer").join(p.strip_prefix("/").unwrap_or(p))))
}

#[tokio::test]
async fn a_stop_that_somebody_elses_freezer_holds_up_names_the_cgroup() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("frozen")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let Some(freezer) = pods_freezer(husk.cri.pid(&id).await?)? else {
            // On version 2 frozen processes can be killed.
            return Ok(());
        };
        std::fs::write(freezer.join("freezer.state"), "FROZEN")?;
        let status = husk.cri.stop(&id, 0).await.refused_with(Code::DeadlineExceeded);
        std::fs::write(freezer.join("freezer.state"), "THAWED")?;
        let status = status?;
        let expected = format!("the cgroup {} is frozen", freezer.display());
        ensure!(status.message().contains(&expected), "{status:?}");
        ensure!(status.message().contains("pid "), "{status:?}");
        husk.cri.stop(&id, 0).await.context("the repeated stop")?;
        ensure!(husk.cri.wait_exit(&id).await?.exit_code == 137);
        Ok(())
    })
    .await
}
