//! ExecSync: runs a command in a container and returns what it wrote.

use std::sync::Arc;
use std::time::Duration;

use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::error::{Error, Result};

pub(super) async fn call(runtime: &Arc<Runtime>, request: p::ExecSyncRequest) -> Result<p::ExecSyncResponse> {
    if request.cmd.is_empty() {
        return Err(Error::invalid("ExecSync: cmd is empty"));
    }
    let timeout = match request.timeout {
        t if t < 0 => return Err(Error::invalid(format!("ExecSync: timeout {t} is negative"))),
        0 => None,
        t => Some(Duration::from_secs(t.unsigned_abs())),
    };
    let output = runtime
        .exec_sync(&request.container_id, request.cmd, timeout)
        .await?;
    Ok(p::ExecSyncResponse {
        stdout: output.stdout.into(),
        stderr: output.stderr.into(),
        exit_code: output.exit_code,
    })
}
