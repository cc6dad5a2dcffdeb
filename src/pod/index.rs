//! All pods and containers in memory: the only thing that list and status calls read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use crate::types::{ContainerId, ContainerMetadata, ContainerState, PodId, PodMetadata, PodState, Realm};

use super::container::Container;
use super::sandbox::Pod;

/// Label by which kubelet asks for the pods and containers of one Kubernetes pod.
const UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Length of a whole id.
const ID_DIGITS: usize = 64;

/// The index.
#[derive(Default)]
pub struct Index {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    pods: HashMap<PodId, Arc<Pod>>,
    containers: HashMap<ContainerId, Arc<Container>>,
    /// Containers of a pod, in order of creation.
    of_pod: HashMap<PodId, Vec<ContainerId>>,
    names: HashMap<(Realm, PodMetadata), PodId>,
    pods_by_uid: HashMap<String, Vec<PodId>>,
    containers_by_uid: HashMap<String, Vec<ContainerId>>,
    /// Newest first, as lists are, by realm.
    pods_in_order: HashMap<Realm, InOrder<PodId, Pod>>,
    containers_in_order: HashMap<Realm, InOrder<ContainerId, Container>>,
}

/// By time of creation; the id tells apart what came in the same nanosecond.
type InOrder<K, V> = BTreeMap<(Reverse<i64>, K), Arc<V>>;

/// Which pods to list. Empty means all.
#[derive(Debug, Clone, Default)]
pub struct PodFilter {
    /// Id or a prefix of one.
    pub id: String,
    /// State.
    pub state: Option<PodState>,
    /// Labels, all of which must be there.
    pub labels: BTreeMap<String, String>,
}

/// Which containers to list. Empty means all.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// Id or a prefix of one.
    pub id: String,
    /// Id of the pod or a prefix of one.
    pub pod: String,
    /// State.
    pub state: Option<ContainerState>,
    /// Labels, all of which must be there.
    pub labels: BTreeMap<String, String>,
}

/// What an id or a prefix of one led to.
pub enum Found<T> {
    /// Exactly one.
    One(T),
    /// Nothing.
    None,
    /// Several.
    Ambiguous,
}

