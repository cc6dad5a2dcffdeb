//! Containers.

use bytes::Bytes;

use crate::cri::list;
use crate::cri::proto as p;
use crate::pod::container::{Container, ContainerStatus, ImageMount};
use crate::pod::events::PodView;
use crate::pod::index::ContainerFilter;
use crate::types::container::{
    ContainerConfig, ContainerMetadata, ContainerState, Device, ImageSpec, Mount, Propagation,
};
use crate::types::error::{Error, Result};

use super::{enumeration, from_map, resources, security, signal, to_map};

/// A container's configuration.
///
/// # Errors
/// Missing metadata or image, an unknown enum value, an environment variable that is not text.
pub fn config(c: p::ContainerConfig) -> Result<ContainerConfig> {
    let metadata = c
        .metadata
        .ok_or_else(|| Error::invalid("container config: metadata is missing"))?;
    let image = c
        .image
        .ok_or_else(|| Error::invalid("container config: image is missing"))?;
    let linux = c.linux.unwrap_or_default();
    Ok(ContainerConfig {
        metadata: ContainerMetadata {
            name: metadata.name,
            attempt: metadata.attempt,
        },
        image: image_spec(image),
        command: c.command,
        args: c.args,
        working_dir: c.working_dir,
        envs: c.envs.into_iter().map(env).collect::<Result<_>>()?,
        mounts: c.mounts.into_iter().map(mount).collect::<Result<_>>()?,
        devices: c
            .devices
            .into_iter()
            .map(|d| Device {
                container_path: d.container_path,
                host_path: d.host_path,
                permissions: d.permissions,
            })
            .collect(),
        cdi_devices: c.cdi_devices.into_iter().map(|d| d.name).collect(),
        labels: from_map(c.labels),
        annotations: from_map(c.annotations),
        log_path: c.log_path,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        resources: linux.resources.map(resources::from).unwrap_or_default(),
        security: security::container(linux.security_context.unwrap_or_default())?,
        stop_signal: signal::number(enumeration(c.stop_signal, "stop_signal")?),
    })
}

/// The image as a client names it.
pub fn image_spec(i: p::ImageSpec) -> ImageSpec {
    ImageSpec {
        image: i.image,
        annotations: from_map(i.annotations),
        user_specified_image: i.user_specified_image,
        runtime_handler: i.runtime_handler,
        image_ref: i.image_ref,
    }
}

/// The image as a client named it, for status.
pub fn to_image_spec(i: &ImageSpec) -> p::ImageSpec {
    p::ImageSpec {
        image: i.image.clone(),
        annotations: to_map(&i.annotations),
        user_specified_image: i.user_specified_image.clone(),
        runtime_handler: i.runtime_handler.clone(),
        image_ref: i.image_ref.clone(),
    }
}

fn env(e: p::KeyValue) -> Result<(String, String)> {
    let value = String::from_utf8(e.value.to_vec())
        .map_err(|_| Error::invalid(format!("environment variable {:?} is not UTF-8", e.key)))?;
    if e.key.is_empty() || e.key.contains(['=', '\0']) || value.contains('\0') {
        return Err(Error::invalid(format!(
            "environment variable {:?} has an impossible name or value",
            e.key
        )));
    }
    Ok((e.key, value))
}

fn mount(m: p::Mount) -> Result<Mount> {
    let propagation = match enumeration(m.propagation, "mount propagation")? {
        p::MountPropagation::PropagationPrivate => Propagation::Private,
        p::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        p::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if m.recursive_read_only && (!m.readonly || propagation != Propagation::Private) {
        return Err(Error::invalid(format!(
            "mount {:?}: recursive_read_only needs readonly and private propagation",
            m.container_path
        )));
    }
    Ok(Mount {
        container_path: m.container_path,
        host_path: m.host_path,
        readonly: m.readonly,
        selinux_relabel: m.selinux_relabel,
        propagation,
        uid_mappings: m.uid_mappings.into_iter().map(security::mapping).collect(),
        gid_mappings: m.gid_mappings.into_iter().map(security::mapping).collect(),
        recursive_read_only: m.recursive_read_only,
        image: m.image.map(image_spec),
        image_sub_path: m.image_sub_path,
    })
}

/// A mount as the client asked for it. An image that the client named in some way comes with its id.
fn to_mount(m: &Mount, images: &[ImageMount]) -> p::Mount {
    let propagation = match m.propagation {
        Propagation::Private => p::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => p::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => p::MountPropagation::PropagationBidirectional,
    };
    p::Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.readonly,
        selinux_relabel: m.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: m.uid_mappings.iter().map(security::to_mapping).collect(),
        gid_mappings: m.gid_mappings.iter().map(security::to_mapping).collect(),
        recursive_read_only: m.recursive_read_only,
        image: m.image.as_ref().map(|image| {
            let mut image = to_image_spec(image);
            let found = images.iter().find(|i| i.container_path == m.container_path);
            if let Some(found) = found.filter(|_| image.image_ref.is_empty()) {
                image.image_ref = found.image.to_string();
            }
            image
        }),
        image_sub_path: m.image_sub_path.clone(),
    }
}

