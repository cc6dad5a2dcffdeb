//! Connections into a pod, for port forwarding.

use tokio::net::TcpStream;

use crate::types::error::{Error, Result};
use crate::types::{PodId, PodState};

use super::Runtime;

impl Runtime {
    /// The pod with that id or unique prefix, if ports of it can be reached.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless the pod is ready.
    pub fn forwardable(&self, id: &str) -> Result<PodId> {
        let pod = self.find_pod(id)?;
        if pod.state() != PodState::Ready {
            return Err(Error::precondition(format!("pod sandbox {id} is not ready")));
        }
        Ok(pod.id.clone())
    }

    /// Connects to `port` on the loopback address of a pod, which for a pod on the node's network is the node's.
    ///
    /// # Errors
    /// `FailedPrecondition` if the pod is not ready any more; `Unavailable` if nobody listens there.
    pub async fn connect_to_port(&self, id: &PodId, port: u16) -> Result<TcpStream> {
        let pod = self.find_pod(id.as_str())?;
        let supervisor = pod
            .supervisor()
            .filter(|_| pod.state() == PodState::Ready)
            .ok_or_else(|| Error::precondition(format!("pod sandbox {id} is not ready")))?;
        crate::network::connect_to_loopback(supervisor.facts.netns.as_deref(), port).await
    }
}
