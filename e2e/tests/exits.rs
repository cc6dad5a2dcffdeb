//! Exit codes and reasons, as kubelet reads them.

use anyhow::{Result, ensure};
use husk_e2e::config::{ContainerConfigExt, container, script};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, eventually, run, run_on_executor};

#[tokio::test]
async fn exit_codes_and_reasons_are_told() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("codes")).await?;
        for (name, text, code, reason) in [
            ("fine", "exit 0", 0, "Completed"),
            ("wrong", "exit 42", 42, "Error"),
            ("high", "exit 255", 255, "Error"),
            ("term", "kill -TERM $$; sleep 60", 143, "Error"),
            ("segv", "sh -c 'kill -SEGV $$'; exit $?", 139, "Error"),
        ] {
            // The first process of a pid namespace is immune to its own signals: give it a shell to kill.
            let text = if name == "term" {
                "sh -c 'kill -TERM $$'; exit $?"
            } else {
                text
            };
            let status = husk.cri.run_to_end(&pod, script(name, &image, text)).await?;
            ensure!(
                status.exit_code == code && status.reason == reason,
                "{name}: {status:?}"
            );
            ensure!(
                status.finished_at >= status.started_at && status.started_at > 0,
                "{name}: {status:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_signal_that_kills_the_first_process_is_128_and_more() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("killed")).await?;
        let id = husk
            .cri
            .launch(&pod, container("main", &image, &["sleep", "1000"]))
            .await?;
        let pid = nix::unistd::Pid::from_raw(husk.cri.pid(&id).await?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        let status = husk.cri.wait_exit(&id).await?;
        ensure!(status.exit_code == 137 && status.reason == "Error", "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_quick_exits_are_all_told() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("quick")).await?;
        let mut ids = Vec::new();
        for n in 0..20 {
            let config = script(&format!("quick-{n}"), &image, &format!("echo {n}; exit {n}"));
            ids.push(husk.cri.launch(&pod, config).await?);
        }
        for (n, id) in ids.iter().enumerate() {
            let status = husk.cri.wait_exit(id).await?;
            ensure!(usize::try_from(status.exit_code)? == n, "{n}: {status:?}");
            let log = husk_e2e::logs::read(status.log_path.as_ref())?;
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
async fn running_out_of_memory_is_told_with_the_first_word_of_the_exit() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("oom")).await?;
        let text = "x=aaaaaaaa; while :; do x=$x$x; done";
        let config = script("main", &image, text).limited(|r| {
            r.memory_limit_in_bytes = 32 << 20;
            r.memory_swap_limit_in_bytes = 32 << 20;
        });
        let id = husk.cri.launch(&pod, config).await?;
        // As fast as possible: the first answer that says EXITED must already say why.
        let status = eventually("the exit", async || {
            let listed = husk.cri.list(None).await?;
            let exited = listed
                .iter()
                .any(|c| c.state() == ContainerState::ContainerExited);
            let status = husk.cri.status(&id).await?;
            ensure!(
                !exited || status.state() == ContainerState::ContainerExited,
                "list is ahead of status"
            );
            Ok((status.state() == ContainerState::ContainerExited).then_some(status))
        })
        .await?;
        ensure!(
            status.reason == "OOMKilled" && status.exit_code == 137,
            "{status:?}"
        );
        let fine = husk
            .cri
            .run_to_end(&pod, script("next", &image, "exit 0"))
            .await?;
        ensure!(
            fine.reason == "Completed",
            "the next container inherits the verdict: {fine:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_child_that_runs_out_of_memory_is_told_too() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("oomchild")).await?;
        let text = "sh -c 'x=aaaaaaaa; while :; do x=$x$x; done'; exit 5";
        let config = script("main", &image, text).limited(|r| {
            r.memory_limit_in_bytes = 32 << 20;
            r.memory_swap_limit_in_bytes = 32 << 20;
        });
        let status = husk.cri.run_to_end(&pod, config).await?;
        // Kubernetes' kubelets set memory.oom.group on v2, and then the whole container goes.
        ensure!(
            status.reason == "OOMKilled" && [5, 137].contains(&status.exit_code),
            "{status:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_command_that_cannot_start_is_an_error_of_the_call_and_an_exit() -> Result<()> {
    // An OCI runtime looks for the command when it creates the container.
    run_on_executor(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("unstartable")).await?;
        let id = husk
            .cri
            .create(&pod, container("main", &image, &["/no/such/command"]))
            .await?;
        let error = husk.cri.start(&id).await.refused()?;
        ensure!(error.message().contains("/no/such/command"), "{error:?}");
        let status = husk.cri.wait_exit(&id).await?;
        ensure!(
            (126..=128).contains(&status.exit_code) && status.reason == "StartError",
            "{status:?}"
        );
        ensure!(status.message.contains("/no/such/command"), "{status:?}");
        ensure!(status.finished_at > 0, "{status:?}");
        Ok(())
    })
    .await
}
