//! `husk pods`, `husk ps`.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cri::proto as p;

use super::Socket;
use super::client::Client;
use super::table::{self, ago, short};

/// Flags of `husk pods`.
#[derive(Args)]
pub struct Pods {
    #[command(flatten)]
    socket: Socket,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
}

impl Pods {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let pods = Client::connect(&self.socket.socket).await?.pods().await?;
        if self.quiet {
            pods.iter().for_each(|s| println!("{}", s.id));
            return Ok(ExitCode::SUCCESS);
        }
        if self.json {
            let all: Vec<_> = pods.iter().map(describe_pod).collect();
            println!("{}", serde_json::to_string_pretty(&all)?);
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = pods
            .iter()
            .map(|s| {
                let m = s.metadata.clone().unwrap_or_default();
                [
                    short(&s.id),
                    ago(s.created_at),
                    pod_state(s).into(),
                    m.name,
                    m.namespace,
                    m.attempt.to_string(),
                ]
            })
            .collect();
        table::print(
            ["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT"],
            &rows,
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn describe_pod(s: &p::PodSandbox) -> serde_json::Value {
    let m = s.metadata.clone().unwrap_or_default();
    json!({
        "id": s.id,
        "name": m.name,
        "namespace": m.namespace,
        "uid": m.uid,
        "attempt": m.attempt,
        "state": pod_state(s),
        "createdAt": s.created_at,
        "labels": s.labels,
    })
}

fn pod_state(s: &p::PodSandbox) -> &'static str {
    match s.state() {
        p::PodSandboxState::SandboxReady => "Ready",
        p::PodSandboxState::SandboxNotready => "NotReady",
    }
}

/// Flags of `husk ps`.
#[derive(Args)]
pub struct Ps {
    #[command(flatten)]
    socket: Socket,
    /// Include containers that do not run
    #[arg(short, long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
}

impl Ps {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        let mut list = client.containers().await?;
        if !self.all {
            list.retain(|c| c.state() == p::ContainerState::ContainerRunning);
        }
        if self.quiet {
            list.iter().for_each(|c| println!("{}", c.id));
            return Ok(ExitCode::SUCCESS);
        }
        let pods: HashMap<_, _> = client
            .pods()
            .await?
            .into_iter()
            .map(|s| (s.id.clone(), s))
            .collect();
        let pod_name = |c: &p::Container| {
            pods.get(&c.pod_sandbox_id)
                .and_then(|s| s.metadata.as_ref())
                .map_or("", |m| m.name.as_str())
                .to_owned()
        };
        if self.json {
            let all: Vec<_> = list.iter().map(|c| describe_container(c, &pod_name(c))).collect();
            println!("{}", serde_json::to_string_pretty(&all)?);
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = list
            .iter()
            .map(|c| {
                [
                    short(&c.id),
                    image_name(c),
                    ago(c.created_at),
                    container_state(c).into(),
                    c.metadata.as_ref().map_or_else(String::new, |m| m.name.clone()),
                    short(&c.pod_sandbox_id),
                    pod_name(c),
                ]
            })
            .collect();
        table::print(
            [
                "CONTAINER ID",
                "IMAGE",
                "CREATED",
                "STATE",
                "NAME",
                "POD ID",
                "POD",
            ],
            &rows,
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn image_name(c: &p::Container) -> String {
    let image = c.image.clone().unwrap_or_default();
    let name = if image.user_specified_image.is_empty() {
        image.image
    } else {
        image.user_specified_image
    };
    if name.starts_with("sha256:") {
        short(&name)
    } else {
        name
    }
}

fn describe_container(c: &p::Container, pod_name: &str) -> serde_json::Value {
    let m = c.metadata.clone().unwrap_or_default();
    json!({
        "id": c.id,
        "name": m.name,
        "attempt": m.attempt,
        "podId": c.pod_sandbox_id,
        "podName": pod_name,
        "image": image_name(c),
        "imageId": c.image_id,
        "state": container_state(c),
        "createdAt": c.created_at,
        "labels": c.labels,
    })
}

fn container_state(c: &p::Container) -> &'static str {
    match c.state() {
        p::ContainerState::ContainerCreated => "Created",
        p::ContainerState::ContainerRunning => "Running",
        p::ContainerState::ContainerExited => "Exited",
        p::ContainerState::ContainerUnknown => "Unknown",
    }
}
