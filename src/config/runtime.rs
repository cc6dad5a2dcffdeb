//! `[runtime.<name>]`: runtime handlers beyond the built-in one, or with other options than its own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::error::{Error, Result};

/// The name of the built-in handler.
pub const BUILTIN: &str = "husk";

/// Longest name: a RuntimeClass handler is a DNS label.
const MAX_NAME: usize = 63;

/// One runtime handler. A pod names it by `runtime_handler`, which is what a Kubernetes RuntimeClass has as `handler`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handler {
    /// The OCI runtime, such as `/usr/sbin/runc`. Empty means the built-in executor, with the options below.
    pub path: PathBuf,
    /// Directory in which the OCI runtime keeps its state; empty means `runtimes/<name>` in [`super::Config::run`].
    pub root: PathBuf,
    /// Arguments for the OCI runtime before the verb, such as `--debug`.
    pub args: Vec<String>,
    /// Pods that name no handler get this one.
    pub default: bool,
    /// Privileged containers get the devices they name and no others of the node.
    pub privileged_without_host_devices: bool,
    /// Containers may make cgroups below their own: `/sys/fs/cgroup` is writable in them.
    pub cgroup_writable: bool,
    /// Pod annotations that containers' specs carry; a `*` at the end matches any rest.
    pub pod_annotations: Vec<String>,
    /// Container annotations that their specs carry; a `*` at the end matches any rest.
    pub container_annotations: Vec<String>,
}

impl Handler {
    /// Refuses what cannot work under `name`.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        let bad = |what: String| Err(Error::invalid(format!("[runtime.{name}]: {what}")));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
            return bad(format!(
                "a handler's name is 1 to {MAX_NAME} of a-z, 0-9, '-' and '.': a RuntimeClass can have no other"
            ));
        }
        if self.is_builtin() {
            if !self.root.as_os_str().is_empty() || !self.args.is_empty() {
                return bad("root and args are for an OCI runtime, and there is no path to one".into());
            }
        } else if name == BUILTIN {
            return bad(format!(
                "{BUILTIN:?} is the built-in executor and takes no path: choose another name"
            ));
        }
        for (key, path) in [("path", &self.path), ("root", &self.root)] {
            if !path.as_os_str().is_empty() && !path.is_absolute() {
                return bad(format!("{key} = {:?} must be an absolute path", path.display()));
            }
        }
        Ok(())
    }

    /// Whether containers are made by husk's own executor.
    pub fn is_builtin(&self) -> bool {
        self.path.as_os_str().is_empty()
    }
}
