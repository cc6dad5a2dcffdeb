//! The walk: what a client does with a pod, from pull to remove, through the CRI socket.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cli::client::{Client, plain};
use crate::cli::table::{bytes, short};
use crate::cri::proto as p;

use super::step;

/// How long the client container may take to get its answer.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Does it all.
pub(super) async fn walk(socket: &Path, reference: &str, root: &Path) -> Result<()> {
    let mut client = Client::connect(socket).await?;
    let image = pull(&mut client, reference).await?;
    let logs = root.join("logs").display().to_string();
    let (pod, config) = run_pod(&mut client, &logs).await?;
    let web = start(&mut client, &pod, &config, &image, "web").await?;
    let asker = start(&mut client, &pod, &config, &image, "client").await?;
    show_status(&mut client, &pod, &[&web, &asker]).await?;
    show_logs(&mut client, &asker, "hello from husk").await?;
    show_logs(&mut client, &web, "answered").await?;
    exec(&mut client, &web).await?;
    remove(&mut client, &pod, &[&web, &asker], &image).await
}

async fn pull(client: &mut Client, reference: &str) -> Result<String> {
    step(&format!("Pulling {reference}"));
    let started = Instant::now();
    let spec = p::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    };
    let request = p::PullImageRequest {
        image: Some(spec.clone()),
        ..Default::default()
    };
    let id = client
        .images
        .pull_image(request)
        .await
        .map_err(plain)?
        .into_inner()
        .image_ref;
    let request = p::ImageStatusRequest {
        image: Some(spec),
        verbose: false,
    };
    let image = client
        .images
        .image_status(request)
        .await
        .map_err(plain)?
        .into_inner()
        .image;
    let image = image.context("the pulled image is not there")?;
    ensure!(
        image.id == id,
        "the image's id {} is not what the pull returned: {id}",
        image.id
    );
    println!(
        "      {} ({}) in {:.0?}",
        short(&id),
        bytes(image.size),
        started.elapsed()
    );
    Ok(id)
}

