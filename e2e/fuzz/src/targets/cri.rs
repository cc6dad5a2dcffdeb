//! CRI requests: decoded, converted, checked, and turned into spec and plan with an image and a node that are made up.

use husk::cgroup;
use husk::cri::convert::{container as convert, image, pod as convert_pod, resources, security};
use husk::cri::proto as p;
use husk::image::{ImageDefaults as Configured, ImageRef};
use husk::network::PodNetwork;
use husk::pod::fuzz;
use husk::seccomp;
use husk::spec::container::PodNamespaces;
use husk::spec::mounts::{PodFiles, ResolvedMount};
use husk::spec::plan::{self, ContainerOptions, Rootfs};
use husk::spec::process::{ImageDefaults, User};
use husk::spec::selinux::{self, Contexts};
use husk::spec::{self, ContainerInputs, identity};
use husk::types::capability::{self, CapSet};
use husk::types::container::Propagation;
use husk::types::security::{NamespaceMode, Profile};
use husk::types::{ContainerConfig, ContainerId, PodConfig, PodId, Result};
use prost::Message as _;

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "..",
    "../../",
    "/",
    "\n",
    "\u{0}",
    "/proc",
    "/dev/null",
    "rwm",
    "net.ipv4.ip_forward",
    "net/../kernel",
    "kernel.shm_rmid_forced",
    "localhost/",
    "ALL",
    "CAP_SYS_ADMIN",
    "io.kubernetes.pod.uid",
    "kubernetes.io/ingress-bandwidth",
    "1.5e15",
    "husk",
    "A=B",
    "127.0.0.1",
    "::1",
    "memory.high",
    "2MB",
    "0-3,7",
    "SIGTERM",
    "app:staff",
];

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:app\n";

pub(super) fn pod(data: &[u8]) -> Said {
    let request = match p::RunPodSandboxRequest::decode(data) {
        Ok(request) => request,
        Err(e) => return format!("not a request: {e}"),
    };
    let Some(sent) = request.config else {
        return "no config".into();
    };
    let namespaces = sent
        .linux
        .as_ref()
        .and_then(|l| l.security_context.as_ref())
        .and_then(|s| s.namespace_options.clone());
    let config = match convert_pod::config(sent, request.runtime_handler) {
        Ok(config) => config,
        Err(e) => return e.to_string(),
    };
    keeps(&config);
    // PodSandboxStatus shows what was asked for.
    if let Some(sent) = namespaces {
        assert_eq!(security::to_namespaces(&config.security.namespaces), sent);
    }
    let said = match fuzz::pod(&config) {
        Ok(resolv_conf) => format!("resolv.conf of {} lines", resolv_conf.lines().count().min(9)),
        Err(e) => return e.to_string(),
    };
    match husk::network::fuzz::arguments(&network(config)) {
        Ok(arguments) => {
            // A name must not become an argument of its own.
            assert_eq!(arguments.matches(';').count(), 4, "{arguments:?}");
            said
        }
        Err(e) => format!("{said}; {e}"),
    }
}

fn network(config: PodConfig) -> PodNetwork {
    PodNetwork {
        id: PodId::random(),
        name: config.metadata.name,
        namespace: config.metadata.namespace,
        uid: config.metadata.uid,
        port_mappings: config.port_mappings,
        labels: config.labels,
        annotations: config.annotations,
        dns: config.dns,
    }
}

/// A record in the database reads back as it was.
fn keeps<T>(value: &T)
where
    T: PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let json = serde_json::to_vec(value).unwrap_or_default();
    assert_eq!(serde_json::from_slice::<T>(&json).ok().as_ref(), Some(value));
}

