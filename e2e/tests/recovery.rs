//! What a daemon finds when it starts need not be whole, quick or readable, and none of that may harm what runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, script, sleeper};
use husk_e2e::fuse::Stuck;
use husk_e2e::runtimes::{RUNC, handler, pod, scripts, write_script};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Options, eventually, process, run, run_on_executor, run_with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that stands still; it goes on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: Pid) -> Result<Self> {
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The supervisor above a container's process.
fn supervisor_of(mut pid: i32) -> Result<Pid> {
    while !process::file(pid, "comm").starts_with(b"husk-sup:") {
        ensure!(pid > 1, "no supervisor above the container");
        pid = process::parent(pid)?;
    }
    Ok(Pid::from_raw(pid))
}

#[tokio::test]
async fn a_supervisor_that_stands_still_is_not_taken_for_dead() -> Result<()> {
    run_on_executor(async |husk| {
        let image = husk.busybox().await?;
        let held = husk.cri.pod(husk.pod_config("held")).await?;
        let text = "while [ ! -e /stop ]; do usleep 10000; done; exit 9";
        let id = husk.cri.launch(&held, script("main", &image, text)).await?;
        let doomed = husk.cri.pod(husk.pod_config("doomed")).await?;
        let lost = husk.cri.launch(&doomed, sleeper("main", &image)).await?;
        let (pid, lost_pid) = (husk.cri.pid(&id).await?, husk.cri.pid(&lost).await?);
        let stopped = Stopped::stop(supervisor_of(pid)?)?;
        let also_stopped = Stopped::stop(supervisor_of(lost_pid)?)?;
        for _ in 0..2 {
            husk.kill()?;
            husk.start_again().await?;
            ensure!(process::alive(pid), "the container was killed");
            let state = husk.cri.status(&id).await?.state();
            ensure!(state == ContainerState::ContainerRunning, "{state:?}");
            let state = husk.cri.pod_status(&held.id).await?.state();
            ensure!(state == PodSandboxState::SandboxReady, "{state:?}");
        }
        // Others are served meanwhile.
        let other = husk.cri.pod(husk.pod_config("other")).await?;
        let status = husk
            .cri
            .run_to_end(&other, script("main", &image, "exit 3"))
            .await?;
        ensure!(status.exit_code == 3, "{status:?}");
        // The end of one that stands still is told like any other.
        kill(also_stopped.0, Signal::SIGKILL)?;
        husk.cri.wait_exit(&lost).await?;
        ensure!(!process::alive(lost_pid), "an orphan is left");
        let state = husk.cri.pod_status(&doomed.id).await?.state();
        ensure!(state == PodSandboxState::SandboxNotready, "{state:?}");

        drop(stopped);
        ensure!(husk.cri.sh(&id, "touch /stop; echo fine").await? == "fine");
        ensure!(husk.cri.wait_exit(&id).await?.exit_code == 9);
        Ok(())
    })
    .await
}

/// A runtime that waits in `verb` for as long as `gate` is there, and makes `seen` when it waits.
struct Slow {
    _dir: tempfile::TempDir,
    program: PathBuf,
    gate: PathBuf,
    seen: PathBuf,
}

impl Slow {
    fn new(verb: &str) -> Result<Self> {
        let dir = scripts()?;
        let (gate, seen) = (dir.path().join("gate"), dir.path().join("seen"));
        std::fs::write(&gate, "")?;
        let program = write_script(
            dir.path(),
            "slow",
            &format!(
                "#!/bin/sh\nfor word in \"$@\"; do [ \"$word\" = {verb} ] || continue\n\
                 while [ -e {} ]; do touch {}; sleep 0.05; done; done\nexec {RUNC} \"$@\"\n",
                gate.display(),
                seen.display()
            ),
        )?;
        Ok(Self {
            _dir: dir,
            program,
            gate,
            seen,
        })
    }

    fn options(&self) -> Options {
        Options::new().toml(&handler("slow", &self.program, ""))
    }

    async fn waits(&self) -> Result<()> {
        eventually("the runtime", async || Ok(self.seen.exists().then_some(()))).await
    }
}

#[tokio::test]
async fn a_start_that_outlives_its_daemon_is_followed_to_its_end() -> Result<()> {
    let slow = Slow::new("start")?;
    run_with(slow.options(), async |husk| {
        let image = husk.busybox().await?;
        let pod = pod(husk, "slow", "starting").await?;
        let id = husk.cri.create(&pod, sleeper("main", &image)).await?;
        let (cri, starting) = (husk.cri.clone(), id.clone());
        let call = tokio::spawn(async move { cri.start(&starting).await });
        slow.waits().await?;
        husk.kill()?;
        call.await?.refused()?;
        husk.start_again().await?;
        ensure!(husk.cri.status(&id).await?.state() == ContainerState::ContainerCreated);
        // It is being started: once more would be once too often.
        husk.cri.start(&id).await.refused()?;
        std::fs::remove_file(&slow.gate)?;
        eventually("the container's start", async || {
            let state = husk.cri.status(&id).await?.state();
            ensure!(state != ContainerState::ContainerExited, "it was ended");
            Ok((state == ContainerState::ContainerRunning).then_some(()))
        })
        .await?;
        ensure!(husk.cri.status(&id).await?.started_at > 0);
        ensure!(husk.cri.sh(&id, "echo fine").await? == "fine");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stop_goes_on_to_the_kill_when_the_runtime_cannot_signal() -> Result<()> {
    let dir = scripts()?;
    let program = write_script(
        dir.path(),
        "deaf",
        &format!(
            "#!/bin/sh\nfor word in \"$@\"; do [ \"$word\" = kill ] && exit 1; done\nexec {RUNC} \"$@\"\n"
        ),
    )?;
    let options = Options::new().toml(&handler("deaf", &program, ""));
    run_with(options, async |husk| {
        let image = husk.busybox().await?;
        let pod = pod(husk, "deaf", "deaf").await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        husk.cri.stop(&id, 1).await?;
        let status = husk.cri.status(&id).await?;
        ensure!(status.exit_code == 137, "{status:?}");
        ensure!(husk.log().contains("stop signal could not be sent"));
        Ok(())
    })
    .await
}

/// Names of the unpacked layers.
fn layers(husk: &Husk) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(husk.dir().join("root/images/layers"))?;
    let mut names: Vec<_> = entries
        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn what_is_undone_at_the_start_does_not_take_images_of_others_away() -> Result<()> {
    let slow = Slow::new("create")?;
    run_with(slow.options(), async |husk| {
        let image = husk.busybox().await?;
        let cut_short = pod(husk, "slow", "cut-short").await?;
        let (cri, config) = (husk.cri.clone(), sleeper("older", &image));
        let call = tokio::spawn(async move { cri.create(&cut_short, config).await });
        slow.waits().await?;
        let pod = husk.cri.pod(husk.pod_config("newer")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        husk.cri.remove_image(&image).await?;
        let before = layers(husk)?;
        ensure!(!before.is_empty());
        husk.kill()?;
        call.await?.refused()?;
        std::fs::remove_file(&slow.gate)?;
        husk.start_again().await?;
        eventually("the older container's end", async || {
            let log = husk.log();
            Ok(
                (log.contains("was cut short; removing it") && log.contains("container removed"))
                    .then_some(()),
            )
        })
        .await?;
        ensure!(
            layers(husk)? == before,
            "layers of a running container were freed"
        );
        ensure!(husk.cri.sh(&id, "ls /bin/busybox").await? == "/bin/busybox");
        husk.cri.remove(&id).await?;
        eventually("the layers' end", async || {
            Ok(layers(husk)?.is_empty().then_some(()))
        })
        .await
    })
    .await
}

/// Puts another text into a record, while no daemon runs.
fn replace_in_record(husk: &Husk, table: &str, key: &str, from: &str, to: &str) -> Result<()> {
    let db = rusqlite::Connection::open(husk.dir().join("root/husk.db"))?;
    let select = format!("SELECT value FROM {table} WHERE key = ?1");
    let value: Vec<u8> = db.query_row(&select, [key], |row| row.get(0))?;
    let text = String::from_utf8(value)?;
    ensure!(text.contains(from), "{from} is not in {text}");
    let text = text.replace(from, to).into_bytes();
    let update = format!("UPDATE {table} SET value = ?2 WHERE key = ?1");
    ensure!(db.execute(&update, rusqlite::params![key, text])? == 1);
    Ok(())
}

#[tokio::test]
async fn what_records_of_another_version_speak_of_is_left_alone() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("newer-pod")).await?;
        let of_pod = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let other = husk.cri.pod(husk.pod_config("newer-container")).await?;
        let id = husk.cri.launch(&other, sleeper("main", &image)).await?;
        husk.cri.remove_image(&image).await?;
        let before = layers(husk)?;
        let pids = [husk.cri.pid(&of_pod).await?, husk.cri.pid(&id).await?];
        let changes = [
            ("pods", &pod.id, "\"Ready\"", "\"Hibernating\""),
            ("containers", &id, "\"Running\"", "\"Dreaming\""),
        ];
        husk.kill()?;
        for (table, key, from, to) in changes {
            replace_in_record(husk, table, key, from, to)?;
        }
        husk.start_again().await?;
        for pid in pids {
            ensure!(process::alive(pid), "a container was killed");
        }
        // What others do frees nothing either.
        let image_again = husk.busybox().await?;
        husk.cri
            .run_to_end(&other, script("short", &image_again, "exit 0"))
            .await?;
        husk.cri.remove_image(&image_again).await?;
        ensure!(
            layers(husk)? == before,
            "layers of a running container were freed"
        );

        husk.kill()?;
        for (table, key, from, to) in changes {
            replace_in_record(husk, table, key, to, from)?;
        }
        husk.start_again().await?;
        for id in [&of_pod, &id] {
            ensure!(husk.cri.sh(id, "touch /new; ls /bin/busybox /new").await? == "/bin/busybox\n/new");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_end_that_takes_its_time_keeps_no_neighbours_probe() -> Result<()> {
    run_on_executor(async |husk| {
        let dir = husk.share("stuck")?;
        let stuck = Stuck::mount(&dir)?;
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("stuck")).await?;
        // On the node's process namespace its first process can end while another is stuck.
        let shared =
            husk_e2e::config::namespaces(NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Pod);
        // Not to its log: what sends from a stuck file to a pipe locks the pipe against its reader.
        let text = "cat /remote/file > /dev/null & while [ ! -e /stop ]; do usleep 10000; done";
        let config = script("leaver", &image, text)
            .mounted(&dir, "/remote", |_| {})
            .with_namespaces(shared);
        let id = husk.cri.launch(&pod, config).await?;
        let neighbour = husk.cri.launch(&pod, sleeper("neighbour", &image)).await?;
        eventually("the read", async || Ok((stuck.readers() > 0).then_some(()))).await?;
        let pid = husk.cri.pid(&id).await?;
        std::fs::write(format!("/proc/{pid}/root/stop"), "")?;
        eventually("the first process's end", async || {
            Ok((!process::alive(pid)).then_some(()))
        })
        .await?;
        ensure!(husk.cri.sh(&neighbour, "echo fine").await? == "fine");
        let state = husk.cri.status(&id).await?.state();
        ensure!(
            state == ContainerState::ContainerRunning,
            "the exec's end was told after the other container's, which waits for a stuck process"
        );
        stuck.let_go()?;
        husk.cri.wait_exit(&id).await.context("the end of the first")?;
        Ok(())
    })
    .await
}
