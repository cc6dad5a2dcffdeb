//! What a container's end means: its final state, made known once, with its reason.

use std::sync::Arc;

use tracing::{info, warn};

use crate::supervisor::record::ExitRecord;
use crate::telemetry::operations;
use crate::types::ContainerState;
use crate::types::error::{Error, Result};
use crate::types::time::now_nanos;

use super::container::Container;
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

    /// How a container ended whose supervisor is not there to be asked: as it wrote down, or else `lost`.
    pub(super) fn ending_without_supervisor(&self, container: &Container, lost: &str) -> Ending {
        self.recorded_ending(container)
            .unwrap_or_else(|_| Ending::lost(lost))
    }

    /// What the supervisor wrote down of a container's end.
    fn recorded_ending(&self, container: &Container) -> Result<Ending> {
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
