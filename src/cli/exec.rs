//! `husk exec`: a command in a container, waited for.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::cri::proto as p;

use super::Socket;
use super::client::{Client, plain};

/// Flags of `husk exec`.
#[derive(Args)]
pub struct Exec {
    #[command(flatten)]
    socket: Socket,
    /// Seconds after which the command is killed; 0 waits for ever
    #[arg(long, default_value_t = 0)]
    timeout: i64,
    /// Container by id or name
    container: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// The command's output and exit code become this program's.
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        let container = client.container(&self.container).await?;
        let request = p::ExecSyncRequest {
            container_id: container.id,
            cmd: self.command,
            timeout: self.timeout,
        };
        let answer = client
            .runtime
            .exec_sync(request)
            .await
            .map_err(plain)?
            .into_inner();
        std::io::stdout()
            .write_all(&answer.stdout)
            .context("write output")?;
        std::io::stderr()
            .write_all(&answer.stderr)
            .context("write output")?;
        Ok(super::code(answer.exit_code))
    }
}
