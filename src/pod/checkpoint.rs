//! CheckpointContainer: what can be said of it on this node.

use std::path::Path;

use crate::types::ContainerState;
use crate::types::error::{Error, Kind, Result};

use super::{Runtime, criu};

impl Runtime {
    /// Refuses to checkpoint a container, with the reason that applies: the request's, criu's, or husk's own.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a location that is no absolute path; `FailedPrecondition` unless the container
    /// runs; `Unimplemented` where criu is missing or cannot work with this kernel, and where it could, because this
    /// version of husk does not drive it.
    pub async fn checkpoint_container(&self, id: &str, location: &str) -> Result<()> {
        let container = self.find_container(id)?;
        if !Path::new(location).is_absolute() {
            return Err(Error::invalid(format!(
                "checkpoint container {id}: location {location:?} is not an absolute path"
            )));
        }
        if container.state() != ContainerState::Running {
            return Err(Error::precondition(format!(
                "checkpoint container {id}: it is not running"
            )));
        }
        let what = |e: Error| e.context(format!("checkpoint container {id}"));
        let version = criu::usable().await.map_err(what)?;
        Err(what(Error::new(
            Kind::Unimplemented,
            format!("this version of husk does not checkpoint; criu {version} on this node could"),
        )))
    }
}
