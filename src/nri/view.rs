//! Pods and containers as plugins see them.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, LinuxSeccomp, Process, Scheduler, Spec};

use crate::cgroup;
use crate::pod::container::{Container, ContainerFacts};
use crate::pod::sandbox::Pod;
use crate::types::security::Profile;
use crate::types::{ContainerState, Resources};

use super::proto as p;
use super::resources;

/// A pod. `cgroup` is the parent of its containers' cgroups.
pub fn pod(pod: &Pod, cgroup: &str) -> p::PodSandbox {
    let config = &pod.config;
    let supervisor = pod.supervisor().map(|s| s.facts).unwrap_or_default();
    p::PodSandbox {
        id: pod.id.as_str().to_owned(),
        name: config.metadata.name.clone(),
        uid: config.metadata.uid.clone(),
        namespace: config.metadata.namespace.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: config.runtime_handler.clone(),
        linux: Some(p::LinuxPodSandbox {
            pod_overhead: config.overhead.as_ref().map(limits),
            pod_resources: config.resources.as_ref().map(limits),
            cgroup_parent: config.cgroup_parent.clone(),
            cgroups_path: cgroup.to_owned(),
            namespaces: pod_namespaces(supervisor.pid, supervisor.netns.as_deref()),
            resources: None,
        }),
        pid: u32::try_from(supervisor.pid).unwrap_or(0),
        ips: pod.ips().iter().map(ToString::to_string).collect(),
    }
}

/// The namespaces of a pod that has its own network, while it has a supervisor: no network among them means the node's.
fn pod_namespaces(supervisor: i32, netns: Option<&Path>) -> Vec<p::LinuxNamespace> {
    if supervisor == 0 {
        return Vec::new();
    }
    let mut list: Vec<_> = ["ipc", "uts"]
        .map(|kind| namespace(kind, &format!("/proc/{supervisor}/ns/{kind}")))
        .into();
    list.extend(netns.map(|path| namespace("network", &path.display().to_string())));
    list
}

fn namespace(kind: &str, path: &str) -> p::LinuxNamespace {
    p::LinuxNamespace {
        r#type: kind.to_owned(),
        path: path.to_owned(),
    }
}

/// Limits as CRI states them.
pub fn limits(wanted: &Resources) -> p::LinuxResources {
    resources::from_oci(&cgroup::limits(wanted))
}

/// What of a container does not change from creation on.
pub fn fixed(facts: &ContainerFacts, spec: &Spec) -> p::Container {
    let config = &facts.config;
    let mut container = p::Container {
        id: facts.id.as_str().to_owned(),
        pod_sandbox_id: facts.pod.as_str().to_owned(),
        name: config.metadata.name.clone(),
        state: p::ContainerState::ContainerCreated.into(),
        labels: config.labels.clone(),
        created_at: facts.created_at,
        cdi_devices: config
            .cdi_devices
            .iter()
            .map(|name| p::CdiDevice { name: name.clone() })
            .collect(),
        user: Some(p::User {
            uid: facts.uid,
            gid: facts.gid,
            additional_gids: facts.groups.clone(),
        }),
        ..Default::default()
    };
    refresh(&mut container, facts, spec, |_| false);
    if let Some(linux) = &mut container.linux {
        linux.seccomp_profile = Some(seccomp_profile(config.security.seccomp.as_ref()));
    }
    container
}

