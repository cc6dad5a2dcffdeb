//! CRI requests with every field in use. Maps have one entry: their order on the wire is not fixed.

use std::collections::HashMap;

use husk::cri::proto as p;
use prost::Message as _;

use super::Seed;

/// RunPodSandbox.
pub fn pods() -> Vec<Seed> {
    let request = |config| {
        p::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        }
        .encode_to_vec()
    };
    vec![
        ("full", request(pod())),
        ("small", request(small_pod())),
        // Groups in groups of a field that nobody knows.
        ("deep-groups", b"\xf3\x01".repeat(1000)),
    ]
}

/// CreateContainer.
pub fn containers() -> Vec<Seed> {
    let request = |config, pod| {
        p::CreateContainerRequest {
            pod_sandbox_id: "0123".into(),
            config: Some(config),
            sandbox_config: Some(pod),
        }
        .encode_to_vec()
    };
    vec![
        ("full", request(container(), pod())),
        ("small", request(small_container(), small_pod())),
        ("image-mount", request(with_image_mount(), small_pod())),
        ("many-envs", request(many_envs(), small_pod())),
    ]
}

/// The rest, each with the byte that selects it.
pub fn others() -> Vec<Seed> {
    let with = |select: u8, message: Vec<u8>| [vec![select], message].concat();
    let image = || {
        Some(p::ImageSpec {
            image: "docker.io/library/busybox:1".into(),
            ..Default::default()
        })
    };
    vec![
        (
            "update",
            with(
                0,
                p::UpdateContainerResourcesRequest {
                    container_id: "0123".into(),
                    linux: Some(resources()),
                    annotations: map("a", "b"),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
        ),
        (
            "list-containers",
            with(
                1,
                p::ListContainersRequest {
                    filter: Some(p::ContainerFilter {
                        id: "01".into(),
                        state: Some(p::ContainerStateValue { state: 1 }),
                        pod_sandbox_id: "23".into(),
                        label_selector: map("io.kubernetes.pod.uid", "u"),
                    }),
                }
                .encode_to_vec(),
            ),
        ),
        (
            "list-pods",
            with(
                2,
                p::ListPodSandboxRequest {
                    filter: Some(p::PodSandboxFilter {
                        id: "01".into(),
                        state: Some(p::PodSandboxStateValue { state: 1 }),
                        label_selector: map("io.kubernetes.pod.uid", "u"),
                    }),
                }
                .encode_to_vec(),
            ),
        ),
        (
            "pull",
            with(
                3,
                p::PullImageRequest {
                    image: image(),
                    auth: Some(p::AuthConfig {
                        username: "user".into(),
                        password: "very secret".into(),
                        auth: "dTpw".into(),
                        server_address: "docker.io".into(),
                        ..Default::default()
                    }),
                    sandbox_config: Some(small_pod()),
                }
                .encode_to_vec(),
            ),
        ),
        (
            "image-status",
            with(
                4,
                p::ImageStatusRequest {
                    image: image(),
                    verbose: true,
                }
                .encode_to_vec(),
            ),
        ),
        (
            "exec",
            with(
                5,
                p::ExecSyncRequest {
                    container_id: "0123".into(),
                    cmd: vec!["sh".into(), "-c".into()],
                    timeout: 5,
                }
                .encode_to_vec(),
            ),
        ),
    ]
}

fn map(key: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(key.to_owned(), value.to_owned())])
}

fn namespaces() -> p::NamespaceOption {
    p::NamespaceOption {
        network: p::NamespaceMode::Pod.into(),
        pid: p::NamespaceMode::Container.into(),
        ipc: p::NamespaceMode::Pod.into(),
        target_id: String::new(),
        userns_options: Some(p::UserNamespace {
            mode: p::NamespaceMode::Node.into(),
            uids: vec![ids()],
            gids: vec![ids()],
        }),
    }
}

fn ids() -> p::IdMapping {
    p::IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    }
}

fn small_pod() -> p::PodSandboxConfig {
    p::PodSandboxConfig {
        metadata: Some(p::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 1,
        }),
        ..Default::default()
    }
}

