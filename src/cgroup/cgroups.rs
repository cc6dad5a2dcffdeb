//! The node's cgroup set-up: where cgroups are made, and by whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::LinuxResources;

use crate::types::error::Context;
use crate::types::{ContainerId, Error, PodId, Result};

use super::group::{Cgroup, Tree};
use super::kill::{children, in_use};
use super::mounts::{self, Mounts};
use super::systemd::{self, Place};
use super::v1::{self, Nodes};
use super::v2::controllers::Enabled;
use super::{Version, path, remove};

/// Who makes the cgroups that hold husk's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// husk, in the cgroup file system.
    #[default]
    Cgroupfs,
    /// systemd, which is asked over D-Bus for one delegated unit per pod; below it husk makes directories.
    Systemd,
}

/// The set-up of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    driver: Driver,
    mounts: Mounts,
    /// Hierarchies that husk makes nothing in.
    unused: Vec<PathBuf>,
    enabled: Enabled,
}

impl Cgroups {
    /// Finds the hierarchies below `root`, normally `/sys/fs/cgroup`. A root that is no mount point is taken by its layout.
    ///
    /// # Errors
    /// `FailedPrecondition`: no cgroups there, or the systemd driver where no systemd runs.
    pub fn probe(root: &Path, driver: Driver) -> Result<Self> {
        if driver == Driver::Systemd {
            systemd::present()?;
        }
        let root = fs::canonicalize(root).with_context(|| format!("find cgroups at {}", root.display()))?;
        let mounts = mounts::find(&root)?;
        Ok(Self(Arc::new(Inner {
            driver,
            unused: mounts::unused(&root, &mounts),
            mounts,
            enabled: Enabled::default(),
        })))
    }

    /// Which interface the controllers are on. A hybrid node counts as version 1.
    pub fn version(&self) -> Version {
        match self.0.mounts {
            Mounts::V1(_) => Version::V1,
            Mounts::V2(_) => Version::V2,
        }
    }

    /// Who makes the cgroups that hold husk's.
    pub fn driver(&self) -> Driver {
        self.0.driver
    }

    /// Makes a cgroup and whatever above it is missing, and writes its limits and device rules, so that they hold before
    /// the first process joins. Fine if it exists. What could not be had without that being a failure is in
    /// [`Cgroup::notes`]. A failure leaves nothing behind that was not there before.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that leads elsewhere or a value that the kernel refuses; `FailedPrecondition` for a
    /// limit whose controller the node lacks.
    pub fn create(&self, path: &str, resources: &LinuxResources) -> Result<Cgroup> {
        let place = self.place(path)?;
        if let Some(unit) = &place.unit {
            systemd::ensure(unit, &self.tree(Path::new(&unit.path)).paths(), self.version())?;
        }
        let mut made = Vec::new();
        let created = self.make(&place.path, resources, &mut made);
        if created.is_err() {
            // The error is what matters; what resists now is reported as a leak later.
            made.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
        }
        created.map_err(|e| e.context(format!("create cgroup {path:?}")))
    }

    fn make(&self, path: &Path, resources: &LinuxResources, made: &mut Vec<PathBuf>) -> Result<Cgroup> {
        let tree = self.tree(path);
        match (&tree, &self.0.mounts) {
            (Tree::V1(nodes), Mounts::V1(hierarchies)) => nodes.make(hierarchies, made)?,
            (Tree::V2(dir), Mounts::V2(mount)) => {
                v1::make_dirs(dir, made).with_context(|| format!("create {}", dir.display()))?;
                self.0.enabled.down_to(mount, dir);
            }
            _ => {}
        }
        let mut cgroup = Cgroup::from(tree);
        let notes = cgroup.write(resources, false)?;
        cgroup.add_notes(notes);
        Ok(cgroup)
    }

    /// The cgroup at `path`, whether or not it exists. Of a path that leads elsewhere every operation fails.
    pub fn open(&self, path: &str) -> Cgroup {
        match self.place(path) {
            Ok(place) => self.tree(&place.path).into(),
            Err(e) => Tree::Nowhere(e).into(),
        }
    }

