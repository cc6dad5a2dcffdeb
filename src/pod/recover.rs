//! Recovery: what a daemon does first. Records, run directories and supervisors are brought to agree.
//!
//! What exists without a record is garbage and is removed; a record without its process has exited. A pod or container
//! whose making was cut short is undone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::state::Table;
use crate::types::error::{Error, Kind, Result};
use crate::types::{ContainerId, ContainerState, PodId, PodState};

use super::client::Client;
use super::container::{Container, ContainerRecord};
use super::remove::remove_if_there;
use super::sandbox::{Pod, PodRecord, PodStatus, Supervisor};
use super::{Runtime, blocking};

/// Key of the boot id in the database.
const BOOT_ID: &str = "boot_id";

/// Why a container is taken to have ended, if its supervisor is gone or does not know it.
pub(super) const UNSEEN_END: &str =
    "the container's process was gone when husk started, and nobody saw it end";

/// How long serving may wait for what was found to be settled. What takes longer, such as a supervisor that a log on a
/// hung file server holds up, is settled while the daemon serves.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);

/// The rows of a table.
struct Rows<T> {
    records: Vec<T>,
    /// Keys of rows that say nothing to this version of husk, as after a downgrade. What they are of is left alone.
    unreadable: HashSet<String>,
}

impl<T: serde::de::DeserializeOwned> Rows<T> {
    fn parse(rows: Vec<(String, Vec<u8>)>) -> Self {
        let mut parsed = Self {
            records: Vec::new(),
            unreadable: HashSet::new(),
        };
        for (key, value) in rows {
            match serde_json::from_slice(&value) {
                Ok(record) => parsed.records.push(record),
                Err(error) => {
                    warn!(record = key, %error, "record cannot be read; leaving it alone, and what it is of");
                    parsed.unreadable.insert(key);
                }
            }
        }
        parsed
    }
}

/// What must not be touched because nothing else is known of it.
struct LeftAlone {
    pods: HashSet<PodId>,
    containers: HashSet<ContainerId>,
}

