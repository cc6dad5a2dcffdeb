//! RunPodSandbox.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{info, warn};

use crate::network::PodNetwork;
use crate::state::Table;
use crate::supervisor::protocol::PodSpawn;
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::security::NamespaceMode;
use crate::types::time::now_nanos;
use crate::types::{PodConfig, PodId, PodState, Realm};

use super::adopt::Begin;
use super::launcher::Spawned;
use super::plugins::PodEvent;
use super::remove::remove_if_there;
use super::sandbox::{Pod, Supervisor, SupervisorFacts};
use super::{Runtime, blocking, difference, files, selinux};

impl Runtime {
    /// Makes a pod and returns when it is ready. A repeat joins the first call or gets the pod it made.
    ///
    /// # Errors
    /// `InvalidArgument` for a config that cannot work; `AlreadyExists` if a pod of that name has another config;
    /// whatever keeps the pod from starting. After an error nothing of the pod is left, or, if it could not be
    /// cleaned up, it is listed as not ready so that it can be stopped and removed.
    pub async fn run_pod(self: &Arc<Self>, realm: Realm, config: PodConfig) -> Result<PodId> {
        check(&config)?;
        self.check_user_namespace(&config)?;
        self.check_handler(&config)?;
        let key = (realm, config.metadata.clone());
        let begin = self.pod_operations.begin(
            key,
            config.clone(),
            || self.existing_pod(realm, &config),
            || Arc::clone(self).make_pod(realm, config.clone()),
        );
        match begin {
            Begin::Wait(wait) => wait.outcome().await,
            Begin::Differs(first) => Err(exists("is being made", &first, &config)),
        }
    }

    /// Without id-mapped layers the files of an image would belong to nobody, and husk does not copy images for it.
    fn check_user_namespace(&self, config: &PodConfig) -> Result<()> {
        let host = &self.parts.host;
        if config.security.namespaces.own_user().is_none() || host.features().user_namespaces {
            return Ok(());
        }
        let why = match &host.id_mapped_layers_problem {
            _ if !host.user_namespaces => {
                "user namespaces are switched off on this node (user.max_user_namespaces)"
            }
            Some(problem) => problem,
            None => "this node does not offer it",
        };
        Err(Error::precondition(format!(
            "the pod asks for a user namespace: {why}"
        )))
    }

    /// Refuses a handler that is not there, cannot be run, or cannot do what is asked for.
    fn check_handler(&self, config: &PodConfig) -> Result<()> {
        let handler = self.parts.handlers.find(&config.runtime_handler)?;
        let user = config.security.namespaces.user.as_ref();
        if user.is_some_and(|u| u.mode == NamespaceMode::Pod) && !handler.features.user_namespaces {
            return Err(Error::new(
                Kind::Unimplemented,
                format!(
                    "runtime handler {:?} has no user namespaces on this node",
                    handler.name
                ),
            ));
        }
        handler.check()
    }

    /// What an earlier call with this name left: its pod, whatever became of it, if it is the one asked for now. One that
    /// never came to be or is on its way out does not stand in the way of another.
    fn existing_pod(&self, realm: Realm, config: &PodConfig) -> Option<Result<PodId>> {
        let pod = self.index.pod_named(realm, &config.metadata)?;
        let (failed, removing) = {
            let status = pod.status_mut();
            (status.failed, status.removing)
        };
        if failed || removing {
            return None;
        }
        Some(if pod.config == *config {
            Ok(pod.id.clone())
        } else {
            Err(exists("exists", &pod.config, config))
        })
    }