/// Takes over from a spec that has changed. What the client annotated is not in there: a plugin may have `removed` it.
pub fn refresh(
    container: &mut p::Container,
    facts: &ContainerFacts,
    spec: &Spec,
    removed: impl Fn(&str) -> bool,
) {
    let mut annotations: BTreeMap<_, _> = spec
        .annotations()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    for (key, value) in facts.config.annotations.iter().filter(|(k, _)| !removed(k)) {
        annotations.entry(key.clone()).or_insert_with(|| value.clone());
    }
    container.annotations = annotations;
    container.mounts = spec
        .mounts()
        .iter()
        .flatten()
        .map(|m| p::Mount {
            destination: m.destination().display().to_string(),
            r#type: m.typ().clone().unwrap_or_default(),
            source: m
                .source()
                .as_deref()
                .map(|s| s.display().to_string())
                .unwrap_or_default(),
            options: m.options().clone().unwrap_or_default(),
        })
        .collect();
    container.hooks = spec.hooks().as_ref().map(|h| p::Hooks {
        prestart: hooks(h.prestart_list()),
        create_runtime: hooks(h.create_runtime().as_ref()),
        create_container: hooks(h.create_container().as_ref()),
        start_container: hooks(h.start_container().as_ref()),
        poststart: hooks(h.poststart().as_ref()),
        poststop: hooks(h.poststop().as_ref()),
    });
    let process = spec.process().as_ref();
    container.args = process.and_then(|p| p.args().clone()).unwrap_or_default();
    container.env = process.and_then(|p| p.env().clone()).unwrap_or_default();
    container.rlimits = process
        .and_then(|p| p.rlimits().as_ref())
        .into_iter()
        .flatten()
        .map(|l| p::PosixRlimit {
            r#type: l.typ().to_string(),
            hard: l.hard(),
            soft: l.soft(),
        })
        .collect();
    let profile = container.linux.take().and_then(|l| l.seccomp_profile);
    container.linux = Some(linux(spec.linux().as_ref(), process));
    if let Some(linux) = &mut container.linux {
        linux.seccomp_profile = profile;
    }
}

/// oci-spec marks the hooks that plugins of GPUs live by as deprecated.
trait Prestart {
    fn prestart_list(&self) -> Option<&Vec<Hook>>;
}

impl Prestart for oci_spec::runtime::Hooks {
    #[allow(deprecated)]
    fn prestart_list(&self) -> Option<&Vec<Hook>> {
        self.prestart().as_ref()
    }
}

fn hooks(list: Option<&Vec<Hook>>) -> Vec<p::Hook> {
    list.into_iter()
        .flatten()
        .map(|h| p::Hook {
            path: h.path().display().to_string(),
            args: h.args().clone().unwrap_or_default(),
            env: h.env().clone().unwrap_or_default(),
            timeout: h.timeout().map(|value| p::OptionalInt { value }),
        })
        .collect()
}

fn linux(linux: Option<&Linux>, process: Option<&Process>) -> p::LinuxContainer {
    let mut out = p::LinuxContainer {
        oom_score_adj: process
            .and_then(|p| p.oom_score_adj())
            .map(|v| p::OptionalInt { value: v.into() }),
        io_priority: process
            .and_then(|p| p.io_priority().as_ref())
            .map(|io| p::LinuxIoPriority {
                class: p::IoPrioClass::from_str_name(&io.class().to_string())
                    .unwrap_or_default()
                    .into(),
                priority: i32::try_from(io.priority()).unwrap_or(0),
            }),
        scheduler: process.and_then(|p| p.scheduler().as_ref()).map(scheduler),
        ..Default::default()
    };
    let Some(linux) = linux else {
        return out;
    };
    out.namespaces = linux
        .namespaces()
        .iter()
        .flatten()
        .map(|n| {
            let path = n.path().as_deref().map(|p| p.display().to_string());
            namespace(namespace_name(n.typ()), &path.unwrap_or_default())
        })
        .collect();
    out.devices = linux
        .devices()
        .iter()
        .flatten()
        .map(|d| p::LinuxDevice {
            path: d.path().display().to_string(),
            r#type: d.typ().as_str().to_owned(),
            major: d.major(),
            minor: d.minor(),
            file_mode: d.file_mode().map(|value| p::OptionalFileMode { value }),
            uid: d.uid().map(|value| p::OptionalUInt32 { value }),
            gid: d.gid().map(|value| p::OptionalUInt32 { value }),
        })
        .collect();
    out.resources = linux.resources().as_ref().map(resources::from_oci);
    out.cgroups_path = linux
        .cgroups_path()
        .as_deref()
        .map(|p| p.display().to_string())
        .unwrap_or_default();
    out.seccomp_policy = linux.seccomp().as_ref().map(seccomp);
    out.sysctl = linux.sysctl().clone().unwrap_or_default().into_iter().collect();
    out
}

