//! Traffic counters of pods, read in their network namespaces in one go for as many pods as are asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::network::Network;
use crate::types::PodId;
use crate::types::time::now_nanos;

use super::InterfaceReading;
use super::sampler::FRESH;

type Table = HashMap<PodId, (Instant, Arc<InterfaceReading>)>;

#[derive(Default)]
pub(super) struct Interfaces(Mutex<Table>);

impl Interfaces {
    /// The counters of each of `pods` that still has a namespace. Who asks while they are read waits and gets the same.
    pub(super) fn read(&self, network: &Network, pods: &[&PodId]) -> HashMap<PodId, Arc<InterfaceReading>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = |table: &Table, pod: &PodId| {
            table
                .get(pod)
                .filter(|(taken, _)| now.saturating_duration_since(*taken) < FRESH)
                .map(|(_, reading)| Arc::clone(reading))
        };
        let stale: Vec<PodId> = pods
            .iter()
            .filter(|pod| fresh(&table, pod).is_none())
            .map(|pod| (*pod).clone())
            .collect();
        if !stale.is_empty() {
            let read = network.counters(&stale).unwrap_or_else(|error| {
                tracing::warn!(%error, "traffic of pods cannot be read");
                Vec::new()
            });
            for (pod, counters) in stale.into_iter().zip(read) {
                // A pod that is being stopped has lost its namespace.
                match counters {
                    Ok(counters) => {
                        let reading = InterfaceReading {
                            at: now_nanos(),
                            counters,
                        };
                        table.insert(pod, (now, Arc::new(reading)));
                    }
                    Err(_) => drop(table.remove(&pod)),
                }
            }
        }
        pods.iter()
            .filter_map(|pod| Some(((*pod).clone(), fresh(&table, pod)?)))
            .collect()
    }

    /// Forgets what `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|pod, _| keep(pod.as_str()));
    }
}
