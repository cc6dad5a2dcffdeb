//! A cgroup of version 1: one directory in each hierarchy.

pub(super) mod cpuset;
pub(super) mod limits;
mod memory;
pub(super) mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::types::error::Context;
use crate::types::{Error, Kind, Result};

use super::controller::{Controller, Set};
use super::kill::Freezer;
use super::mounts::Hierarchy;
use super::path::exec_name;

/// The directories of one cgroup.
#[derive(Debug, Clone)]
pub(super) struct Nodes(Vec<Node>);

/// The directory in one hierarchy.
#[derive(Debug, Clone)]
struct Node {
    /// What the hierarchy is for; looked up on demand if this process has only been given the directory.
    controllers: OnceLock<Set>,
    path: PathBuf,
    /// A parent's directory that the cgroup shares, because it needs none of its own here.
    shared: bool,
}

impl Node {
    fn has(&self, controller: Controller) -> bool {
        self.controllers
            .get_or_init(|| Set::of_dir(&self.path))
            .contains(controller)
    }
}

impl Nodes {
    /// The cgroup at `path` below each mount point.
    pub(super) fn at(hierarchies: &[Hierarchy], path: &Path) -> Self {
        let node = |h: &Hierarchy| Node {
            controllers: h.controllers.into(),
            path: h.mount.join(path),
            shared: false,
        };
        Self(hierarchies.iter().map(node).collect())
    }

    /// The cgroup of these directories, the last of which is its own: see [`Nodes::paths`].
    pub(super) fn from_paths(paths: &[PathBuf]) -> Self {
        let own = paths.last().and_then(|p| p.file_name());
        let node = |p: &PathBuf| Node {
            controllers: OnceLock::new(),
            path: p.clone(),
            shared: p.file_name() != own,
        };
        Self(paths.iter().map(node).collect())
    }

    /// The directories to join, the freezer's last. That one is always the cgroup's own, and the name of a shared one
    /// differs from it.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|n| n.path.clone()).collect()
    }

    /// The directory with the files of `controller`.
    pub(super) fn dir(&self, controller: Controller) -> Option<&Path> {
        self.0
            .iter()
            .find(|n| n.has(controller))
            .map(|n| n.path.as_path())
    }

    /// As [`Nodes::dir`], for a limit that somebody asked for.
    pub(super) fn need(&self, controller: Controller) -> Result<&Path> {
        self.dir(controller).ok_or_else(|| {
            let name = controller.name();
            Error::new(
                Kind::FailedPrecondition,
                format!("set {name} limit: cgroup controller {name} is not mounted on this node"),
            )
        })
    }

    /// The directory below which all processes of the cgroup are found.
    pub(super) fn tree(&self) -> Option<(&Path, Freezer)> {
        let node = self.0.last()?;
        let freezes = match node.controllers.get() {
            Some(set) => set.contains(Controller::Freezer),
            None => node.path.join("freezer.state").exists(),
        };
        Some((&node.path, if freezes { Freezer::V1 } else { Freezer::None }))
    }

    /// The directories that are nobody else's.
    pub(super) fn own(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|n| !n.shared).map(|n| n.path.as_path())
    }

    /// Makes the directories, and those above that are missing. Adds what it made to `made`, parents first.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn make(&self, hierarchies: &[Hierarchy], made: &mut Vec<PathBuf>) -> Result<()> {
        for (node, hierarchy) in self.0.iter().zip(hierarchies) {
            make_dirs(&node.path, made).with_context(|| format!("create cgroup {}", node.path.display()))?;
            if hierarchy.controllers.contains(Controller::Cpuset) {
                cpuset::inherit(&hierarchy.mount, &node.path)?;
            }
        }
        Ok(())
    }

    /// A cgroup for one exec: a child in the freezer's hierarchy, so that it can be killed by itself, and the same limits.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name, `AlreadyExists`, or the kernel refuses.
    pub(super) fn exec_child(&self, name: &str) -> Result<Self> {
        let Some((tree, _)) = self.tree() else {
            return Err(Error::internal("create exec cgroup: no hierarchy is mounted"));
        };
        let path = tree.join(exec_name(name, tree)?);
        make_exec(&path)?;
        let mut nodes = self.0.clone();
        for node in &mut nodes {
            node.shared = true;
        }
        if let Some(last) = nodes.last_mut() {
            *last = Node {
                controllers: last.controllers.clone(),
                path,
                shared: false,
            };
        }
        Ok(Self(nodes))
    }
}

/// mkdir -p, which adds what it made to `made`.
pub(super) fn make_dirs(path: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_dirs(path.parent().ok_or(e)?, made)?;
            match fs::create_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                other => other?,
            }
        }
        Err(e) => return Err(e),
    }
    made.push(path.to_owned());
    Ok(())
}

/// Makes the directory of an exec, which must be new.
pub(super) fn make_exec(path: &Path) -> Result<()> {
    fs::create_dir(path).map_err(|e| {
        let kind = if e.kind() == io::ErrorKind::AlreadyExists {
            Kind::AlreadyExists
        } else {
            Kind::Internal
        };
        Error::new(kind, format!("create exec cgroup {}: {e}", path.display()))
    })
}
