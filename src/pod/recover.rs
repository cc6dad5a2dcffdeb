//! Recovery: what a daemon does first. Records, run directories and supervisors are brought to agree.
//!
//! What exists without a record is garbage and is removed; a record without its process has exited. A pod or container
//! whose making was cut short is undone.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::{info, warn};

use crate::state::Table;
use crate::supervisor::protocol::{ContainerStatus, Phase};
use crate::types::error::{Error, Result};
use crate::types::{ContainerId, ContainerState, PodId, PodState};

use super::client::Client;
use super::container::{Container, ContainerRecord};
use super::exits::Ending;
use super::remove::remove_if_there;
use super::sandbox::{Pod, PodRecord, PodStatus, Supervisor};
use super::{Runtime, blocking};

/// Key of the boot id in the database.
const BOOT_ID: &str = "boot_id";

impl Runtime {
    /// Takes over what an earlier daemon left.
    ///
    /// # Errors
    /// The database cannot be read. What is wrong with a single pod is logged and does not keep the others.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        let rebooted = self.note_boot()?;
        self.load_pod_cidr()?;
        let pods = self.load_pods()?;
        let containers = self.load_containers()?;
        for record in pods {
            self.recover_pod(record, rebooted).await;
        }
        // Before the containers: what is killed below ends by an event. One that came earlier is in the state that
        // each container is compared with.
        for pod in self.index.all_pods() {
            self.watch_supervisor(&pod);
        }
        for record in containers {
            self.recover_container(record).await;
        }
        let unfinished: Vec<_> = self
            .index
            .all_pods()
            .into_iter()
            .filter(|p| p.state() == PodState::Creating)
            .collect();
        for pod in unfinished {
            warn!(pod = ?pod.id, "the making of this pod was cut short; removing it");
            if let Err(error) = self.remove_pod(pod.id.as_str()).await {
                warn!(pod = ?pod.id, %error, "pod could not be removed");
            }
        }
        self.collect_garbage().await;
        Ok(())
    }

    /// Whether the node was booted since the last daemon ran.
    fn note_boot(&self) -> Result<bool> {
        let now = self.parts.host.boot_id.as_bytes();
        let before = self.parts.db.get(Table::Meta, BOOT_ID)?;
        self.parts.db.put(Table::Meta, BOOT_ID, now)?;
        Ok(before.is_some_and(|b| b != now))
    }

    fn load_pods(&self) -> Result<Vec<PodRecord>> {
        let rows = self.parts.db.all(Table::Pods)?;
        Ok(rows
            .into_iter()
            .filter_map(|(key, value)| parse(&key, &value))
            .collect())
    }

    fn load_containers(&self) -> Result<Vec<ContainerRecord>> {
        let rows = self.parts.db.all(Table::Containers)?;
        let mut list: Vec<ContainerRecord> = rows
            .into_iter()
            .filter_map(|(key, value)| parse(&key, &value))
            .collect();
        list.sort_by_key(|r| r.facts.created_at);
        Ok(list)
    }

    async fn recover_pod(&self, record: PodRecord, rebooted: bool) {
        let client = match record.state {
            PodState::NotReady => None,
            _ if rebooted => None,
            _ => Client::connect(&self.paths.pod(&record.id)).await.ok(),
        };
        let state = match (record.state, &client) {
            (PodState::Ready, Some(_)) => PodState::Ready,
            (PodState::Creating, _) => PodState::Creating,
            _ => PodState::NotReady,
        };
        let changed = state != record.state;
        let status = PodStatus {
            ips: record.ips,
            supervisor: client.map(|client| Supervisor {
                client,
                facts: record.supervisor,
            }),
            failed: record.failed,
            overhead: record.overhead,
            resources: record.resources,
            ..PodStatus::new(state)
        };
        let pod = Pod::with_status(record.id, record.realm, record.config, record.created_at, status);
        self.index.add_pod(&pod);
        if changed {
            info!(pod = ?pod.id, "pod has no supervisor any more; it is not ready");
            if let Err(error) = self.save_pod(&pod) {
                warn!(pod = ?pod.id, %error, "pod record could not be written");
            }
        }
    }

    async fn recover_container(self: &Arc<Self>, record: ContainerRecord) {
        let unfinished = record.status.state == ContainerState::Creating;
        let container = Container::new(record.facts, record.status);
        self.index.add_container(&container);
        let facts = &container.facts;
        for image in [&facts.image_id]
            .into_iter()
            .chain(facts.image_mounts.iter().map(|m| &m.image))
            .chain(&facts.restored_on)
        {
            if let Err(error) = self.parts.images.lease(image, facts.id.as_str()) {
                warn!(container = ?facts.id, %error, "image of the container is gone");
            }
        }
        self.drop_dump(&container);
        if unfinished || container.status().removing {
            warn!(container = ?container.id(), "a change of this container was cut short; removing it");
            if let Err(error) = self.remove_found(&container).await {
                warn!(container = ?container.id(), %error, "container could not be removed");
            }
            return;
        }
        self.reconcile(&container).await;
    }

    /// Brings what is known of a container to agree with what its supervisor knows.
    pub(super) async fn reconcile(&self, container: &Arc<Container>) {
        if container.state() == ContainerState::Exited {
            return;
        }
        match self.view_of(container).await {
            Some(ContainerStatus { exit: Some(exit), .. }) => {
                self.ended(container, Ending::exited(&exit)).await
            }
            Some(view) => self.change_container(container, |s| {
                s.pid = view.pid;
                s.state = if view.phase == Phase::Running {
                    ContainerState::Running
                } else {
                    ContainerState::Created
                };
                if view.started_at != 0 {
                    s.started_at = view.started_at;
                }
            }),
            None => {
                let ending = self.recorded_ending(container).unwrap_or_else(|_| {
                    Ending::lost("the container's process was gone when husk started, and nobody saw it end")
                });
                self.ended(container, ending).await;
            }
        }
    }

    async fn view_of(&self, container: &Container) -> Option<ContainerStatus> {
        let client = self.client_of(container).ok()?;
        let state = client.state().await.ok()?;
        state.containers.into_iter().find(|c| c.id == *container.id())
    }

    /// Removes what no record owns.
    async fn collect_garbage(self: &Arc<Self>) {
        let pods: HashSet<PodId> = self.index.all_pods().iter().map(|p| p.id.clone()).collect();
        let containers: HashSet<ContainerId> = self
            .index
            .all_containers()
            .iter()
            .map(|c| c.id().clone())
            .collect();
        for problem in self.parts.network.collect(&pods).await {
            warn!(%problem, "left-over of the network could not be removed");
        }
        self.parts.images.collect();
        self.collect_run_directories(&pods).await;
        let (paths, known) = (self.paths.clone(), containers);
        let roots = self.parts.handlers.own_roots(&self.parts.config.run);
        let removed = blocking(move || {
            let is_known = |name: &str| ContainerId::parse(name).is_some_and(|id| known.contains(&id));
            remove_unknown(&paths.containers(), is_known)?;
            for root in roots {
                remove_unknown(&root, is_known)?;
            }
            remove_unknown(&paths.trash(), |_| false)
        });
        if let Err(error) = removed.await {
            warn!(%error, "left-over directories could not be removed");
        }
    }

    async fn collect_run_directories(self: &Arc<Self>, known: &HashSet<PodId>) {
        for name in names(&self.paths.pods()) {
            let Some(id) = PodId::parse(&name).filter(|id| !known.contains(id)) else {
                continue;
            };
            warn!(pod = ?id, "removing what is left of a pod without a record");
            let dir = self.paths.pod(&id);
            if let Ok(client) = Client::connect(&dir).await {
                let _ = client.shutdown(true).await;
            }
            let removed = self.remove_shm(&id).and_then(|()| remove_if_there(&dir));
            if let Err(error) = removed {
                warn!(pod = ?id, %error, "left-over of a pod could not be removed");
            }
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Option<T> {
    serde_json::from_slice(value)
        .inspect_err(|error| warn!(record = key, %error, "record cannot be read; leaving it alone"))
        .ok()
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn remove_unknown(dir: &std::path::Path, known: impl Fn(&str) -> bool) -> Result<()> {
    let mut errors = Vec::new();
    for name in names(dir).into_iter().filter(|n| !known(n)) {
        errors.extend(remove_if_there(&dir.join(&name)).err().map(|e| e.to_string()));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Error::internal(errors.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::remove::tests::make_deep_tree;
    use super::*;

    #[test]
    fn the_trash_is_emptied_whatever_containers_wrote() {
        let dir = tempfile::tempdir().unwrap();
        make_deep_tree(&dir.path().join("deep"));
        std::fs::create_dir(dir.path().join("known")).unwrap();
        remove_unknown(dir.path(), |name| name == "known").unwrap();
        assert_eq!(names(dir.path()), ["known"]);
    }
}
