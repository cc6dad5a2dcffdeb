//! RunPodSandbox.

mod bring_up;
mod check;

use std::sync::Arc;

use tracing::{info, warn};

use crate::state::Table;
use crate::types::error::{Error, Kind, Result};
use crate::types::security::NamespaceMode;
use crate::types::time::now_nanos;
use crate::types::{PodConfig, PodId, PodState, Realm};

use super::adopt::Begin;
use super::plugins::PodEvent;
use super::remove::remove_if_there;
use super::sandbox::Pod;
use super::{Runtime, difference};

pub(super) use check::check;

impl Runtime {
    /// Makes a pod and returns when it is ready. A repeat joins the first call or gets the pod it made.
    ///
    /// # Errors
    /// `InvalidArgument` for a config that cannot work; `AlreadyExists` if a pod of that name has another config;
    /// whatever keeps the pod from starting. After an error nothing of the pod is left, or, if it could not be
    /// cleaned up, it is listed as not ready so that it can be stopped and removed.
    pub async fn run_pod(self: &Arc<Self>, realm: Realm, config: PodConfig) -> Result<PodId> {
        check(&config)?;
        self.check_user_namespace(&config)?;
        self.check_handler(&config)?;
        let key = (realm, config.metadata.clone());
        let begin = self.pod_operations.begin(
            key,
            config.clone(),
            || self.existing_pod(realm, &config),
            || Arc::clone(self).make_pod(realm, config.clone()),
        );
        match begin {
            Begin::Wait(wait) => wait.outcome().await,
            Begin::Differs(first) => Err(exists("is being made", &first, &config)),
        }
    }

    /// Without id-mapped layers the files of an image would belong to nobody, and husk does not copy images for it.
    fn check_user_namespace(&self, config: &PodConfig) -> Result<()> {
        let host = &self.parts.host;
        if config.security.namespaces.own_user().is_none() || host.features().user_namespaces {
            return Ok(());
        }
        let why = match &host.id_mapped_layers_problem {
            _ if !host.user_namespaces => {
                "user namespaces are switched off on this node (user.max_user_namespaces)"
            }
            Some(problem) => problem,
            None => "this node does not offer it",
        };
        Err(Error::precondition(format!(
            "the pod asks for a user namespace: {why}"
        )))
    }

    /// Refuses a handler that is not there, cannot be run, or cannot do what is asked for.
    fn check_handler(&self, config: &PodConfig) -> Result<()> {
        let handler = self.parts.handlers.find(&config.runtime_handler)?;
        let user = config.security.namespaces.user.as_ref();
        if user.is_some_and(|u| u.mode == NamespaceMode::Pod) && !handler.features.user_namespaces {
            return Err(Error::new(
                Kind::Unimplemented,
                format!(
                    "runtime handler {:?} has no user namespaces on this node",
                    handler.name
                ),
            ));
        }
        handler.check()
    }

    /// What an earlier call with this name left: its pod, whatever became of it, if it is the one asked for now. One that
    /// never came to be or is on its way out does not stand in the way of another.
    fn existing_pod(&self, realm: Realm, config: &PodConfig) -> Option<Result<PodId>> {
        let pod = self.index.pod_named(realm, &config.metadata)?;
        let (failed, removing) = {
            let status = pod.status_mut();
            (status.failed, status.removing)
        };
        if failed || removing {
            return None;
        }
        Some(if pod.config == *config {
            Ok(pod.id.clone())
        } else {
            Err(exists("exists", &pod.config, config))
        })
    }

    async fn make_pod(self: Arc<Self>, realm: Realm, config: PodConfig) -> Result<PodId> {
        if let Some(old) = self.index.pod_named(realm, &config.metadata) {
            let removed = self.remove_found_pod(&old).await;
            removed.map_err(|e| e.context("remove what is left of an earlier pod of this name"))?;
        }
        let pod = Pod::new(PodId::random(), realm, config, now_nanos());
        // Whoever wants to stop or remove it waits until it is whole or gone.
        let _alone = pod.lifecycle.write().await;
        self.save_pod(&pod)?;
        self.index.add_pod(&pod);
        match self.bring_up(&pod).await {
            Ok(()) => {
                info!(pod = ?pod.id, name = %pod.config.metadata.name, "pod is ready");
                Ok(pod.id.clone())
            }
            Err(error) => {
                self.note_pod(PodEvent::Remove, &pod).await;
                if let Err(left) = self.undo_pod(&pod).await {
                    // Stays listed, so that the client can stop and remove it later.
                    warn!(pod = ?pod.id, error = %left, "pod that failed to start could not be cleaned up");
                    self.change_pod(&pod, |s| {
                        s.state = PodState::NotReady;
                        s.failed = true;
                    });
                    let _ = self.save_pod(&pod);
                } else {
                    self.forget_pod(&pod);
                }
                Err(error.context(format!(
                    "run pod {}/{}",
                    pod.config.metadata.namespace, pod.config.metadata.name
                )))
            }
        }
    }

    /// Removes whatever was made of a pod that did not come to be.
    async fn undo_pod(&self, pod: &Arc<Pod>) -> Result<()> {
        self.take_down(pod).await?;
        remove_if_there(&self.paths.pod(&pod.id))
    }

    /// Forgets a pod of which nothing is left.
    pub(super) fn forget_pod(&self, pod: &Arc<Pod>) {
        self.unlist_pod(pod);
        if let Err(error) = self.parts.db.delete(Table::Pods, pod.id.as_str()) {
            // The next start finds a record without a pod and removes it.
            warn!(pod = ?pod.id, %error, "pod record could not be deleted");
        }
    }
}

fn exists(how: &str, old: &PodConfig, new: &PodConfig) -> Error {
    let m = &new.metadata;
    Error::new(
        Kind::AlreadyExists,
        format!(
            "pod {}/{} (uid {}, attempt {}) {how} with another config: {}. Remove it first, or ask for another attempt",
            m.namespace,
            m.name,
            m.uid,
            m.attempt,
            difference::between(old, new)
        ),
    )
}
