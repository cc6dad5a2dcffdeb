#![allow(clippy::unwrap_used)]

use super::*;
use crate::pod::container::ContainerFacts;
use crate::types::{ContainerConfig, ContainerId, Digest, PodConfig, PodId};

struct World {
    index: Index,
    events: Events,
    pod: Arc<Pod>,
}

impl World {
    fn new(realm: Realm) -> Self {
        let index = Index::default();
        let pod = Pod::new(PodId::random(), realm, PodConfig::default(), 1);
        index.add_pod(&pod);
        Self {
            index,
            events: Events::default(),
            pod,
        }
    }

    fn container(&self, state: ContainerState) -> Arc<Container> {
        let facts = ContainerFacts {
            id: ContainerId::random(),
            pod: self.pod.id.clone(),
            config: ContainerConfig::default(),
            created_at: 1,
            image_id: Digest::sha256(b""),
            image_ref: String::new(),
            image_mounts: Vec::new(),
            log_path: "/log".into(),
            stop_signal: 15,
            cgroup_path: String::new(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            restored_on: None,
            late_hooks: false,
            runtime: None,
        };
        let status = ContainerStatus {
            state,
            ..Default::default()
        };
        let container = Container::new(facts, status);
        self.index.add_container(&container);
        container
    }

    fn publish(&self, kind: EventKind) {
        let mut hub = self.events.lock();
        hub.publish(&self.index, &self.pod, self.pod.id.as_str(), &[kind]);
    }
}

#[test]
fn states_become_events() {
    use ContainerState::{Created as C, Creating as N, Exited as E, Running as R, Unknown as U};
    use EventKind::{Created, Started, Stopped};
    for (old, new, kinds) in [
        (N, C, &[Created][..]),
        (N, R, &[Created, Started]),
        (N, E, &[Created, Stopped]),
        (C, R, &[Started]),
        (C, E, &[Stopped]),
        (R, E, &[Stopped]),
        (U, E, &[Stopped]),
        (E, E, &[]),
        (R, R, &[]),
        (N, N, &[]),
    ] {
        assert_eq!(of_container(old, new), kinds, "{old:?} {new:?}");
    }
}

#[tokio::test]
async fn every_consumer_gets_everything_in_order_with_the_pod_as_it_was() {
    let world = World::new(Realm::K8s);
    let mut consumers = [
        world.events.subscribe().unwrap(),
        world.events.subscribe().unwrap(),
    ];
    world.container(ContainerState::Creating);
    let seen = world.container(ContainerState::Running);
    world.publish(EventKind::Created);
    seen.update(|s| s.state = ContainerState::Exited);
    world.publish(EventKind::Stopped);
    for consumer in &mut consumers {
        let (first, second) = (
            consumer.next().await.unwrap().unwrap(),
            consumer.next().await.unwrap().unwrap(),
        );
        assert_eq!(
            (first.kind, second.kind),
            (EventKind::Created, EventKind::Stopped)
        );
        assert!(first.view.at < second.view.at);
        let states = |e: &Event| e.view.containers.iter().map(|c| c.1.state).collect::<Vec<_>>();
        assert_eq!(states(&first), [ContainerState::Running]);
        assert_eq!(states(&second), [ContainerState::Exited]);
    }
}

#[tokio::test]
async fn a_slow_consumer_is_told_how_much_it_missed_and_others_miss_nothing() {
    let world = World::new(Realm::K8s);
    let mut slow = world.events.subscribe().unwrap();
    let mut quick = world.events.subscribe().unwrap();
    for _ in 0..QUEUE + 5 {
        world.publish(EventKind::Started);
        assert!(quick.next().await.unwrap().is_ok());
    }
    for _ in 0..QUEUE {
        assert!(slow.next().await.unwrap().is_ok());
    }
    let error = slow.next().await.unwrap().err().unwrap();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    assert!(error.message().contains("5 did not fit"), "{error}");
    assert!(slow.next().await.is_none());
    world.publish(EventKind::Stopped);
    assert_eq!(quick.next().await.unwrap().unwrap().kind, EventKind::Stopped);
}

#[tokio::test]
async fn the_end_of_husk_is_the_end_of_the_stream_after_what_was_queued() {
    let world = World::new(Realm::K8s);
    let mut consumer = world.events.subscribe().unwrap();
    world.publish(EventKind::Created);
    world.events.close();
    assert!(consumer.next().await.unwrap().is_ok());
    assert!(consumer.next().await.is_none());
    assert_eq!(world.events.subscribe().err().unwrap().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn kubelet_hears_nothing_of_the_command_lines_pods() {
    let world = World::new(Realm::Husk);
    let mut consumer = world.events.subscribe().unwrap();
    world.publish(EventKind::Created);
    world.events.close();
    assert!(consumer.next().await.is_none());
}

#[test]
fn consumers_are_few_and_those_who_left_do_not_count() {
    let world = World::new(Realm::K8s);
    let many: Vec<_> = (0..MAX_CONSUMERS)
        .map(|_| world.events.subscribe().unwrap())
        .collect();
    assert_eq!(
        world.events.subscribe().err().unwrap().kind(),
        Kind::ResourceExhausted
    );
    drop(many);
    assert!(world.events.subscribe().is_ok());
}
