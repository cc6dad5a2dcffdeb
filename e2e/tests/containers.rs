//! Containers: created, started, listed, described, stopped and removed; and what their process is given.

use std::slice::from_ref;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, container, labels, script, sleeper};
use husk_e2e::husk::shared_registry;
use husk_e2e::image::{self, Layer};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, eventually, logs, process, run};
use serde_json::json;
use tonic::Code;

fn state(state: ContainerState) -> Option<ContainerStateValue> {
    Some(ContainerStateValue { state: state.into() })
}

#[tokio::test]
async fn a_container_lives_through_its_states() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("lifecycle")).await?;
        let mut config = sleeper("main", &image);
        config.annotations = labels(&[("io.kubernetes.container.hash", "cafe"), ("odd", "ü=\"x\"")]);
        let id = husk.cri.create(&pod, config.clone()).await?;

        let created = husk.cri.status(&id).await?;
        ensure!(created.state() == ContainerState::ContainerCreated, "{created:?}");
        ensure!(
            created.created_at > 0 && created.started_at == 0 && created.finished_at == 0,
            "{created:?}"
        );
        ensure!(
            created.metadata == config.metadata && created.labels == config.labels,
            "{created:?}"
        );
        ensure!(created.annotations == config.annotations, "{created:?}");
        ensure!(
            created.image.clone().unwrap_or_default().image == image,
            "{created:?}"
        );
        let log = format!("{}/main.log", pod.config.log_directory);
        ensure!(
            created.log_path == log,
            "log_path {:?} is not {log:?}",
            created.log_path
        );

        husk.cri.start(&id).await?;
        let running = husk.cri.status(&id).await?;
        ensure!(running.state() == ContainerState::ContainerRunning, "{running:?}");
        ensure!(
            running.started_at >= running.created_at && running.finished_at == 0,
            "{running:?}"
        );

        // The first process of a namespace does not get a signal that it does not handle yet.
        eventually("the trap", async || {
            let caught = "grep -q '^SigCgt:.*[4567cdef]...$' /proc/1/status";
            let looked = husk.cri.exec_sync(&id, &["sh", "-c", caught], 10).await?;
            Ok((looked.exit_code == 0).then_some(()))
        })
        .await?;
        husk.cri.stop(&id, 30).await?;
        let exited = husk.cri.status(&id).await?;
        ensure!(exited.state() == ContainerState::ContainerExited, "{exited:?}");
        ensure!(
            exited.finished_at >= exited.started_at && exited.started_at == running.started_at,
            "{exited:?}"
        );
        ensure!(
            exited.exit_code == 0 && exited.reason == "Completed",
            "{exited:?}"
        );
        ensure!(
            exited.log_path == log,
            "kubelet deletes what an empty log_path matches: {exited:?}"
        );

        let listed = husk.cri.list(None).await?;
        ensure!(
            listed.len() == 1 && listed[0].state() == ContainerState::ContainerExited,
            "{listed:?}"
        );
        ensure!(
            listed[0].pod_sandbox_id == pod.id && listed[0].metadata == config.metadata,
            "{listed:?}"
        );
        ensure!(
            listed[0].labels == config.labels && listed[0].annotations == config.annotations,
            "{listed:?}"
        );

        husk.cri.remove(&id).await?;
        ensure!(husk.cri.list(None).await?.is_empty());
        husk.cri.status(&id).await.refused_with(Code::NotFound)?;
        ensure!(std::path::Path::new(&log).exists(), "the log belongs to kubelet");
        husk.cri
            .remove(&id)
            .await
            .context("removing what is gone must succeed")?;
        husk.cri
            .stop(&id, 0)
            .await
            .context("stopping what is gone must succeed")
    })
    .await
}

