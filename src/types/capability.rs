//! Linux capabilities as sets of bits, and what a request for changes makes of a container's sets.

use std::fmt;
use std::ops::{BitAnd, BitOr, Sub};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::security::CapabilityChanges;

/// Names without `CAP_`; the position is the kernel's number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability, by the kernel's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

macro_rules! capabilities {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl Capability {
            $(
                #[doc = concat!("`CAP_", stringify!($name), "`.")]
                pub const $name: Self = Self($number);
            )*
        }
    };
}

// Those that husk itself asks about or gives out; all others are reached by name.
capabilities! {
    CHOWN = 0, DAC_OVERRIDE = 1, DAC_READ_SEARCH = 2, FOWNER = 3, FSETID = 4, KILL = 5, SETGID = 6, SETUID = 7,
    SETPCAP = 8, NET_BIND_SERVICE = 10, NET_RAW = 13, SYS_MODULE = 16, SYS_RAWIO = 17, SYS_CHROOT = 18,
    SYS_PTRACE = 19, SYS_PACCT = 20, SYS_ADMIN = 21, SYS_BOOT = 22, SYS_NICE = 23, SYS_RESOURCE = 24, SYS_TIME = 25,
    SYS_TTY_CONFIG = 26, MKNOD = 27, AUDIT_WRITE = 29, SETFCAP = 31, SYSLOG = 34, PERFMON = 38, BPF = 39,
    CHECKPOINT_RESTORE = 40,
}

impl Capability {
    /// Finds a capability by name, with or without `CAP_`, in any case.
    ///
    /// # Errors
    /// `InvalidArgument` with the name if there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let prefixed = name.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("CAP_"));
        let bare = if prefixed { &name[4..] } else { name };
        let number = NAMES.iter().position(|n| n.eq_ignore_ascii_case(bare));
        number
            .and_then(|n| u8::try_from(n).ok())
            .map(Self)
            .ok_or_else(|| {
                let shown: String = name.chars().take(64).collect();
                Error::invalid(format!(
                    "unknown capability {shown:?}: expected a name such as NET_ADMIN, or ALL"
                ))
            })
    }

    /// The kernel's number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The name without `CAP_`.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", self.name())
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of capabilities: bit n is the capability with number n, as in `capset(2)` and `/proc/<pid>/status`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapSet(u64);

impl CapSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// All that husk knows by name.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// What a container gets that asks for nothing, the same as with containerd and Docker.
    pub const DEFAULT: Self = Self::of(&[
        Capability::CHOWN,
        Capability::DAC_OVERRIDE,
        Capability::FSETID,
        Capability::FOWNER,
        Capability::MKNOD,
        Capability::NET_RAW,
        Capability::SETGID,
        Capability::SETUID,
        Capability::SETFCAP,
        Capability::SETPCAP,
        Capability::NET_BIND_SERVICE,
        Capability::SYS_CHROOT,
        Capability::KILL,
        Capability::AUDIT_WRITE,
    ]);

    /// The set of exactly these.
    pub const fn of(capabilities: &[Capability]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < capabilities.len() {
            bits |= 1 << capabilities[i].0;
            i += 1;
        }
        Self(bits)
    }

    /// From the kernel's bits; unknown ones are left out.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// As the kernel wants it.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Reads a set such as `CapBnd` from the text of `/proc/<pid>/status`.
    pub fn from_proc_status(text: &str, field: &str) -> Option<Self> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self::from_bits)
    }

    /// Whether `capability` is in the set.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.0) != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members by number.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..NAMES.len() as u8)
            .map(Capability)
            .filter(move |c| self.contains(*c))
    }

    /// The set of the named capabilities, `ALL` among them being all.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self> {
        names.iter().try_fold(Self::EMPTY, |set, name| {
            let name = name.as_ref();
            Ok(set
                | if is_all(name) {
                    Self::ALL
                } else {
                    Capability::parse(name)?.into()
                })
        })
    }

    /// For the OCI runtime spec.
    pub fn to_oci(self) -> oci_spec::runtime::Capabilities {
        self.iter().filter_map(|c| c.name().parse().ok()).collect()
    }

    /// From the OCI runtime spec.
    ///
    /// # Errors
    /// `InvalidArgument` for one that husk does not know.
    pub fn from_oci(capabilities: &oci_spec::runtime::Capabilities) -> Result<Self> {
        let names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        Self::parse(&names)
    }
}

