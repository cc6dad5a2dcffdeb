//! Security settings of pods and containers.

use serde::{Deserialize, Serialize};

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