/// The kind of a namespace as the OCI spec writes it.
pub fn namespace_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn scheduler(s: &Scheduler) -> p::LinuxScheduler {
    let flags = s.flags().iter().flatten();
    p::LinuxScheduler {
        policy: p::LinuxSchedulerPolicy::from_str_name(&s.policy().to_string())
            .unwrap_or_default()
            .into(),
        nice: s.nice().unwrap_or(0),
        priority: s.priority().unwrap_or(0),
        flags: flags
            .filter_map(|f| p::LinuxSchedulerFlag::from_str_name(&f.to_string()))
            .map(Into::into)
            .collect(),
        runtime: s.runtime().unwrap_or(0),
        deadline: s.deadline().unwrap_or(0),
        period: s.period().unwrap_or(0),
    }
}

fn seccomp_profile(profile: Option<&Profile>) -> p::SecurityProfile {
    use p::security_profile::ProfileType;
    let (kind, path) = match profile {
        Some(Profile::RuntimeDefault) => (ProfileType::RuntimeDefault, String::new()),
        Some(Profile::Localhost(path)) => (ProfileType::Localhost, path.clone()),
        Some(Profile::Unconfined) | None => (ProfileType::Unconfined, String::new()),
    };
    p::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: path,
    }
}

fn seccomp(s: &LinuxSeccomp) -> p::LinuxSeccomp {
    p::LinuxSeccomp {
        default_action: s.default_action().to_string(),
        default_errno: s.default_errno_ret().map(|value| p::OptionalUInt32 { value }),
        architectures: s
            .architectures()
            .iter()
            .flatten()
            .map(ToString::to_string)
            .collect(),
        flags: s.flags().iter().flatten().map(ToString::to_string).collect(),
        listener_path: s
            .listener_path()
            .as_deref()
            .map(|p| p.display().to_string())
            .unwrap_or_default(),
        listener_metadata: s.listener_metadata().clone().unwrap_or_default(),
        syscalls: s
            .syscalls()
            .iter()
            .flatten()
            .map(|call| p::LinuxSyscall {
                names: call.names().clone(),
                action: call.action().to_string(),
                errno_ret: call.errno_ret().map(|value| p::OptionalUInt32 { value }),
                args: call
                    .args()
                    .iter()
                    .flatten()
                    .map(|a| p::LinuxSeccompArg {
                        index: u32::try_from(a.index()).unwrap_or(0),
                        value: a.value(),
                        value_two: a.value_two().unwrap_or(0),
                        op: a.op().to_string(),
                    })
                    .collect(),
            })
            .collect(),
    }
}

/// Fills in where a container stands now.
pub fn stand(fixed: &p::Container, container: &Container) -> p::Container {
    let status = container.status();
    let mut out = fixed.clone();
    out.state = match status.state {
        ContainerState::Creating | ContainerState::Created => p::ContainerState::ContainerCreated,
        ContainerState::Running => p::ContainerState::ContainerRunning,
        ContainerState::Exited => p::ContainerState::ContainerStopped,
        ContainerState::Unknown => p::ContainerState::ContainerUnknown,
    }
    .into();
    out.pid = u32::try_from(status.pid).unwrap_or(0);
    out.started_at = status.started_at;
    out.finished_at = status.finished_at;
    out.exit_code = status.exit_code;
    out.status_reason = status.reason;
    out.status_message = status.message;
    if let Some(linux) = &mut out.linux {
        overlay(
            linux.resources.get_or_insert_default(),
            &limits(&status.resources),
        );
    }
    out
}

/// Lays limits as they are now over those of the spec.
fn overlay(of_spec: &mut p::LinuxResources, now: &p::LinuxResources) {
    use prost::Message as _;

    if !now.hugepage_limits.is_empty() {
        of_spec.hugepage_limits.clear();
    }
    // Protobuf's own merge: what is set replaces, what is not stays. It cannot fail on what was just encoded.
    let _ = of_spec.merge(now.encode_to_vec().as_slice());
}
