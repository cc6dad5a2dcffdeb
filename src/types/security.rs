//! Security settings of pods and containers.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// Where a namespace comes from (CRI `NamespaceMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by all containers of the pod.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The node's.
    Node,
    /// That of the container named in [`Namespaces::target`].
    Target,
}

/// One line of a user-namespace mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the node.
    pub host_id: u32,
    /// First id inside.
    pub container_id: u32,
    /// How many ids.
    pub length: u32,
}

impl IdMapping {
    /// What the node calls `id` of the inside; `None` if it has no mapping.
    pub fn to_host(list: &[Self], id: u32) -> Option<u32> {
        list.iter().find_map(|m| {
            let offset = id.checked_sub(m.container_id).filter(|o| *o < m.length)?;
            m.host_id.checked_add(offset)
        })
    }
}

/// The user namespace asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// `Pod` for a namespace of the pod's own, `Node` for none.
    pub mode: NamespaceMode,
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// Namespace choices of a pod or container (CRI `NamespaceOption`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any mode.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// Container whose pid namespace is joined with `pid == Target`.
    pub target: String,
    /// User namespace; `None` means the node's.
    pub user: Option<UserNamespace>,
}

impl Namespaces {
    /// The user namespace of the pod's own, if it is to have one.
    pub fn own_user(&self) -> Option<&UserNamespace> {
        self.user.as_ref().filter(|u| u.mode == NamespaceMode::Pod)
    }

    /// Refuses a user namespace that cannot be, or that would not be root of what the pod uses.
    ///
    /// # Errors
    /// `InvalidArgument` with the reason.
    pub fn check_user(&self) -> Result<()> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        match user.mode {
            NamespaceMode::Pod => {}
            NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => return Ok(()),
            NamespaceMode::Node => {
                return Err(Error::invalid(
                    "user namespace mode Node: the node's has no id mappings, but some are given",
                ));
            }
            mode => {
                return Err(Error::invalid(format!(
                    "user namespace mode {mode:?} is not possible: it is Pod or Node"
                )));
            }
        }
        check_mapping("uids", &user.uids)?;
        check_mapping("gids", &user.gids)?;
        for (kind, mode) in [("pid", self.pid), ("ipc", self.ipc)] {
            if mode == NamespaceMode::Node {
                return Err(Error::invalid(format!(
                    "user namespace mode Pod: the pod uses the node's {kind} namespace, which would not belong to it"
                )));
            }
        }
        Ok(())
    }
}

fn check_mapping(kind: &str, list: &[IdMapping]) -> Result<()> {
    let fail = |why: String| Err(Error::invalid(format!("user namespace: {kind}: {why}")));
    let [m] = list else {
        return fail(format!(
            "exactly one mapping is possible, {} are given",
            list.len()
        ));
    };
    if m.length == 0 {
        return fail("the mapping has no ids".into());
    }
    if m.container_id != 0 {
        return fail(format!("id 0 has no mapping, the first is {}", m.container_id));
    }
    // The last id stands for "none" to the kernel.
    if m.host_id.checked_add(m.length).is_none() {
        return fail(format!("{} ids from {} on do not exist", m.length, m.host_id));
    }
    Ok(())
}

/// A seccomp or AppArmor profile choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// husk's own default.
    RuntimeDefault,
    /// None.
    #[default]
    Unconfined,
    /// A file (seccomp) or a loaded profile (AppArmor) on the node.
    Localhost(String),
}

/// The extended attribute that holds a file's SELinux label. It stays on its node: what the label is decides the policy
/// there, and no image or checkpoint.
pub const SELINUX_ATTRIBUTE: &str = "security.selinux";

/// SELinux label parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxLabel {
    /// User part.
    pub user: String,
    /// Role part.
    pub role: String,
    /// Type part.
    pub kind: String,
    /// Level part.
    pub level: String,
}

/// How the image's `/etc/group` counts (CRI `SupplementalGroupsPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Groups given plus those of the image's `/etc/group`.
    #[default]
    Merge,
    /// Groups given only.
    Strict,
}

/// Security settings of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSecurity {
    /// Namespaces.
    pub namespaces: Namespaces,
    /// The pod may have privileged containers.
    pub privileged: bool,
    /// SELinux label.
    pub selinux: Option<SelinuxLabel>,
    /// User of the sandbox's own process, if it has one.
    pub run_as_user: Option<i64>,
    /// Group of the sandbox's own process.
    pub run_as_group: Option<i64>,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// How the image's groups count.
    pub groups_policy: GroupsPolicy,
    /// The sandbox's own root is read-only.
    pub readonly_rootfs: bool,
    /// Seccomp of the sandbox's own process.
    pub seccomp: Option<Profile>,
    /// AppArmor of the sandbox's own process.
    pub apparmor: Option<Profile>,
}

/// Capability changes against husk's default set. Names as Kubernetes writes them: without `CAP_`, or `ALL`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityChanges {
    /// Added to the bounding, effective, permitted sets.
    pub add: Vec<String>,
    /// Dropped.
    pub drop: Vec<String>,
    /// Added to the ambient and inheritable sets as well.
    pub add_ambient: Vec<String>,
}

/// Security settings of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    /// Capability changes.
    pub capabilities: CapabilityChanges,
    /// All capabilities, all devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// SELinux label.
    pub selinux: Option<SelinuxLabel>,
    /// Numeric user.
    pub run_as_user: Option<i64>,
    /// Numeric group; needs a user.
    pub run_as_group: Option<i64>,
    /// User by name, looked up in the image's `/etc/passwd`. Empty means not set.
    pub run_as_username: String,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// How the image's groups count.
    pub groups_policy: GroupsPolicy,
    /// `no_new_privs` bit.
    pub no_new_privs: bool,
    /// Paths hidden from the container.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
    /// Seccomp profile; `None` means unconfined at CRI level.
    pub seccomp: Option<Profile>,
    /// AppArmor profile.
    pub apparmor: Option<Profile>,
}
