//! The daemon dies and comes back: pods must not notice, and nothing that happened meanwhile is lost.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{script, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, eventually, logs, process, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Counts upwards on standard output until `/stop` appears, then says `end`.
const COUNTER: &str =
    "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); usleep 2000; done; echo end; exit 9";

/// That a counter's log has every number once, and its end.
fn assert_complete(path: &str) -> Result<()> {
    let mut log = logs::read(path.as_ref())?;
    ensure!(log.pop().is_some_and(|r| r.text == b"end"), "the end is missing");
    for (n, record) in log.iter().enumerate() {
        ensure!(
            record.full && record.text == n.to_string().as_bytes(),
            "line {n} is {record:?}"
        );
    }
    Ok(())
}

/// Waits until the log has grown by some lines.
async fn more_lines(path: &str) -> Result<()> {
    let before = std::fs::metadata(path)?.len();
    eventually("more lines", async || {
        Ok((std::fs::metadata(path)?.len() > before + 200).then_some(()))
    })
    .await
}

/// The counter ends as soon as the file is there, and the exec that made it perhaps with it.
async fn stop_counter(husk: &Husk, id: &str) {
    let _ = husk.cri.exec_sync(id, &["touch", "/stop"], 20).await;
}

#[tokio::test]
async fn running_containers_keep_running_and_logging() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("survivor")).await?;
        let id = husk.cri.launch(&pod, script("main", &image, COUNTER)).await?;
        let before = husk.cri.status(&id).await?;
        let pod_before = husk.cri.pod_status(&pod.id).await?;
        let pid = husk.cri.pid(&id).await?;
        for _ in 0..3 {
            husk.kill()?;
            more_lines(&before.log_path).await?;
            husk.start_again().await?;
        }
        ensure!(
            husk.cri.pid(&id).await? == pid && process::alive(pid),
            "another process"
        );
        let after = husk.cri.status(&id).await?;
        ensure!(after == before, "{before:?} became {after:?}");
        ensure!(
            husk.cri.pod_status(&pod.id).await? == pod_before,
            "the pod's status changed"
        );
        ensure!(husk.cri.sh(&id, "echo again").await? == "again");
        stop_counter(husk, &id).await;
        let after = husk.cri.wait_exit(&id).await?;
        ensure!(after.exit_code == 9, "{after:?}");
        assert_complete(&after.log_path)
    })
    .await
}

#[tokio::test]
async fn what_ended_meanwhile_is_told_afterwards() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("meanwhile")).await?;
        let counter = husk.cri.launch(&pod, script("counter", &image, COUNTER)).await?;
        let oom = script(
            "oom",
            &image,
            "while [ ! -e /stop ]; do usleep 1000; done; x=aaaaaaaa; while :; do x=$x$x; done",
        );
        let oom = husk_e2e::config::ContainerConfigExt::limited(oom, |r| {
            r.memory_limit_in_bytes = 32 << 20;
            r.memory_swap_limit_in_bytes = 32 << 20;
        });
        let oom = husk.cri.launch(&pod, oom).await?;
        let log = husk.cri.status(&counter).await?.log_path;
        let pids = [husk.cri.pid(&counter).await?, husk.cri.pid(&oom).await?];
        husk.kill()?;
        for pid in pids {
            std::fs::write(format!("/proc/{pid}/root/stop"), "")?;
        }
        eventually("the ends", async || {
            Ok(pids.iter().all(|&p| !process::alive(p)).then_some(()))
        })
        .await?;
        let before_start = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_nanos();
        husk.start_again().await?;
        let status = husk.cri.status(&counter).await?;
        ensure!(status.state() == ContainerState::ContainerExited, "{status:?}");
        ensure!(status.exit_code == 9 && status.reason == "Error", "{status:?}");
        ensure!(status.finished_at > status.started_at, "{status:?}");
        ensure!(
            u128::try_from(status.finished_at)? < before_start,
            "finished_at is the time of recovery: {status:?}"
        );
        let status = husk.cri.status(&oom).await?;
        ensure!(
            status.reason == "OOMKilled" && status.exit_code == 137,
            "{status:?}"
        );
        assert_complete(&log)
    })
    .await
}

#[tokio::test]
async fn every_state_survives() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("states")).await?;
        let stopped = husk.cri.pod(husk.pod_config("stopped")).await?;
        husk.cri.stop_pod(&stopped.id).await?;
        let created = husk.cri.create(&pod, sleeper("created", &image)).await?;
        let exited = husk.cri.launch(&pod, script("exited", &image, "exit 3")).await?;
        let end = husk.cri.wait_exit(&exited).await?;
        husk.kill()?;
        husk.start_again().await?;
        ensure!(husk.cri.status(&exited).await? == end, "the end changed");
        ensure!(husk.cri.pod_status(&stopped.id).await?.state() == PodSandboxState::SandboxNotready);
        ensure!(husk.cri.pod_status(&pod.id).await?.state() == PodSandboxState::SandboxReady);
        ensure!(husk.cri.status(&created).await?.state() == ContainerState::ContainerCreated);
        husk.cri.start(&created).await?;
        ensure!(husk.cri.sh(&created, "echo fine").await? == "fine");
        let new = husk.cri.launch(&pod, script("new", &image, "exit 4")).await?;
        ensure!(husk.cri.wait_exit(&new).await?.exit_code == 4);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_graceful_end_of_the_daemon_leaves_pods_running() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("graceful")).await?;
        let id = husk.cri.launch(&pod, script("main", &image, COUNTER)).await?;
        let pid = husk.cri.pid(&id).await?;
        let log = husk.cri.status(&id).await?.log_path;
        let status = husk.stop().await?;
        ensure!(status.success(), "the daemon ended with {status}");
        more_lines(&log).await?;
        ensure!(process::alive(pid), "the container ended with the daemon");
        husk.start_again().await?;
        stop_counter(husk, &id).await;
        husk.cri.wait_exit(&id).await?;
        assert_complete(&log)
    })
    .await
}

