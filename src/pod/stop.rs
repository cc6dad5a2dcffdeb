//! StopContainer and StopPodSandbox.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::types::error::{Error, Kind, Result};
use crate::types::{ContainerState, PodState};

use super::container::Container;
use super::exits::Ending;
use super::plugins::{ContainerEvent, PodEvent};
use super::sandbox::Pod;
use super::{Runtime, blocking, detached, stuck};

/// How long a killed process may take to vanish before the call reports it as stuck.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long finding out why may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait between two attempts: a process may have been on its way into its cgroup.
const KILL_RETRY: Duration = Duration::from_millis(250);

impl Runtime {
    /// Stops a container: its stop signal, `grace`, then SIGKILL. Unknown and exited containers are fine.
    ///
    /// A second call with a shorter grace ends the first one's wait. The caller going away stops nothing.
    ///
    /// # Errors
    /// The process cannot be killed; the message names what it hangs on.
    pub async fn stop_container(self: &Arc<Self>, id: &str, grace: Duration) -> Result<()> {
        let Some(container) = self.find_container_if_any(id)? else {
            return Ok(());
        };
        let this = Arc::clone(self);
        detached(async move {
            this.stop_process(&container, grace).await?;
            this.note_container(ContainerEvent::Stop, &container).await;
            Ok(())
        })
        .await
    }

    pub(super) async fn stop_process(&self, container: &Arc<Container>, grace: Duration) -> Result<()> {
        match container.state() {
            ContainerState::Exited => return Ok(()),
            ContainerState::Running if !grace.is_zero() => {
                // Whatever becomes of the signal, the container gets its grace, and the kill: it may have ended meanwhile,
                // its supervisor may hang, or its runtime's `kill` fail.
                match self.send_stop_signal(container).await {
                    Err(e) if matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => {}
                    Err(error) => {
                        warn!(container = ?container.id(), %error, "stop signal could not be sent; after its grace period the container is killed");
                    }
                    Ok(()) => {}
                }
                if tokio::time::timeout(grace, container.wait()).await.is_ok() {
                    return Ok(());
                }
                info!(container = ?container.id(), ?grace, "container outlived its grace period; killing it");
            }
            _ => {}
        }
        self.kill_process(container).await
    }

    async fn send_stop_signal(&self, container: &Container) -> Result<()> {
        let client = self.client_of(container)?;
        let signal = container.facts.stop_signal;
        client.signal(container.id(), signal, false).await
    }

