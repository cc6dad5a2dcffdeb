//! Which AppArmor profile a container runs under, and the profile that is husk's own default.

use std::collections::BTreeSet;

use crate::types::security::Profile;
use crate::types::{Error, Result};

/// Name of husk's own default profile.
pub const DEFAULT: &str = "husk-default";

/// Defaults of other runtimes that do as well where husk's cannot be loaded.
const ALIKE: [&str; 4] = [
    "cri-containerd.apparmor.d",
    "crio-default",
    "docker-default",
    "containers-default",
];

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// No profile.
    None,
    /// This one, which is loaded.
    Loaded(String),
    /// The default one, which has to be loaded first.
    LoadDefault,
}

/// Decides. `loaded` is `None` on a node without AppArmor.
///
/// As kubelet expects: no wish means the default, privileged containers get the default only if they ask by name.
///
/// # Errors
/// `InvalidArgument` for a profile on a node without AppArmor, `NotFound` for one that is not loaded.
pub fn choose(wish: Option<&Profile>, privileged: bool, loaded: Option<&BTreeSet<String>>) -> Result<Choice> {
    let Some(loaded) = loaded else {
        return match wish {
            Some(Profile::Localhost(name)) => Err(Error::invalid(format!(
                "AppArmor profile {name:?}: AppArmor is not enabled on this node"
            ))),
            _ => Ok(Choice::None),
        };
    };
    match wish {
        Some(Profile::Unconfined) => Ok(Choice::None),
        Some(Profile::Localhost(name)) => {
            // Old clients put the scheme in front.
            let name = name.strip_prefix("localhost/").unwrap_or(name);
            match loaded.contains(name) {
                true => Ok(Choice::Loaded(name.to_owned())),
                false => Err(Error::not_found(format!(
                    "AppArmor profile {name:?} is not loaded on this node: load it with apparmor_parser"
                ))),
            }
        }
        None | Some(Profile::RuntimeDefault) if privileged => Ok(Choice::None),
        None | Some(Profile::RuntimeDefault) => Ok(match loaded.contains(DEFAULT) {
            true => Choice::Loaded(DEFAULT.to_owned()),
            false => Choice::LoadDefault,
        }),
    }
}

/// The profile to use instead of the default if that cannot be loaded.
pub fn stand_in(loaded: &BTreeSet<String>) -> Option<&'static str> {
    ALIKE.into_iter().find(|name| loaded.contains(*name))
}

/// The profiles of the kernel's list: lines such as `docker-default (enforce)`.
pub fn loaded(list: &str) -> BTreeSet<String> {
    list.lines()
        .filter_map(|line| Some(line.rsplit_once(" (")?.0.to_owned()))
        .collect()
}

/// Source of the default profile: a container may do what its capabilities and namespaces allow, but not write to the
/// kernel through `/proc` and `/sys`, not mount, and not trace or signal what is outside.
pub fn default_profile() -> String {
    const PROC: [&str; 7] = [
        "sysrq-trigger rwklx",
        "kcore rwklx",
        "kmem rwklx",
        "mem rwklx",
        "sys/kernel/[^s]** wklx",
        "sys/vm/** wklx",
        "sys/{fs,abi,debug,dev}/** wklx",
    ];
    const SYS: [&str; 3] = [
        "firmware/** rwklx",
        "kernel/security/** rwklx",
        "{block,bus,class,dev,devices,module,power}/** wklx",
    ];
    let mut text = format!(
        "profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{\n  \
         capability,\n  network,\n  file,\n  umount,\n  deny mount,\n  \
         signal (receive) peer=unconfined,\n  signal (send, receive) peer={DEFAULT},\n  \
         ptrace (read, trace, readby, tracedby) peer={DEFAULT},\n"
    );
    for rule in PROC {
        text += &format!("  deny /proc/{rule},\n");
    }
    for rule in SYS {
        text += &format!("  deny /sys/{rule},\n");
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Kind;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn without_apparmor_only_a_named_profile_is_an_error() {
        for wish in [None, Some(Profile::RuntimeDefault), Some(Profile::Unconfined)] {
            assert_eq!(choose(wish.as_ref(), false, None).unwrap(), Choice::None);
        }
        for privileged in [false, true] {
            let error = choose(Some(&Profile::Localhost("p".into())), privileged, None).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.message().contains("\"p\"") && error.message().contains("not enabled"));
        }
    }

    #[test]
    fn with_apparmor_the_default_is_applied_unless_asked_otherwise() {
        let (with, without) = (names(&[DEFAULT, "mine"]), names(&["mine"]));
        let default = Choice::Loaded(DEFAULT.into());
        for (wish, privileged, loaded, choice) in [
            (None, false, &with, default.clone()),
            (None, false, &without, Choice::LoadDefault),
            (Some(Profile::RuntimeDefault), false, &with, default),
            (Some(Profile::RuntimeDefault), true, &with, Choice::None),
            (None, true, &without, Choice::None),
            (Some(Profile::Unconfined), false, &with, Choice::None),
            (
                Some(Profile::Localhost("mine".into())),
                false,
                &without,
                Choice::Loaded("mine".into()),
            ),
            (
                Some(Profile::Localhost("localhost/mine".into())),
                true,
                &with,
                Choice::Loaded("mine".into()),
            ),
        ] {
            assert_eq!(
                choose(wish.as_ref(), privileged, Some(loaded)).unwrap(),
                choice,
                "{wish:?} {privileged}"
            );
        }
        let error = choose(Some(&Profile::Localhost("none".into())), false, Some(&with)).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn the_kernels_list_is_read() {
        let list =
            "docker-default (enforce)\n/usr/bin/man (complain)\na name (with parens) (kill)\nnonsense\n";
        assert_eq!(
            loaded(list),
            names(&["docker-default", "/usr/bin/man", "a name (with parens)"])
        );
        assert_eq!(stand_in(&loaded(list)), Some("docker-default"));
        assert_eq!(stand_in(&names(&["x"])), None);
    }

    #[test]
    fn the_default_profile_is_whole() {
        let text = default_profile();
        assert!(text.starts_with("profile husk-default ") && text.ends_with("}\n"));
        assert!(
            text.lines()
                .skip(1)
                .filter(|l| *l != "}")
                .all(|l| l.ends_with(',')),
            "{text}"
        );
        assert!(text.contains("deny mount,") && text.contains("deny /proc/sysrq-trigger rwklx,"));
    }
}