impl Index {
    fn read<T>(&self, f: impl FnOnce(&Tables) -> T) -> T {
        f(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut Tables) -> T) -> T {
        f(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a pod.
    pub fn add_pod(&self, pod: &Arc<Pod>) {
        self.write(|t| {
            t.names
                .insert((pod.realm, pod.config.metadata.clone()), pod.id.clone());
            if let Some(uid) = pod.config.labels.get(UID_LABEL) {
                t.pods_by_uid.entry(uid.clone()).or_default().push(pod.id.clone());
            }
            t.of_pod.entry(pod.id.clone()).or_default();
            t.pods_in_order
                .entry(pod.realm)
                .or_default()
                .insert((Reverse(pod.created_at), pod.id.clone()), Arc::clone(pod));
            t.pods.insert(pod.id.clone(), Arc::clone(pod));
        });
    }

    /// Forgets a pod. Whether it was there.
    pub fn remove_pod(&self, pod: &Pod) -> bool {
        self.write(|t| {
            let there = t.pods.remove(&pod.id).is_some();
            t.of_pod.remove(&pod.id);
            if let Some(order) = t.pods_in_order.get_mut(&pod.realm) {
                order.remove(&(Reverse(pod.created_at), pod.id.clone()));
            }
            let name = (pod.realm, pod.config.metadata.clone());
            if t.names.get(&name) == Some(&pod.id) {
                t.names.remove(&name);
            }
            if let Some(uid) = pod.config.labels.get(UID_LABEL) {
                forget(&mut t.pods_by_uid, uid, &pod.id);
            }
            there
        })
    }

    /// Adds a container. Lists show it if its pod is known.
    pub fn add_container(&self, container: &Arc<Container>) {
        let id = container.id();
        self.write(|t| {
            if let Some(realm) = t.pods.get(&container.facts.pod).map(|p| p.realm) {
                t.containers_in_order
                    .entry(realm)
                    .or_default()
                    .insert(place(container), Arc::clone(container));
            }
            t.of_pod
                .entry(container.facts.pod.clone())
                .or_default()
                .push(id.clone());
            if let Some(uid) = container.facts.config.labels.get(UID_LABEL) {
                t.containers_by_uid
                    .entry(uid.clone())
                    .or_default()
                    .push(id.clone());
            }
            t.containers.insert(id.clone(), Arc::clone(container));
        });
    }

    /// Forgets a container. Whether it was there.
    pub fn remove_container(&self, container: &Container) -> bool {
        let id = container.id();
        self.write(|t| {
            let there = t.containers.remove(id).is_some();
            for order in t.containers_in_order.values_mut() {
                order.remove(&place(container));
            }
            if let Some(list) = t.of_pod.get_mut(&container.facts.pod) {
                list.retain(|c| c != id);
            }
            if let Some(uid) = container.facts.config.labels.get(UID_LABEL) {
                forget(&mut t.containers_by_uid, uid, id);
            }
            there
        })
    }

    /// The pod of that name, if there is one.
    pub fn pod_named(&self, realm: Realm, metadata: &PodMetadata) -> Option<Arc<Pod>> {
        self.read(|t| {
            t.names
                .get(&(realm, metadata.clone()))
                .and_then(|id| t.pods.get(id))
                .cloned()
        })
    }

    /// The pod of a container, unless it is gone.
    pub fn pod_of(&self, container: &Container) -> Option<Arc<Pod>> {
        self.read(|t| t.pods.get(&container.facts.pod).cloned())
    }

    /// Whether a pod is still there.
    pub fn has_pod(&self, pod: &Pod) -> bool {
        self.read(|t| t.pods.contains_key(&pod.id))
    }

    /// The container of that name in a pod, if there is one that is not being removed.
    pub fn container_named(&self, pod: &PodId, metadata: &ContainerMetadata) -> Option<Arc<Container>> {
        self.containers_of(pod)
            .into_iter()
            .find(|c| c.facts.config.metadata == *metadata && !c.status().removing)
    }

    /// The pod with that id or unique prefix of one.
    pub fn pod(&self, id: &str) -> Found<Arc<Pod>> {
        self.read(|t| find(&t.pods, id))
    }

    /// The container with that id or unique prefix of one.
    pub fn container(&self, id: &str) -> Found<Arc<Container>> {
        self.read(|t| find(&t.containers, id))
    }

    /// Containers of a pod in order of creation.
    pub fn containers_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        self.read(|t| {
            t.of_pod
                .get(pod)
                .into_iter()
                .flatten()
                .filter_map(|id| t.containers.get(id))
                .cloned()
                .collect()
        })
    }

    /// How many pods and containers there are, in any state.
    pub fn size(&self) -> usize {
        self.read(|t| t.pods.len() + t.containers.len())
    }

    /// All pods, in any state.
    pub fn all_pods(&self) -> Vec<Arc<Pod>> {
        self.read(|t| t.pods.values().cloned().collect())
    }

    /// All containers, in any state.
    pub fn all_containers(&self) -> Vec<Arc<Container>> {
        self.read(|t| t.containers.values().cloned().collect())
    }

    /// Pods of a realm that clients may see and the filter lets through, newest first.
    pub fn pods(&self, realm: Realm, filter: &PodFilter) -> Vec<Arc<Pod>> {
        let list = self.list_pods(realm, filter);
        list.into_iter().map(|(pod, _)| pod).collect()
    }

    /// As [`Index::pods`], with the state that each had when the filter looked at it.
    pub fn list_pods(&self, realm: Realm, filter: &PodFilter) -> Vec<(Arc<Pod>, PodState)> {
        let wanted = |p: &Arc<Pod>| {
            let state = p.state();
            let shown = state != PodState::Creating
                && p.realm == realm
                && p.id.as_str().starts_with(&filter.id)
                && filter.state.is_none_or(|s| s == state)
                && matches(&p.config.labels, &filter.labels);
            shown.then(|| (Arc::clone(p), state))
        };
        self.read(|t| match filter.labels.get(UID_LABEL) {
            Some(uid) => {
                let mut few = pick(&t.pods, t.pods_by_uid.get(uid), wanted);
                few.sort_by_key(|(p, _)| (Reverse(p.created_at), p.id.clone()));
                few
            }
            None => {
                let all = t.pods_in_order.get(&realm).into_iter().flat_map(BTreeMap::values);
                all.filter_map(wanted).collect()
            }
        })
    }

    /// Containers of a realm that clients may see and the filter lets through, newest first.
    pub fn containers(&self, realm: Realm, filter: &ContainerFilter) -> Vec<Arc<Container>> {
        let list = self.list_containers(realm, filter);
        list.into_iter().map(|(container, _)| container).collect()
    }

    /// As [`Index::containers`], with the state that each had when the filter looked at it.
    pub fn list_containers(
        &self,
        realm: Realm,
        filter: &ContainerFilter,
    ) -> Vec<(Arc<Container>, ContainerState)> {
        let wanted = |c: &Arc<Container>| {
            let state = c.state();
            let shown = state != ContainerState::Creating
                && c.id().as_str().starts_with(&filter.id)
                && c.facts.pod.as_str().starts_with(&filter.pod)
                && filter.state.is_none_or(|s| s == state)
                && matches(&c.facts.config.labels, &filter.labels);
            shown.then(|| (Arc::clone(c), state))
        };
        self.read(|t| {
            let ids = match filter.labels.get(UID_LABEL) {
                Some(uid) => t.containers_by_uid.get(uid),
                // Nothing or the containers of one pod, unless it is a prefix.
                None if filter.pod.len() == ID_DIGITS => t.of_pod.get(filter.pod.as_str()),
                None => {
                    let order = t.containers_in_order.get(&realm).into_iter();
                    return order.flat_map(BTreeMap::values).filter_map(wanted).collect();
                }
            };
            let own = |c: &Arc<Container>| {
                let pod = t.pods.get(&c.facts.pod);
                wanted(c).filter(|_| pod.is_some_and(|p| p.realm == realm))
            };
            let mut few = pick(&t.containers, ids, own);
            few.sort_by_key(|(c, _)| place(c));
            few
        })
    }
}

/// Where a container is in the order of lists.
fn place(container: &Container) -> (Reverse<i64>, ContainerId) {
    (Reverse(container.facts.created_at), container.id().clone())
}

/// What `wanted` makes of the objects with these ids.
fn pick<K, V, T>(
    table: &HashMap<K, Arc<V>>,
    ids: Option<&Vec<K>>,
    wanted: impl Fn(&Arc<V>) -> Option<T>,
) -> Vec<T>
where
    K: std::hash::Hash + Eq,
{
    let ids = ids.into_iter().flatten();
    ids.filter_map(|id| table.get(id)).filter_map(wanted).collect()
}

fn find<K, V>(table: &HashMap<K, Arc<V>>, id: &str) -> Found<Arc<V>>
where
    K: std::borrow::Borrow<str> + std::hash::Hash + Eq,
{
    if let Some(one) = table.get(id) {
        return Found::One(Arc::clone(one));
    }
    if id.is_empty() {
        return Found::None;
    }
    let mut hits = table.iter().filter(|(k, _)| (*k).borrow().starts_with(id));
    match (hits.next(), hits.next()) {
        (Some((_, one)), None) => Found::One(Arc::clone(one)),
        (Some(_), Some(_)) => Found::Ambiguous,
        (None, _) => Found::None,
    }
}

fn matches(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn forget<T: PartialEq>(table: &mut HashMap<String, Vec<T>>, key: &str, item: &T) {
    if let Some(list) = table.get_mut(key) {
        list.retain(|i| i != item);
        if list.is_empty() {
            table.remove(key);
        }
    }
}

#[cfg(test)]
mod model_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::sandbox::PodStatus;
    use crate::types::PodConfig;

    fn pod(index: &Index, name: &str, uid: &str, realm: Realm, state: PodState) -> Arc<Pod> {
        let mut config = PodConfig::default();
        config.metadata.name = name.into();
        config.labels.insert(UID_LABEL.into(), uid.into());
        let status = PodStatus::new(state);
        let pod = Pod::with_status(PodId::random(), realm, config, 1, status);
        index.add_pod(&pod);
        pod
    }

    #[test]
    fn clients_see_their_own_realm_and_nothing_unfinished() {
        let index = Index::default();
        let seen = pod(&index, "a", "1", Realm::K8s, PodState::Ready);
        pod(&index, "b", "1", Realm::K8s, PodState::Creating);
        pod(&index, "c", "1", Realm::Husk, PodState::Ready);
        let list = index.pods(Realm::K8s, &PodFilter::default());
        assert_eq!(list.iter().map(|p| &p.id).collect::<Vec<_>>(), [&seen.id]);
    }

    #[test]
    fn filters_combine_and_the_uid_index_follows_removal() {
        let index = Index::default();
        let one = pod(&index, "a", "1", Realm::K8s, PodState::Ready);
        let two = pod(&index, "b", "2", Realm::K8s, PodState::NotReady);
        let by_uid = |uid: &str, state| {
            let labels = BTreeMap::from([(UID_LABEL.to_owned(), uid.to_owned())]);
            index
                .pods(
                    Realm::K8s,
                    &PodFilter {
                        labels,
                        state,
                        ..Default::default()
                    },
                )
                .len()
        };
        assert_eq!(
            (by_uid("1", None), by_uid("2", None), by_uid("3", None)),
            (1, 1, 0)
        );
        assert_eq!(by_uid("2", Some(PodState::Ready)), 0);
        let prefix = PodFilter {
            id: two.id.as_str()[..20].into(),
            ..Default::default()
        };
        assert_eq!(index.pods(Realm::K8s, &prefix).len(), 1);
        assert!(matches!(index.pod(&one.id.as_str()[..20]), Found::One(p) if p.id == one.id));
        assert!(matches!(index.pod(""), Found::None));
        index.remove_pod(&one);
        assert_eq!(by_uid("1", None), 0);
        assert!(index.pod_named(Realm::K8s, &one.config.metadata).is_none());
    }
}
