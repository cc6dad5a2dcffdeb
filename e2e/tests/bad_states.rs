//! Calls on what does not exist or is not in the right state, by the table of codes that kubelet and critest rely on.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{script, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Pod, run};
use tonic::Code;

const UNKNOWN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn removals_of_what_does_not_exist_succeed() -> Result<()> {
    run(async |husk| {
        for _ in 0..2 {
            husk.cri.stop_pod(UNKNOWN).await?;
            husk.cri.remove_pod(UNKNOWN).await?;
            husk.cri.stop(UNKNOWN, 10).await?;
            husk.cri.remove(UNKNOWN).await?;
            husk.cri.remove_image("no/such:image").await?;
            ensure!(husk.cri.image("no/such:image").await?.is_none());
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn calls_on_what_does_not_exist_are_not_found() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        husk.cri.pod_status(UNKNOWN).await.refused_with(Code::NotFound)?;
        husk.cri.status(UNKNOWN).await.refused_with(Code::NotFound)?;
        husk.cri.start(UNKNOWN).await.refused_with(Code::NotFound)?;
        husk.cri
            .exec_sync(UNKNOWN, &["true"], 5)
            .await
            .refused_with(Code::NotFound)?;
        let pod = Pod {
            id: UNKNOWN.into(),
            config: husk.pod_config("unknown"),
        };
        husk.cri
            .create(&pod, sleeper("main", &image))
            .await
            .refused_with(Code::NotFound)?;
        husk.cri.reopen_log(UNKNOWN).await.refused_with(Code::NotFound)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn calls_without_an_id_are_refused() -> Result<()> {
    run(async |husk| {
        for code in [
            husk.cri.pod_status("").await.refused()?.code(),
            husk.cri.status("").await.refused()?.code(),
            husk.cri.start("").await.refused()?.code(),
            husk.cri.exec_sync("", &["true"], 5).await.refused()?.code(),
        ] {
            ensure!(
                [Code::InvalidArgument, Code::NotFound].contains(&code),
                "{code:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_starts_once() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("once")).await?;
        let running = husk.cri.launch(&pod, sleeper("running", &image)).await?;
        husk.cri
            .start(&running)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(husk.cri.status(&running).await?.state() == ContainerState::ContainerRunning);
        let exited = husk.cri.launch(&pod, script("exited", &image, "exit 6")).await?;
        let before = husk.cri.wait_exit(&exited).await?;
        husk.cri
            .start(&exited)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(
            husk.cri.status(&exited).await? == before,
            "the refused call changed the status"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stopped_pod_takes_no_containers() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("closed")).await?;
        let created = husk.cri.create(&pod, sleeper("created", &image)).await?;
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri
            .create(&pod, sleeper("late", &image))
            .await
            .refused_with(Code::FailedPrecondition)?;
        husk.cri
            .start(&created)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(
            husk.cri.list(None).await?.len() == 1,
            "a container appeared in a stopped pod"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn calls_that_cross_each_other_end() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        for round in 0..5 {
            let pod = husk
                .cri
                .pod(husk.pod_config(&format!("crossing-{round}")))
                .await?;
            let id = husk.cri.create(&pod, sleeper("main", &image)).await?;
            let mut calls = Vec::new();
            for n in 0..6 {
                let (cri, pod, id) = (husk.cri.clone(), pod.id.clone(), id.clone());
                calls.push(tokio::spawn(async move {
                    match n {
                        0 => cri.start(&id).await,
                        1 => cri.stop(&id, 0).await,
                        2 => cri.remove(&id).await,
                        3 => cri.stop_pod(&pod).await,
                        4 => cri.remove_pod(&pod).await,
                        _ => cri.exec_sync(&id, &["true"], 5).await.map(drop),
                    }
                }));
            }
            for (n, call) in calls.into_iter().enumerate() {
                let outcome = call.await?;
                // Removal always works out; the others may come too late.
                ensure!(
                    n == 0 || n == 5 || outcome.is_ok(),
                    "call {n} of round {round}: {outcome:?}"
                );
            }
            ensure!(husk.cri.list(None).await?.is_empty() && husk.cri.list_pods(None).await?.is_empty());
        }
        husk.assert_no_pods().await.context("after the crossing calls")
    })
    .await
}

#[tokio::test]
async fn streaming_calls_that_make_no_sense_are_refused() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("streaming")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let exec = |change: fn(&mut ExecRequest)| {
            let mut request = ExecRequest {
                container_id: id.clone(),
                cmd: vec!["true".into()],
                stdout: true,
                ..Default::default()
            };
            change(&mut request);
            request
        };
        // What is not there yet says so; what is there checks its arguments.
        for request in [
            exec(|r| (r.tty, r.stderr) = (true, true)),
            exec(|r| r.stdout = false),
        ] {
            let code = husk.cri.exec_url(request).await.refused()?.code();
            ensure!(
                [Code::InvalidArgument, Code::Unimplemented].contains(&code),
                "{code:?}"
            );
        }
        let code = husk
            .cri
            .exec_url(exec(|r| r.container_id = UNKNOWN.into()))
            .await
            .refused()?
            .code();
        ensure!([Code::NotFound, Code::Unimplemented].contains(&code), "{code:?}");
        Ok(())
    })
    .await
}
