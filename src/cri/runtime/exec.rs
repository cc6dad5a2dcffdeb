//! Exec: an address under which a client runs a command and holds its streams.

use std::sync::Arc;

use crate::cri::proto as p;
use crate::pod::interactive::Streams;
use crate::pod::{Runtime, bounds};
use crate::stream;
use crate::types::error::{Error, Result};

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    streams: &stream::Server,
    request: p::ExecRequest,
) -> Result<p::ExecResponse> {
    // Now, although it is looked at again when it runs: what waits for a client must not be longer than what can run.
    bounds::command(&request.cmd)?;
    let want = Streams {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        tty: request.tty,
    };
    check("Exec", &request.container_id, want)?;
    let container = runtime.running(&request.container_id)?;
    let url = streams.exec(container.id().clone(), request.cmd, want)?;
    Ok(p::ExecResponse { url })
}

/// What Exec and Attach have to say about their streams.
pub(super) fn check(call: &str, container_id: &str, want: Streams) -> Result<()> {
    if container_id.is_empty() {
        return Err(Error::invalid(format!("{call}: container_id is empty")));
    }
    if want.tty && want.stderr {
        return Err(Error::invalid(format!(
            "{call}: tty and stderr exclude each other: a terminal has one output"
        )));
    }
    if !want.stdin && !want.stdout && !want.stderr {
        return Err(Error::invalid(format!(
            "{call}: one of stdin, stdout and stderr must be set"
        )));
    }
    Ok(())
}