#[tokio::test]
async fn stopping_goes_on_where_the_daemon_died() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("stopping")).await?;
        let text = "trap '' TERM; echo ready; while :; do sleep 1 & wait $!; done";
        let id = husk.cri.launch(&pod, script("main", &image, text)).await?;
        let path = husk.cri.status(&id).await?.log_path;
        eventually("the trap", async || {
            Ok((!logs::read(path.as_ref())?.is_empty()).then_some(()))
        })
        .await?;
        let (cri, stopping) = (husk.cri.clone(), id.clone());
        let call = tokio::spawn(async move { cri.stop(&stopping, 100_000).await });
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        husk.kill()?;
        call.await?.refused()?;
        husk.start_again().await?;
        husk.cri.stop(&id, 0).await?;
        ensure!(husk.cri.status(&id).await?.exit_code == 137);
        Ok(())
    })
    .await
}

/// The daemon is killed at random moments of a pod's life; the client retries, as kubelet does.
#[tokio::test]
async fn a_daemon_killed_at_any_moment_can_be_continued() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        for round in 0..8_u64 {
            let config = husk.pod_config(&format!("anytime-{round}"));
            let (cri, request, name) = (husk.cri.clone(), config.clone(), image.clone());
            let life = tokio::spawn(async move {
                let pod = cri.pod(request).await?;
                let id = cri.launch(&pod, sleeper("main", &name)).await?;
                cri.stop(&id, 0).await?;
                cri.remove(&id).await?;
                cri.stop_pod(&pod.id).await?;
                cri.remove_pod(&pod.id).await
            });
            tokio::time::sleep(std::time::Duration::from_millis(round * 17)).await;
            husk.kill()?;
            let _ = life.await?;
            husk.start_again().await?;
            // Whatever was reached: the same request can be made again, and everything can be taken down.
            let pod = husk.cri.pod(config).await.context("the same pod again")?;
            if husk.cri.pod_status(&pod.id).await?.state() == PodSandboxState::SandboxReady {
                husk.cri
                    .create(&pod, sleeper("main", &image))
                    .await
                    .context("the same container again")?;
            }
            husk.cri.stop_pod(&pod.id).await?;
            husk.cri.remove_pod(&pod.id).await?;
            ensure!(husk.cri.list_pods(None).await?.is_empty() && husk.cri.list(None).await?.is_empty());
            husk.assert_no_pods()
                .await
                .with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })
    .await
}

/// The process that watches over a container.
pub async fn supervisor(husk: &Husk, container: &str) -> Result<Pid> {
    let mut pid = husk.cri.pid(container).await?;
    // The container's first process may be the child of a namespace's init, and that the supervisor's.
    let outside =
        |pid: i32| process::cgroup_dir(pid, "memory").map(|d| !d.to_string_lossy().contains(container));
    while !outside(pid)? {
        pid = process::parent(pid)?;
    }
    ensure!(
        pid != 1 && pid != husk.pid()?,
        "no supervisor above the container"
    );
    Ok(Pid::from_raw(pid))
}

#[tokio::test]
async fn a_killed_supervisor_leaves_no_orphans_and_no_lies() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        for daemon_is_down in [false, true] {
            let pod = husk.cri.pod(husk.pod_config("bereft")).await?;
            let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
            let pid = husk.cri.pid(&id).await?;
            let supervisor = supervisor(husk, &id).await?;
            if daemon_is_down {
                husk.kill()?;
            }
            kill(supervisor, Signal::SIGKILL)?;
            if daemon_is_down {
                husk.start_again().await?;
            }
            let status = husk.cri.wait_exit(&id).await?;
            ensure!(status.exit_code != 0 && !status.reason.is_empty(), "{status:?}");
            ensure!(
                !process::alive(pid),
                "the container's process lives on without a supervisor"
            );
            let state = husk.cri.pod_status(&pod.id).await?.state();
            ensure!(state == PodSandboxState::SandboxNotready, "the pod is {state:?}");
            husk.cri.stop_pod(&pod.id).await?;
            husk.cri.remove_pod(&pod.id).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_daemons_do_not_share_one_root() -> Result<()> {
    run(async |husk| {
        let dir = husk.dir().to_owned();
        let mut command = std::process::Command::new(husk_e2e::husk::binary()?);
        command.arg("serve").arg("--config").arg(dir.join("config.toml"));
        command
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--run")
            .arg(dir.join("run"));
        command.arg("--socket").arg(dir.join("run/other.sock"));
        let mut second = command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let ended = eventually("the second daemon's end", async || Ok(second.try_wait()?)).await;
        let _ = second.kill();
        let _ = second.wait();
        ensure!(
            !ended?.success(),
            "the second daemon was happy with the same root"
        );
        husk.assert_serving().await
    })
    .await
}
