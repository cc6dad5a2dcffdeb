//! Whether a container's config can be had at all, before anything is looked up.

use std::path::Path;

use crate::types::container::{Mount, Propagation};
use crate::types::error::{Error, Result};
use crate::types::security::{NamespaceMode, UserNamespace};
use crate::types::{ContainerConfig, PodConfig};

use super::super::image_volumes;

/// Refuses a config that contradicts itself or its pod, before anything is looked up.
pub(in crate::pod) fn check(config: &ContainerConfig, pod: &PodConfig) -> Result<()> {
    crate::pod::bounds::container(config)?;
    if config.metadata.name.is_empty() {
        return Err(Error::invalid("container config: metadata.name is empty"));
    }
    if config.image.image.is_empty() {
        return Err(Error::invalid("container config: image is empty"));
    }
    let log = Path::new(&config.log_path);
    if log.is_absolute()
        || log
            .components()
            .any(|c| matches!(c, std::path::Component::ParentDir))
    {
        return Err(Error::invalid(format!(
            "log_path {:?} must stay within the pod's log directory",
            config.log_path
        )));
    }
    let ns = &config.security.namespaces;
    if config.security.privileged && !pod.security.privileged {
        return Err(Error::invalid(
            "a privileged container needs a pod whose security context is privileged",
        ));
    }
    ns.check_user()?;
    let pods_user = pod.security.namespaces.own_user();
    if ns.user.is_some() && ns.own_user() != pods_user {
        return Err(Error::invalid(
            "the container's user namespace differs from its pod's: all containers of a pod share one",
        ));
    }
    if pods_user.is_some() && ns.pid == NamespaceMode::Node {
        return Err(Error::invalid(
            "pid namespace mode Node is not possible in a pod with a user namespace",
        ));
    }
    config.mounts.iter().try_for_each(|m| check_mount(m, pods_user))
}

fn check_mount(m: &Mount, user: Option<&UserNamespace>) -> Result<()> {
    let fail = |why: &str| Err(Error::invalid(format!("mount at {:?}: {why}", m.container_path)));
    if !m.container_path.starts_with('/') && m.container_path.is_empty() {
        return fail("container_path is empty");
    }
    match &m.image {
        Some(image) => image_volumes::check(m, image)?,
        None if !m.image_sub_path.is_empty() => return fail("image_sub_path without an image"),
        None if m.host_path.is_empty() => return fail("host_path is empty"),
        None if !m.host_path.starts_with('/') => return fail("host_path is not absolute"),
        None => {}
    }
    if m.uid_mappings.is_empty() != m.gid_mappings.is_empty() {
        return fail("id mappings are needed for users and groups, or for neither");
    }
    if user.is_some() && m.propagation == Propagation::Bidirectional {
        return fail(
            "mounts made in a user namespace cannot be shared with the node: use another propagation",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        let pod = PodConfig::default();
        let good = || {
            let mut c = ContainerConfig::default();
            c.metadata.name = "c".into();
            c.image.image = "i".into();
            c
        };
        assert!(check(&good(), &pod).is_ok());
        let mut c = good();
        c.log_path = "../../etc/cron.d/x".into();
        assert!(check(&c, &pod).is_err());
        let mut c = good();
        c.security.privileged = true;
        assert!(check(&c, &pod).is_err());
        let mut c = good();
        c.mounts.push(Mount {
            container_path: "/x".into(),
            host_path: "relative".into(),
            ..Default::default()
        });
        assert!(check(&c, &pod).is_err());
    }
}