impl From<Capability> for CapSet {
    fn from(capability: Capability) -> Self {
        Self(1 << capability.0)
    }
}

impl BitOr for CapSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for CapSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for CapSet {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// The capability sets of a container's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerCaps {
    /// Bounding, permitted and effective alike.
    pub granted: CapSet,
    /// Inheritable. Empty unless ambient ones were asked for: a file with inheritable capabilities must not gain
    /// them by surprise.
    pub inheritable: CapSet,
    /// Ambient: what a process that is not root keeps over execve.
    pub ambient: CapSet,
}

/// Applies a request's changes to `base`, then leaves out what is not `available` (what this kernel knows and husk
/// itself may hand on).
///
/// `ALL` in `add` and then in `drop` decides where to start, single names then add and drop in that order. So adding
/// one and dropping `ALL` leaves that one, and adding `ALL` and dropping one leaves all but that one.
///
/// # Errors
/// `InvalidArgument` for an unknown name.
pub fn apply(changes: &CapabilityChanges, base: CapSet, available: CapSet) -> Result<ContainerCaps> {
    let (add_all, add) = split_all(&changes.add)?;
    let (drop_all, drop) = split_all(&changes.drop)?;
    let mut granted = if add_all { CapSet::ALL } else { base };
    if drop_all {
        granted = CapSet::EMPTY;
    }
    let ambient = (CapSet::parse(&changes.add_ambient)? - drop) & available;
    let granted = (((granted | add) - drop) & available) | ambient;
    Ok(ContainerCaps {
        granted,
        inheritable: ambient,
        ambient,
    })
}

/// Everything that is `available`, for privileged containers.
pub fn privileged(available: CapSet) -> ContainerCaps {
    ContainerCaps {
        granted: CapSet::ALL & available,
        ..ContainerCaps::default()
    }
}

