//! GetContainerEvents, with the independent client.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{container, script, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt as _, Husk, PATIENCE, run};
use tonic::{Code, Streaming};

type Events = Streaming<ContainerEventResponse>;

const CREATED: ContainerEventType = ContainerEventType::ContainerCreatedEvent;
const STARTED: ContainerEventType = ContainerEventType::ContainerStartedEvent;
const STOPPED: ContainerEventType = ContainerEventType::ContainerStoppedEvent;
const DELETED: ContainerEventType = ContainerEventType::ContainerDeletedEvent;

async fn listen(husk: &Husk) -> Result<Events> {
    let stream = husk
        .cri
        .runtime()
        .get_container_events(GetEventsRequest {})
        .await?;
    Ok(stream.into_inner())
}

async fn next(events: &mut Events) -> Result<ContainerEventResponse> {
    let message = tokio::time::timeout(PATIENCE, events.message())
        .await
        .context("no event came")??;
    message.context("the stream ended")
}

/// The events up to the deletion of `last`.
async fn until_deleted(events: &mut Events, last: &str) -> Result<Vec<ContainerEventResponse>> {
    let mut all = Vec::new();
    loop {
        let event = next(events).await?;
        let end = event.container_event_type() == DELETED && event.container_id == last;
        all.push(event);
        if end {
            return Ok(all);
        }
    }
}

