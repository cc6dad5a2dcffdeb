//! The index against a plain list: whatever comes, goes and changes, every filter finds what a look at all would.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::pod::container::{ContainerFacts, ContainerStatus};
use crate::pod::sandbox::PodStatus;
use crate::types::{Digest, PodConfig};

/// What may happen. Numbers select among what there is.
#[derive(Debug, Clone)]
enum Event {
    AddPod { uid: u8, realm: Realm, created: i64 },
    RemovePod(usize),
    AddContainer { pod: usize, uid: u8, created: i64 },
    RemoveContainer(usize),
    PodState(usize, PodState),
    ContainerState(usize, ContainerState),
}

fn realm() -> impl Strategy<Value = Realm> {
    prop_oneof![Just(Realm::K8s), Just(Realm::Husk)]
}

fn pod_state() -> impl Strategy<Value = PodState> {
    prop_oneof![
        Just(PodState::Creating),
        Just(PodState::Ready),
        Just(PodState::NotReady)
    ]
}

fn container_state() -> impl Strategy<Value = ContainerState> {
    prop_oneof![
        Just(ContainerState::Creating),
        Just(ContainerState::Created),
        Just(ContainerState::Running),
        Just(ContainerState::Exited),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3u8, realm(), 0..3i64).prop_map(|(uid, realm, created)| Event::AddPod { uid, realm, created }),
        any::<usize>().prop_map(Event::RemovePod),
        (any::<usize>(), 0..3u8, 0..3i64).prop_map(|(pod, uid, created)| Event::AddContainer {
            pod,
            uid,
            created
        }),
        any::<usize>().prop_map(Event::RemoveContainer),
        (any::<usize>(), pod_state()).prop_map(|(n, state)| Event::PodState(n, state)),
        (any::<usize>(), container_state()).prop_map(|(n, state)| Event::ContainerState(n, state)),
    ]
}

/// The index and the lists it has to agree with.
#[derive(Default)]
struct Both {
    index: Index,
    pods: Vec<Arc<Pod>>,
    containers: Vec<Arc<Container>>,
}

fn labels(uid: u8) -> BTreeMap<String, String> {
    BTreeMap::from([
        (UID_LABEL.to_owned(), uid.to_string()),
        ("even".to_owned(), (uid % 2).to_string()),
    ])
}

fn chosen<T>(list: &[Arc<T>], n: usize) -> Option<(usize, Arc<T>)> {
    let at = n.checked_rem(list.len())?;
    Some((at, Arc::clone(&list[at])))
}

impl Both {
    fn happen(&mut self, event: Event) {
        match event {
            Event::AddPod { uid, realm, created } => {
                let mut config = PodConfig {
                    labels: labels(uid),
                    ..Default::default()
                };
                config.metadata.name = format!("{uid}-{created}");
                let status = PodStatus::new(PodState::Ready);
                let pod = Pod::with_status(PodId::random(), realm, config, created, status);
                self.index.add_pod(&pod);
                self.pods.push(pod);
            }
            Event::RemovePod(n) => {
                // Its containers go first, as RemovePodSandbox does it.
                let Some((at, pod)) = chosen(&self.pods, n) else {
                    return;
                };
                for container in self.index.containers_of(&pod.id) {
                    self.index.remove_container(&container);
                }
                self.containers.retain(|c| c.facts.pod != pod.id);
                self.index.remove_pod(&pod);
                self.pods.remove(at);
            }
            Event::AddContainer { pod, uid, created } => {
                let Some((_, pod)) = chosen(&self.pods, pod) else {
                    return;
                };
                let facts: ContainerFacts = serde_json::from_value(serde_json::json!({
                    "id": ContainerId::random(), "pod": pod.id, "config": { "labels": labels(uid) }, "created_at": created,
                    "image_id": Digest::sha256(b"image"), "image_ref": "", "log_path": "/log", "stop_signal": 15,
                    "cgroup_path": "/pod/c", "uid": 0, "gid": 0, "groups": [],
                }))
                .unwrap();
                let container = Container::new(facts, ContainerStatus::default());
                self.index.add_container(&container);
                self.containers.push(container);
            }
            Event::RemoveContainer(n) => {
                let Some((at, container)) = chosen(&self.containers, n) else {
                    return;
                };
                self.index.remove_container(&container);
                self.containers.remove(at);
            }
            Event::PodState(n, state) => {
                if let Some((_, pod)) = chosen(&self.pods, n) {
                    pod.status_mut().state = state;
                }
            }
            Event::ContainerState(n, state) => {
                if let Some((_, container)) = chosen(&self.containers, n) {
                    container.update(|s| s.state = state);
                }
            }
        }
    }

    fn agree(&self, realm: Realm, filter: &ContainerFilter) {
        let pods = PodFilter {
            id: filter.pod.clone(),
            state: None,
            labels: filter.labels.clone(),
        };
        let shown = |p: &&Arc<Pod>| {
            p.realm == realm
                && p.state() != PodState::Creating
                && p.id.as_str().starts_with(&pods.id)
                && matches(&p.config.labels, &pods.labels)
        };
        let mut expected: Vec<_> = self.pods.iter().filter(shown).collect();
        expected.sort_by_key(|p| (Reverse(p.created_at), p.id.clone()));
        let found = self.index.pods(realm, &pods);
        assert_eq!(ids(&found, |p| &p.id), ids(&expected, |p| &p.id), "{pods:?}");

        let realm_of = |c: &Container| self.pods.iter().find(|p| p.id == c.facts.pod).map(|p| p.realm);
        let shown = |c: &&Arc<Container>| {
            realm_of(c) == Some(realm)
                && c.state() != ContainerState::Creating
                && c.facts.pod.as_str().starts_with(&filter.pod)
                && filter.state.is_none_or(|s| s == c.state())
                && matches(&c.facts.config.labels, &filter.labels)
        };
        let mut expected: Vec<_> = self.containers.iter().filter(shown).collect();
        expected.sort_by_key(|c| place(c));
        let found = self.index.containers(realm, filter);
        assert_eq!(ids(&found, |c| c.id()), ids(&expected, |c| c.id()), "{filter:?}");
    }
}

fn ids<T, I: Clone>(list: &[T], id: impl Fn(&T) -> &I) -> Vec<I> {
    list.iter().map(|item| id(item).clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_filter_finds_what_a_look_at_all_finds(events in prop::collection::vec(event(), 1..40)) {
        let mut both = Both::default();
        for event in events {
            both.happen(event);
            let some_pod = both.pods.first().map(|p| p.id.to_string()).unwrap_or_default();
            for realm in [Realm::K8s, Realm::Husk] {
                for pod in ["", &some_pod, some_pod.get(..5).unwrap_or_default()] {
                    for labels in [BTreeMap::new(), labels(1), BTreeMap::from([("even".to_owned(), "0".to_owned())])] {
                        for state in [None, Some(ContainerState::Running)] {
                            let filter = ContainerFilter { pod: pod.to_owned(), labels: labels.clone(), state, ..Default::default() };
                            both.agree(realm, &filter);
                        }
                    }
                }
            }
            prop_assert_eq!(both.index.size(), both.pods.len() + both.containers.len());
            for pod in &both.pods {
                prop_assert!(matches!(both.index.pod(pod.id.as_str()), Found::One(p) if p.id == pod.id));
                let mut own = ids(&both.index.containers_of(&pod.id), |c| c.id());
                let mut expected: Vec<_> =
                    both.containers.iter().filter(|c| c.facts.pod == pod.id).map(|c| c.id().clone()).collect();
                own.sort();
                expected.sort();
                prop_assert_eq!(own, expected);
            }
        }
    }
}
