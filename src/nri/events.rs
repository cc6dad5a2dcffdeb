//! The door through which `pod` calls.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci_spec::runtime::{LinuxResources, Spec};

use crate::pod::container::{Container, ContainerFacts};
use crate::pod::plugins::{ContainerEvent, Plugins, PodEvent};
use crate::pod::sandbox::Pod;
use crate::types::Resources;
use crate::types::error::Result;

use super::Nri;

pub(super) struct Events(pub(super) Arc<Nri>);

impl Plugins for Events {
    fn pod<'a>(&'a self, event: PodEvent, pod: &'a Arc<Pod>) -> BoxFuture<'a, Result<()>> {
        self.0.pod_event(event, pod).boxed()
    }

    fn update_pod<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        overhead: Option<&'a Resources>,
        resources: Option<&'a Resources>,
    ) -> BoxFuture<'a, Result<()>> {
        self.0.update_pod(pod, overhead, resources).boxed()
    }

    fn create<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        facts: &'a ContainerFacts,
        spec: &'a mut Spec,
    ) -> BoxFuture<'a, Result<()>> {
        self.0.create(pod, facts, spec).boxed()
    }

    fn container<'a>(
        &'a self,
        event: ContainerEvent,
        pod: &'a Arc<Pod>,
        container: &'a Arc<Container>,
    ) -> BoxFuture<'a, Result<()>> {
        self.0.container_event(event, pod, container).boxed()
    }

    fn update<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        container: &'a Arc<Container>,
        wanted: LinuxResources,
    ) -> BoxFuture<'a, Result<LinuxResources>> {
        self.0.update(pod, container, wanted).boxed()
    }
}
