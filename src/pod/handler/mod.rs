//! Runtime handlers: who makes the containers of a pod, and with which options.
//!
//! The built-in handler is husk's own executor. Others are OCI runtimes by path, or the executor with other options.
//! A pod keeps the handler it was made with, whatever the configuration says later.

mod adapt;
mod probe;

pub use adapt::{bidirectional, bind_devices};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::{self, BUILTIN, Config};
use crate::host::Host;
use crate::spec::plan::{ExecCgroup, ImageVolume, Mount, Rootfs, RuntimePlan};
use crate::types::error::{Error, Kind, Result};

/// What containers of a handler can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Mounts that are read-only all the way down.
    pub recursive_read_only: bool,
    /// User namespaces.
    pub user_namespaces: bool,
}

/// A runtime handler.
#[derive(Debug, Clone)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// Its options.
    pub options: config::Handler,
    /// What its containers can have.
    pub features: Features,
    root: PathBuf,
    exec_cgroup: ExecCgroup,
}

/// All runtime handlers of this node.
#[derive(Debug, Clone)]
pub struct Handlers {
    by_name: BTreeMap<String, Handler>,
    default: String,
}

impl Handlers {
    /// The handlers of the configuration. OCI runtimes are asked what they can do.
    pub async fn probe(config: &Config, host: &Host) -> Self {
        let mut by_name = BTreeMap::new();
        let builtin = config.runtime.get(BUILTIN).cloned().unwrap_or_default();
        by_name.insert(
            BUILTIN.to_owned(),
            Handler::new(BUILTIN, builtin, config, builtin_features(host)),
        );
        for (name, options) in config.runtime.iter().filter(|(name, _)| *name != BUILTIN) {
            let mut handler = Handler::new(name, options.clone(), config, builtin_features(host));
            if !options.is_builtin() {
                let found = probe::ask(&options.path).await;
                handler.features = Features {
                    recursive_read_only: found.recursive_read_only
                        && host.features().recursive_read_only_mounts,
                    // It joins that of the pod; husk maps the ids of all that it mounts.
                    user_namespaces: found.user_namespaces && host.features().user_namespaces,
                };
                handler.exec_cgroup = found.exec_cgroup;
                if let Err(error) = handler.check() {
                    warn!(%error, "pods of this runtime handler cannot be started");
                }
            }
            by_name.insert(name.clone(), handler);
        }
        let default = config.runtime.iter().find(|(_, h)| h.default);
        Self {
            default: default.map_or(BUILTIN, |(name, _)| name).to_owned(),
            by_name,
        }
    }

    /// The handler that a client names; `""` is the default one.
    ///
    /// # Errors
    /// `InvalidArgument`, listing the handlers there are.
    pub fn find(&self, name: &str) -> Result<&Handler> {
        let wanted = if name.is_empty() { &self.default } else { name };
        self.by_name.get(wanted).ok_or_else(|| {
            let known: Vec<String> = self.by_name.keys().map(|n| format!("{n:?}")).collect();
            Error::invalid(format!(
                "runtime handler {name:?} is not known; this node has \"\" and {}: see [runtime.<name>] in husk's configuration",
                known.join(", ")
            ))
        })
    }

    /// What clients look handlers up in: the default one under the name `""`, then the built-in one, then all others in
    /// order of their names.
    pub fn listed(&self) -> Vec<(&str, Features)> {
        let features = |name: &str| self.by_name.get(name).map(|h| h.features).unwrap_or_default();
        let others = self.by_name.keys().map(String::as_str).filter(|n| *n != BUILTIN);
        [("", features(&self.default)), (BUILTIN, features(BUILTIN))]
            .into_iter()
            .chain(others.map(|name| (name, features(name))))
            .collect()
    }

    /// Directories below `run` where OCI runtimes keep state: whatever is in there is husk's.
    pub fn own_roots(&self, run: &Path) -> Vec<PathBuf> {
        self.by_name
            .values()
            .filter(|h| !h.options.is_builtin() && h.root.starts_with(run))
            .map(|h| h.root.clone())
            .collect()
    }
}

/// What the executor can do on this node.
fn builtin_features(host: &Host) -> Features {
    let offered = host.features();
    Features {
        recursive_read_only: offered.recursive_read_only_mounts,
        user_namespaces: offered.user_namespaces,
    }
}