pub(super) fn container(data: &[u8]) -> Said {
    let request = match p::CreateContainerRequest::decode(data) {
        Ok(request) => request,
        Err(e) => return format!("not a request: {e}"),
    };
    let Some(sent) = request.config else {
        return "no config".into();
    };
    let limits = sent.linux.as_ref().and_then(|l| l.resources.clone());
    let named = sent.image.clone();
    let config = match convert::config(sent) {
        Ok(config) => config,
        Err(e) => return e.to_string(),
    };
    keeps(&config);
    // ContainerStatus shows what was asked for.
    assert_eq!(
        Some(resources::to(&config.resources)),
        limits.or_else(|| Some(Default::default()))
    );
    assert_eq!(Some(convert::to_image_spec(&config.image)), named);
    let mut pod = request
        .sandbox_config
        .and_then(|c| convert_pod::config(c, String::new()).ok())
        .unwrap_or_default();
    pod.security.privileged |= config.security.privileged;
    match build(&config, &pod, &image_defaults()) {
        Ok(said) => said,
        Err(e) => e.to_string(),
    }
}

/// A container of `image` as a client would ask for it.
pub(super) fn container_of(config: &ContainerConfig, image: &ImageDefaults) -> Said {
    match build(config, &PodConfig::default(), image) {
        Ok(said) => said,
        Err(e) => e.to_string(),
    }
}

/// A container that asks for nothing.
pub(super) fn plain_container() -> ContainerConfig {
    let mut config = ContainerConfig::default();
    config.metadata.name = "main".into();
    config.image.image = "example".into();
    config
}

/// What an image says, in the words of `spec`.
pub(super) fn defaults(image: Configured) -> ImageDefaults {
    ImageDefaults {
        entrypoint: image.entrypoint,
        cmd: image.cmd,
        env: image.env,
        user: image.user,
        working_dir: image.working_dir,
        volumes: image.volumes,
        stop_signal: image.stop_signal,
    }
}

fn image_defaults() -> ImageDefaults {
    ImageDefaults {
        entrypoint: vec!["/entry".into()],
        env: vec!["PATH=/bin".into(), "EMPTY".into()],
        user: "app".into(),
        working_dir: "app".into(),
        volumes: vec!["/data".into()],
        ..Default::default()
    }
}

/// As CreateContainer does it, but for what it looks up on the node.
fn build(config: &ContainerConfig, pod: &PodConfig, image: &ImageDefaults) -> Result<Said> {
    let signal = fuzz::container(config, pod, image)?;
    assert!((1..=64).contains(&signal), "{signal}");
    let security = &config.security;
    let found = identity::resolve(
        &identity::Request {
            image_user: &image.user,
            run_as_user: security.run_as_user,
            run_as_username: &security.run_as_username,
            run_as_group: security.run_as_group,
            supplemental_groups: &security.supplemental_groups,
            policy: security.groups_policy,
            image: &config.image.image,
        },
        PASSWD,
        GROUP,
    )?;
    let capabilities = if security.privileged {
        capability::privileged(CapSet::ALL)
    } else {
        capability::apply(&security.capabilities, CapSet::DEFAULT, CapSet::ALL)?
    };
    let mounts: Vec<ResolvedMount> = config.mounts.iter().map(resolved).collect();
    let inputs = ContainerInputs {
        id: &ContainerId::random(),
        pod_id: &PodId::random(),
        pod,
        config,
        image,
        user: &User {
            uid: found.uid,
            gid: found.gid,
            additional_gids: found.additional_gids,
        },
        selinux: selinux::labels(&Contexts::default(), security.selinux.as_ref(), "s0:c1,c2")?,
        apparmor: match &security.apparmor {
            Some(Profile::Localhost(name)) => Some(name.clone()),
            _ => None,
        },
        seccomp: match &security.seccomp {
            Some(Profile::RuntimeDefault) => Some(seccomp::default_profile(capabilities.granted)),
            _ => None,
        },
        capabilities,
        namespaces: &namespaces(config),
        files: &PodFiles {
            hosts: "/run/husk/hosts".into(),
            hostname: "/run/husk/hostname".into(),
            resolv_conf: "/run/husk/resolv.conf".into(),
            shm: "/run/husk/shm".into(),
        },
        mounts: &mounts,
        resources: cgroup::resources(&config.resources, security.privileged, Vec::new()),
        devices: Vec::new(),
        cgroup_path: "/husk/pod/container",
        unified_cgroup: true,
        nofile: 1024,
    };
    let spec = spec::container(&inputs)?;
    // It is written to config.json, and read again by every exec.
    let json = serde_json::to_vec(&spec).unwrap_or_default();
    assert_eq!(serde_json::from_slice(&json).ok(), Some(spec.clone()));
    let plan = plan::container(
        &spec,
        &ContainerOptions {
            rootfs: Rootfs::Overlay {
                lower: vec!["/var/lib/husk/images/layer".into()],
                upper: "/var/lib/husk/containers/upper".into(),
                work: "/var/lib/husk/containers/work".into(),
                volatile: true,
            },
            mount_point: "/run/husk/rootfs".into(),
            ..Default::default()
        },
    )?;
    super::oci::check(&plan);
    Ok(format!("{} namespaces", plan.namespaces.len()))
}