    async fn make_pod(self: Arc<Self>, realm: Realm, config: PodConfig) -> Result<PodId> {
        if let Some(old) = self.index.pod_named(realm, &config.metadata) {
            let removed = self.remove_found_pod(&old).await;
            removed.map_err(|e| e.context("remove what is left of an earlier pod of this name"))?;
        }
        let pod = Pod::new(PodId::random(), realm, config, now_nanos());
        // Whoever wants to stop or remove it waits until it is whole or gone.
        let _alone = pod.lifecycle.write().await;
        self.save_pod(&pod)?;
        self.index.add_pod(&pod);
        match self.bring_up(&pod).await {
            Ok(()) => {
                info!(pod = ?pod.id, name = %pod.config.metadata.name, "pod is ready");
                Ok(pod.id.clone())
            }
            Err(error) => {
                self.note_pod(PodEvent::Remove, &pod).await;
                if let Err(left) = self.undo_pod(&pod).await {
                    // Stays listed, so that the client can stop and remove it later.
                    warn!(pod = ?pod.id, error = %left, "pod that failed to start could not be cleaned up");
                    self.change_pod(&pod, |s| {
                        s.state = PodState::NotReady;
                        s.failed = true;
                    });
                    let _ = self.save_pod(&pod);
                } else {
                    self.forget_pod(&pod);
                }
                Err(error.context(format!(
                    "run pod {}/{}",
                    pod.config.metadata.namespace, pod.config.metadata.name
                )))
            }
        }
    }

    /// Removes whatever was made of a pod that did not come to be.
    async fn undo_pod(&self, pod: &Arc<Pod>) -> Result<()> {
        self.take_down(pod).await?;
        remove_if_there(&self.paths.pod(&pod.id))
    }

    async fn bring_up(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let own_network = pod.config.security.namespaces.network != NamespaceMode::Node;
        let level = self.selinux_level(pod);
        // The log directory may be anywhere, even on a server that does not answer.
        let (this, of, its) = (Arc::clone(self), Arc::clone(pod), level.clone());
        blocking(move || this.prepare_directories(&of, &its)).await?;
        let ips = if pod.config.security.namespaces.own_user().is_some() {
            self.bring_up_in_user_namespace(pod, own_network, &level).await?
        } else {
            let netns = if own_network {
                let (network, id) = (Arc::clone(&self.parts.network), pod.id.clone());
                Some(blocking(move || network.create_netns(&id)).await?)
            } else {
                None
            };
            let spawn = self
                .parts
                .launcher
                .spawn(self.pod_spawn(pod, netns.clone(), &level)?);
            let (ips, spawned) = tokio::join!(self.attach(pod, own_network), spawn);
            // The supervisor is put down first whatever else failed, so that clean-up can end it.
            self.note_supervisor(pod, spawned?, netns, level)?;
            ips?
        };
        pod.status_mut().ips = ips;
        self.tell_pod(PodEvent::Run, pod).await?;
        self.change_pod(pod, |s| s.state = PodState::Ready);
        self.save_pod(pod)?;
        self.watch_supervisor(pod);
        Ok(())
    }

    /// The network namespace of such a pod has to be made within the user namespace, so by its supervisor; only then can
    /// it be named and attached.
    async fn bring_up_in_user_namespace(
        &self,
        pod: &Arc<Pod>,
        own_network: bool,
        level: &str,
    ) -> Result<Vec<IpAddr>> {
        let spawn = self.pod_spawn(pod, None, level)?;
        let spawned = self.parts.launcher.spawn(spawn).await?;
        let path = format!("/proc/{}/ns/net", spawned.pid);
        let made = own_network.then(|| std::fs::File::open(&path).context(path));
        self.note_supervisor(pod, spawned, None, level.to_owned())?;
        if let Some(made) = made.transpose()? {
            let (network, id) = (Arc::clone(&self.parts.network), pod.id.clone());
            let netns = blocking(move || network.adopt_netns(&id, made.as_fd())).await?;
            if let Some(supervisor) = &mut pod.status_mut().supervisor {
                supervisor.facts.netns = Some(netns);
            }
        }
        self.attach(pod, own_network).await
    }

    async fn attach(&self, pod: &Pod, own_network: bool) -> Result<Vec<IpAddr>> {
        if own_network {
            let network = &self.parts.network;
            let attachment = network.setup_unless(&pod_network(pod), &pod.unwanted).await?;
            Ok(attachment.ips)
        } else {
            Ok(Vec::new())
        }
    }

