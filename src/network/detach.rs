//! Taking a pod's network away, and everything that is left of pods that are gone.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cni::cache;
use super::cni::chain::{Attach, Chain, ChainError};
use super::cni::conf::NetworkList;
use super::cni::exec::Failure;
use super::record::{CniRecord, Record, Via};
use super::{Inner, Network, blocking, lock, netns, outcome};
use crate::telemetry::operations;
use crate::types::{Error, Kind, PodId, Result};

impl Network {
    /// Detaches `pod` by what its record says, whatever has become of the configuration, the namespace or the plugins'
    /// own state. Does nothing for a pod without a record, so it can be repeated. [`Network::remove_netns`] comes after.
    ///
    /// # Errors
    /// Everything that failed, in one message. The record stays, and the next call tries all of it again.
    pub async fn teardown(&self, pod: &PodId) -> Result<()> {
        let known = self.inner.store.get(pod).is_some();
        let running = known.then(|| operations::begin(operations::Kind::Network, "tear_down_pod"));
        let detached = self.inner.detach(pod, self.inner.config.cni_timeout).await;
        if let Some(running) = running {
            running.end(outcome(&detached));
        }
        detached
    }

    /// Removes what pods that are not in `live` left: records with what they stand for, pinned namespaces, host ports.
    /// Makes the packet filter table agree with the records, and lets the plugins of a network that can do so collect
    /// what they hold for nobody. Returns a line on each thing found.
    pub async fn collect(&self, live: &HashSet<PodId>) -> Vec<String> {
        let mut found = Vec::new();
        for record in self.inner.store.all() {
            if !live.contains(&record.pod) {
                let outcome = self.teardown(&record.pod).await;
                found.push(line(
                    &format!("network of {}, which is gone", record.who()),
                    outcome,
                ));
            }
        }
        for pod in self.inner.pinned() {
            if !live.contains(&pod) {
                found.push(line(
                    &format!("network namespace of pod {}, which is gone", pod.short()),
                    self.remove_netns(&pod),
                ));
            }
        }
        let inner = Arc::clone(&self.inner);
        if let Err(error) = blocking(move || inner.ports.sync()).await {
            found.push(format!("host ports: {error}"));
        }
        found.extend(self.inner.collect_through_plugins().await);
        found
    }

    /// Lets go of what only a running daemon needs. Pods stay attached; if there are none, the bridge that husk made and
    /// its packet filter table go too.
    pub async fn shutdown(&self) {
        let inner = Arc::clone(&self.inner);
        inner.pool.close();
        let outcome = blocking(move || {
            let closed = inner.builtin.as_ref().is_none_or(|b| {
                b.close().unwrap_or_else(|error| {
                    tracing::warn!(%error, "the bridge of the built-in network stays");
                    false
                })
            });
            if closed {
                inner.ports.close().map(drop)
            } else {
                Ok(())
            }
        });
        if let Err(error) = outcome.await {
            tracing::warn!(%error, "a packet filter table stays");
        }
    }
}

fn line(what: &str, outcome: Result<()>) -> String {
    match outcome {
        Ok(()) => format!("removed {what}"),
        Err(error) => format!("cannot remove {what}: {error}"),
    }
}

impl Inner {
    pub(super) async fn detach(self: &Arc<Self>, pod: &PodId, limit: Duration) -> Result<()> {
        let mut errors = Vec::new();
        let (inner, id) = (Arc::clone(self), pod.clone());
        errors.extend(blocking(move || inner.ports.withdraw(&id)).await.err());
        let Some(record) = self.store.get(pod) else {
            return collected(errors);
        };
        if let Via::Cni(given) = &record.via {
            errors.extend(self.detach_cni(&record, given, limit).await);
        }
        if errors.is_empty() {
            self.forget(&record).await?;
        }
        collected(errors).map_err(|e| e.context(format!("detach {}", record.who())))
    }

    async fn detach_cni(&self, record: &Record, given: &CniRecord, limit: Duration) -> Vec<Error> {
        let list = match NetworkList::from_value(&given.file, given.config.clone()) {
            Ok(list) => list,
            Err(problem) => return vec![Error::internal(format!("its recorded {problem}"))],
        };
        // The specification wants no path where there is no namespace; plugins then release what they hold elsewhere.
        let netns = if netns::is_netns(&record.netns) {
            record.netns.as_path()
        } else {
            Path::new("")
        };
        let attach = Attach {
            container: record.pod.as_str(),
            netns,
            ifname: &given.ifname,
            args: &given.args,
            capability_args: &given.capability_args,
        };
        let chain = Chain {
            list: &list,
            bin_dirs: &self.config.cni_bin_dirs,
        };
        let errors = chain.del(&attach, given.result.as_ref(), limit).await;
        let errors = self.without_missing(record, given, errors);
        if let Some(dir) = self
            .config
            .cni_shared_cache
            .as_ref()
            .filter(|_| errors.is_empty())
        {
            cache::remove(dir, &list.name, &record.pod, &given.ifname);
        }
        errors
    }