impl Runtime {
    /// Takes over what an earlier daemon left.
    ///
    /// # Errors
    /// The database cannot be read, or the node is out of what it takes to connect to a supervisor. What is wrong with a
    /// single pod is logged and does not keep the others.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        let rebooted = self.note_boot()?;
        self.load_pod_cidr()?;
        let pods = self.load_pods()?;
        let containers = self.load_containers()?;
        let left_alone = LeftAlone {
            pods: pods.unreadable.iter().filter_map(|id| PodId::parse(id)).collect(),
            containers: containers
                .unreadable
                .iter()
                .filter_map(|id| ContainerId::parse(id))
                .collect(),
        };
        if !containers.unreadable.is_empty() {
            self.parts.images.keep_removed();
        }
        for record in pods.records {
            self.recover_pod(record, rebooted).await?;
        }
        // All of them, with their leases, before anything is done about one: a removal frees the images that nobody leases.
        for record in containers.records {
            self.recover_container(record);
        }
        // An event that came earlier is in the state that each container is compared with.
        for pod in self.index.all_pods() {
            self.watch_supervisor(&pod);
        }
        self.settle(&left_alone).await;
        self.collect_garbage(left_alone).await;
        Ok(())
    }

    /// Whether the node was booted since the last daemon ran.
    fn note_boot(&self) -> Result<bool> {
        let now = self.parts.host.boot_id.as_bytes();
        let before = self.parts.db.get(Table::Meta, BOOT_ID)?;
        self.parts.db.put(Table::Meta, BOOT_ID, now)?;
        Ok(before.is_some_and(|b| b != now))
    }

    fn load_pods(&self) -> Result<Rows<PodRecord>> {
        Ok(Rows::parse(self.parts.db.all(Table::Pods)?))
    }

    fn load_containers(&self) -> Result<Rows<ContainerRecord>> {
        let mut rows = Rows::<ContainerRecord>::parse(self.parts.db.all(Table::Containers)?);
        rows.records.sort_by_key(|r| r.facts.created_at);
        Ok(rows)
    }

    async fn recover_pod(&self, record: PodRecord, rebooted: bool) -> Result<()> {
        let dir = self.paths.pod(&record.id);
        let client = match record.state {
            _ if rebooted => None,
            PodState::Ready => match Client::take_over(&dir, &record.id, record.supervisor.pid) {
                Ok(client) => Some(client),
                Err(error) if error.kind() == Kind::NotFound => None,
                Err(error) => return Err(error),
            },
            // Its number is not recorded yet, and it has no log that could hold it up.
            PodState::Creating => Client::connect(&dir).await.ok(),
            PodState::NotReady => None,
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
        Ok(())
    }

    fn recover_container(&self, record: ContainerRecord) {
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
    }

    /// Undoes what was cut short and finds out how everything else stands, each pod by itself.
    async fn settle(self: &Arc<Self>, left_alone: &LeftAlone) {
        let mut work = JoinSet::new();
        for pod in self.index.all_pods() {
            let this = Arc::clone(self);
            work.spawn(async move { this.settle_pod(&pod).await });
        }
        for container in self.index.all_containers() {
            let pod = &container.facts.pod;
            if self.index.pod_of(&container).is_none() && !left_alone.pods.contains(pod) {
                let this = Arc::clone(self);
                work.spawn(async move { this.settle_without_supervisor(vec![container]).await });
            }
        }
        let done = async { while work.join_next().await.is_some() {} };
        if tokio::time::timeout(SETTLE_PATIENCE, done).await.is_err() {
            warn!(
                pods = work.len(),
                "not everything that was found could be settled yet; that goes on while husk serves"
            );
        }
        work.detach_all();
    }

    async fn settle_pod(self: &Arc<Self>, pod: &Arc<Pod>) {
        if pod.state() == PodState::Creating {
            warn!(pod = ?pod.id, "the making of this pod was cut short; removing it");
            if let Err(error) = self.remove_pod(pod.id.as_str()).await {
                warn!(pod = ?pod.id, %error, "pod could not be removed");
            }
            return;
        }
        let containers = self.index.containers_of(&pod.id);
        match pod.supervisor() {
            Some(supervisor) => {
                let unfinished = containers.into_iter().filter(is_unfinished).collect();
                let catch_up = self.catch_up(pod, &supervisor.client);
                tokio::join!(self.remove_unfinished(unfinished), catch_up);
            }
            None => self.settle_without_supervisor(containers).await,
        }
    }

    async fn settle_without_supervisor(self: &Arc<Self>, containers: Vec<Arc<Container>>) {
        let (unfinished, others): (Vec<_>, Vec<_>) = containers.into_iter().partition(is_unfinished);
        self.remove_unfinished(unfinished).await;
        for container in others {
            if container.state() != ContainerState::Exited {
                let ending = self.ending_without_supervisor(&container, UNSEEN_END);
                self.ended(&container, ending).await;
            }
        }
    }

    async fn remove_unfinished(self: &Arc<Self>, containers: Vec<Arc<Container>>) {
        for container in containers {
            warn!(container = ?container.id(), "a change of this container was cut short; removing it");
            if let Err(error) = self.remove_found(&container).await {
                warn!(container = ?container.id(), %error, "container could not be removed");
            }
        }
    }

    /// Removes what no record owns.
    async fn collect_garbage(self: &Arc<Self>, left_alone: LeftAlone) {
        let LeftAlone {
            mut pods,
            mut containers,
        } = left_alone;
        pods.extend(self.index.all_pods().iter().map(|p| p.id.clone()));
        containers.extend(self.index.all_containers().iter().map(|c| c.id().clone()));
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

/// Being made or removed when the daemon died.
fn is_unfinished(container: &Arc<Container>) -> bool {
    let status = container.status();
    status.state == ContainerState::Creating || status.removing
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

    #[test]
    fn what_cannot_be_read_is_still_known() {
        let whole = PodRecord {
            id: PodId::random(),
            realm: Default::default(),
            config: Default::default(),
            created_at: 1,
            state: PodState::Ready,
            ips: Vec::new(),
            supervisor: Default::default(),
            failed: false,
            overhead: None,
            resources: None,
        };
        let strange = PodId::random();
        let mut newer = serde_json::to_value(&whole).unwrap();
        newer["state"] = "Hibernating".into();
        let rows = vec![
            (whole.id.to_string(), serde_json::to_vec(&whole).unwrap()),
            (strange.to_string(), serde_json::to_vec(&newer).unwrap()),
        ];
        let rows = Rows::<PodRecord>::parse(rows);
        assert_eq!(rows.records.len(), 1);
        assert_eq!(rows.unreadable, HashSet::from([strange.to_string()]));
    }
}
