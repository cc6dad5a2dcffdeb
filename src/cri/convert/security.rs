//! Security settings.

use crate::cri::proto as p;
use crate::types::error::{Error, Result};
use crate::types::security::{
    CapabilityChanges, ContainerSecurity, GroupsPolicy, IdMapping, NamespaceMode, Namespaces, PodSecurity,
    Profile, SelinuxLabel, UserNamespace,
};

use super::enumeration;

/// A pod's settings.
pub fn pod(s: p::LinuxSandboxSecurityContext) -> Result<PodSecurity> {
    Ok(PodSecurity {
        namespaces: namespaces(s.namespace_options)?,
        privileged: s.privileged,
        selinux: s.selinux_options.map(selinux),
        run_as_user: s.run_as_user.map(|v| v.value),
        run_as_group: s.run_as_group.map(|v| v.value),
        supplemental_groups: s.supplemental_groups,
        groups_policy: groups(s.supplemental_groups_policy)?,
        readonly_rootfs: s.readonly_rootfs,
        seccomp: s.seccomp.map(profile).transpose()?,
        apparmor: s.apparmor.map(profile).transpose()?,
    })
}

/// A container's settings.
#[allow(deprecated)] // The old AppArmor field is still sent, by old clients alone.
pub fn container(s: p::LinuxContainerSecurityContext) -> Result<ContainerSecurity> {
    if s.run_as_group.is_some() && s.run_as_user.is_none() && s.run_as_username.is_empty() {
        return Err(Error::invalid(
            "security context: run_as_group needs run_as_user or run_as_username",
        ));
    }
    let apparmor = match s.apparmor {
        Some(a) => Some(profile(a)?),
        None => old_apparmor(&s.apparmor_profile)?,
    };
    Ok(ContainerSecurity {
        capabilities: s.capabilities.map(capabilities).unwrap_or_default(),
        privileged: s.privileged,
        namespaces: namespaces(s.namespace_options)?,
        selinux: s.selinux_options.map(selinux),
        run_as_user: s.run_as_user.map(|v| v.value),
        run_as_group: s.run_as_group.map(|v| v.value),
        run_as_username: s.run_as_username,
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: s.supplemental_groups,
        groups_policy: groups(s.supplemental_groups_policy)?,
        no_new_privs: s.no_new_privs,
        masked_paths: s.masked_paths,
        readonly_paths: s.readonly_paths,
        seccomp: match s.seccomp {
            Some(profile_) => Some(profile(profile_)?),
            None => old_seccomp(&s.seccomp_profile_path)?,
        },
        apparmor,
    })
}

/// Namespace choices; absent means the pod's own.
pub fn namespaces(n: Option<p::NamespaceOption>) -> Result<Namespaces> {
    let Some(n) = n else {
        return Ok(Namespaces::default());
    };
    Ok(Namespaces {
        network: mode(n.network)?,
        pid: mode(n.pid)?,
        ipc: mode(n.ipc)?,
        target: n.target_id,
        user: n.userns_options.map(userns).transpose()?,
    })
}

/// Namespace choices, for status.
pub fn to_namespaces(n: &Namespaces) -> p::NamespaceOption {
    p::NamespaceOption {
        network: to_mode(n.network).into(),
        pid: to_mode(n.pid).into(),
        ipc: to_mode(n.ipc).into(),
        target_id: n.target.clone(),
        userns_options: n.user.as_ref().map(|u| p::UserNamespace {
            mode: to_mode(u.mode).into(),
            uids: u.uids.iter().map(to_mapping).collect(),
            gids: u.gids.iter().map(to_mapping).collect(),
        }),
    }
}

/// One mapping.
pub fn mapping(m: p::IdMapping) -> IdMapping {
    IdMapping {
        host_id: m.host_id,
        container_id: m.container_id,
        length: m.length,
    }
}

/// One mapping, for status.
pub fn to_mapping(m: &IdMapping) -> p::IdMapping {
    p::IdMapping {
        host_id: m.host_id,
        container_id: m.container_id,
        length: m.length,
    }
}

fn userns(u: p::UserNamespace) -> Result<UserNamespace> {
    Ok(UserNamespace {
        mode: mode(u.mode)?,
        uids: u.uids.into_iter().map(mapping).collect(),
        gids: u.gids.into_iter().map(mapping).collect(),
    })
}

fn mode(value: i32) -> Result<NamespaceMode> {
    Ok(match enumeration(value, "namespace mode")? {
        p::NamespaceMode::Pod => NamespaceMode::Pod,
        p::NamespaceMode::Container => NamespaceMode::Container,
        p::NamespaceMode::Node => NamespaceMode::Node,
        p::NamespaceMode::Target => NamespaceMode::Target,
    })
}

fn to_mode(mode: NamespaceMode) -> p::NamespaceMode {
    match mode {
        NamespaceMode::Pod => p::NamespaceMode::Pod,
        NamespaceMode::Container => p::NamespaceMode::Container,
        NamespaceMode::Node => p::NamespaceMode::Node,
        NamespaceMode::Target => p::NamespaceMode::Target,
    }
}

fn groups(value: i32) -> Result<GroupsPolicy> {
    Ok(match enumeration(value, "supplemental_groups_policy")? {
        p::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        p::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn profile(s: p::SecurityProfile) -> Result<Profile> {
    use p::security_profile::ProfileType;
    Ok(match enumeration(s.profile_type, "security profile type")? {
        ProfileType::RuntimeDefault => Profile::RuntimeDefault,
        ProfileType::Unconfined => Profile::Unconfined,
        ProfileType::Localhost => {
            if s.localhost_ref.is_empty() {
                return Err(Error::invalid(
                    "security profile of type Localhost: localhost_ref is empty",
                ));
            }
            Profile::Localhost(s.localhost_ref)
        }
    })
}

/// The field that clients of before Kubernetes 1.30 use for AppArmor.
fn old_apparmor(text: &str) -> Result<Option<Profile>> {
    match text {
        "" => Ok(None),
        "runtime/default" => Ok(Some(Profile::RuntimeDefault)),
        "unconfined" => Ok(Some(Profile::Unconfined)),
        _ => match text.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Some(Profile::Localhost(name.into()))),
            _ => Err(Error::invalid(format!(
                "apparmor_profile: {text:?} is not a profile"
            ))),
        },
    }
}

/// The field that clients of before Kubernetes 1.19 use for seccomp.
fn old_seccomp(text: &str) -> Result<Option<Profile>> {
    match text {
        "runtime/default" | "docker/default" => Ok(Some(Profile::RuntimeDefault)),
        "" | "unconfined" => Ok(None),
        _ => match text.strip_prefix("localhost/") {
            Some(path) if !path.is_empty() => Ok(Some(Profile::Localhost(path.into()))),
            _ => Err(Error::invalid(format!(
                "seccomp_profile_path: {text:?} is not a profile"
            ))),
        },
    }
}

fn capabilities(c: p::Capability) -> CapabilityChanges {
    CapabilityChanges {
        add: c.add_capabilities,
        drop: c.drop_capabilities,
        add_ambient: c.add_ambient_capabilities,
    }
}

fn selinux(s: p::SeLinuxOption) -> SelinuxLabel {
    SelinuxLabel {
        user: s.user,
        role: s.role,
        kind: s.r#type,
        level: s.level,
    }
}
