//! Whether pods can be given a network, in words for the node's condition.

use serde_json::Value;

use super::cni::shown;
use super::request::Condition;
use super::{Inner, Network, builtin, lock};

/// The reason kubelet's users know from other runtimes.
const NOT_READY: &str = "NetworkPluginNotReady";

impl Network {
    /// Whether a pod could be attached now, as far as is known without trying. No I/O.
    pub fn condition(&self) -> Condition {
        match self.inner.obstacle() {
            Some(problem) => Condition {
                ready: false,
                reason: NOT_READY.to_owned(),
                message: format!("Network plugin returns error: {problem}"),
            },
            None => Condition {
                ready: true,
                reason: String::new(),
                message: self.inner.note(),
            },
        }
    }

    /// How the last load of the CNI configuration went (`OK` or the error), and the configuration in containerd's form.
    pub fn cni_status(&self) -> (String, Value) {
        let loaded = self.inner.conf.current();
        let text = match (&loaded.problem, &loaded.list) {
            (Some(problem), _) => problem.clone(),
            (None, Some(_)) => "OK".to_owned(),
            (None, None) => self.inner.missing(),
        };
        let shown = shown::config(&self.inner.config, loaded.list.as_deref(), builtin::IFNAME);
        (text, shown)
    }
}

impl Inner {
    fn obstacle(&self) -> Option<String> {
        let loaded = self.conf.current();
        if let Some(problem) = loaded.problem.as_ref().or(loaded.not_ready.as_ref()) {
            return Some(problem.clone());
        }
        match (&loaded.list, &self.builtin) {
            (Some(_), _) => None,
            (None, Some(builtin)) => builtin.problem(),
            (None, None) => Some(self.unconfigured()),
        }
    }

    /// What is worth knowing although pods can be attached.
    fn note(&self) -> String {
        if self.conf.current().list.is_some() || self.builtin.is_none() {
            return String::new();
        }
        match lock(&self.masquerade).as_ref() {
            None => "built-in bridge network".to_owned(),
            Some(problem) => {
                format!(
                    "built-in bridge network; masquerade is off, pods reach each other and this node only: {problem}"
                )
            }
        }
    }

    /// Finds out before the first pod whether masquerade and host ports will work.
    pub(super) fn probe_masquerade(&self) {
        if self.builtin.is_some() {
            *lock(&self.masquerade) = self.ports.probe().err();
        }
    }

    fn missing(&self) -> String {
        format!(
            "no CNI configuration (*.conflist, *.conf, *.json) in {}",
            self.config.cni_conf_dir.display()
        )
    }

    /// Why there is no network at all, and what to do.
    pub(super) fn unconfigured(&self) -> String {
        format!(
            "{}: install a network plugin, or enable the built-in network in husk's configuration",
            self.missing()
        )
    }
}
