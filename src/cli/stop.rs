//! `husk stop`, `husk rm`: containers and pods.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::cri::proto as p;

use super::Socket;
use super::client::{Client, plain};

/// Flags of `husk stop`.
#[derive(Args)]
pub struct Stop {
    #[command(flatten)]
    socket: Socket,
    /// Seconds between the stop signal and SIGKILL
    #[arg(short, long, default_value_t = 10)]
    time: i64,
    /// Containers or pods by id or name; a pod is stopped with all its containers
    #[arg(required = true)]
    names: Vec<String>,
}

impl Stop {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        for name in &self.names {
            if let Ok(c) = client.container(name).await {
                let request = p::StopContainerRequest {
                    container_id: c.id,
                    timeout: self.time,
                };
                client.runtime.stop_container(request).await.map_err(plain)?;
            } else if let Some(s) = client.pod(name).await? {
                let request = p::StopPodSandboxRequest { pod_sandbox_id: s.id };
                client.runtime.stop_pod_sandbox(request).await.map_err(plain)?;
            } else {
                bail!("no container or pod {name:?}");
            }
            println!("{name}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Flags of `husk rm`.
#[derive(Args)]
pub struct Rm {
    #[command(flatten)]
    socket: Socket,
    /// Remove even what is running
    #[arg(short, long)]
    force: bool,
    /// Containers or pods by id or name; a pod goes with all its containers
    #[arg(required = true)]
    names: Vec<String>,
}

impl Rm {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        for name in &self.names {
            if let Ok(c) = client.container(name).await {
                if !self.force && c.state() == p::ContainerState::ContainerRunning {
                    bail!("container {name} is running; stop it first or use --force");
                }
                let request = p::RemoveContainerRequest { container_id: c.id };
                client.runtime.remove_container(request).await.map_err(plain)?;
            } else if let Some(s) = client.pod(name).await? {
                if !self.force && s.state() == p::PodSandboxState::SandboxReady {
                    bail!("pod {name} is ready; stop it first or use --force");
                }
                let request = p::RemovePodSandboxRequest { pod_sandbox_id: s.id };
                client.runtime.remove_pod_sandbox(request).await.map_err(plain)?;
            } else {
                bail!("no container or pod {name:?}");
            }
            println!("{name}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
