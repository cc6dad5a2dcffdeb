//! StartContainer, ReopenContainerLog.

use std::sync::Arc;

use tracing::info;

use crate::types::ContainerState;
use crate::types::error::{Error, Kind, Result};
use crate::types::time::now_nanos;

use super::client::Client;
use super::container::Container;
use super::exits::Ending;
use super::late_hooks::Stage;
use super::plugins::ContainerEvent;
use super::{Runtime, detached};

impl Runtime {
    /// Opens the gate of a created container.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it is created; the reason why its command cannot be executed, in which
    /// case the container has exited with reason `StartError`.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.find_container(id)?;
        let this = Arc::clone(self);
        detached(async move { this.open_gate(&container).await }).await
    }

    async fn open_gate(&self, container: &Arc<Container>) -> Result<()> {
        let what = |e: Error| {
            e.context(format!(
                "start container {:?}",
                container.facts.config.metadata.name
            ))
        };
        let client = self.client_of(container).map_err(what)?;
        let begun = container.update(|s| {
            if s.state != ContainerState::Created || s.removing || s.started_at != 0 {
                return Err(Error::precondition(format!("it is {:?}, not created", s.state)));
            }
            // Set before the workload can end, so that it never ends before it started.
            s.started_at = now_nanos();
            Ok(())
        });
        begun.map_err(what)?;
        if let Err(error) = self.tell_container(ContainerEvent::Start, container).await {
            self.ended(container, Ending::start_failed(&error, None)).await;
            return Err(what(error));
        }
        match client.start(container.id()).await {
            Ok(started) => {
                self.change_container(container, |s| {
                    // One that has ended already has the time from its exit record.
                    if s.state == ContainerState::Created {
                        s.state = ContainerState::Running;
                        s.started_at = started.started_at;
                        // One that was restored is another process now.
                        s.pid = started.pid;
                    }
                });
                self.save_container(container)?;
                if container.facts.restored_on.is_some() {
                    self.drop_checkpoint(container).await;
                }
                self.run_late_hooks(Stage::Started, container).await;
                self.note_container(ContainerEvent::PostStart, container).await;
                info!(container = ?container.id(), "container started");
                Ok(())
            }
            Err(failure) => {
                let exit_code = failure.exit_code;
                let error = Error::from(failure);
                if error.kind() == Kind::Unavailable {
                    // The supervisor did not answer; whether the workload runs is for its events to say.
                    container.update(|s| s.started_at = 0);
                    return Err(what(error));
                }
                self.ended(container, Ending::start_failed(&error, exit_code))
                    .await;
                Err(what(error))
            }
        }
    }

    /// Makes the supervisor open the container's log anew, after kubelet has moved the old file away.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it is running; the file cannot be opened.
    pub async fn reopen_log(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.find_container(id)?;
        if container.state() != ContainerState::Running {
            return Err(Error::precondition(format!(
                "container {id} is not running; its log is complete"
            )));
        }
        self.client_of(&container)?.reopen_log(container.id()).await
    }

    /// The connection to the supervisor of a container's pod.
    pub(super) fn client_of(&self, container: &Container) -> Result<Client> {
        self.find_pod(container.facts.pod.as_str())?
            .supervisor()
            .map(|s| s.client)
            .ok_or_else(|| Error::precondition(format!("pod sandbox {} is not running", container.facts.pod)))
    }
}
