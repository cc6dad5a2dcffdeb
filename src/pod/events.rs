//! What happens to pods and containers, told to whoever listens.
//!
//! Events are not reported by the operations: they follow from changes of state, which go through [`Runtime::change_container`]
//! and its like, so that none is forgotten or told twice. A change and its event are one step under one lock. Hence events
//! come in the order of the changes, and each carries the pod as it was right after its change.
//!
//! Owns the consumers' queues. Each is bounded, and one that is full costs its consumer the stream, nobody else anything.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::types::error::{Error, Kind, Result};
use crate::types::time::now_nanos;
use crate::types::{ContainerState, PodState, Realm};

use super::Runtime;
use super::container::{Container, ContainerStatus};
use super::index::Index;
use super::sandbox::{Pod, PodStatus};

/// Events kept for a consumer that does not read, as other runtimes do.
pub const QUEUE: usize = 1000;
/// Most consumers at once: kubelet is one, and people with crictl are few.
const MAX_CONSUMERS: usize = 64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It can be seen in lists from now on.
    Created,
    /// Its process was started; of a pod: it is ready.
    Started,
    /// It ended; of a pod: it is not ready any more.
    Stopped,
    /// It cannot be seen any more.
    Deleted,
}

/// One event.
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which container or pod, by id.
    pub id: String,
    /// The pod right after it happened.
    pub view: PodView,
}

/// A pod and its containers at one moment.
pub struct PodView {
    /// The moment, in nanoseconds since the epoch; later than that of every view before.
    pub at: i64,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its state.
    pub state: PodState,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its containers that clients may see, in order of creation, and where each stands.
    pub containers: Vec<(Arc<Container>, ContainerStatus)>,
}

/// The consumers.
#[derive(Default)]
pub struct Events(Mutex<Hub>);

#[derive(Default)]
struct Hub {
    last: i64,
    closed: bool,
    consumers: Vec<Consumer>,
}

struct Consumer {
    /// `None` once an event did not fit.
    queue: Option<mpsc::Sender<Arc<Event>>>,
    /// Events that did not fit. Shared with the subscription, which lives as long as somebody listens.
    lost: Arc<AtomicU64>,
}

/// One consumer's end of the events.
pub struct Subscription {
    queue: mpsc::Receiver<Arc<Event>>,
    lost: Arc<AtomicU64>,
}

impl Events {
    /// Events from now on.
    ///
    /// # Errors
    /// `Unavailable` while husk stops; `ResourceExhausted` for too many consumers.
    pub fn subscribe(&self) -> Result<Subscription> {
        let mut hub = self.lock();
        if hub.closed {
            return Err(Error::new(Kind::Unavailable, "husk is stopping; try again"));
        }
        hub.consumers.retain(Consumer::is_there);
        if hub.consumers.len() >= MAX_CONSUMERS {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!("{MAX_CONSUMERS} clients receive events already; end one of them"),
            ));
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        let lost = Arc::<AtomicU64>::default();
        hub.consumers.push(Consumer {
            queue: Some(sender),
            lost: Arc::clone(&lost),
        });
        Ok(Subscription { queue, lost })
    }

    /// Ends all subscriptions, each after what is still in its queue, and takes no more: husk is stopping.
    pub fn close(&self) {
        let mut hub = self.lock();
        hub.closed = true;
        hub.consumers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event; `None` when husk stops.
    ///
    /// # Errors
    /// `ResourceExhausted`, once, after the last event before the gap, if this consumer was too slow.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>>> {
        if let Some(event) = self.queue.recv().await {
            return Some(Ok(event));
        }
        match self.lost.swap(0, Ordering::AcqRel) {
            0 => None,
            lost => Some(Err(Error::new(
                Kind::ResourceExhausted,
                format!(
                    "this client reads events too slowly: {lost} did not fit into its queue of {QUEUE} and were lost; \
                     list pods and containers, and ask for events again"
                ),
            ))),
        }
    }
}

impl Consumer {
    fn is_there(&self) -> bool {
        match &self.queue {
            Some(queue) => !queue.is_closed(),
            None => Arc::strong_count(&self.lost) > 1,
        }
    }

    fn tell(&mut self, event: &Arc<Event>) {
        let Some(queue) = &self.queue else {
            self.lost.fetch_add(1, Ordering::AcqRel);
            return;
        };
        if let Err(TrySendError::Full(_)) = queue.try_send(Arc::clone(event)) {
            // Counted before the queue is closed, which is how the subscription learns of it.
            self.lost.fetch_add(1, Ordering::AcqRel);
            self.queue = None;
        }
    }
}