    async fn kill_process(&self, container: &Arc<Container>) -> Result<()> {
        let deadline = Instant::now() + KILL_PATIENCE;
        while Instant::now() < deadline {
            match self.kill_once(container).await {
                // They have the signal, and will die of it when they wake: to repeat it would only keep the pod's
                // supervisor from its other containers.
                Err(e) if e.kind() == Kind::DeadlineExceeded => break,
                killed => killed.map_err(|e| e.context(format!("kill container {}", container.id())))?,
            }
            if tokio::time::timeout(KILL_RETRY, container.wait()).await.is_ok() {
                return Ok(());
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, container.wait()).await.is_ok() {
            return Ok(());
        }
        Err(Error::new(
            Kind::DeadlineExceeded,
            format!(
                "container {} did not end within {} s of SIGKILL: {}; what holds it has to be dealt with on the node, \
                 then the call can be repeated",
                container.id(),
                KILL_PATIENCE.as_secs(),
                self.what_holds(container).await
            ),
        ))
    }

    /// What the processes of a container are waiting for, as far as the kernel tells.
    async fn what_holds(&self, container: &Container) -> String {
        let cgroup = self.parts.cgroups.open(&container.facts.cgroup_path);
        let first = container.status().pid;
        let look = tokio::task::spawn_blocking(move || {
            let mut pids = cgroup.processes().unwrap_or_default();
            pids.sort_by_key(|pid| (*pid != first, *pid));
            if pids.is_empty() && first > 0 {
                pids.push(first);
            }
            stuck::describe(Path::new("/proc"), &pids, cgroup.frozen_by().as_deref())
        });
        match tokio::time::timeout(LOOK_PATIENCE, look).await {
            Ok(Ok(text)) => text,
            _ => format!("pid {first} is stuck such that even /proc does not answer for it"),
        }
    }

    /// Kills what there is of a container now.
    async fn kill_once(&self, container: &Arc<Container>) -> Result<()> {
        let outcome = match self.client_of(container) {
            Ok(client) => client.signal(container.id(), libc::SIGKILL, true).await,
            Err(e) => Err(e),
        };
        match outcome {
            // Its making never got as far as a process.
            Err(e) if e.kind() == Kind::NotFound => {
                self.ended(container, Ending::lost("it never had a process"))
                    .await;
                Ok(())
            }
            // No supervisor, or one that is still making the process, has just seen it end, or hangs.
            Err(e) if matches!(e.kind(), Kind::FailedPrecondition | Kind::Unavailable) => {
                let cgroup = self.parts.cgroups.open(&container.facts.cgroup_path);
                blocking(move || cgroup.kill()).await
            }
            other => other,
        }
    }

    /// Stops a pod: kills its containers, takes its network away, ends its supervisor. Unknown and stopped pods are
    /// fine.
    ///
    /// # Errors
    /// Something could not be undone; the call may be repeated.
    pub async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(pod) = self.find_pod_if_any(id)? else {
            return Ok(());
        };
        let this = Arc::clone(self);
        detached(async move {
            this.give_up_making(&pod);
            let _alone = pod.alone().await?;
            if !this.index.has_pod(&pod) {
                return Ok(());
            }
            this.stop_locked(&pod).await
        })
        .await
    }

    /// Nobody wants a pod that is still being made: its maker stops waiting for the network, undoes what there is and
    /// lets go of the pod's lifecycle.
    pub(super) fn give_up_making(&self, pod: &Pod) {
        if pod.state() == PodState::Creating {
            info!(pod = ?pod.id, "pod is stopped while it is being made");
            pod.unwanted.cancel();
        }
    }

    /// As [`Runtime::stop_pod`], for who holds the pod's lifecycle.
    pub(super) async fn stop_locked(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let what = |e: Error| e.context(format!("stop pod sandbox {}", pod.id));
        let kills = self.index.containers_of(&pod.id).into_iter().map(|c| {
            let this = Arc::clone(self);
            async move { this.stop_process(&c, Duration::ZERO).await }
        });
        for killed in futures_util::future::join_all(kills).await {
            killed.map_err(what)?;
        }
        // Told while everything but the containers is still there.
        self.note_pod(PodEvent::Stop, pod).await;
        self.take_down(pod).await.map_err(what)?;
        let was = self.change_pod(pod, |s| s.state = PodState::NotReady);
        if was != PodState::NotReady {
            self.save_pod(pod)?;
            info!(pod = ?pod.id, "pod stopped");
        }
        Ok(())
    }

    /// Undoes whatever there is of a pod's network, supervisor and mounts. May be repeated, and works on half a pod.
    pub(super) async fn take_down(&self, pod: &Arc<Pod>) -> Result<()> {
        // Errors are collected: one that cannot be undone must not keep the others.
        let mut errors = Vec::new();
        let network = Arc::clone(&self.parts.network);
        errors.extend(network.teardown(&pod.id).await.err());
        let supervisor = pod.status_mut().supervisor.take();
        if let Some(supervisor) = supervisor {
            errors.extend(supervisor.client.shutdown(true).await.err());
        }
        errors.extend(self.remove_shm(&pod.id).err());
        let id = pod.id.clone();
        errors.extend(blocking(move || network.remove_netns(&id)).await.err());
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => {
                let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
                Err(Error::internal(texts.join("; ")))
            }
        }
    }
}