    /// What of `errors` keeps the pod. A plugin that is not installed any more must not keep it for ever: nobody would
    /// ever put it back once another network has taken its place. One that attached nothing has nothing to take back;
    /// for the others the pod waits a while, in which an installer may put the new one into the old one's place.
    fn without_missing(&self, record: &Record, given: &CniRecord, errors: Vec<ChainError>) -> Vec<Error> {
        let (missing, others): (Vec<_>, Vec<_>) = errors
            .into_iter()
            .partition(|error| matches!(error.failure, Failure::Missing(_)));
        let mut others: Vec<_> = others.into_iter().map(Error::from).collect();
        if missing.is_empty() {
            return others;
        }
        let patience = self.config.missing_plugin_patience;
        let since = *lock(&self.bereft)
            .entry(record.pod.clone())
            .or_insert_with(Instant::now);
        if given.result.is_some() && since.elapsed() < patience {
            others.extend(missing.into_iter().map(|error| {
                Error::internal(format!(
                    "{error}; if it is not back {} s after this was first tried, the pod is removed without it",
                    patience.as_secs()
                ))
            }));
            return others;
        }
        for error in missing {
            let pod = record.who();
            if given.result.is_some() {
                tracing::warn!(pod, %error, "detached without a plugin that is gone; what it holds elsewhere, such as an address, stays");
            } else {
                tracing::info!(pod, %error, "a plugin is not installed; it attached nothing");
            }
        }
        others
    }

    /// The effect is gone; now the record.
    async fn forget(self: &Arc<Self>, record: &Arc<Record>) -> Result<()> {
        let (inner, record) = (Arc::clone(self), Arc::clone(record));
        blocking(move || {
            inner.store.remove(&record.pod)?;
            lock(&inner.bereft).remove(&record.pod);
            if let (Via::Builtin(given), Some(builtin)) = (&record.via, &inner.builtin) {
                builtin.release(given);
            }
            Ok(())
        })
        .await
    }

    /// Pods that have a file in the namespace directory. Other names in it are other people's.
    fn pinned(&self) -> Vec<PodId> {
        let entries = fs::read_dir(&self.config.netns_dir)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|entry| PodId::parse(entry.file_name().to_str()?))
            .collect()
    }

    /// The GC verb, for the current network. Plugins take everything for garbage that they are not told of, so what
    /// other runtimes attached must be known: without the shared cache nothing happens.
    async fn collect_through_plugins(self: &Arc<Self>) -> Vec<String> {
        let (Some(dir), Some(list)) = (
            self.config.cni_shared_cache.clone(),
            self.conf.current().list.clone(),
        ) else {
            return Vec::new();
        };
        let mut in_use = self.own_attachments(&list.name);
        match cache::attachments(&dir, &list.name) {
            Ok(others) => in_use.extend(others),
            Err(error) => {
                return vec![format!(
                    "CNI garbage collection was left out: {}: {error}",
                    dir.display()
                )];
            }
        }
        in_use.sort();
        in_use.dedup();
        let chain = Chain {
            list: &list,
            bin_dirs: &self.config.cni_bin_dirs,
        };
        let errors = chain.gc(&in_use, self.config.cni_timeout).await;
        errors.iter().map(ToString::to_string).collect()
    }

    fn own_attachments(&self, network: &str) -> Vec<(String, String)> {
        let records = self.store.all();
        let of_network =
            |given: &CniRecord| given.config.get("name").and_then(|n| n.as_str()) == Some(network);
        records
            .iter()
            .filter_map(|record| match &record.via {
                Via::Cni(given) if of_network(given) => Some((record.pod.to_string(), given.ifname.clone())),
                _ => None,
            })
            .collect()
    }
}

/// One error of many, of the first one's kind.
fn collected(errors: Vec<Error>) -> Result<()> {
    let kind = errors.first().map_or(Kind::Internal, Error::kind);
    let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if messages.is_empty() {
        Ok(())
    } else {
        Err(Error::new(kind, messages.join("; ")))
    }
}
