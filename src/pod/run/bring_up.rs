//! What a pod is made of: its directories, its network namespace and network, its supervisor.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::network::PodNetwork;
use crate::pod::launcher::Spawned;
use crate::pod::plugins::PodEvent;
use crate::pod::sandbox::{Pod, Supervisor, SupervisorFacts};
use crate::pod::{Runtime, blocking, files, selinux};
use crate::spec::selinux::Labels;
use crate::supervisor::protocol::PodSpawn;
use crate::types::error::{Context, Result};
use crate::types::security::NamespaceMode;
use crate::types::{PodConfig, PodState};

impl Runtime {
    /// Makes everything of a pod that is recorded and listed. After an error what was made is still there.
    pub(super) async fn bring_up(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let own_network = pod.config.security.namespaces.network != NamespaceMode::Node;
        let level = self.selinux_level(pod);
        // The log directory may be anywhere, even on a server that does not answer.
        let (this, of, its) = (Arc::clone(self), Arc::clone(pod), level.clone());
        let labels = blocking(move || this.prepare_directories(&of, &its)).await?;
        let ips = if pod.config.security.namespaces.own_user().is_some() {
            self.bring_up_in_user_namespace(pod, own_network, level, labels)
                .await?
        } else {
            let netns = if own_network {
                let (network, id) = (Arc::clone(&self.parts.network), pod.id.clone());
                Some(blocking(move || network.create_netns(&id)).await?)
            } else {
                None
            };
            let spawn = self.pod_spawn(pod, netns.clone(), labels);
            let label = spawn.mount_label.clone();
            let spawn = self.parts.launcher.spawn(spawn);
            let (ips, spawned) = tokio::join!(self.attach(pod, own_network), spawn);
            // The supervisor is put down first whatever else failed, so that clean-up can end it.
            self.note_supervisor(pod, spawned?, netns, (level, label))?;
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
        level: String,
        labels: Labels,
    ) -> Result<Vec<IpAddr>> {
        let spawn = self.pod_spawn(pod, None, labels);
        let label = spawn.mount_label.clone();
        let spawned = self.parts.launcher.spawn(spawn).await?;
        let path = format!("/proc/{}/ns/net", spawned.pid);
        let made = own_network.then(|| std::fs::File::open(&path).context(path));
        self.note_supervisor(pod, spawned, None, (level, label))?;
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

    fn pod_spawn(&self, pod: &Pod, netns: Option<PathBuf>, labels: Labels) -> PodSpawn {
        let namespaces = &pod.config.security.namespaces;
        let own_network = namespaces.network != NamespaceMode::Node;
        let own_ipc = namespaces.ipc != NamespaceMode::Node;
        let (uids, gids) = match namespaces.own_user() {
            Some(user) => (user.uids.clone(), user.gids.clone()),
            None => Default::default(),
        };
        PodSpawn {
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
            mount_label: labels.mount,
            // What a privileged pod runs is not confined.
            process_label: match pod.config.security.privileged {
                true => String::new(),
                false => labels.process,
            },
        }
    }

    /// Puts down what is known of a pod's supervisor, and of SELinux the pod's level and the label of its files.
    fn note_supervisor(
        &self,
        pod: &Pod,
        spawned: Spawned,
        netns: Option<PathBuf>,
        (selinux_level, label): (String, String),
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
            shm: self.shm_source(pod, spawned.pid, greeting.shm_fd, &label)?,
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

    /// The pod's files and its log directory. Returns the labels that SELinux wants.
    fn prepare_directories(&self, pod: &Pod, level: &str) -> Result<Labels> {
        let dir = self.paths.pod(&pod.id);
        std::fs::create_dir_all(&dir).with_context(|| format!("create directory {}", dir.display()))?;
        let files = files::write(&dir, &pod.config)?;
        let labels = self.selinux_labels(pod.config.security.selinux.as_ref(), level)?;
        for file in [&files.hosts, &files.hostname, &files.resolv_conf] {
            selinux::relabel(file, &labels.mount)?;
        }
        if !pod.config.log_directory.is_empty() {
            let logs = &pod.config.log_directory;
            std::fs::create_dir_all(logs).with_context(|| format!("create log directory {logs:?}"))?;
        }
        Ok(labels)
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
