//! PortForward: an address under which a client reaches ports of a pod.

use std::sync::Arc;

use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::stream;
use crate::types::error::{Error, Result};

pub(super) async fn call(
    runtime: &Arc<Runtime>,
    streams: &stream::Server,
    request: p::PortForwardRequest,
) -> Result<p::PortForwardResponse> {
    if request.pod_sandbox_id.is_empty() {
        return Err(Error::invalid("PortForward: pod_sandbox_id is empty"));
    }
    let port = |port: i32| match u16::try_from(port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Error::invalid(format!("PortForward: {port} is no port"))),
    };
    let ports = request.port.into_iter().map(port).collect::<Result<_>>()?;
    let pod = runtime.forwardable(&request.pod_sandbox_id)?;
    let url = streams.port_forward(pod, ports)?;
    Ok(p::PortForwardResponse { url })
}
