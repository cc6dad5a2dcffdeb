//! Changes to containers that run already: wanted by plugins in answer to an event, or out of the blue.

use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use prost::Message as _;
use tracing::{info, warn};

use crate::types::error::Result;

use super::adjust::owners::{Owners, claim_resources};
use super::proto::ttrpc::Status;
use super::{Nri, proto as p, resources};

/// What plugins want of containers other than the one in question.
#[derive(Default)]
pub(super) struct Pending {
    updates: Vec<(String, p::ContainerUpdate)>,
    evictions: Vec<(String, p::ContainerEviction)>,
}

impl Pending {
    /// Takes in what a plugin wants.
    ///
    /// # Errors
    /// Another plugin wants the same limit of the same container changed.
    pub(super) fn add(
        &mut self,
        owners: &mut Owners,
        plugin: &str,
        updates: Vec<p::ContainerUpdate>,
        evictions: &[p::ContainerEviction],
    ) -> Result<()> {
        for update in updates {
            let set = update.linux.as_ref().and_then(|l| l.resources.as_ref());
            let claimed = set.map_or(Ok(()), |set| {
                claim_resources(owners, &update.container_id, plugin, set)
            });
            match claimed {
                Err(_) if update.ignore_failure => {}
                Err(e) => return Err(e),
                Ok(()) => self.updates.push((plugin.to_owned(), update)),
            }
        }
        let evictions = evictions.iter().map(|e| (plugin.to_owned(), e.clone()));
        self.evictions.extend(evictions);
        Ok(())
    }

    /// For plugins that judge.
    pub(super) fn messages(&self) -> Vec<p::ContainerUpdate> {
        self.updates.iter().map(|(_, update)| update.clone()).collect()
    }
}

impl Nri {
    /// Does what plugins want of other containers. What fails is logged: the event that led to it goes on.
    pub(super) async fn carry_out(&self, pending: Pending) {
        for (plugin, update) in pending.updates {
            self.apply_updates(&plugin, vec![update]).await;
        }
        for (plugin, eviction) in pending.evictions {
            self.evict(&plugin, &eviction);
        }
    }

    /// Applies updates; returns those that failed and whose failure matters.
    pub(super) async fn apply_updates(
        &self,
        plugin: &str,
        updates: Vec<p::ContainerUpdate>,
    ) -> Vec<p::ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            if let Err(error) = self.apply_update(&update).await {
                if update.ignore_failure {
                    continue;
                }
                warn!(%plugin, container = %update.container_id, %error, "update that an NRI plugin wants failed");
                failed.push(update);
            }
        }
        failed
    }

    async fn apply_update(&self, update: &p::ContainerUpdate) -> Result<()> {
        let Some(set) = update.linux.as_ref().and_then(|l| l.resources.as_ref()) else {
            return Ok(());
        };
        let mut limits = LinuxResources::default();
        resources::merge(&mut limits, set)?;
        let runtime = self.runtime()?;
        let container = runtime.find_container(&update.container_id)?;
        runtime.apply_limits(&container, limits).await
    }

    /// Stops a container that a plugin wants gone, in the background: its end is an event, which waits for this one.
    fn evict(&self, plugin: &str, eviction: &p::ContainerEviction) {
        let Ok(runtime) = self.runtime() else { return };
        let id = eviction.container_id.clone();
        info!(%plugin, container = %id, reason = %eviction.reason, "an NRI plugin evicts a container");
        tokio::spawn(async move {
            if let Err(error) = runtime.stop_container(&id, Duration::ZERO).await {
                warn!(container = %id, %error, "container could not be evicted");
            }
        });
    }

    /// Serves a plugin's own request.
    pub(super) async fn unsolicited(
        &self,
        plugin: &str,
        wanted: p::UpdateContainersRequest,
    ) -> Result<Vec<u8>, Status> {
        let failed = self.apply_updates(plugin, wanted.update).await;
        for eviction in &wanted.evict {
            self.evict(plugin, eviction);
        }
        Ok(p::UpdateContainersResponse { failed }.encode_to_vec())
    }
}