    /// Removes the cgroup at `path` from the hierarchies that husk makes nothing in: OCI runtimes do. Fine if there is
    /// none.
    ///
    /// # Errors
    /// As [`Cgroup::remove`].
    pub fn remove_unused(&self, path: &str) -> Result<()> {
        let path = self.place(path)?.path;
        let dirs: Vec<PathBuf> = self.0.unused.iter().map(|mount| mount.join(&path)).collect();
        remove::remove(dirs.iter().map(PathBuf::as_path))
    }

    /// Checks a path that somebody else than husk chose for a container of which nothing is made yet. Whatever is in a
    /// container's cgroup, and below it, is killed when it ends: so that may be none of the cgroups of other `containers`,
    /// none above or below them, none that pods' `parents` are in, and nothing may live there. An empty directory, as an
    /// earlier try may have left it, is fine.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that leads elsewhere; `FailedPrecondition` for one that is in use.
    pub fn check_free(&self, path: &str, containers: &[String], parents: &[String]) -> Result<()> {
        let wanted = self.place(path)?.path;
        // Of what has no such place nothing is in the way.
        let places = |paths: &[String]| -> Vec<PathBuf> {
            let places = paths.iter().filter_map(|p| self.place(p).ok());
            places.map(|place| place.path).collect()
        };
        let refuse = |why: String| {
            Err(Error::precondition(format!(
                "cgroup path {path:?}: {why}: all that is in a container's cgroup is killed when it ends, so each needs one \
                 of its own"
            )))
        };
        let overlaps = |other: &&PathBuf| other.starts_with(&wanted) || wanted.starts_with(other);
        if let Some(other) = places(containers).iter().find(overlaps) {
            return refuse(format!("another container's is {}", other.display()));
        }
        if let Some(parent) = places(parents).iter().find(|p| p.starts_with(&wanted)) {
            return refuse(format!("the containers of a pod are in {}", parent.display()));
        }
        let dirs = self.tree(&wanted).paths();
        match dirs.iter().find(|dir| in_use(dir)) {
            Some(dir) => refuse(format!(
                "{} exists and has processes or cgroups in it",
                dir.display()
            )),
            None => Ok(()),
        }
    }

    /// The path of a container's cgroup below `parent`, which is what kubelet names or [`Cgroups::pod_path`] makes.
    pub fn container_path(&self, parent: &str, id: &ContainerId) -> String {
        match self.0.driver {
            Driver::Cgroupfs => join(parent, id.as_str()),
            Driver::Systemd => systemd::container_path(parent, id.as_str()),
        }
    }

    /// The path of the cgroup that holds a pod's containers, for a pod whose client names no parent.
    pub fn pod_path(&self, parent: &str, id: &PodId) -> String {
        match self.0.driver {
            Driver::Cgroupfs => join(parent, id.as_str()),
            Driver::Systemd => systemd::pod_slice(parent, id.as_str()),
        }
    }

    /// Lets go of what was made for the containers below `parent`, once they are all removed: systemd's unit. Does nothing
    /// with the cgroupfs driver, where `parent` itself is either kubelet's or removed with [`Cgroup::remove`].
    ///
    /// # Errors
    /// systemd cannot be asked, or cgroups are left in the unit.
    pub fn release(&self, parent: &str) -> Result<()> {
        if self.0.driver == Driver::Cgroupfs {
            return Ok(());
        }
        let Some(unit) = systemd::place(parent)?.unit else {
            return Ok(());
        };
        let dirs = self.tree(Path::new(&unit.path)).paths();
        let below: Vec<_> = dirs
            .iter()
            .flat_map(|d| children(d))
            .filter(|d| systemd::is_container(d))
            .collect();
        remove::remove(below.iter().map(PathBuf::as_path))?;
        systemd::stop(&unit)
    }

    fn place(&self, path: &str) -> Result<Place> {
        match self.0.driver {
            Driver::Cgroupfs => Ok(Place {
                path: path::normalise(path)?,
                unit: None,
            }),
            Driver::Systemd => systemd::place(path),
        }
    }

    fn tree(&self, path: &Path) -> Tree {
        match &self.0.mounts {
            Mounts::V1(hierarchies) => Tree::V1(Nodes::at(hierarchies, path)),
            Mounts::V2(mount) => Tree::V2(mount.join(path)),
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    format!("/{}/{name}", parent.trim_matches('/')).replace("//", "/")
}
