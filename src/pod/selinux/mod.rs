//! SELinux on this node: the policy's contexts, a level for each pod, labels on files. On a node without it all of this
//! does nothing, and what clients ask for is ignored, as kubelet expects, unless the configuration says otherwise.

mod files;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::config::{Config, Selinux};
use crate::host::Host;
use crate::spec::selinux::{self, Contexts, Labels};
use crate::types::PodId;
use crate::types::error::{Error, Result};
use crate::types::security::SelinuxLabel;

use super::Runtime;
use super::sandbox::Pod;

pub(super) use files::relabel;

/// Levels of pods that are being made: nothing is recorded of them yet.
#[derive(Default)]
pub(super) struct Levels(Mutex<HashMap<PodId, String>>);

impl Runtime {
    /// The level for a new pod: the one it asks for, or one that no other pod has. Empty without SELinux.
    pub(super) fn selinux_level(&self, pod: &Pod) -> String {
        if !on(&self.parts.host, &self.parts.config) {
            return String::new();
        }
        match &pod.config.security.selinux {
            Some(wish) if !wish.level.is_empty() => wish.level.clone(),
            _ => {
                let mut pending = self.levels.0.lock().unwrap_or_else(PoisonError::into_inner);
                let all = self.index.all_pods();
                let unrecorded = |id: &PodId| all.iter().any(|p| p.id == *id && p.supervisor().is_none());
                pending.retain(|id, _| unrecorded(id));
                let recorded = all
                    .iter()
                    .filter_map(|p| p.supervisor().map(|s| s.facts.selinux_level));
                let taken: BTreeSet<String> = recorded.chain(pending.values().cloned()).collect();
                let level = selinux::level(seed(&pod.id), &taken);
                pending.insert(pod.id.clone(), level.clone());
                level
            }
        }
    }

    /// The labels for the files or one of the containers of a pod that has `level`; empty without SELinux, and for a pod
    /// that was made without.
    ///
    /// # Errors
    /// Options that are no label, or not one of the policy's; any option on a node without SELinux that has to have it.
    pub(super) fn selinux_labels(&self, wish: Option<&SelinuxLabel>, level: &str) -> Result<Labels> {
        let wish = wish.filter(|w| **w != SelinuxLabel::default());
        if !self.parts.host.selinux || level.is_empty() {
            if wish.is_some() && self.parts.config.container.selinux == Selinux::Required {
                return Err(Error::precondition(
                    "selinux_options: this node has no SELinux, or had none when the pod was made; leave them out, choose \
                     another node, or have them ignored by container.selinux = \"auto\"",
                ));
            }
            return Ok(Labels::default());
        }
        let unknown = |labels: &Labels| {
            [&labels.process, &labels.mount]
                .into_iter()
                .find(|label| !known(label))
                .cloned()
        };
        let contexts = contexts();
        let labels = selinux::labels(&contexts, wish, level)?;
        let Some(label) = unknown(&labels) else {
            return Ok(labels);
        };
        let usual = selinux::labels(&contexts, None, "s0")?;
        Err(match unknown(&usual) {
            Some(label) => Error::precondition(format!(
                "the SELinux policy of this node knows no {label}: install the policy module for containers \
                 (container-selinux), or set container.selinux = \"off\""
            )),
            None => Error::invalid(format!(
                "selinux_options: the policy of this node knows no {label}: a user, role, type or level is not in it, or \
                 they do not go together"
            )),
        })
    }
}

fn on(host: &Host, config: &Config) -> bool {
    host.selinux && config.container.selinux != Selinux::Off
}

/// Whether the policy that is loaded knows `label`, which the kernel says. Whoever may not ask learns it when the label is
/// used.
fn known(label: &str) -> bool {
    let asked = fs::write("/sys/fs/selinux/context", label);
    !asked.is_err_and(|e| e.raw_os_error() == Some(nix::libc::EINVAL))
}

/// Labels the layers of the images below `root`, so that containers may read them: what a container has mapped is checked
/// against the label of the file in the layer too. May take a while on the first start with SELinux.
///
/// Policies name the directories of the runtimes they know, which need not be this one.
pub fn label_layers(host: &Host, config: &Config, root: &Path) {
    if !on(host, config) {
        return;
    }
    let label = contexts().shared();
    if known(&label) {
        files::label_store(root, &label);
    }
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let own = own.trim_end_matches(['\0', '\n']);
    if own.split(':').nth(2) != Some("container_runtime_t") {
        warn!(
            label = own,
            "husk does not run as a container runtime of the SELinux policy, which may keep containers from their logs and \
             privileged ones from the node: label its program container_runtime_exec_t"
        );
    }
}

fn seed(pod: &PodId) -> u64 {
    let digest = Sha256::digest(pod.as_str());
    digest.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn contexts() -> Contexts {
    let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let policy = config
        .lines()
        .find_map(|l| l.trim().strip_prefix("SELINUXTYPE="))
        .unwrap_or("targeted");
    let path = format!("/etc/selinux/{}/contexts/lxc_contexts", policy.trim());
    fs::read_to_string(path).map_or_else(|_| Contexts::default(), |text| Contexts::parse(&text))
}