    fn pod_spawn(&self, pod: &Pod, netns: Option<PathBuf>, level: &str) -> Result<PodSpawn> {
        let namespaces = &pod.config.security.namespaces;
        let own_network = namespaces.network != NamespaceMode::Node;
        let own_ipc = namespaces.ipc != NamespaceMode::Node;
        let (uids, gids) = match namespaces.own_user() {
            Some(user) => (user.uids.clone(), user.gids.clone()),
            None => Default::default(),
        };
        let wish = pod.config.security.selinux.as_ref();
        Ok(PodSpawn {
            pod_id: pod.id.clone(),
            run_dir: self.paths.pod(&pod.id),
            new_net: own_network && netns.is_none(),
            netns,
            new_ipc: own_ipc,
            new_uts: own_network,
            hostname: pod.config.hostname.clone(),
            sysctls: self.sysctls(&pod.config),
            shared_pid: namespaces.pid == NamespaceMode::Pod,
            shm_bytes: if own_ipc {
                self.parts.config.container.shm_bytes
            } else {
                0
            },
            uids,
            gids,
            mount_label: self.selinux_labels(wish, level)?.mount,
        })
    }

    /// Puts down what is known of a pod's supervisor.
    fn note_supervisor(
        &self,
        pod: &Pod,
        spawned: Spawned,
        netns: Option<PathBuf>,
        selinux_level: String,
    ) -> Result<()> {
        let greeting = spawned.client.greeting();
        let facts = SupervisorFacts {
            pid: spawned.pid,
            pidns_init: spawned.pidns_init_pid,
            netns,
            selinux_level,
            userns: greeting
                .userns_fd
                .map(|fd| format!("/proc/{}/fd/{fd}", spawned.pid).into()),
            shm: self.shm_source(pod, spawned.pid, greeting.shm_fd)?,
            handler: self
                .parts
                .handlers
                .find(&pod.config.runtime_handler)?
                .name
                .clone(),
        };
        pod.status_mut().supervisor = Some(Supervisor {
            client: spawned.client,
            facts,
        });
        Ok(())
    }

    fn prepare_directories(&self, pod: &Pod, level: &str) -> Result<()> {
        let dir = self.paths.pod(&pod.id);
        std::fs::create_dir_all(&dir).with_context(|| format!("create directory {}", dir.display()))?;
        let files = files::write(&dir, &pod.config)?;
        let label = self
            .selinux_labels(pod.config.security.selinux.as_ref(), level)?
            .mount;
        for file in [&files.hosts, &files.hostname, &files.resolv_conf] {
            selinux::relabel(file, &label)?;
        }
        if !pod.config.log_directory.is_empty() {
            let logs = &pod.config.log_directory;
            std::fs::create_dir_all(logs).with_context(|| format!("create log directory {logs:?}"))?;
        }
        Ok(())
    }

    /// The pod's sysctls: those of the configuration, then those asked for.
    fn sysctls(&self, config: &PodConfig) -> Vec<(String, String)> {
        let mut all = BTreeMap::new();
        if config.security.namespaces.network != NamespaceMode::Node {
            if self.parts.config.container.unprivileged_ports {
                all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
            }
            if self.parts.config.container.unprivileged_icmp {
                // In a user namespace only its own groups can be named.
                let last = match config.security.namespaces.own_user() {
                    Some(user) => user.gids.iter().map(|m| m.container_id + (m.length - 1)).max(),
                    None => None,
                };
                let range = format!("0 {}", last.unwrap_or(2_147_483_647));
                all.insert("net.ipv4.ping_group_range".to_owned(), range);
            }
        }
        all.extend(config.sysctls.clone());
        all.into_iter().collect()
    }

    /// Forgets a pod of which nothing is left.
    pub(super) fn forget_pod(&self, pod: &Arc<Pod>) {
        self.unlist_pod(pod);
        if let Err(error) = self.parts.db.delete(Table::Pods, pod.id.as_str()) {
            // The next start finds a record without a pod and removes it.
            warn!(pod = ?pod.id, %error, "pod record could not be deleted");
        }
    }
}

