//! `husk inspect`: everything about containers, pods and images as JSON.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::cri::proto as p;

use super::Socket;
use super::client::{Client, plain};

/// Flags of `husk inspect`.
#[derive(Args)]
pub struct Inspect {
    #[command(flatten)]
    socket: Socket,
    /// Containers, pods or images by id or name
    #[arg(required = true)]
    names: Vec<String>,
}

impl Inspect {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        let mut all = Vec::new();
        for name in &self.names {
            all.push(describe(&mut client, name).await?);
        }
        println!("{}", serde_json::to_string_pretty(&all)?);
        Ok(ExitCode::SUCCESS)
    }
}

async fn describe(client: &mut Client, name: &str) -> Result<Value> {
    if let Ok(c) = client.container(name).await {
        let request = p::ContainerStatusRequest {
            container_id: c.id,
            verbose: true,
        };
        let answer = client
            .runtime
            .container_status(request)
            .await
            .map_err(plain)?
            .into_inner();
        return Ok(container(answer));
    }
    if let Some(s) = client.pod(name).await? {
        let request = p::PodSandboxStatusRequest {
            pod_sandbox_id: s.id,
            verbose: true,
        };
        let answer = client
            .runtime
            .pod_sandbox_status(request)
            .await
            .map_err(plain)?
            .into_inner();
        return Ok(pod(answer));
    }
    let spec = p::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    };
    let request = p::ImageStatusRequest {
        image: Some(spec),
        verbose: true,
    };
    let answer = client
        .images
        .image_status(request)
        .await
        .map_err(plain)?
        .into_inner();
    match answer.image {
        Some(i) => Ok(json!({
            "kind": "image", "id": i.id, "repoTags": i.repo_tags, "repoDigests": i.repo_digests, "size": i.size,
            "user": i.username, "uid": i.uid.map(|u| u.value), "info": info(answer.info),
        })),
        None => bail!("no container, pod or image {name:?}"),
    }
}

fn container(answer: p::ContainerStatusResponse) -> Value {
    let s = answer.status.unwrap_or_default();
    json!({
        "kind": "container",
        "id": s.id,
        "name": s.metadata.as_ref().map(|m| &m.name),
        "attempt": s.metadata.as_ref().map(|m| m.attempt),
        "state": s.state().as_str_name(),
        "createdAt": s.created_at,
        "startedAt": s.started_at,
        "finishedAt": s.finished_at,
        "exitCode": s.exit_code,
        "reason": s.reason,
        "message": s.message,
        "image": s.image.as_ref().map(|i| &i.image),
        "imageId": s.image_id,
        "imageRef": s.image_ref,
        "logPath": s.log_path,
        "labels": s.labels,
        "annotations": s.annotations,
        "info": info(answer.info),
    })
}

fn pod(answer: p::PodSandboxStatusResponse) -> Value {
    let s = answer.status.unwrap_or_default();
    let network = s.network.clone().unwrap_or_default();
    json!({
        "kind": "pod",
        "id": s.id,
        "name": s.metadata.as_ref().map(|m| &m.name),
        "namespace": s.metadata.as_ref().map(|m| &m.namespace),
        "uid": s.metadata.as_ref().map(|m| &m.uid),
        "attempt": s.metadata.as_ref().map(|m| m.attempt),
        "state": s.state().as_str_name(),
        "createdAt": s.created_at,
        "ip": network.ip,
        "additionalIps": network.additional_ips.iter().map(|i| &i.ip).collect::<Vec<_>>(),
        "labels": s.labels,
        "annotations": s.annotations,
        "info": info(answer.info),
    })
}

/// The verbose map's values are JSON in strings.
fn info(map: HashMap<String, String>) -> Value {
    map.get("info")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null)
}