#[tokio::test]
async fn a_container_can_be_removed_in_every_state() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("removal")).await?;
        let created = husk.cri.create(&pod, sleeper("created", &image)).await?;
        let running = husk.cri.launch(&pod, sleeper("running", &image)).await?;
        let exited = husk.cri.launch(&pod, script("exited", &image, "exit 0")).await?;
        husk.cri.wait_exit(&exited).await?;
        let pids = [
            husk.cri.pid(&created).await.unwrap_or(0),
            husk.cri.pid(&running).await?,
        ];
        for id in [&created, &running, &exited] {
            husk.cri.remove(id).await?;
        }
        ensure!(husk.cri.list(None).await?.is_empty());
        for pid in pids.into_iter().filter(|&pid| pid > 0) {
            ensure!(!process::alive(pid), "process {pid} lives on");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn containers_are_filtered_by_id_pod_state_and_labels() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let one = husk.cri.pod(husk.pod_config("one")).await?;
        let two = husk.cri.pod(husk.pod_config("two")).await?;
        let mut special = sleeper("special", &image);
        special.labels.insert("tier".into(), "front".into());
        let running = husk.cri.launch(&one, special).await?;
        let created = husk.cri.create(&one, sleeper("created", &image)).await?;
        let other = husk.cri.create(&two, sleeper("created", &image)).await?;
        let ids = async |change: fn(&mut ContainerFilter, &[&str; 3])| -> Result<Vec<String>> {
            let mut filter = ContainerFilter::default();
            change(&mut filter, &[&running, &one.id, &two.id]);
            let mut ids: Vec<_> = husk
                .cri
                .list(Some(filter))
                .await?
                .into_iter()
                .map(|c| c.id)
                .collect();
            ids.sort();
            Ok(ids)
        };
        let sorted = |mut ids: Vec<String>| {
            ids.sort();
            ids
        };
        ensure!(ids(|_, _| {}).await? == sorted(vec![running.clone(), created.clone(), other.clone()]));
        ensure!(ids(|f, [id, ..]| f.id = (*id).into()).await? == from_ref(&running));
        ensure!(
            ids(|f, [id, ..]| f.id = id[..13].into()).await? == from_ref(&running),
            "crictl sends prefixes"
        );
        ensure!(
            ids(|f, [_, pod, _]| f.pod_sandbox_id = (*pod).into()).await?
                == sorted(vec![running.clone(), created])
        );
        ensure!(ids(|f, [_, _, pod]| f.pod_sandbox_id = (*pod).into()).await? == [other]);
        ensure!(ids(|f, _| f.state = state(ContainerState::ContainerRunning)).await? == from_ref(&running));
        ensure!(ids(|f, _| f.label_selector = labels(&[("tier", "front")])).await? == from_ref(&running));
        ensure!(
            ids(|f, _| f.label_selector = labels(&[("tier", "back")]))
                .await?
                .is_empty()
        );
        let mixed = ids(|f, [id, _, two]| {
            f.id = (*id).into();
            f.pod_sandbox_id = (*two).into();
        });
        ensure!(mixed.await?.is_empty(), "all parts of a filter must match");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_repeated_request_gives_the_same_container() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("repeated")).await?;
        let first = husk.cri.create(&pod, sleeper("main", &image)).await?;
        ensure!(
            husk.cri.create(&pod, sleeper("main", &image)).await? == first,
            "a second container"
        );
        husk.cri
            .create(&pod, script("main", &image, "exit 1"))
            .await
            .refused_with(Code::AlreadyExists)?;
        let mut next = sleeper("main", &image);
        next.metadata.get_or_insert_default().attempt = 1;
        ensure!(
            husk.cri.create(&pod, next).await? != first,
            "the next attempt is another container"
        );
        husk.cri.remove(&first).await?;
        ensure!(
            husk.cri.create(&pod, sleeper("main", &image)).await? != first,
            "an id was used twice"
        );
        Ok(())
    })
    .await
}

/// Pulls an image whose configuration is changed, starts a container from it and returns its output when it ends.
async fn output(
    husk: &Husk,
    tag: &str,
    image: image::Image,
    change: impl FnOnce(&mut ContainerConfig),
) -> Result<String> {
    let reference = shared_registry()?.push("containers/configured", tag, &image.build()?)?;
    husk.cri.pull(&reference).await?;
    let pod = husk.cri.pod(husk.pod_config(tag)).await?;
    let mut config = container::<&str>("main", &reference, &[]);
    change(&mut config);
    let status = husk.cri.run_to_end(&pod, config).await?;
    let log = logs::read(status.log_path.as_ref())?;
    ensure!(status.exit_code == 0, "{status:?} {log:?}");
    Ok(String::from_utf8(logs::text(&log, "stdout"))?
        .trim_end()
        .to_owned())
}