pub(super) fn check(config: &PodConfig) -> Result<()> {
    super::bounds::pod(config)?;
    let name = &config.metadata;
    if name.name.is_empty() || name.namespace.is_empty() || name.uid.is_empty() {
        return Err(Error::invalid(
            "sandbox config: metadata needs name, namespace and uid",
        ));
    }
    let ns = &config.security.namespaces;
    for (kind, mode) in [("network", ns.network), ("ipc", ns.ipc)] {
        if matches!(mode, NamespaceMode::Container | NamespaceMode::Target) {
            return Err(Error::invalid(format!(
                "{kind} namespace mode {mode:?} is not possible for a pod"
            )));
        }
    }
    if ns.pid == NamespaceMode::Target {
        return Err(Error::invalid(
            "pid namespace mode Target is for containers, not for a pod",
        ));
    }
    ns.check_user()?;
    let logs = &config.log_directory;
    if !logs.is_empty() && !logs.starts_with('/') {
        return Err(Error::invalid(format!(
            "log_directory {logs:?} is not an absolute path"
        )));
    }
    if config.cgroup_parent.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!(
            "cgroup_parent {:?} must not contain ..",
            config.cgroup_parent
        )));
    }
    for name in config.sysctls.keys() {
        check_sysctl(
            name,
            ns.network == NamespaceMode::Node,
            ns.ipc == NamespaceMode::Node,
        )?;
    }
    Ok(())
}

/// Only what belongs to a namespace of the pod may be set, or the node would change with it.
fn check_sysctl(name: &str, host_network: bool, host_ipc: bool) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = name.replace('/', ".");
    let (kind, host) = if dotted.starts_with("net.") {
        ("network", host_network)
    } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        ("IPC", host_ipc)
    } else if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        return Err(Error::invalid(format!(
            "sysctl {name}: set the pod's hostname instead"
        )));
    } else {
        return Err(Error::invalid(format!(
            "sysctl {name} belongs to no namespace of the pod"
        )));
    };
    if host {
        return Err(Error::invalid(format!(
            "sysctl {name} would change the node: the pod uses its {kind} namespace"
        )));
    }
    if dotted.contains("..") {
        return Err(Error::invalid(format!("sysctl {name} is not a name")));
    }
    Ok(())
}

fn pod_network(pod: &Pod) -> PodNetwork {
    let config = &pod.config;
    PodNetwork {
        id: pod.id.clone(),
        name: config.metadata.name.clone(),
        namespace: config.metadata.namespace.clone(),
        uid: config.metadata.uid.clone(),
        port_mappings: config.port_mappings.clone(),
        annotations: config.annotations.clone(),
        labels: config.labels.clone(),
        dns: config.dns.clone(),
    }
}

fn exists(how: &str, old: &PodConfig, new: &PodConfig) -> Error {
    let m = &new.metadata;
    Error::new(
        Kind::AlreadyExists,
        format!(
            "pod {}/{} (uid {}, attempt {}) {how} with another config: {}. Remove it first, or ask for another attempt",
            m.namespace,
            m.name,
            m.uid,
            m.attempt,
            difference::between(old, new)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_the_pods_own_namespaces_pass() {
        for (name, host_network, host_ipc, ok) in [
            ("net.ipv4.ip_forward", false, false, true),
            ("net.ipv4.ip_forward", true, false, false),
            ("net/ipv4/ip_forward", false, false, true),
            ("kernel.shm_rmid_forced", false, false, true),
            ("kernel.shm_rmid_forced", false, true, false),
            ("fs.mqueue.msg_max", false, false, true),
            ("kernel.core_pattern", false, false, false),
            ("vm.swappiness", false, false, false),
            ("net..ipv4", false, false, false),
            ("net.../../kernel/core_pattern", false, false, false),
        ] {
            assert_eq!(check_sysctl(name, host_network, host_ipc).is_ok(), ok, "{name}");
        }
    }
}
