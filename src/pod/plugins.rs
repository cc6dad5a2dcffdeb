//! What plugins on the node hear of pods and containers, and where they may have a say. In plain types: who speaks to
//! the plugins, and how, is not known here.
//!
//! Without plugins none of this costs anything. Rules for whoever implements [`Plugins`]: an event of an object that it
//! was never told of is ignored, so that each of these calls may be repeated; nothing may wait for long.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use oci_spec::runtime::{LinuxResources, Spec};
use tracing::warn;

use crate::types::Resources;
use crate::types::error::{Error, Result};

use super::container::{Container, ContainerFacts};
use super::create::Prepared;
use super::sandbox::Pod;
use super::{Runtime, blocking};

/// An event of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEvent {
    /// It has its network and its namespaces and is about to be ready. An error keeps it from that.
    Run,
    /// Its limits were changed.
    PostUpdate,
    /// Its containers have ended; everything else is still there. Told once.
    Stop,
    /// Nothing is left of it. Told once.
    Remove,
}

/// An event of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEvent {
    /// Its process waits at the gate.
    PostCreate,
    /// The gate is about to be opened. An error keeps it shut.
    Start,
    /// It runs.
    PostStart,
    /// Its limits were changed.
    PostUpdate,
    /// It has ended, however that came. Told once.
    Stop,
    /// Nothing is left of it, or it never came to be. Told once, after [`ContainerEvent::Stop`].
    Remove,
}

/// Who is told, and asked. Errors are those of plugins that said no.
pub trait Plugins: Send + Sync {
    /// Tells of a pod.
    fn pod<'a>(&'a self, event: PodEvent, pod: &'a Arc<Pod>) -> BoxFuture<'a, Result<()>>;

    /// Asks whether the limits of a pod may become these.
    fn update_pod<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        overhead: Option<&'a Resources>,
        resources: Option<&'a Resources>,
    ) -> BoxFuture<'a, Result<()>>;

    /// Asks for changes to a container of which nothing was made yet. They are applied to `spec`.
    fn create<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        facts: &'a ContainerFacts,
        spec: &'a mut Spec,
    ) -> BoxFuture<'a, Result<()>>;

    /// Tells of a container.
    fn container<'a>(
        &'a self,
        event: ContainerEvent,
        pod: &'a Arc<Pod>,
        container: &'a Arc<Container>,
    ) -> BoxFuture<'a, Result<()>>;

    /// Asks what the limits of a container shall become; returns them.
    fn update<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        container: &'a Arc<Container>,
        wanted: LinuxResources,
    ) -> BoxFuture<'a, Result<LinuxResources>>;
}

impl Runtime {
    /// Has `plugins` told of everything from now on. Only the first call counts.
    pub fn attach_plugins(&self, plugins: Arc<dyn Plugins>) {
        let _ = self.plugins.set(plugins);
    }

    /// Tells plugins of a pod.
    ///
    /// # Errors
    /// A plugin said no.
    pub(super) async fn tell_pod(&self, event: PodEvent, pod: &Arc<Pod>) -> Result<()> {
        match self.plugins.get() {
            Some(plugins) => plugins.pod(event, pod).await,
            None => Ok(()),
        }
    }

    /// As [`Runtime::tell_pod`] where a plugin cannot keep what has happened from having happened.
    pub(super) async fn note_pod(&self, event: PodEvent, pod: &Arc<Pod>) {
        if let Err(error) = self.tell_pod(event, pod).await {
            warn!(pod = ?pod.id, ?event, %error, "a plugin complained");
        }
    }

    /// Tells plugins of a container.
    ///
    /// # Errors
    /// A plugin said no.
    pub(super) async fn tell_container(
        &self,
        event: ContainerEvent,
        container: &Arc<Container>,
    ) -> Result<()> {
        let Some(plugins) = self.plugins.get() else {
            return Ok(());
        };
        let pod = self.find_pod(container.facts.pod.as_str())?;
        plugins.container(event, &pod, container).await
    }

    /// As [`Runtime::tell_container`] where a plugin cannot keep what has happened from having happened.
    pub(super) async fn note_container(&self, event: ContainerEvent, container: &Arc<Container>) {
        if let Err(error) = self.tell_container(event, container).await {
            warn!(container = ?container.id(), ?event, %error, "a plugin complained");
        }
    }

    /// Tells plugins of a container's end without keeping the caller.
    pub(super) fn note_end(&self, container: &Arc<Container>) {
        let Some(plugins) = self.plugins.get().map(Arc::clone) else {
            return;
        };
        let Ok(pod) = self.find_pod(container.facts.pod.as_str()) else {
            return;
        };
        let container = Arc::clone(container);
        tokio::spawn(async move {
            if let Err(error) = plugins.container(ContainerEvent::Stop, &pod, &container).await {
                warn!(container = ?container.id(), %error, "a plugin complained about the end of a container");
            }
        });
    }

    /// Checks the cgroup that plugins chose for a container, against those of other `containers` and the `parents` of
    /// those of pods.
    ///
    /// # Errors
    /// As [`crate::cgroup::Cgroups::check_free`].
    pub async fn check_cgroup(
        &self,
        path: &str,
        containers: Vec<String>,
        parents: Vec<String>,
    ) -> Result<()> {
        let (cgroups, path) = (Arc::clone(&self.parts.cgroups), path.to_owned());
        blocking(move || cgroups.check_free(&path, &containers, &parents)).await
    }

    /// Lets plugins change what is going to be made of a container, and then does what depends on their changes.
    pub(super) async fn adjust(&self, pod: &Arc<Pod>, prepared: &mut Prepared) -> Result<()> {
        if let Some(plugins) = self.plugins.get() {
            self.adjust_by(plugins, pod, prepared).await?;
        }
        if let Some(runtime) = &mut prepared.facts.runtime {
            super::handler::bind_devices(&mut prepared.spec, runtime);
        }
        Ok(())
    }

    async fn adjust_by(
        &self,
        plugins: &Arc<dyn Plugins>,
        pod: &Arc<Pod>,
        prepared: &mut Prepared,
    ) -> Result<()> {
        plugins.create(pod, &prepared.facts, &mut prepared.spec).await?;
        if prepared.facts.runtime.is_none() {
            super::create::cdi::show_root(&mut prepared.spec, &self.paths.mount_point());
        }
        // Vendors' files of devices add groups.
        prepared.facts.groups = super::create::groups(&prepared.spec);
        prepared.facts.late_hooks = super::late_hooks::any(&prepared.spec);
        let linux = prepared.spec.linux().as_ref();
        if let Some(path) = linux.and_then(|l| l.cgroups_path().as_ref()) {
            let path = path
                .to_str()
                .filter(|p| !p.is_empty())
                .ok_or_else(|| Error::invalid(format!("a plugin set the cgroup path to {path:?}")))?;
            path.clone_into(&mut prepared.facts.cgroup_path);
        }
        Ok(())
    }
}
