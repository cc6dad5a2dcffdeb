//! Pod and container configurations as kubelet would send them, to be changed by each test.

use std::sync::atomic::{AtomicU32, Ordering};

use k8s_cri::v1::*;

use crate::cri::spec;

/// A pod on the host's network, with a uid of its own and a log directory of its own below `logs`.
pub fn pod(name: &str, logs: &std::path::Path) -> PodSandboxConfig {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let uid = format!(
        "{name}-{}-{}",
        std::process::id(),
        SERIAL.fetch_add(1, Ordering::Relaxed)
    );
    PodSandboxConfig {
        log_directory: logs.join(&uid).display().to_string(),
        labels: labels(&[
            ("io.kubernetes.pod.name", name),
            ("io.kubernetes.pod.namespace", "e2e"),
            ("io.kubernetes.pod.uid", &uid),
        ]),
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid,
            namespace: "e2e".into(),
            attempt: 0,
        }),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(host_network()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The namespaces of a pod on the host's network, as kubelet asks for them.
pub fn host_network() -> NamespaceOption {
    namespaces(NamespaceMode::Node, NamespaceMode::Container, NamespaceMode::Pod)
}

/// Network, PID and IPC namespaces.
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        ..Default::default()
    }
}

/// Labels or annotations.
pub fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs.iter().map(|&(k, v)| (k.into(), v.into())).collect()
}

/// Changes that read as a sentence.
pub trait PodConfigExt: Sized {
    /// The pod's security context.
    fn security(&mut self) -> &mut LinuxSandboxSecurityContext;

    /// Replaces the namespaces.
    #[must_use]
    fn with_namespaces(self, options: NamespaceOption) -> Self;

    /// Gives the pod a network namespace of its own.
    #[must_use]
    fn with_own_network(self) -> Self;
}

impl PodConfigExt for PodSandboxConfig {
    fn security(&mut self) -> &mut LinuxSandboxSecurityContext {
        self.linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    fn with_namespaces(mut self, options: NamespaceOption) -> Self {
        self.security().namespace_options = Some(options);
        self
    }

    fn with_own_network(self) -> Self {
        self.with_namespaces(namespaces(
            NamespaceMode::Pod,
            NamespaceMode::Container,
            NamespaceMode::Pod,
        ))
    }
}

/// A container with RuntimeDefault seccomp and `<name>.log`.
pub fn container<S: AsRef<str>>(name: &str, image: &str, command: &[S]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(spec(image)),
        command: command.iter().map(|c| c.as_ref().to_owned()).collect(),
        log_path: format!("{name}.log"),
        labels: labels(&[("io.kubernetes.container.name", name)]),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources::default()),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(host_network()),
                seccomp: Some(SecurityProfile::default()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A container that runs a shell script.
pub fn script(name: &str, image: &str, text: &str) -> ContainerConfig {
    container(name, image, &["sh", "-c", text])
}

/// A container that waits to be stopped, and dies of the first SIGTERM.
pub fn sleeper(name: &str, image: &str) -> ContainerConfig {
    script(
        name,
        image,
        "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done",
    )
}

/// Changes that read as a sentence.
pub trait ContainerConfigExt: Sized {
    /// The container's security context.
    fn security(&mut self) -> &mut LinuxContainerSecurityContext;

    /// The container's limits.
    fn resources(&mut self) -> &mut LinuxContainerResources;

    /// Replaces the namespaces.
    #[must_use]
    fn with_namespaces(self, options: NamespaceOption) -> Self;

    /// Changes the security context.
    #[must_use]
    fn secured(self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self;

    /// Changes the limits.
    #[must_use]
    fn limited(self, change: impl FnOnce(&mut LinuxContainerResources)) -> Self;

    /// Adds a mount.
    #[must_use]
    fn mounted(self, host: &std::path::Path, inside: &str, change: impl FnOnce(&mut Mount)) -> Self;
}

impl ContainerConfigExt for ContainerConfig {
    fn security(&mut self) -> &mut LinuxContainerSecurityContext {
        self.linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    fn resources(&mut self) -> &mut LinuxContainerResources {
        self.linux
            .get_or_insert_default()
            .resources
            .get_or_insert_default()
    }

    fn with_namespaces(mut self, options: NamespaceOption) -> Self {
        self.security().namespace_options = Some(options);
        self
    }

    fn secured(mut self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self {
        change(self.security());
        self
    }

    fn limited(mut self, change: impl FnOnce(&mut LinuxContainerResources)) -> Self {
        change(self.resources());
        self
    }

    fn mounted(mut self, host: &std::path::Path, inside: &str, change: impl FnOnce(&mut Mount)) -> Self {
        let mut mount = Mount {
            host_path: host.display().to_string(),
            container_path: inside.into(),
            ..Default::default()
        };
        change(&mut mount);
        self.mounts.push(mount);
        self
    }
}