async fn run_pod(client: &mut Client, logs: &str) -> Result<(String, p::PodSandboxConfig)> {
    step("Running a pod");
    let config = p::PodSandboxConfig {
        metadata: Some(p::PodSandboxMetadata {
            name: "demo".into(),
            uid: "demo-uid".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "demo".into(),
        log_directory: logs.to_owned(),
        linux: Some(p::LinuxPodSandboxConfig::default()),
        ..Default::default()
    };
    let started = Instant::now();
    let request = p::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    let pod = client
        .runtime
        .run_pod_sandbox(request)
        .await
        .map_err(plain)?
        .into_inner()
        .pod_sandbox_id;
    println!("      pod {} in {:.1?}", short(&pod), started.elapsed());
    Ok((pod, config))
}

async fn start(
    client: &mut Client,
    pod: &str,
    sandbox: &p::PodSandboxConfig,
    image: &str,
    role: &str,
) -> Result<String> {
    let config = p::ContainerConfig {
        metadata: Some(p::ContainerMetadata {
            name: role.into(),
            attempt: 0,
        }),
        image: Some(p::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        args: vec!["demo-workload".into(), role.into()],
        log_path: format!("{role}.log"),
        linux: Some(p::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let started = Instant::now();
    let request = p::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox.clone()),
    };
    let id = client
        .runtime
        .create_container(request)
        .await
        .map_err(plain)?
        .into_inner()
        .container_id;
    let request = p::StartContainerRequest {
        container_id: id.clone(),
    };
    client.runtime.start_container(request).await.map_err(plain)?;
    println!(
        "      container {role} {} created and started in {:.1?}",
        short(&id),
        started.elapsed()
    );
    Ok(id)
}

async fn show_status(client: &mut Client, pod: &str, containers: &[&str]) -> Result<()> {
    step("Status");
    let request = p::PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: false,
    };
    let status = client
        .runtime
        .pod_sandbox_status(request)
        .await
        .map_err(plain)?
        .into_inner()
        .status;
    let status = status.context("the pod has no status")?;
    ensure!(
        status.state() == p::PodSandboxState::SandboxReady,
        "the pod is not ready"
    );
    let ip = status.network.map(|n| n.ip).unwrap_or_default();
    ensure!(!ip.is_empty(), "the pod has no address");
    println!("      pod demo is ready at {ip}");
    for id in containers {
        let request = p::ContainerStatusRequest {
            container_id: (*id).to_owned(),
            verbose: false,
        };
        let status = client
            .runtime
            .container_status(request)
            .await
            .map_err(plain)?
            .into_inner()
            .status;
        let status = status.context("the container has no status")?;
        let name = status.metadata.as_ref().map_or("", |m| &m.name);
        ensure!(
            status.state() == p::ContainerState::ContainerRunning,
            "container {name} is not running: {} {}",
            status.reason,
            status.message
        );
        println!("      container {name} is running");
    }
    Ok(())
}

async fn show_logs(client: &mut Client, id: &str, wanted: &str) -> Result<()> {
    let request = p::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let status = client
        .runtime
        .container_status(request)
        .await
        .map_err(plain)?
        .into_inner()
        .status;
    let status = status.context("the container has no status")?;
    step(&format!(
        "Log of container {}",
        status.metadata.as_ref().map_or("", |m| &m.name)
    ));
    let deadline = Instant::now() + LOG_PATIENCE;
    loop {
        let text = std::fs::read_to_string(&status.log_path).unwrap_or_default();
        if text.contains(wanted) {
            text.lines().for_each(|l| println!("      {l}"));
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{} does not contain {wanted:?} after {LOG_PATIENCE:?}:\n{text}",
                status.log_path
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn exec(client: &mut Client, id: &str) -> Result<()> {
    step("Running a command in container web");
    let started = Instant::now();
    let request = p::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: ["/husk", "demo-workload", "whoami"].map(str::to_owned).to_vec(),
        timeout: 10,
    };
    let answer = client
        .runtime
        .exec_sync(request)
        .await
        .map_err(plain)?
        .into_inner();
    let (out, err) = (
        String::from_utf8_lossy(&answer.stdout),
        String::from_utf8_lossy(&answer.stderr),
    );
    ensure!(
        answer.exit_code == 0 && out.contains("on host demo"),
        "exit code {}: {out}{err}",
        answer.exit_code
    );
    println!("      {} (in {:.1?})", out.trim(), started.elapsed());
    Ok(())
}

async fn remove(client: &mut Client, pod: &str, containers: &[&str], image: &str) -> Result<()> {
    step("Stopping and removing everything");
    let started = Instant::now();
    for id in containers {
        let request = p::StopContainerRequest {
            container_id: (*id).to_owned(),
            timeout: 0,
        };
        client.runtime.stop_container(request).await.map_err(plain)?;
        let request = p::RemoveContainerRequest {
            container_id: (*id).to_owned(),
        };
        client.runtime.remove_container(request).await.map_err(plain)?;
    }
    let request = p::StopPodSandboxRequest {
        pod_sandbox_id: pod.to_owned(),
    };
    client.runtime.stop_pod_sandbox(request).await.map_err(plain)?;
    let request = p::RemovePodSandboxRequest {
        pod_sandbox_id: pod.to_owned(),
    };
    client.runtime.remove_pod_sandbox(request).await.map_err(plain)?;
    let spec = p::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    };
    client
        .images
        .remove_image(p::RemoveImageRequest { image: Some(spec) })
        .await
        .map_err(plain)?;
    ensure!(client.pods().await?.is_empty(), "a pod is still listed");
    ensure!(
        client.containers().await?.is_empty(),
        "a container is still listed"
    );
    println!(
        "      pod, containers and image are gone after {:.1?}",
        started.elapsed()
    );
    Ok(())
}
