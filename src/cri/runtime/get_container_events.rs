//! GetContainerEvents: what happens to pods and containers, from now on.

use futures_util::stream;

use crate::cri::convert::{container, pod};
use crate::cri::list::Stream;
use crate::cri::proto as p;
use crate::cri::status::status;
use crate::pod::Runtime;
use crate::pod::events::{Event, EventKind};
use crate::types::error::Result;

pub(super) async fn call(runtime: &Runtime) -> Result<Stream<p::ContainerEventResponse>> {
    let subscription = runtime.events().subscribe()?;
    Ok(Box::pin(stream::unfold(
        Some(subscription),
        |subscription| async move {
            let mut subscription = subscription?;
            match subscription.next().await? {
                Ok(event) => Some((Ok(response(&event)), Some(subscription))),
                Err(error) => Some((Err(status(error)), None)),
            }
        },
    )))
}

fn response(event: &Event) -> p::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => p::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => p::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => p::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => p::ContainerEventType::ContainerDeletedEvent,
    };
    p::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.view.at,
        pod_sandbox_status: Some(pod::status(&event.view)),
        containers_statuses: container::statuses(&event.view),
    }
}
