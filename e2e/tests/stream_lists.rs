//! The streaming lists: the same as the lists, in pieces. With a client from husk's own contract, which the independent
//! one lacks them in.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, container, labels, sleeper};
use husk_e2e::{Cri, Husk, eventually, own, process, run};
use prost::Message as _;

/// All that a stream gives, and how large its messages were.
macro_rules! collect {
    ($stream:expr, $field:ident) => {{
        let mut stream = $stream.into_inner();
        let (mut items, mut sizes) = (Vec::new(), Vec::new());
        while let Some(message) = stream.message().await? {
            sizes.push(message.encoded_len());
            items.extend(message.$field);
        }
        (items, sizes)
    }};
}

async fn both(husk: &Husk) -> Result<()> {
    let (mut runtime, mut images) = (husk.cri.own_runtime(), husk.cri.own_images());
    let list = runtime
        .list_pod_sandbox(own::ListPodSandboxRequest::default())
        .await?
        .into_inner();
    let (items, _) = collect!(
        runtime
            .stream_pod_sandboxes(own::StreamPodSandboxesRequest::default())
            .await?,
        pod_sandboxes
    );
    ensure!(list.items == items, "{:?}\n{items:?}", list.items);
    let list = runtime
        .list_containers(own::ListContainersRequest::default())
        .await?
        .into_inner();
    let (items, _) = collect!(
        runtime
            .stream_containers(own::StreamContainersRequest::default())
            .await?,
        containers
    );
    ensure!(list.containers == items, "{:?}\n{items:?}", list.containers);
    let list = images
        .list_images(own::ListImagesRequest::default())
        .await?
        .into_inner();
    let (items, _) = collect!(
        images.stream_images(own::StreamImagesRequest::default()).await?,
        images
    );
    ensure!(list.images == items, "{:?}\n{items:?}", list.images);
    Ok(())
}

#[tokio::test]
async fn a_stream_is_its_list() -> Result<()> {
    run(async |husk| {
        both(husk).await.context("with nothing there")?;
        let image = husk.busybox().await?;
        for n in 0..3 {
            let pod = husk.cri.pod(husk.pod_config(&format!("pod-{n}"))).await?;
            husk.cri.launch(&pod, sleeper("one", &image)).await?;
            let two = husk.cri.launch(&pod, sleeper("two", &image)).await?;
            husk.cri.create(&pod, sleeper("three", &image)).await?;
            husk.cri.stop(&two, 0).await?;
            if n == 2 {
                husk.cri.stop_pod(&pod.id).await?;
            }
        }
        both(husk).await?;

        let mut runtime = husk.cri.own_runtime();
        let filter = own::ContainerFilter {
            state: Some(own::ContainerStateValue {
                state: own::ContainerState::ContainerRunning.into(),
            }),
            ..Default::default()
        };
        let request = own::StreamContainersRequest { filter: Some(filter) };
        let (running, _) = collect!(runtime.stream_containers(request).await?, containers);
        ensure!(
            running.len() == 2
                && running
                    .iter()
                    .all(|c| c.state() == own::ContainerState::ContainerRunning),
            "{running:?}"
        );
        let filter = own::PodSandboxFilter {
            state: Some(own::PodSandboxStateValue {
                state: own::PodSandboxState::SandboxNotready.into(),
            }),
            ..Default::default()
        };
        let request = own::StreamPodSandboxesRequest { filter: Some(filter) };
        let (stopped, _) = collect!(runtime.stream_pod_sandboxes(request).await?, pod_sandboxes);
        ensure!(stopped.len() == 1, "{stopped:?}");
        let filter = own::ImageFilter {
            image: Some(own::ImageSpec {
                image: "no/such:image".into(),
                ..Default::default()
            }),
        };
        let request = own::StreamImagesRequest { filter: Some(filter) };
        let (none, _) = collect!(husk.cri.own_images().stream_images(request).await?, images);
        ensure!(none.is_empty(), "{none:?}");
        Ok(())
    })
    .await
}

/// Containers that never start, with annotations that make the list larger than a message may be.
async fn crowd(husk: &Husk) -> Result<usize> {
    const CONTAINERS: usize = 48;
    let image = husk.busybox().await?;
    let pod = husk.cri.pod(husk.pod_config("crowd")).await?;
    for n in 0..CONTAINERS {
        let mut config = container(&format!("c{n}"), &image, &["true"]);
        config.annotations = labels(&[("bulk", &"x".repeat(400 << 10))]);
        husk.cri.create(&pod, config.limited(|_| ())).await?;
    }
    Ok(CONTAINERS)
}

#[tokio::test]
async fn a_list_larger_than_a_message_comes_through_in_small_ones() -> Result<()> {
    run(async |husk| {
        let wanted = crowd(husk).await?;
        let mut runtime = husk.cri.own_runtime();
        let (items, sizes) = collect!(
            runtime
                .stream_containers(own::StreamContainersRequest::default())
                .await?,
            containers
        );
        let mut ids: Vec<_> = items.iter().map(|c| &c.id).collect();
        ids.sort();
        ids.dedup();
        ensure!(
            ids.len() == wanted && items.len() == wanted,
            "{} of {wanted}",
            ids.len()
        );
        ensure!(
            sizes.iter().sum::<usize>() > 16 << 20 && sizes.iter().all(|s| *s <= 2 << 20),
            "{sizes:?}"
        );
        // The list itself is too large for a client, as in every runtime.
        ensure!(
            runtime
                .list_containers(own::ListContainersRequest::default())
                .await
                .is_err()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn clients_that_stop_reading_cost_next_to_nothing() -> Result<()> {
    run(async |husk| {
        crowd(husk).await?;
        // Once through, so that what is kept of each container is there.
        let mut runtime = husk.cri.own_runtime();
        let _ = collect!(
            runtime
                .stream_containers(own::StreamContainersRequest::default())
                .await?,
            containers
        );
        let before = resident(husk)?;
        let mut idle = Vec::new();
        for _ in 0..30 {
            // A connection each: on one, those who do not read would hold up the others by its flow control.
            let cri = Cri::new(&husk.dir().join("run/husk.sock"));
            let mut stream = cri
                .own_runtime()
                .stream_containers(own::StreamContainersRequest::default())
                .await?
                .into_inner();
            stream.message().await?.context("no first message")?;
            idle.push((cri, stream));
        }
        // Thirty whole lists would be more than 500 MiB.
        let grown = resident(husk)?.saturating_sub(before);
        ensure!(grown < 300 << 10, "thirty idle streams took {} MiB", grown >> 10);
        drop(idle);
        eventually("an answer after they left", async || {
            Ok(husk.cri.list_pods(None).await.ok().map(drop))
        })
        .await
    })
    .await
}

/// Memory of the daemon in KiB.
fn resident(husk: &Husk) -> Result<usize> {
    let status = String::from_utf8(process::file(husk.pid()?, "status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
