//! What a container's end means: its final state, made known once, with its reason.

use std::sync::Arc;

use tracing::{info, warn};

use crate::supervisor::protocol::Event;
use crate::supervisor::record::ExitRecord;
use crate::telemetry::operations;
use crate::types::ContainerState;
use crate::types::error::{Error, Result};
use crate::types::time::now_nanos;

use super::client::Client;
use super::container::Container;
use super::sandbox::Pod;
use super::{Runtime, blocking};

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    exit_code: i32,
    /// 0 if it is not known to have started.
    started_at: i64,
    finished_at: i64,
    reason: &'static str,
    message: String,
}

impl Ending {
    /// The process ended.
    pub fn exited(record: &ExitRecord) -> Self {
        if !record.start_error.is_empty() {
            return Self {
                exit_code: record.exit_code,
                started_at: record.started_at,
                finished_at: record.finished_at,
                reason: "StartError",
                message: record.start_error.clone(),
            };
        }
        let (reason, message) = match (record.oom_killed, record.exit_code) {
            (true, _) => (
                "OOMKilled",
                "a process of the container was killed for lack of memory".to_owned(),
            ),
            (false, 0) => ("Completed", String::new()),
            (false, code) if code == 128 + libc::SIGSYS => (
                "Error",
                "killed by SIGSYS: a system call that seccomp forbids".to_owned(),
            ),
            (false, _) => ("Error", String::new()),
        };
        Self {
            exit_code: record.exit_code,
            started_at: record.started_at,
            finished_at: record.finished_at,
            reason,
            message,
        }
    }

    /// Its command could not be executed. `exit_code` is what a shell would give.
    pub fn start_failed(error: &Error, exit_code: Option<i32>) -> Self {
        Self {
            exit_code: exit_code.unwrap_or(128),
            started_at: 0,
            finished_at: now_nanos(),
            reason: "StartError",
            message: error.message().to_owned(),
        }
    }

    /// Its program was running once.
    fn ran(&self) -> bool {
        self.started_at != 0 && self.reason != "StartError"
    }

    /// It is gone and nobody saw how.
    pub fn lost(message: impl Into<String>) -> Self {
        Self {
            exit_code: 255,
            started_at: 0,
            finished_at: now_nanos(),
            reason: "Unknown",
            message: message.into(),
        }
    }
}