fn split_all(names: &[String]) -> Result<(bool, CapSet)> {
    let (all, single): (Vec<&str>, Vec<&str>) = names.iter().map(String::as_str).partition(|n| is_all(n));
    Ok((!all.is_empty(), CapSet::parse(&single)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Kind;

    fn changes(add: &[&str], drop: &[&str], ambient: &[&str]) -> CapabilityChanges {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        CapabilityChanges {
            add: owned(add),
            drop: owned(drop),
            add_ambient: owned(ambient),
        }
    }

    fn granted(add: &[&str], drop: &[&str]) -> CapSet {
        apply(&changes(add, drop, &[]), CapSet::DEFAULT, CapSet::ALL)
            .unwrap()
            .granted
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (name, number) in [
            ("CHOWN", 0),
            ("NET_RAW", 13),
            ("SYS_ADMIN", 21),
            ("AUDIT_READ", 37),
            ("CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(Capability::parse(name).unwrap().number(), number);
        }
        for (cap, name) in [
            (Capability::CHOWN, "CHOWN"),
            (Capability::DAC_OVERRIDE, "DAC_OVERRIDE"),
            (Capability::DAC_READ_SEARCH, "DAC_READ_SEARCH"),
            (Capability::FOWNER, "FOWNER"),
            (Capability::FSETID, "FSETID"),
            (Capability::KILL, "KILL"),
            (Capability::SETGID, "SETGID"),
            (Capability::SETUID, "SETUID"),
            (Capability::SETPCAP, "SETPCAP"),
            (Capability::NET_BIND_SERVICE, "NET_BIND_SERVICE"),
            (Capability::NET_RAW, "NET_RAW"),
            (Capability::SYS_MODULE, "SYS_MODULE"),
            (Capability::SYS_RAWIO, "SYS_RAWIO"),
            (Capability::SYS_CHROOT, "SYS_CHROOT"),
            (Capability::SYS_PTRACE, "SYS_PTRACE"),
            (Capability::SYS_PACCT, "SYS_PACCT"),
            (Capability::SYS_ADMIN, "SYS_ADMIN"),
            (Capability::SYS_BOOT, "SYS_BOOT"),
            (Capability::SYS_NICE, "SYS_NICE"),
            (Capability::SYS_RESOURCE, "SYS_RESOURCE"),
            (Capability::SYS_TIME, "SYS_TIME"),
            (Capability::SYS_TTY_CONFIG, "SYS_TTY_CONFIG"),
            (Capability::MKNOD, "MKNOD"),
            (Capability::AUDIT_WRITE, "AUDIT_WRITE"),
            (Capability::SETFCAP, "SETFCAP"),
            (Capability::SYSLOG, "SYSLOG"),
            (Capability::PERFMON, "PERFMON"),
            (Capability::BPF, "BPF"),
            (Capability::CHECKPOINT_RESTORE, "CHECKPOINT_RESTORE"),
        ] {
            assert_eq!(cap.name(), name);
        }
    }

    #[test]
    fn names_with_and_without_prefix_in_any_case() {
        for name in ["NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin", "Net_Admin"] {
            assert_eq!(Capability::parse(name).unwrap().to_string(), "CAP_NET_ADMIN");
        }
    }

    #[test]
    fn unknown_names_are_named() {
        for name in ["", "CAP_", "NET_ADMINN", "CAP_CAP_KILL", "ключ", "ALL\0"] {
            let error = Capability::parse(name).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.message().contains(&format!("{name:?}")), "{error}");
        }
        assert!(apply(&changes(&["KILL"], &["BOGUS"], &[]), CapSet::DEFAULT, CapSet::ALL).is_err());
    }

    /// The bits that `docker run busybox grep CapBnd /proc/self/status` prints.
    #[test]
    fn default_is_dockers() {
        assert_eq!(CapSet::DEFAULT.bits(), 0xa804_25fb);
        assert_eq!(granted(&[], &[]), CapSet::DEFAULT);
    }

    #[test]
    fn all_combines_as_kubernetes_says() {
        let kill = CapSet::of(&[Capability::KILL]);
        assert_eq!(granted(&["ALL"], &[]), CapSet::ALL);
        assert_eq!(granted(&[], &["all"]), CapSet::EMPTY);
        assert_eq!(granted(&["ALL"], &["KILL"]), CapSet::ALL - kill);
        assert_eq!(granted(&["KILL"], &["ALL"]), kill);
        assert_eq!(granted(&["KILL"], &["KILL"]), CapSet::DEFAULT - kill);
        assert_eq!(granted(&["ALL", "KILL"], &["ALL"]), kill);
    }

    #[test]
    fn nothing_beyond_the_available() {
        let available = CapSet::ALL - Capability::SYS_RESOURCE.into();
        let caps = apply(
            &changes(&["ALL", "SYS_RESOURCE"], &[], &["SYS_RESOURCE"]),
            CapSet::DEFAULT,
            available,
        )
        .unwrap();
        assert_eq!(caps.granted, available);
        assert_eq!(caps.ambient, CapSet::EMPTY);
        assert_eq!(privileged(available).granted, available);
    }

    #[test]
    fn ambient_needs_the_other_sets() {
        let caps = apply(
            &changes(&[], &["ALL"], &["NET_RAW", "KILL"]),
            CapSet::DEFAULT,
            CapSet::ALL,
        )
        .unwrap();
        let both = CapSet::of(&[Capability::NET_RAW, Capability::KILL]);
        assert_eq!((caps.granted, caps.inheritable, caps.ambient), (both, both, both));
        let dropped = apply(&changes(&[], &["KILL"], &["KILL"]), CapSet::DEFAULT, CapSet::ALL).unwrap();
        assert!(dropped.ambient.is_empty() && !dropped.granted.contains(Capability::KILL));
    }

    #[test]
    fn oci_round_trip() {
        assert_eq!(CapSet::from_oci(&CapSet::ALL.to_oci()).unwrap(), CapSet::ALL);
        assert_eq!(CapSet::ALL.to_oci().len(), 41);
    }

    #[test]
    fn reads_proc_status() {
        let text = "Name:\tx\nCapInh:\t0000000000000000\nCapBnd:\t000001fffeffffff\n";
        let bounding = CapSet::from_proc_status(text, "CapBnd").unwrap();
        assert_eq!(bounding, CapSet::ALL - Capability::SYS_RESOURCE.into());
        assert_eq!(CapSet::from_proc_status(text, "Cap"), None);
        assert_eq!(CapSet::from_proc_status("CapBnd:\tzz", "CapBnd"), None);
    }
}
