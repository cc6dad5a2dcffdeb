//! Giving a pod its network: all of it or nothing.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::cni::args;
use super::cni::cache;
use super::cni::chain::{Attach, Chain};
use super::cni::conf::NetworkList;
use super::cni::result;
use super::record::{CniRecord, Record, Via};
use super::request::{Attachment, PodNetwork};
use super::{Inner, Network, blocking, builtin, netns, outcome};
use crate::telemetry::operations;
use crate::types::pod::PortMapping;
use crate::types::{Error, Result};

/// Which network a new pod joins.
enum Choice {
    Cni(Arc<NetworkList>),
    Builtin,
}

impl Network {
    /// Attaches `pod`, whose namespace was made by [`Network::create_netns`]. What an earlier attempt left is removed
    /// first; what this one leaves on failure is removed before the error is returned, or else stays on record for
    /// [`Network::teardown`].
    ///
    /// # Errors
    /// No usable network, a plugin fails or stalls, a host port is taken. The message names plugin, network, file, verb
    /// and what the plugin said.
    pub async fn setup(&self, pod: &PodNetwork) -> Result<Attachment> {
        self.setup_unless(pod, &CancellationToken::new()).await
    }

    /// As [`Network::setup`], but once `unwanted` is set plugins that are still at work are killed, and the attempt has
    /// failed.
    ///
    /// # Errors
    /// As [`Network::setup`]; `FailedPrecondition` if it was given up.
    pub async fn setup_unless(&self, pod: &PodNetwork, unwanted: &CancellationToken) -> Result<Attachment> {
        if self.inner.store.get(&pod.id).is_some() {
            let what = "remove what an earlier attempt left of the pod's network";
            self.teardown(&pod.id).await.map_err(|e| e.context(what))?;
        }
        self.inner.require_netns(pod)?;
        let running = operations::begin(operations::Kind::Network, "set_up_pod");
        let attached = match self.inner.choose().await? {
            Choice::Cni(list) => self.inner.attach_cni(pod, &list, unwanted).await,
            Choice::Builtin => self.inner.attach_builtin(pod).await,
        };
        running.end(outcome(&attached));
        match attached {
            Ok(attachment) => Ok(attachment),
            Err(error) => Err(self.undo(pod, error).await),
        }
    }

    /// Removes what a failed attempt left, and adds to the error what could not be removed.
    async fn undo(&self, pod: &PodNetwork, error: Error) -> Error {
        // A share of the time allowed: kubelet waits for both.
        let limit = self.inner.config.cni_timeout / 4;
        match self.inner.detach(&pod.id, limit).await {
            Ok(()) => error,
            Err(more) => Error::new(
                error.kind(),
                format!("{error}; and then cleaning up failed: {more}"),
            ),
        }
    }
}

impl Inner {
    fn require_netns(&self, pod: &PodNetwork) -> Result<()> {
        let path = self.netns_path(&pod.id);
        if netns::is_netns(&path) {
            return Ok(());
        }
        let what = format!(
            "attach pod {}: {} is no network namespace",
            pod.id.short(),
            path.display()
        );
        Err(Error::precondition(what))
    }

    async fn choose(self: &Arc<Self>) -> Result<Choice> {
        let inner = Arc::clone(self);
        let loaded = blocking(move || Ok(inner.conf.refreshed())).await?;
        match (&loaded.problem, &loaded.list, &self.builtin) {
            (Some(problem), ..) => Err(Error::internal(format!("pod network is not usable: {problem}"))),
            (None, Some(list), _) => Ok(Choice::Cni(Arc::clone(list))),
            (None, None, Some(_)) => Ok(Choice::Builtin),
            (None, None, None) => Err(Error::internal(self.unconfigured())),
        }
    }