/// How the ids of a container are mapped.
#[derive(Debug, Clone, Default)]
pub struct Users {
    /// The pod's user namespace.
    pub namespace: Option<PathBuf>,
    /// Whose its standard streams are to be, as the node counts.
    pub stdio_owner: Option<u32>,
    /// Its volumes with mapped ids that husk mounts for its runtime.
    pub mapped: Vec<Mount>,
}

impl Handler {
    fn new(name: &str, options: config::Handler, config: &Config, features: Features) -> Self {
        let root = if options.root.as_os_str().is_empty() {
            config.run.join("runtimes").join(name)
        } else {
            options.root.clone()
        };
        Self {
            name: name.to_owned(),
            options,
            features,
            root,
            exec_cgroup: ExecCgroup::default(),
        }
    }

    /// Whether its OCI runtime can be run at all.
    ///
    /// # Errors
    /// `FailedPrecondition`, naming the file.
    pub fn check(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        if self.options.is_builtin() {
            return Ok(());
        }
        let path = &self.options.path;
        let fail = |why: String| {
            Err(Error::new(
                Kind::FailedPrecondition,
                format!("runtime handler {:?}: {}: {why}", self.name, path.display()),
            ))
        };
        match std::fs::metadata(path) {
            Ok(meta) if !meta.is_file() => fail("it is not a file".into()),
            Ok(meta) if meta.permissions().mode() & 0o111 == 0 => fail("it is not executable".into()),
            Ok(_) => Ok(()),
            Err(e) => fail(format!(
                "{e}; install it, or correct path in [runtime.{}]",
                self.name
            )),
        }
    }

    /// How to have its OCI runtime make a container; `None` for the executor.
    pub fn plan(
        &self,
        bundle: PathBuf,
        rootfs: Rootfs,
        image_volumes: &[ImageVolume],
        users: Users,
    ) -> Option<RuntimePlan> {
        if self.options.is_builtin() {
            return None;
        }
        let root = ["--root".to_owned(), self.root.display().to_string()];
        Some(RuntimePlan {
            program: self.options.path.clone(),
            args: root
                .into_iter()
                .chain(self.options.args.iter().cloned())
                .collect(),
            root: self.root.clone(),
            bundle,
            rootfs,
            mount_label: String::new(),
            image_volumes: image_volumes.to_vec(),
            user_namespace: users.namespace,
            stdio_owner: users.stdio_owner,
            mapped: users.mapped,
            devices: Vec::new(),
            bidirectional: Vec::new(),
            exec_cgroup: self.exec_cgroup,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn handlers(toml: &str) -> Handlers {
        let config: Config = toml::from_str(toml).unwrap();
        Handlers::probe(&config, &Host::default()).await
    }

    #[tokio::test]
    async fn the_built_in_one_is_the_default_and_the_list_is_in_order() {
        let h =
            handlers("[runtime.b]\npath = \"/nonexistent/b\"\n[runtime.a]\ncgroup_writable = true\n").await;
        let names: Vec<&str> = h.listed().iter().map(|(n, _)| *n).collect();
        assert_eq!(names, ["", "husk", "a", "b"]);
        assert_eq!(h.find("").unwrap().name, "husk");
        assert!(h.find("a").unwrap().options.is_builtin());
        assert!(h.find("b").unwrap().check().is_err());
        let error = h.find("gvisor").unwrap_err().to_string();
        assert!(
            error.contains("\"gvisor\"") && error.contains("\"a\", \"b\", \"husk\""),
            "{error}"
        );
    }

    #[tokio::test]
    async fn another_one_can_be_the_default() {
        let h = handlers("[runtime.a]\ndefault = true\n").await;
        assert_eq!(h.find("").unwrap().name, "a");
        assert_eq!(h.find("husk").unwrap().name, "husk");
    }

    #[tokio::test]
    async fn only_roots_of_husks_own_are_swept() {
        let h = handlers(
            "[runtime.a]\npath = \"/x\"\n[runtime.b]\npath = \"/x\"\nroot = \"/run/runc\"\n[runtime.c]\n",
        )
        .await;
        assert_eq!(
            h.own_roots(Path::new("/run/husk")),
            [PathBuf::from("/run/husk/runtimes/a")]
        );
    }
}
