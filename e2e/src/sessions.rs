//! The calls that give an address of the streaming server, and requests that are good for them.

use k8s_cri::v1::*;
use tonic::Status;

use crate::cri::Cri;

/// Version 4 of the protocol of streams: the outcome is a status, and terminals can be resized.
pub const V4: &str = "v4.channel.k8s.io";
/// Version 5: a client can also end a stream of its own.
pub const V5: &str = "v5.channel.k8s.io";

/// An Exec of `sh -c text` that gives output and takes no input.
pub fn exec_request(id: &str, text: &str) -> ExecRequest {
    ExecRequest {
        container_id: id.into(),
        cmd: ["sh", "-c", text].map(str::to_owned).into(),
        stdout: true,
        stderr: true,
        ..Default::default()
    }
}

/// An Attach that gives output and takes no input.
pub fn attach_request(id: &str) -> AttachRequest {
    AttachRequest {
        container_id: id.into(),
        stdout: true,
        stderr: true,
        ..Default::default()
    }
}

impl Cri {
    /// Exec; returns the address of the session.
    pub async fn exec_url(&self, request: ExecRequest) -> Result<String, Status> {
        Ok(self.runtime().exec(request).await?.into_inner().url)
    }

    /// Attach; returns the address of the session.
    pub async fn attach_url(&self, request: AttachRequest) -> Result<String, Status> {
        Ok(self.runtime().attach(request).await?.into_inner().url)
    }

    /// PortForward to `ports` of a pod; returns the address of the session.
    pub async fn port_forward_url(&self, pod: &str, ports: Vec<i32>) -> Result<String, Status> {
        let request = PortForwardRequest {
            pod_sandbox_id: pod.into(),
            port: ports,
        };
        Ok(self.runtime().port_forward(request).await?.into_inner().url)
    }
}
