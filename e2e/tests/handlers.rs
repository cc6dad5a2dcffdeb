//! Runtime handlers: pods whose containers an OCI runtime makes must differ in nothing that can be seen from outside.
//!
//! Debian's runc and crun are the runtimes. Every other suite can be run with one of them as the default handler:
//! `HUSK_E2E_RUNTIME=/usr/sbin/runc`.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, container, namespaces, script, sleeper};
use husk_e2e::runtimes::{RUNC, handler, pod, runc, scripts, state, with_each, write_script};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Options, eventually, logs, process, run_with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

/// They are sets, and come in any order.
fn sort_capabilities(spec: &mut serde_json::Value) {
    let sets = spec.pointer_mut("/process/capabilities");
    for set in sets.and_then(|s| s.as_object_mut()).into_iter().flatten() {
        if let Some(names) = set.1.as_array_mut() {
            names.sort_by_key(ToString::to_string);
        }
    }
}

#[tokio::test]
async fn an_unknown_handler_is_refused_and_the_known_ones_are_named() -> Result<()> {
    run_with(runc(), async |husk| {
        let refused = husk.cri.pod_by("gvisor", husk.pod_config("x")).await;
        let refused = refused.refused_with(Code::InvalidArgument)?;
        for part in ["\"gvisor\"", "\"husk\"", "\"runc\""] {
            ensure!(refused.message().contains(part), "{refused:?}");
        }
        ensure!(husk.cri.list_pods(None).await?.is_empty());
        let status = husk.cri.runtime().status(StatusRequest::default()).await?;
        let handlers = status.into_inner().runtime_handlers;
        let names: Vec<_> = handlers.iter().map(|h| h.name.as_str()).collect();
        ensure!(names == ["", "husk", "runc"], "{names:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_handler_without_its_program_says_so_and_the_others_work() -> Result<()> {
    let options = Options::new().toml(&handler("gone", "/no/such/runtime".as_ref(), ""));
    run_with(options, async |husk| {
        let refused = husk.cri.pod_by("gone", husk.pod_config("x")).await.refused()?;
        ensure!(refused.message().contains("/no/such/runtime"), "{refused:?}");
        let image = husk.busybox().await?;
        let pod = pod(husk, "husk", "fine").await?;
        let status = husk
            .cri
            .run_to_end(&pod, script("main", &image, "exit 3"))
            .await?;
        ensure!(status.exit_code == 3, "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_lives_and_dies_as_with_the_executor() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "life").await?;
        let status = husk.cri.pod_status(&pod.id).await?;
        ensure!(status.runtime_handler == handler, "{status:?}");
        let text = "echo out; echo err >&2; echo 1 > /written; trap 'exit 4' TERM; while :; do sleep 1 & wait $!; done";
        let id = husk.cri.create(&pod, script("main", &image, text)).await?;
        let created = husk.cri.status(&id).await?;
        ensure!(created.state() == ContainerState::ContainerCreated, "{created:?}");
        // The runtime itself has it in its list, and nobody else sees its files.
        ensure!(state(husk, handler) == std::slice::from_ref(&id));
        husk.cri.start(&id).await?;
        let running = husk.cri.status(&id).await?;
        ensure!(running.state() == ContainerState::ContainerRunning, "{running:?}");
        eventually("the output", async || {
            Ok((logs::read(running.log_path.as_ref())?.len() == 2).then_some(()))
        })
        .await?;
        let mut lines = logs::read(running.log_path.as_ref())?;
        lines.sort_by_key(|l| l.stream.clone());
        let said: Vec<_> = lines.iter().map(|l| (l.stream.as_str(), l.text.as_slice())).collect();
        ensure!(said == [("stderr", b"err".as_slice()), ("stdout", b"out")], "{said:?}");

        // The supervisor is its parent, and the specification that is shown is the one that was used.
        let mut info = husk.cri.container_info(&id).await?;
        let pid = husk.cri.pid(&id).await?;
        let parent = process::parent(pid)?;
        ensure!(
            process::file(parent, "comm").starts_with(b"husk-sup:"),
            "the parent of {pid} is {parent}: {}",
            process::command(parent)
        );
        let bundle = husk.dir().join("run/pods").join(&pod.id).join(&id);
        let mut used: serde_json::Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json"))?)?;
        sort_capabilities(&mut used);
        sort_capabilities(&mut info["runtimeSpec"]);
        ensure!(
            info["runtimeSpec"] == used,
            "another specification is shown: {} instead of {used}",
            info["runtimeSpec"]
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(
            !mounts.contains(&id),
            "the node sees mounts of the container:\n{mounts}"
        );

        husk.cri.stop(&id, 30).await?;
        let ended = husk.cri.status(&id).await?;
        ensure!(ended.exit_code == 4 && ended.reason == "Error", "{ended:?}");
        eventually("the runtime's forgetting", async || {
            Ok(state(husk, handler).is_empty().then_some(()))
        })
        .await?;
        husk.cri.remove(&id).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn quick_ends_are_all_told() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "quick").await?;
        for n in 0..8 {
            let config = script(&format!("quick-{n}"), &image, &format!("echo {n}; exit {n}"));
            let status = husk.cri.run_to_end(&pod, config).await?;
            let reason = if n == 0 { "Completed" } else { "Error" };
            ensure!(
                status.exit_code == n && status.reason == reason,
                "{n}: {status:?}"
            );
            ensure!(status.started_at > 0, "{n}: {status:?}");
            let log = logs::read(status.log_path.as_ref())?;
            ensure!(
                log.len() == 1 && log[0].text == n.to_string().as_bytes(),
                "{n}: {log:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn commands_run_in_it_and_end_in_time() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "exec").await?;
        let config = sleeper("main", &image).secured(|s| s.run_as_user = Some(Int64Value { value: 1001 }));
        let id = husk.cri.launch(&pod, config).await?;
        let reply = husk
            .cri
            .exec_sync(&id, &["sh", "-c", "id -u; echo err >&2; cat; exit 7"], 20)
            .await?;
        ensure!(
            reply.stdout == b"1001\n" && reply.stderr == b"err\n" && reply.exit_code == 7,
            "{reply:?}"
        );
        for n in 0..10 {
            let reply = husk.cri.exec_sync(&id, &["echo", &n.to_string()], 20).await?;
            ensure!(reply.stdout == format!("{n}\n").as_bytes(), "{n}: {reply:?}");
        }
        let reply = husk.cri.exec_sync(&id, &["/no/such/command"], 20).await?;
        ensure!(reply.exit_code == 127, "{reply:?}");
        ensure!(
            String::from_utf8_lossy(&reply.stderr).contains("/no/such/command"),
            "{reply:?}"
        );
        let sleep = format!("sleep 7{}", std::process::id());
        let text = format!("{sleep} & exec {sleep}");
        husk.cri
            .exec_sync(&id, &["sh", "-c", &text], 1)
            .await
            .refused_with(Code::DeadlineExceeded)?;
        eventually("the end of the command", async || {
            Ok(process::with_command(&sleep).is_empty().then_some(()))
        })
        .await?;
        ensure!(husk.cri.sh(&id, "echo alive").await? == "alive");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_terminal_is_a_terminal() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "tty").await?;
        let mut config = script("main", &image, "test -t 0 && test -t 2 && tty; exit 5");
        config.tty = true;
        config.stdin = true;
        let status = husk.cri.run_to_end(&pod, config).await?;
        ensure!(status.exit_code == 5, "{status:?}");
        let log = logs::read(status.log_path.as_ref())?;
        let text = String::from_utf8_lossy(&log.first().context("no output")?.text).into_owned();
        ensure!(text.starts_with("/dev/"), "{text:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_daemon_that_was_killed_takes_it_over() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "restart").await?;
        let text = "while [ ! -e /stop ]; do usleep 10000; done; exit 9";
        let id = husk.cri.launch(&pod, script("main", &image, text)).await?;
        let other = husk.cri.launch(&pod, script("other", &image, text)).await?;
        let created = husk.cri.create(&pod, script("created", &image, "exit 6")).await?;
        let before = husk.cri.status(&id).await?;
        let pid = husk.cri.pid(&id).await?;
        husk.kill()?;
        std::fs::write(format!("/proc/{pid}/root/stop"), "")?;
        eventually("its end", async || Ok((!process::alive(pid)).then_some(()))).await?;
        husk.start_again().await?;
        let status = husk.cri.status(&id).await?;
        ensure!(status.exit_code == 9 && status.reason == "Error", "{status:?}");
        ensure!(status.started_at == before.started_at, "{status:?}");
        husk.cri.start(&created).await?;
        ensure!(husk.cri.wait_exit(&created).await?.exit_code == 6);
        ensure!(husk.cri.sh(&other, "echo again").await? == "again");
        husk.cri.stop(&other, 0).await?;
        ensure!(husk.cri.status(&other).await?.exit_code == 137);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_outlives_its_supervisor() -> Result<()> {
    run_with(runc(), async |husk| {
        let image = husk.busybox().await?;
        let pod = pod(husk, "runc", "orphan").await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let pid = husk.cri.pid(&id).await?;
        kill(Pid::from_raw(process::parent(pid)?), Signal::SIGKILL)?;
        let status = husk.cri.wait_exit(&id).await?;
        ensure!(
            status.reason == "Unknown" && status.exit_code == 255,
            "{status:?}"
        );
        eventually("its end", async || Ok((!process::alive(pid)).then_some(()))).await?;
        husk.cri.remove(&id).await?;
        ensure!(state(husk, "runc").is_empty(), "the runtime's state is left");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn running_out_of_memory_is_told() -> Result<()> {
    run_with(runc(), async |husk| {
        let image = husk.busybox().await?;
        let pod = pod(husk, "runc", "oom").await?;
        let config = script("main", &image, "x=aaaaaaaa; while :; do x=$x$x; done").limited(|r| {
            r.memory_limit_in_bytes = 32 << 20;
            r.memory_swap_limit_in_bytes = 32 << 20;
        });
        let status = husk.cri.run_to_end(&pod, config).await?;
        ensure!(
            status.reason == "OOMKilled" && status.exit_code == 137,
            "{status:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn containers_of_a_pod_share_what_a_pod_shares() -> Result<()> {
    run_with(runc().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let config = husk.pod_config("shared").with_namespaces(namespaces(
            NamespaceMode::Pod,
            NamespaceMode::Pod,
            NamespaceMode::Pod,
        ));
        let pod = husk.cri.pod_by("runc", config).await?;
        let same = || {
            sleeper("one", &image).with_namespaces(namespaces(
                NamespaceMode::Pod,
                NamespaceMode::Pod,
                NamespaceMode::Pod,
            ))
        };
        let one = husk.cri.launch(&pod, same()).await?;
        let mut other = same();
        if let Some(m) = other.metadata.as_mut() {
            m.name = "two".into();
        }
        other.log_path = "two.log".into();
        let two = husk.cri.launch(&pod, other).await?;
        husk.cri.sh(&one, "echo x > /dev/shm/x").await?;
        ensure!(husk.cri.sh(&two, "cat /dev/shm/x").await? == "x");
        for kind in ["net", "ipc", "uts", "pid"] {
            let text = format!("readlink /proc/self/ns/{kind}");
            let (a, b) = (husk.cri.sh(&one, &text).await?, husk.cri.sh(&two, &text).await?);
            let own = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
            ensure!(a == b && a != own.to_string_lossy(), "{kind}: {a} {b} {own:?}");
        }
        let ip = husk
            .cri
            .pod_status(&pod.id)
            .await?
            .network
            .context("no network")?
            .ip;
        ensure!(husk.cri.sh(&one, "ip addr").await?.contains(&ip));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn options_of_a_handler_apply_with_and_without_a_runtime() -> Result<()> {
    let options = "privileged_without_host_devices = true\ncgroup_writable = true\n\
                   pod_annotations = [\"pod.example/*\"]\ncontainer_annotations = [\"c.example/a\"]\n";
    let toml = handler("runc", RUNC.as_ref(), options) + "[runtime.plain]\n" + options;
    run_with(Options::new().toml(&toml), async |husk| {
        let image = husk.busybox().await?;
        for handler in ["runc", "plain"] {
            let mut config = husk.pod_config(handler);
            config.security().privileged = true;
            config.annotations = husk_e2e::config::labels(&[("pod.example/x", "1"), ("other", "2")]);
            let pod = husk.cri.pod_by(handler, config).await?;
            let mut config = sleeper("main", &image).secured(|s| s.privileged = true);
            config.annotations = husk_e2e::config::labels(&[("c.example/a", "3"), ("c.example/b", "4")]);
            let id = husk.cri.launch(&pod, config).await?;
            ensure!(
                husk.cri.sh(&id, "ls /dev/kmsg 2>/dev/null || echo none").await? == "none",
                "{handler}: the node's devices are there"
            );
            let spec = &husk.cri.container_info(&id).await?["runtimeSpec"];
            let annotations = &spec["annotations"];
            ensure!(
                annotations["pod.example/x"] == "1" && annotations["c.example/a"] == "3",
                "{handler}: {annotations}"
            );
            ensure!(
                annotations["other"].is_null() && annotations["c.example/b"].is_null(),
                "{handler}: {annotations}"
            );
            let plain = script("plain", &image, "grep -q ' /sys/fs/cgroup.* rw' /proc/mounts");
            let status = husk.cri.run_to_end(&pod, plain).await?;
            ensure!(
                status.exit_code == 0,
                "{handler}: cgroups are read-only: {status:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_runtime_complains_about_is_the_error_of_the_call() -> Result<()> {
    let dir = scripts()?;
    // Writes its last words where it was told to, and fails.
    let angry = write_script(
        dir.path(),
        "angry",
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --log) log=$2; shift;; create) verb=create;; esac; shift; done\n\
         [ -n \"$verb\" ] || exit 0\n\
         echo '{\"level\":\"error\",\"msg\":\"the hypervisor is on fire\"}' >> \"$log\"; exit 1\n",
    )?;
    // Dies at once, without a word.
    let mute = write_script(dir.path(), "mute", "#!/bin/sh\nkill -9 $$\n")?;
    let options = Options::new().toml(&(handler("angry", &angry, "") + &handler("mute", &mute, "")));
    run_with(options, async |husk| {
        let image = husk.busybox().await?;
        for (handler, words) in [("angry", "the hypervisor is on fire"), ("mute", "signal 9")] {
            let pod = pod(husk, handler, handler).await?;
            let refused = husk.cri.create(&pod, sleeper("main", &image)).await.refused()?;
            ensure!(
                refused.message().contains(words) && refused.message().contains(handler),
                "{refused:?}"
            );
            ensure!(husk.cri.list(None).await?.is_empty());
        }
        Ok(())
    })
    .await
}

/// The limit of an ExecSync is one for its start, too: a probe must not wait for a runtime that hangs.
#[tokio::test]
async fn a_command_that_does_not_start_in_time_is_given_up_and_never_runs() -> Result<()> {
    let dir = scripts()?;
    let (gate, seen) = (dir.path().join("gate"), dir.path().join("seen"));
    let slow = write_script(
        dir.path(),
        "slow",
        &format!(
            "#!/bin/sh\nfor word in \"$@\"; do [ \"$word\" = exec ] || continue\n\
             while [ -e {} ]; do touch {}; sleep 0.05; done; done\nexec {RUNC} \"$@\"\n",
            gate.display(),
            seen.display()
        ),
    )?;
    run_with(Options::new().toml(&handler("slow", &slow, "")), async |husk| {
        let image = husk.busybox().await?;
        let pod = pod(husk, "slow", "slow").await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        std::fs::write(&gate, "")?;
        let sleep = format!("sleep 6{}", std::process::id());
        let words: Vec<_> = sleep.split(' ').collect();
        let refused = husk.cri.exec_sync(&id, &words, 1).await;
        refused.refused_with(Code::DeadlineExceeded)?;
        ensure!(seen.exists(), "the runtime did not hang");
        let script = slow.display().to_string();
        eventually("the end of the runtime and of the command", async || {
            let left = process::with_command(&script).len() + process::with_command(&sleep).len();
            Ok((left == 0).then_some(()))
        })
        .await?;
        std::fs::remove_file(&gate)?;
        ensure!(husk.cri.sh(&id, "echo alive").await? == "alive");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_command_that_is_not_there_fails_the_container() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "missing").await?;
        // OCI runtimes look for the command when they create the container.
        let refused = husk
            .cri
            .launch(&pod, container("main", &image, &["/no/such/command"]))
            .await
            .refused()?;
        ensure!(refused.message().contains("/no/such/command"), "{refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_is_taken_down_with_what_runs_in_it() -> Result<()> {
    with_each(async |husk, handler| {
        let image = husk.busybox().await?;
        let pod = pod(husk, handler, "down").await?;
        let running = husk.cri.launch(&pod, sleeper("running", &image)).await?;
        let created = husk.cri.create(&pod, sleeper("created", &image)).await?;
        let pids = [husk.cri.pid(&running).await?, husk.cri.pid(&created).await?];
        husk.cri.stop_pod(&pod.id).await?;
        ensure!(pids.iter().all(|&p| !process::alive(p)), "processes are left");
        ensure!(state(husk, handler).is_empty(), "the runtime's state is left");
        husk.cri.remove_pod(&pod.id).await?;
        husk.assert_no_pods().await
    })
    .await
}