#[tokio::test]
async fn command_and_arguments_replace_entrypoint_and_cmd_as_kubernetes_says() -> Result<()> {
    run(async |husk| {
        let image = || -> Result<image::Image> {
            let image = image::busybox()?.set("Entrypoint", json!(["echo", "entry"]));
            Ok(image.set("Cmd", json!(["cmd"])))
        };
        let words = |w: &[&str]| w.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let got = output(husk, "neither", image()?, |_| {}).await?;
        ensure!(got == "entry cmd", "neither: {got}");
        let got = output(husk, "args", image()?, |c| c.args = words(&["a", "b c"])).await?;
        ensure!(got == "entry a b c", "args: {got}");
        let got = output(husk, "command", image()?, |c| {
            c.command = words(&["echo", "mine"])
        })
        .await?;
        ensure!(got == "mine", "command: {got}");
        let both = output(husk, "both", image()?, |c| {
            c.command = words(&["echo", "mine"]);
            c.args = words(&["a"]);
        });
        let got = both.await?;
        ensure!(got == "mine a", "both: {got}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_environment_is_the_images_then_the_pods() -> Result<()> {
    run(async |husk| {
        let image = image::busybox()?
            .env("FROM_IMAGE=1")
            .env("BOTH=image")
            .env("EMPTY=");
        let got = output(husk, "environment", image, |config| {
            config.command = vec!["env".into()];
            for (key, value) in [
                ("BOTH", "pod"),
                ("TWICE", "first"),
                ("TWICE", "last"),
                ("SPACES", "a  b=c"),
            ] {
                config.envs.push(KeyValue {
                    key: key.into(),
                    value: value.into(),
                });
            }
        })
        .await?;
        let lines: Vec<_> = got.lines().collect();
        for wanted in [
            "FROM_IMAGE=1",
            "BOTH=pod",
            "EMPTY=",
            "TWICE=last",
            "SPACES=a  b=c",
            "HOME=/root",
        ] {
            ensure!(lines.contains(&wanted), "{wanted} is not in {lines:?}");
        }
        ensure!(
            lines.iter().any(|l| l.starts_with("PATH=/usr/local/sbin:")),
            "{lines:?}"
        );
        ensure!(
            lines
                .iter()
                .filter(|l| l.starts_with("BOTH=") || l.starts_with("TWICE="))
                .count()
                == 2,
            "{lines:?}"
        );
        ensure!(!got.contains("HUSK_"), "husk's own environment leaks: {lines:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_working_directory_is_the_pods_or_the_images_and_is_made() -> Result<()> {
    run(async |husk| {
        let image = || image::busybox().map(|i| i.set("WorkingDir", json!("/made/by/image")));
        let pwd = |config: &mut ContainerConfig| config.command = vec!["pwd".into()];
        let got = output(husk, "image-cwd", image()?, pwd).await?;
        ensure!(got == "/made/by/image", "{got}");
        let got = output(husk, "pod-cwd", image()?, |config| {
            pwd(config);
            config.working_dir = "/made/by/pod".into();
        });
        let got = got.await?;
        ensure!(got == "/made/by/pod", "{got}");
        let got = output(husk, "no-cwd", image::busybox()?, pwd).await?;
        ensure!(got == "/", "{got}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_images_volume_starts_with_what_the_image_has_there() -> Result<()> {
    run(async |husk| {
        let image = image::busybox()?
            .layer(
                Layer::new()
                    .entry(
                        image::Entry::new("data", image::Kind::Dir)
                            .mode(0o750)
                            .owner(1001, 1002),
                    )
                    .file("data/seed", "seed", 0o600),
            )
            .set("Volumes", json!({ "/data": {}, "/fresh": {} }));
        let reference = shared_registry()?.push("containers/volume", "1", &image.build()?)?;
        husk.cri.pull(&reference).await?;
        let pod = husk.cri.pod(husk.pod_config("volume")).await?;
        // A volume stays writable on a read-only root.
        let config = sleeper("main", &reference).secured(|s| s.readonly_rootfs = true);
        let id = husk.cri.launch(&pod, config).await?;
        let got = husk.cri.sh(
            &id,
            "cat /data/seed; echo; stat -c '%a %u %g' /data; echo x > /data/y; echo x > /fresh/y",
        );
        let got = got.await?;
        ensure!(got == "seed\n750 1001 1002", "{got}");
        let other = husk.cri.launch(&pod, sleeper("other", &reference)).await?;
        let got = husk.cri.sh(&other, "ls /data /fresh").await?;
        ensure!(!got.contains('y'), "two containers share the volume: {got}");
        let mounts = husk.cri.status(&id).await?.mounts;
        ensure!(
            mounts.is_empty(),
            "status echoes the request's mounts only: {mounts:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn stopping_sends_the_right_signal_and_then_kills() -> Result<()> {
    run(async |husk| {
        let base = image::busybox()?.set("StopSignal", json!("SIGUSR1"));
        let reference = shared_registry()?.push("containers/signal", "1", &base.build()?)?;
        husk.cri.pull(&reference).await?;
        let pod = husk.cri.pod(husk.pod_config("signals")).await?;
        let wait = "echo ready; while :; do sleep 1 & wait $!; done";
        let polite = format!("trap 'echo usr1; exit 3' USR1; trap 'echo term; exit 4' TERM; {wait}");
        let polite = husk
            .cri
            .launch(&pod, script("polite", &reference, &polite))
            .await?;
        ready(husk, &polite).await?;
        husk.cri.stop(&polite, 60).await?;
        let status = husk.cri.status(&polite).await?;
        ensure!(status.exit_code == 3 && status.reason == "Error", "{status:?}");

        let stubborn = format!("trap '' TERM USR1; {wait}");
        for (name, grace) in [("stubborn", 1), ("at-once", 0)] {
            let id = husk.cri.launch(&pod, script(name, &reference, &stubborn)).await?;
            ready(husk, &id).await?;
            husk.cri.stop(&id, grace).await?;
            let status = husk.cri.status(&id).await?;
            ensure!(status.exit_code == 137 && status.reason == "Error", "{status:?}");
            husk.cri
                .stop(&id, 5)
                .await
                .context("stopping an exited container must succeed")?;
        }
        Ok(())
    })
    .await
}

/// Waits until the container printed something: its traps are set.
async fn ready(husk: &Husk, id: &str) -> Result<()> {
    let path = husk.cri.status(id).await?.log_path;
    eventually("the first line", async || {
        Ok((!logs::read(path.as_ref())?.is_empty()).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_stop_in_a_greater_hurry_wins() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("hurry")).await?;
        let text = "trap '' TERM; echo ready; while :; do sleep 1 & wait $!; done";
        let id = husk.cri.launch(&pod, script("main", &image, text)).await?;
        ready(husk, &id).await?;
        let (cri, slow) = (husk.cri.clone(), id.clone());
        let slow = tokio::spawn(async move { cri.stop(&slow, 100_000).await });
        tokio::task::yield_now().await;
        husk.cri.stop(&id, 0).await?;
        slow.await??;
        ensure!(husk.cri.status(&id).await?.exit_code == 137);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn stopping_a_created_container_ends_it() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("unstarted")).await?;
        let id = husk.cri.create(&pod, sleeper("main", &image)).await?;
        husk.cri.stop(&id, 10).await?;
        husk.cri.remove(&id).await?;
        ensure!(husk.cri.list(None).await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn background_processes_end_with_their_container() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("strays")).await?;
        let unique = format!("sleep 77{}", std::process::id());
        let text = format!("setsid {unique} & setsid {unique} & sleep 0.2; exit 0");
        let status = husk.cri.run_to_end(&pod, script("main", &image, &text)).await?;
        ensure!(status.exit_code == 0, "{status:?}");
        eventually("the end of the strays", async || {
            Ok(process::with_command(&unique).is_empty().then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn verbose_status_has_what_people_script_against() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("verbose")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let info = husk.cri.container_info(&id).await?;
        ensure!(info["sandboxID"] == pod.id.as_str(), "{info}");
        let pid = info["pid"].as_i64().context("no pid")?;
        ensure!(
            process::command(i32::try_from(pid)?).starts_with("sh -c trap"),
            "pid {pid} is another process"
        );
        let spec = &info["runtimeSpec"];
        ensure!(
            spec["ociVersion"].is_string() && spec["process"]["args"][0] == "sh",
            "{spec}"
        );
        Ok(())
    })
    .await
}
