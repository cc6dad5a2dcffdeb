//! Attach: an address under which a client holds the streams of a running container.

use std::sync::Arc;

use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::pod::interactive::Streams;
use crate::stream;
use crate::types::error::Result;

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    streams: &stream::Server,
    request: p::AttachRequest,
) -> Result<p::AttachResponse> {
    let want = Streams {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        tty: request.tty,
    };
    super::exec::check("Attach", &request.container_id, want)?;
    let container = runtime.running(&request.container_id)?;
    let url = streams.attach(container.id().clone(), want)?;
    Ok(p::AttachResponse { url })
}
