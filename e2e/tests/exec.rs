//! ExecSync: what a probe sees.

use anyhow::{Result, ensure};
use husk_e2e::config::{ContainerConfigExt, script, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, cri, eventually, process, run};
use tonic::Code;

async fn sleeping(husk: &Husk) -> Result<String> {
    let image = husk.busybox().await?;
    let pod = husk.cri.pod(husk.pod_config("exec")).await?;
    Ok(husk.cri.launch(&pod, sleeper("main", &image)).await?)
}

/// A command line that no other test has.
fn unique_sleep(salt: u32) -> String {
    format!("sleep {salt}{}", std::process::id())
}

#[tokio::test]
async fn output_and_exit_code_come_back() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let reply = husk
            .cri
            .exec_sync(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"], 20)
            .await?;
        ensure!(
            reply.stdout == b"out\n" && reply.stderr == b"err\n" && reply.exit_code == 7,
            "{reply:?}"
        );
        let reply = husk.cri.exec_sync(&id, &["true"], 0).await?;
        ensure!(reply.stdout.is_empty() && reply.exit_code == 0, "{reply:?}");
        let reply = husk.cri.exec_sync(&id, &["sh", "-c", "kill -9 $$"], 20).await?;
        ensure!(reply.exit_code == 137, "{reply:?}");
        // Standard input is empty, not the daemon's.
        let reply = husk.cri.exec_sync(&id, &["cat"], 20).await?;
        ensure!(reply.stdout.is_empty() && reply.exit_code == 0, "{reply:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_a_failure_not_a_riddle() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        // An exit code makes a probe fail; an error of the call would leave it undecided for ever.
        let reply = husk.cri.exec_sync(&id, &["/no/such/command"], 20).await?;
        ensure!(reply.exit_code == 127, "{reply:?}");
        ensure!(
            String::from_utf8_lossy(&reply.stderr).contains("/no/such/command"),
            "{reply:?}"
        );
        let reply = husk.cri.exec_sync(&id, &["/etc/passwd"], 20).await?;
        ensure!(reply.exit_code == 126, "{reply:?}");
        ensure!(
            String::from_utf8_lossy(&reply.stderr).contains("/etc/passwd"),
            "{reply:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_exec_is_inside_the_container_in_every_way() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("inside")).await?;
        let mut config = sleeper("main", &image).secured(|s| {
            s.run_as_user = Some(Int64Value { value: 1001 });
            s.run_as_group = Some(Int64Value { value: 1002 });
            s.supplemental_groups = vec![5000];
            s.no_new_privs = true;
            s.capabilities = Some(Capability {
                drop_capabilities: vec!["ALL".into()],
                ..Default::default()
            });
        });
        config.working_dir = "/tmp".into();
        config.envs.push(KeyValue {
            key: "MINE".into(),
            value: "1".into(),
        });
        let id = husk.cri.launch(&pod, config).await?;
        let first = process::status(husk.cri.pid(&id).await?);
        let exec = process::parse_status(&husk.cri.sh(&id, "cat /proc/self/status").await?);
        for key in [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
        ] {
            ensure!(
                first.get(key) == exec.get(key),
                "{key}: {:?} {:?}",
                first.get(key),
                exec.get(key)
            );
        }
        ensure!(exec.get("Uid").is_some_and(|u| u.starts_with("1001")), "{exec:?}");
        ensure!(husk.cri.sh(&id, "pwd; echo $MINE").await? == "/tmp\n1");
        for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let one = husk
                .cri
                .sh(&id, &format!("readlink /proc/self/ns/{kind}"))
                .await?;
            let first = process::namespace(&husk.cri.pid(&id).await?.to_string(), kind)?;
            ensure!(one == first, "{kind}: {one} {first}");
        }
        let open = husk.cri.sh(&id, "ls /proc/$$/fd; true").await?;
        ensure!(open == "0\n1\n2", "descriptors leak into the container: {open}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_time_out_is_deadline_exceeded_and_takes_the_whole_tree() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let unique = unique_sleep(6);
        let text = format!("setsid {unique} & {unique} & trap '' TERM; {unique}; {unique}");
        husk.cri
            .exec_sync(&id, &["sh", "-c", &text], 1)
            .await
            .refused_with(Code::DeadlineExceeded)?;
        eventually("the end of the tree", async || {
            Ok(process::with_command(&unique).is_empty().then_some(()))
        })
        .await?;
        ensure!(
            husk.cri.status(&id).await?.state() == ContainerState::ContainerRunning,
            "the container died of it"
        );
        ensure!(husk.cri.sh(&id, "echo fine").await? == "fine");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_child_that_keeps_the_pipe_open_does_not_keep_the_caller() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let unique = unique_sleep(7);
        let reply = husk
            .cri
            .exec_sync(&id, &["sh", "-c", &format!("{unique} & echo started")], 0)
            .await?;
        ensure!(reply.stdout == b"started\n" && reply.exit_code == 0, "{reply:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn output_without_end_is_cut_and_fits_kubelets_limit() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let text = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 3";
        let reply = husk.cri.exec_sync(&id, &["sh", "-c", text], 60).await?;
        ensure!(reply.exit_code == 3, "exit code {}", reply.exit_code);
        ensure!(!reply.stdout.is_empty() && !reply.stderr.is_empty());
        ensure!(reply.stdout.len() + reply.stderr.len() < cri::KUBELET_MESSAGE_LIMIT);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_execs_run_at_once() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        let calls: Vec<_> = (0..20)
            .map(|n| {
                let (cri, id) = (husk.cri.clone(), id.clone());
                tokio::spawn(async move {
                    cri.exec_sync(&id, &["sh", "-c", &format!("echo {n}; exit {n}")], 60)
                        .await
                })
            })
            .collect();
        for (n, call) in calls.into_iter().enumerate() {
            let reply = call.await??;
            ensure!(reply.stdout == format!("{n}\n").as_bytes(), "{n}: {reply:?}");
            ensure!(usize::try_from(reply.exit_code)? == n, "{n}: {reply:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_exec_ends_with_its_container_or_its_caller() -> Result<()> {
    run(async |husk| {
        let id = sleeping(husk).await?;
        for (salt, end) in [(8, "caller"), (9, "container")] {
            let unique = unique_sleep(salt);
            let (cri, container, command) = (husk.cri.clone(), id.clone(), unique.clone());
            // kubelet's hooks have no time limit: nothing else would end them.
            let call =
                tokio::spawn(async move { cri.exec_sync(&container, &["sh", "-c", &command], 0).await });
            eventually("the exec", async || {
                Ok((!process::with_command(&unique).is_empty()).then_some(()))
            })
            .await?;
            if end == "caller" {
                call.abort();
            } else {
                husk.cri.stop(&id, 0).await?;
                // An answer or an error, but no hang.
                let _ = call.await?;
            }
            eventually(&format!("the exec's end with its {end}"), async || {
                Ok(process::with_command(&unique).is_empty().then_some(()))
            })
            .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_exec_needs_a_running_container() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("states")).await?;
        let created = husk.cri.create(&pod, sleeper("created", &image)).await?;
        let exited = husk.cri.launch(&pod, script("exited", &image, "exit 0")).await?;
        husk.cri.wait_exit(&exited).await?;
        for id in [&created, &exited] {
            husk.cri
                .exec_sync(id, &["true"], 5)
                .await
                .refused_with(Code::FailedPrecondition)?;
        }
        husk.cri
            .exec_sync("0123456789abcdef", &["true"], 5)
            .await
            .refused_with(Code::NotFound)?;
        let running = husk.cri.launch(&pod, sleeper("running", &image)).await?;
        husk.cri
            .exec_sync(&running, &[], 5)
            .await
            .refused_with(Code::InvalidArgument)?;
        husk.cri
            .exec_sync(&running, &["true"], -1)
            .await
            .refused_with(Code::InvalidArgument)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_exec_lives_within_the_containers_limits() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("limits")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let unique = unique_sleep(5);
        let (cri, container, command) = (husk.cri.clone(), id.clone(), unique.clone());
        let call = tokio::spawn(async move { cri.exec_sync(&container, &["sh", "-c", &command], 0).await });
        let pid = eventually("the exec", async || {
            Ok(process::with_command(&unique).first().copied())
        })
        .await?;
        let own = process::cgroup_dir(husk.cri.pid(&id).await?, "memory")?;
        let its = process::cgroup_dir(pid, "memory")?;
        ensure!(
            its.starts_with(&own),
            "{} is not below {}",
            its.display(),
            own.display()
        );
        call.abort();
        Ok(())
    })
    .await
}