/// A list filter.
pub fn filter(f: Option<p::ContainerFilter>) -> Result<ContainerFilter> {
    let Some(f) = f else {
        return Ok(ContainerFilter::default());
    };
    let state = match f.state {
        None => None,
        Some(s) => Some(match enumeration(s.state, "filter: state")? {
            p::ContainerState::ContainerCreated => ContainerState::Created,
            p::ContainerState::ContainerRunning => ContainerState::Running,
            p::ContainerState::ContainerExited => ContainerState::Exited,
            p::ContainerState::ContainerUnknown => ContainerState::Unknown,
        }),
    };
    Ok(ContainerFilter {
        id: f.id,
        pod: f.pod_sandbox_id,
        state,
        labels: from_map(f.label_selector),
    })
}

/// A list item on the wire, kept for as long as the container is in this state.
pub fn encoded(c: &Container, state: ContainerState) -> Bytes {
    c.encoded.get(state, || list::encode(&item(c, state)))
}

fn item(c: &Container, at: ContainerState) -> p::Container {
    let facts = &c.facts;
    p::Container {
        id: facts.id.to_string(),
        pod_sandbox_id: facts.pod.to_string(),
        metadata: Some(metadata(&facts.config.metadata)),
        image: Some(to_image_spec(&facts.config.image)),
        image_ref: facts.image_id.to_string(),
        state: state(at).into(),
        created_at: facts.created_at,
        labels: to_map(&facts.config.labels),
        annotations: to_map(&facts.config.annotations),
        image_id: facts.image_id.to_string(),
    }
}

/// The statuses of a pod's containers.
pub fn statuses(view: &PodView) -> Vec<p::ContainerStatus> {
    let containers = view.containers.iter();
    containers
        .map(|(c, status)| status_of(c, status.clone()))
        .collect()
}

/// The status. `image` is what the user called the image, as kubelet expects it back.
pub fn status(c: &Container) -> p::ContainerStatus {
    status_of(c, c.status())
}

fn status_of(c: &Container, status: ContainerStatus) -> p::ContainerStatus {
    let facts = &c.facts;
    let mut image = to_image_spec(&facts.config.image);
    if !image.user_specified_image.is_empty() {
        image.image.clone_from(&image.user_specified_image);
    }
    p::ContainerStatus {
        id: facts.id.to_string(),
        metadata: Some(metadata(&facts.config.metadata)),
        state: state(status.state).into(),
        created_at: facts.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        image: Some(image),
        image_ref: facts.image_ref.clone(),
        reason: status.reason,
        message: status.message,
        labels: to_map(&facts.config.labels),
        annotations: to_map(&facts.config.annotations),
        mounts: facts
            .config
            .mounts
            .iter()
            .map(|m| to_mount(m, &facts.image_mounts))
            .collect(),
        log_path: facts.log_path.display().to_string(),
        resources: Some(p::ContainerResources {
            linux: Some(resources::to(&status.resources)),
            windows: None,
        }),
        image_id: facts.image_id.to_string(),
        user: Some(p::ContainerUser {
            linux: Some(p::LinuxContainerUser {
                uid: facts.uid.into(),
                gid: facts.gid.into(),
                supplemental_groups: facts.groups.iter().map(|g| i64::from(*g)).collect(),
            }),
        }),
        stop_signal: signal::signal(facts.stop_signal).into(),
    }
}

/// What names a container.
pub fn metadata(m: &ContainerMetadata) -> p::ContainerMetadata {
    p::ContainerMetadata {
        name: m.name.clone(),
        attempt: m.attempt,
    }
}

fn state(state: ContainerState) -> p::ContainerState {
    match state {
        ContainerState::Creating | ContainerState::Created => p::ContainerState::ContainerCreated,
        ContainerState::Running => p::ContainerState::ContainerRunning,
        ContainerState::Exited => p::ContainerState::ContainerExited,
        ContainerState::Unknown => p::ContainerState::ContainerUnknown,
    }
}