impl Runtime {
    /// Follows the events of a pod's supervisor until it ends.
    pub(super) fn watch_supervisor(self: &Arc<Self>, pod: &Arc<Pod>) {
        let Some(supervisor) = pod.supervisor() else {
            return;
        };
        let (this, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn(async move {
            let mut client = supervisor.client;
            loop {
                // There is one receiver of events for each connection, and this is its only taker.
                let Some(mut events) = client.events() else { return };
                while let Some(event) = events.recv().await {
                    this.on_event(event).await;
                }
                match this.reconnect(&pod, &client).await {
                    Some(fresh) => client = fresh,
                    None => break,
                }
            }
            this.supervisor_ended(&pod).await;
        });
    }

    /// After a connection was closed: another one, if the supervisor lives and nobody has stopped it.
    async fn reconnect(self: &Arc<Self>, pod: &Arc<Pod>, old: &Client) -> Option<Client> {
        if !old.is_alive() || pod.supervisor().is_none() {
            return None;
        }
        let client = Client::connect(&self.paths.pod(&pod.id)).await.ok()?;
        warn!(pod = ?pod.id, "connection to the supervisor was lost; connected again");
        if let Some(supervisor) = pod.status_mut().supervisor.as_mut() {
            supervisor.client = client.clone();
        }
        for container in self.index.containers_of(&pod.id) {
            self.reconcile(&container).await;
        }
        Some(client)
    }

    async fn on_event(self: &Arc<Self>, event: Event) {
        match event {
            Event::ContainerExited(id, record) => {
                if let Ok(container) = self.find_container(id.as_str()) {
                    self.ended(&container, Ending::exited(&record)).await;
                }
            }
            Event::ExecExited(exit) => self.execs.ended(&exit.exec_id, exit.exit_code),
            Event::OomSeen { container, kills } => {
                info!(
                    ?container,
                    kills, "a process of the container was killed for lack of memory"
                );
            }
            Event::LogTrouble {
                container,
                dropped,
                reason,
            } if reason.is_empty() => {
                info!(?container, dropped, "container output is logged again");
            }
            Event::LogTrouble {
                container,
                dropped,
                reason,
            } => {
                warn!(?container, dropped, %reason, "container output could not be logged");
            }
        }
    }

    /// Makes the end of a container known, the first time only, and frees what it held but its writable layer.
    pub(super) async fn ended(&self, container: &Arc<Container>, ending: Ending) {
        // The cgroup goes first: a process that outlives the container's own would escape its end.
        self.remove_cgroup(container).await;
        if ending.ran() {
            // Events say in order what happened, even if the reply to StartContainer is still on its way.
            self.change_container(container, |s| {
                if s.state == ContainerState::Created {
                    s.state = ContainerState::Running;
                }
            });
        }
        let first = self.change_container(container, |s| {
            if s.state == ContainerState::Exited {
                return false;
            }
            s.state = ContainerState::Exited;
            s.pid = 0;
            s.exit_code = ending.exit_code;
            if ending.started_at != 0 {
                s.started_at = ending.started_at;
            }
            s.finished_at = ending.finished_at.max(s.started_at);
            s.reason = ending.reason.to_owned();
            s.message.clone_from(&ending.message);
            true
        });
        if !first {
            return;
        }
        if ending.reason == "OOMKilled" {
            operations::container_ran_out_of_memory();
        }
        info!(container = ?container.id(), code = ending.exit_code, reason = ending.reason, "container exited");
        if let Err(error) = self.save_container(container) {
            // The supervisor's exit record says the same to the next daemon.
            warn!(container = ?container.id(), %error, "end of container could not be recorded");
        }
        self.note_end(container);
    }

    pub(super) async fn remove_cgroup(&self, container: &Container) {
        let path = &container.facts.cgroup_path;
        let cgroup = self.parts.cgroups.open(path);
        let unused = container.facts.runtime.is_some().then(|| path.clone());
        let cgroups = Arc::clone(&self.parts.cgroups);
        let removed = blocking(move || {
            cgroup.kill()?;
            cgroup.remove()?;
            unused.map_or(Ok(()), |path| cgroups.remove_unused(&path))
        });
        if let Err(error) = removed.await {
            warn!(container = ?container.id(), %error, "cgroup could not be removed");
        }
    }

    /// A supervisor is gone. If nobody asked for that, its containers go too: never a silent orphan.
    async fn supervisor_ended(self: &Arc<Self>, pod: &Arc<Pod>) {
        if pod.status_mut().supervisor.take().is_none() {
            return;
        }
        warn!(pod = ?pod.id, "supervisor ended unexpectedly; killing the pod's containers");
        for container in self.index.containers_of(&pod.id) {
            let ending = self.recorded_ending(&container).unwrap_or_else(|_| {
                Ending::lost("the pod's supervisor was killed, and with it the container's process")
            });
            self.ended(&container, ending).await;
        }
        self.change_pod(pod, |s| s.state = crate::types::PodState::NotReady);
        if let Err(error) = self.save_pod(pod) {
            warn!(pod = ?pod.id, %error, "pod record could not be written");
        }
    }

    /// What the supervisor wrote down of a container's end.
    pub(super) fn recorded_ending(&self, container: &Container) -> Result<Ending> {
        let path = self.paths.exit_record(&container.facts.pod, container.id());
        let record = ExitRecord::read(&path)?
            .ok_or_else(|| Error::not_found(format!("there is no exit record {}", path.display())))?;
        Ok(Ending::exited(&record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_kubelets() {
        let case = |exit_code, oom_killed| {
            Ending::exited(&ExitRecord {
                exit_code,
                oom_killed,
                ..Default::default()
            })
            .reason
        };
        assert_eq!(case(0, false), "Completed");
        assert_eq!(case(3, false), "Error");
        assert_eq!(case(137, true), "OOMKilled");
        // A child of a process that lives on and ends well may have been the one killed.
        assert_eq!(case(0, true), "OOMKilled");
    }
}