    async fn attach_cni(
        self: &Arc<Self>,
        pod: &PodNetwork,
        list: &NetworkList,
        unwanted: &CancellationToken,
    ) -> Result<Attachment> {
        let given = CniRecord {
            file: list.file.clone(),
            config: list.raw.clone(),
            ifname: builtin::IFNAME.to_owned(),
            args: args::cni_args(pod)?,
            capability_args: args::capability_args(pod)?,
            result: None,
        };
        let mut record = self.intent(pod, Via::Cni(given.clone()));
        if !list.has_capability(args::PORT_MAPPINGS) {
            record.ports = published(pod);
            self.ports.claim(&pod.id, &record.ports)?;
        }
        self.write_blocking(&record, true).await?;

        let chain = Chain {
            list,
            bin_dirs: &self.config.cni_bin_dirs,
        };
        let attach = Attach {
            container: pod.id.as_str(),
            netns: &record.netns,
            ifname: &given.ifname,
            args: &given.args,
            capability_args: &given.capability_args,
        };
        let outcome = tokio::select! {
            outcome = chain.add(&attach, self.config.cni_timeout) => outcome?,
            () = unwanted.cancelled() => return Err(Error::precondition(format!(
                "CNI network {:?} ({}): given up while its plugins were at work, because the pod was stopped",
                list.name,
                list.file.display()
            ))),
        };
        let (attachment, addresses) = result::attachment(&outcome, &given.ifname).map_err(|problem| {
            Error::internal(format!(
                "CNI network {:?} ({}): {problem}",
                list.name,
                list.file.display()
            ))
        })?;

        record.addresses = addresses;
        record.attachment = Some(attachment.clone());
        record.via = Via::Cni(CniRecord {
            result: Some(outcome),
            ..given
        });
        self.write_blocking(&record, true).await?;
        self.share(&record, &list.name);
        self.publish_blocking(&record).await?;
        Ok(attachment)
    }

    async fn attach_builtin(self: &Arc<Self>, pod: &PodNetwork) -> Result<Attachment> {
        let inner = Arc::clone(self);
        let pod = pod.clone();
        blocking(move || inner.attach_builtin_now(&pod)).await
    }

    /// All steps in one go: together they take a millisecond.
    fn attach_builtin_now(&self, pod: &PodNetwork) -> Result<Attachment> {
        let Some(builtin) = &self.builtin else {
            return Err(Error::internal(self.unconfigured()));
        };
        self.prepare_builtin()?;
        let ports = published(pod);
        self.ports.claim(&pod.id, &ports)?;
        let given = builtin.reserve(&pod.id)?;
        let mut record = self.intent(pod, Via::Builtin(given.clone()));
        record.ports = ports;
        // Nothing of this outlives a power cut, so neither need the record.
        self.write(record.clone(), false)
            .inspect_err(|_| builtin.release(&given))?;
        let (attachment, addresses) = builtin.attach(&given, &record.netns)?;
        self.ports.publish(&pod.id, &addresses)?;
        record.addresses = addresses;
        record.attachment = Some(attachment.clone());
        self.write(record, false)?;
        Ok(attachment)
    }

    fn intent(&self, pod: &PodNetwork, via: Via) -> Record {
        Record::intent(
            pod.id.clone(),
            &pod.name,
            &pod.namespace,
            self.netns_path(&pod.id),
            via,
        )
    }

    async fn write_blocking(self: &Arc<Self>, record: &Record, durable: bool) -> Result<()> {
        let (inner, record) = (Arc::clone(self), record.clone());
        blocking(move || inner.write(record, durable).map(drop)).await
    }

    async fn publish_blocking(self: &Arc<Self>, record: &Record) -> Result<()> {
        if record.ports.is_empty() {
            return Ok(());
        }
        let (inner, pod, addresses) = (Arc::clone(self), record.pod.clone(), record.addresses.clone());
        blocking(move || inner.ports.publish(&pod, &addresses)).await
    }

    /// Lets other runtimes on the node know, so far as they look.
    fn share(&self, record: &Record, network: &str) {
        let (Some(dir), Via::Cni(given)) = (&self.config.cni_shared_cache, &record.via) else {
            return;
        };
        if let Err(error) = cache::write(dir, network, &record.pod, given) {
            tracing::warn!(dir = %dir.display(), %error, "cannot write to the CNI result cache");
        }
    }
}

fn published(pod: &PodNetwork) -> Vec<PortMapping> {
    pod.port_mappings
        .iter()
        .filter(|port| port.host_port != 0)
        .cloned()
        .collect()
}
