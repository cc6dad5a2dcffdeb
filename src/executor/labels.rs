//! What the node's `/proc` sets on a process: OOM preference and security labels. And its keyring.

use std::fs;

use crate::spec::plan::Process;
use crate::sys::process::new_session_keyring;

use super::error::{Cause, During, LaunchError, Step};

/// What the node has to allow: to be called before the process is nobody on the node, and while the node's `/proc` is
/// visible.
pub(super) fn set(process: &Process, keep_keyring: bool, notes: &mut Vec<String>) -> Step {
    if let Some(value) = process.oom_score_adj {
        set_oom_score_adj(value, process.oom_score_adj_required, notes)?;
    }
    if !keep_keyring {
        let label = process.selinux.as_deref();
        label.map_or(Ok(()), label_keys)?;
        new_keyring()?;
        label.map_or(Ok(()), |_| label_keys("\n"))?;
    }
    Ok(())
}

/// Confines the next program that is executed, be it by this process or by one it forks: to be called when that is the
/// container's, and while the node's `/proc` is visible.
pub(super) fn confine(process: &Process) -> Step {
    if let Some(profile) = &process.apparmor {
        set_apparmor(profile)?;
    }
    if let Some(label) = &process.selinux {
        fs::write("/proc/self/attr/exec", label)
            .during("set", || format!("SELinux label {label}"))
            .map_err(|e| e.advise("is SELinux enabled on this node?"))?;
    }
    Ok(())
}

fn set_oom_score_adj(value: i32, required: bool, notes: &mut Vec<String>) -> Step {
    let object = || format!("oom_score_adj {value}");
    match fs::write("/proc/self/oom_score_adj", value.to_string()) {
        Err(e) if !required && matches!(e.number(), libc::EACCES | libc::EPERM) => {
            notes.push(format!(
                "oom_score_adj stays as it was instead of {value}: lowering it needs CAP_SYS_RESOURCE"
            ));
            Ok(())
        }
        result => result.during("set", object),
    }
}

/// The directory is of newer kernels, where the plain name may belong to another security module.
fn set_apparmor(profile: &str) -> Step {
    let command = format!("exec {profile}");
    let written = match fs::write("/proc/self/attr/apparmor/exec", &command) {
        Err(e) if e.number() == libc::ENOENT => fs::write("/proc/self/attr/exec", &command),
        result => result,
    };
    written.map_err(|e| {
        let error = LaunchError::errno("set", format!("AppArmor profile {profile}"), e.number());
        match error.errno {
            Some(libc::ENOENT) => error.advise("no such profile is loaded: load it with apparmor_parser"),
            _ => error.advise("is AppArmor enabled on this node?"),
        }
    })
}

/// A process that has an SELinux label may not use keyrings with the label of the runtime. A line break ends the wish.
fn label_keys(label: &str) -> Step {
    match fs::write("/proc/self/attr/keycreate", label) {
        // No keyrings in this kernel.
        Err(e) if e.number() == libc::ENOENT => Ok(()),
        result => result.during("set", || format!("SELinux label {label:?} of keys")),
    }
}

/// Keys of the caller's session must not be readable by the container.
fn new_keyring() -> Step {
    match new_session_keyring() {
        // No keyrings in this kernel, or forbidden by a filter around husk: then there is nothing to leak.
        Err(e) if matches!(e.number(), libc::ENOSYS | libc::EPERM) => Ok(()),
        result => result
            .during("create", || "session keyring")
            .map_err(|e| match e.errno {
                Some(libc::EDQUOT) => e.advise("raise kernel.keys.maxkeys"),
                _ => e,
            }),
    }
}