#[tokio::test]
async fn a_life_is_told_in_order_with_the_pod_as_it_was() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let (mut events, mut other) = (listen(husk).await?, listen(husk).await?);
        let pod = husk.cri.pod(husk.pod_config("life")).await?;
        let long = husk.cri.launch(&pod, sleeper("long", &image)).await?;
        let short = husk.cri.launch(&pod, script("short", &image, "exit 7")).await?;
        let ended = husk.cri.wait_exit(&short).await?;
        husk.cri.remove(&short).await?;
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;

        let all = until_deleted(&mut events, &pod.id).await?;
        let told: Vec<_> = all
            .iter()
            .map(|e| (e.container_id.as_str(), e.container_event_type()))
            .collect();
        let (pod_id, long, short) = (pod.id.as_str(), long.as_str(), short.as_str());
        ensure!(
            told == [
                (pod_id, CREATED),
                (pod_id, STARTED),
                (long, CREATED),
                (long, STARTED),
                (short, CREATED),
                (short, STARTED),
                (short, STOPPED),
                (short, DELETED),
                (long, STOPPED),
                (pod_id, STOPPED),
                (long, DELETED),
                (pod_id, DELETED),
            ],
            "{told:?}"
        );
        ensure!(
            all.windows(2).all(|w| w[0].created_at < w[1].created_at),
            "times go back"
        );
        for event in &all {
            let status = event.pod_sandbox_status.as_ref().context("no pod status")?;
            ensure!(status.id == pod.id && status.metadata.is_some(), "{status:?}");
            let ready = status.state() == PodSandboxState::SandboxReady;
            let ended =
                event.container_id == pod.id && [STOPPED, DELETED].contains(&event.container_event_type());
            ensure!(
                !(ready && ended),
                "{:?} of a ready pod",
                event.container_event_type()
            );
        }
        let of = |id: &str, kind| {
            let event = all
                .iter()
                .find(|e| e.container_id == id && e.container_event_type() == kind);
            event
                .and_then(|e| e.containers_statuses.iter().find(|s| s.id == id))
                .cloned()
        };
        ensure!(of(long, CREATED).context("long")?.state() == ContainerState::ContainerCreated);
        let running = of(short, STARTED).context("short")?;
        ensure!(running.state() == ContainerState::ContainerRunning && running.started_at > 0);
        ensure!(
            of(short, STOPPED).context("short")? == ended,
            "the event's status is not the final one"
        );
        ensure!(of(short, DELETED).is_none());
        let at_stop = &all[6].containers_statuses;
        ensure!(
            at_stop.len() == 2,
            "all containers of the pod belong to an event: {at_stop:?}"
        );

        ensure!(
            until_deleted(&mut other, &pod.id).await? == all,
            "two consumers were told different things"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_end_is_told_once_with_its_reason() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut events = listen(husk).await?;
        let pod = husk.cri.pod(husk.pod_config("ends")).await?;
        let mut wanted = HashMap::new();
        for n in 0..20 {
            let id = husk
                .cri
                .launch(&pod, script(&format!("c{n}"), &image, &format!("exit {}", n % 3)))
                .await?;
            wanted.insert(id, if n % 3 == 0 { "Completed" } else { "Error" });
        }
        let broken = container("broken", &image, &["/no/such/program"]);
        let broken = match husk_e2e::husk::other_runtime() {
            None => {
                let id = husk.cri.create(&pod, broken).await?;
                husk.cri.start(&id).await.refused()?;
                Some(id)
            }
            // An OCI runtime looks for the command when it creates the container, which then never was.
            Some(_) => {
                husk.cri.create(&pod, broken).await.refused()?;
                None
            }
        };
        let never = husk.cri.create(&pod, sleeper("never", &image)).await?;
        husk.cri.stop(&never, 0).await?;
        for id in wanted.keys() {
            husk.cri.wait_exit(id).await?;
        }
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;
        let all = until_deleted(&mut events, &pod.id).await?;
        let kinds = |id: &str| -> Vec<_> {
            all.iter()
                .filter(|e| e.container_id == id)
                .map(ContainerEventResponse::container_event_type)
                .collect()
        };
        for (id, reason) in &wanted {
            ensure!(
                kinds(id) == [CREATED, STARTED, STOPPED, DELETED],
                "{:?}",
                kinds(id)
            );
            let stopped = all
                .iter()
                .find(|e| e.container_id == *id && e.container_event_type() == STOPPED);
            let status = stopped
                .and_then(|e| e.containers_statuses.iter().find(|s| s.id == *id))
                .context("no status")?;
            ensure!(
                status.state() == ContainerState::ContainerExited && status.reason == *reason,
                "{status:?}"
            );
        }
        for id in broken.iter().chain([&never]) {
            ensure!(kinds(id) == [CREATED, STOPPED, DELETED], "{:?}", kinds(id));
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_client_that_does_not_read_is_told_what_it_missed() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let (mut slow, mut quick) = (listen(husk).await?, listen(husk).await?);
        let pod = husk.cri.pod(husk.pod_config("flood")).await?;
        let reader = tokio::spawn(async move {
            let mut count = 0_u32;
            while let Ok(Some(_)) = quick.message().await {
                count += 1;
            }
            count
        });
        // Three events each, so large that the buffers of the connection, some megabytes, hold few.
        let config = {
            let mut config = container("c", &image, &["true"]);
            config.annotations = HashMap::from([("bulk".to_owned(), "x".repeat(60 << 10))]);
            config
        };
        for _ in 0..400 {
            let id = husk.cri.create(&pod, config.clone()).await?;
            husk.cri.remove(&id).await?;
        }
        let mut read = 0;
        let status = loop {
            match tokio::time::timeout(PATIENCE, slow.message())
                .await
                .context("neither an event nor an end")?
            {
                Ok(Some(_)) => read += 1,
                Ok(None) => anyhow::bail!("the stream was cut in silence after {read} events"),
                Err(status) => break status,
            }
        };
        ensure!(
            status.code() == Code::ResourceExhausted && status.message().contains("did not fit"),
            "{status:?}"
        );
        ensure!(read >= 1000, "only {read} events were kept");
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;
        husk.stop().await?;
        let count = reader.await?;
        // Two of the pod at its start, two at its end.
        ensure!(count == 400 * 3 + 4, "the reader that kept up got {count} events");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_graceful_end_of_husk_is_no_failure_of_the_stream() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut events = listen(husk).await?;
        let pod = husk.cri.pod(husk.pod_config("stay")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        husk.stop().await?;
        let mut count = 0;
        while let Some(_event) = tokio::time::timeout(PATIENCE, events.message())
            .await
            .context("the stream hangs")?
            .context("the stream broke")?
        {
            count += 1;
        }
        ensure!(count == 4, "{count} events");
        husk.start_again().await?;
        let mut events = listen(husk).await?;
        husk.cri.stop(&id, 0).await?;
        let event = next(&mut events).await?;
        ensure!(
            event.container_id == id && event.container_event_type() == STOPPED,
            "after a restart nothing is told twice: {event:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_statuses_with_a_pods_status_are_on_the_same_clock() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut events = listen(husk).await?;
        let pod = husk.cri.pod(husk.pod_config("clock")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let request = husk_e2e::own::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: false,
        };
        let reply = husk
            .cri
            .own_runtime()
            .pod_sandbox_status(request)
            .await?
            .into_inner();
        ensure!(reply.containers_statuses.len() == 1 && reply.containers_statuses[0].id == id);
        husk.cri.stop(&id, 0).await?;
        let mut before = 0;
        let after = loop {
            let event = next(&mut events).await?;
            if event.container_event_type() == STOPPED {
                break event.created_at;
            }
            before = event.created_at;
        };
        ensure!(
            before < reply.timestamp && reply.timestamp < after,
            "{before} {} {after}",
            reply.timestamp
        );
        Ok(())
    })
    .await
}