fn resolved(m: &husk::types::container::Mount) -> ResolvedMount {
    ResolvedMount {
        container_path: std::path::Path::new("/").join(&m.container_path),
        source: m.host_path.clone().into(),
        readonly: m.readonly,
        recursive_read_only: m.recursive_read_only,
        propagation: if m.image.is_some() {
            Propagation::Private
        } else {
            m.propagation
        },
        uid_mappings: m.uid_mappings.clone(),
        gid_mappings: m.gid_mappings.clone(),
        ..Default::default()
    }
}

fn namespaces(config: &ContainerConfig) -> PodNamespaces {
    let shared = config.security.namespaces.pid != NamespaceMode::Container;
    PodNamespaces {
        network: Some("/run/husk/netns/x".into()),
        ipc: Some("/proc/1/ns/ipc".into()),
        uts: Some("/proc/1/ns/uts".into()),
        pid: shared.then(|| "/proc/1/ns/pid".into()),
        user: config
            .security
            .namespaces
            .own_user()
            .map(|_| "/proc/1/ns/user".into()),
    }
}

/// Requests that carry less. Input: a byte that selects the message, then the message.
pub(super) fn others(data: &[u8]) -> Said {
    let (select, data) = match data.split_first() {
        Some((select, data)) => (select % 8, data),
        None => return "nothing".into(),
    };
    let said = match select {
        0 => p::UpdateContainerResourcesRequest::decode(data).map(|r| {
            let sent = r.linux.unwrap_or_default();
            let kept = resources::from(sent.clone());
            assert_eq!(resources::to(&kept), sent);
            format!("{}", cgroup::limits(&kept).cpu().is_some())
        }),
        1 => p::ListContainersRequest::decode(data).map(|r| said(convert::filter(r.filter).map(|f| f.state))),
        2 => p::ListPodSandboxRequest::decode(data)
            .map(|r| said(convert_pod::filter(r.filter).map(|f| f.state))),
        3 => p::PullImageRequest::decode(data).map(|r| {
            let secret = r.auth.clone().unwrap_or_default().password;
            let shown = format!("{:?}", r.auth.map(image::auth));
            assert!(
                secret.len() < 8 || !shown.contains(&secret),
                "credentials can be printed"
            );
            said(ImageRef::parse(&r.image.unwrap_or_default().image).map(|i| i.tag().is_some()))
        }),
        4 => p::ImageStatusRequest::decode(data)
            .map(|r| said(ImageRef::parse(&r.image.unwrap_or_default().image).map(|i| i.digest().is_some()))),
        5 => p::ExecSyncRequest::decode(data).map(|r| format!("{}", r.cmd.len().min(3))),
        6 => p::UpdatePodSandboxResourcesRequest::decode(data).map(|r| {
            let kept = r.resources.map(resources::from).unwrap_or_default();
            format!("{}", cgroup::limits(&kept).memory().is_some())
        }),
        _ => p::RemoveImageRequest::decode(data)
            .map(|r| said(ImageRef::parse(&r.image.unwrap_or_default().image).map(|i| i.tag().is_some()))),
    };
    said.map_or_else(
        |e| format!("{select}: not a request: {e}"),
        |s| format!("{select}: {s}"),
    )
}

fn said<T: std::fmt::Debug>(outcome: Result<T>) -> Said {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(e) => e.to_string(),
    }
}