fn pod() -> p::PodSandboxConfig {
    p::PodSandboxConfig {
        hostname: "web".into(),
        log_directory: "/var/log/pods/x".into(),
        dns_config: Some(p::DnsConfig {
            servers: vec!["10.0.0.10".into()],
            searches: vec!["svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        }),
        port_mappings: vec![p::PortMapping {
            protocol: p::Protocol::Udp.into(),
            container_port: 53,
            host_port: 5353,
            host_ip: "127.0.0.1".into(),
        }],
        labels: map("io.kubernetes.pod.uid", "u-1"),
        annotations: map("kubernetes.io/ingress-bandwidth", "10M"),
        linux: Some(p::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/pod1".into(),
            sysctls: map("net.ipv4.ip_forward", "1"),
            overhead: Some(resources()),
            resources: Some(resources()),
            security_context: Some(p::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                run_as_user: Some(p::Int64Value { value: 1000 }),
                supplemental_groups: vec![5, 6],
                privileged: true,
                seccomp: Some(p::SecurityProfile::default()),
                ..Default::default()
            }),
        }),
        ..small_pod()
    }
}

fn resources() -> p::LinuxContainerResources {
    p::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 900,
        cpuset_cpus: "0-1".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![p::HugepageLimit {
            page_size: "2MB".into(),
            limit: 0,
        }],
        unified: map("memory.high", "1000"),
        memory_swap_limit_in_bytes: 64 << 20,
    }
}

fn small_container() -> p::ContainerConfig {
    p::ContainerConfig {
        metadata: Some(p::ContainerMetadata {
            name: "main".into(),
            attempt: 2,
        }),
        image: Some(p::ImageSpec {
            image: "docker.io/library/busybox:1".into(),
            user_specified_image: "busybox".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container() -> p::ContainerConfig {
    p::ContainerConfig {
        command: vec!["sh".into()],
        args: vec!["-c".into(), "true".into()],
        working_dir: "/work".into(),
        envs: vec![p::KeyValue {
            key: "A".into(),
            value: "B".into(),
        }],
        mounts: vec![
            p::Mount {
                container_path: "/etc/hosts".into(),
                host_path: "/var/lib/kubelet/pods/x/etc-hosts".into(),
                ..Default::default()
            },
            p::Mount {
                container_path: "/data".into(),
                host_path: "/srv".into(),
                readonly: true,
                recursive_read_only: true,
                ..Default::default()
            },
        ],
        devices: vec![p::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: "rwm".into(),
        }],
        labels: map("io.kubernetes.container.name", "main"),
        annotations: map("x", "y"),
        log_path: "main/0.log".into(),
        stdin: true,
        stdin_once: true,
        tty: true,
        linux: Some(p::LinuxContainerConfig {
            resources: Some(resources()),
            security_context: Some(p::LinuxContainerSecurityContext {
                capabilities: Some(p::Capability {
                    add_capabilities: vec!["NET_ADMIN".into()],
                    drop_capabilities: vec!["ALL".into()],
                    add_ambient_capabilities: vec!["NET_RAW".into()],
                }),
                namespace_options: Some(namespaces()),
                run_as_username: "app".into(),
                run_as_group: Some(p::Int64Value { value: 50 }),
                readonly_rootfs: true,
                supplemental_groups: vec![7],
                no_new_privs: true,
                masked_paths: vec!["/proc/kcore".into()],
                readonly_paths: vec!["/proc/sys".into()],
                seccomp: Some(p::SecurityProfile::default()),
                ..Default::default()
            }),
        }),
        stop_signal: p::Signal::Sigrtmin.into(),
        ..small_container()
    }
}

fn with_image_mount() -> p::ContainerConfig {
    p::ContainerConfig {
        mounts: vec![p::Mount {
            container_path: "/model".into(),
            readonly: true,
            image: Some(p::ImageSpec {
                image: "models/x:1".into(),
                ..Default::default()
            }),
            image_sub_path: "a/b".into(),
            ..Default::default()
        }],
        ..small_container()
    }
}

/// Environment that a quadratic merge would notice.
fn many_envs() -> p::ContainerConfig {
    p::ContainerConfig {
        envs: (0..4000)
            .map(|n| p::KeyValue {
                key: format!("V{n}"),
                value: Default::default(),
            })
            .collect(),
        ..small_container()
    }
}