impl Hub {
    /// Now, but later than ever before: clients put what they learn in order by it.
    fn tick(&mut self) -> i64 {
        self.last = now_nanos().max(self.last + 1);
        self.last
    }

    fn view(&mut self, index: &Index, pod: &Arc<Pod>) -> PodView {
        let (state, ips) = {
            let status = pod.status_mut();
            (status.state, status.ips.clone())
        };
        let containers = index.containers_of(&pod.id).into_iter();
        PodView {
            at: self.tick(),
            pod: Arc::clone(pod),
            state,
            ips,
            containers: containers
                .map(|c| (c.status(), c))
                .filter(|(status, _)| status.state != ContainerState::Creating)
                .map(|(status, c)| (c, status))
                .collect(),
        }
    }

    fn publish(&mut self, index: &Index, pod: &Arc<Pod>, id: &str, kinds: &[EventKind]) {
        self.consumers.retain(Consumer::is_there);
        // What the command line made is none of kubelet's business.
        if self.consumers.is_empty() || pod.realm != Realm::K8s {
            return;
        }
        for &kind in kinds {
            let event = Arc::new(Event {
                kind,
                id: id.to_owned(),
                view: self.view(index, pod),
            });
            self.consumers.iter_mut().for_each(|c| c.tell(&event));
        }
    }
}

/// What a container's change of state is called.
fn of_container(old: ContainerState, new: ContainerState) -> Vec<EventKind> {
    use ContainerState::{Created, Creating, Exited, Running};
    let mut kinds = Vec::new();
    if old == Creating && new != Creating {
        kinds.push(EventKind::Created);
    }
    match (old, new) {
        (Creating | Created, Running) => kinds.push(EventKind::Started),
        (Exited, Exited) => {}
        (_, Exited) => kinds.push(EventKind::Stopped),
        _ => {}
    }
    kinds
}

/// What a pod's change of state is called.
fn of_pod(old: PodState, new: PodState) -> &'static [EventKind] {
    match (old, new) {
        (PodState::Creating, PodState::Ready) => &[EventKind::Created, EventKind::Started],
        (PodState::Creating, PodState::NotReady) => &[EventKind::Created, EventKind::Stopped],
        (PodState::Ready, PodState::NotReady) => &[EventKind::Stopped],
        _ => &[],
    }
}

impl Runtime {
    /// Where to listen.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// A pod and its containers as they are now, with a time that fits those of the events.
    pub fn view(&self, pod: &Arc<Pod>) -> PodView {
        self.events.lock().view(&self.index, pod)
    }

    /// Changes where a container stands and tells what that means.
    pub(super) fn change_container<T>(
        &self,
        container: &Container,
        change: impl FnOnce(&mut ContainerStatus) -> T,
    ) -> T {
        let mut hub = self.events.lock();
        let (kinds, out) = container.update(|status| {
            let old = status.state;
            let out = change(status);
            (of_container(old, status.state), out)
        });
        self.tell_of_container(&mut hub, container, &kinds);
        out
    }

    /// Takes a container out of the index and tells so.
    pub(super) fn forget_container(&self, container: &Container) {
        let mut hub = self.events.lock();
        // Several may remove it at once.
        let there = self.index.remove_container(container);
        if there && container.state() != ContainerState::Creating {
            self.tell_of_container(&mut hub, container, &[EventKind::Deleted]);
        }
    }

    /// Changes where a pod stands and tells what that means. Returns the state it had.
    pub(super) fn change_pod(&self, pod: &Arc<Pod>, change: impl FnOnce(&mut PodStatus)) -> PodState {
        let mut hub = self.events.lock();
        let (old, new) = {
            let mut status = pod.status_mut();
            let old = status.state;
            change(&mut status);
            (old, status.state)
        };
        hub.publish(&self.index, pod, pod.id.as_str(), of_pod(old, new));
        old
    }

    /// Takes a pod out of the index and tells so.
    pub(super) fn unlist_pod(&self, pod: &Arc<Pod>) {
        let mut hub = self.events.lock();
        let there = self.index.remove_pod(pod);
        if there && pod.state() != PodState::Creating {
            hub.publish(&self.index, pod, pod.id.as_str(), &[EventKind::Deleted]);
        }
    }

    fn tell_of_container(&self, hub: &mut Hub, container: &Container, kinds: &[EventKind]) {
        if kinds.is_empty() {
            return;
        }
        if let Some(pod) = self.index.pod_of(container) {
            hub.publish(&self.index, &pod, container.id().as_str(), kinds);
        }
    }
}
