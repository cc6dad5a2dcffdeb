//! One cgroup, of either version.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use crate::types::error::Context;
use crate::types::{CgroupJoin, Error, Result};

use super::controller::Controller;
use super::devices::{self, Filter};
use super::kill::{self, Freezer};
use super::limit::Notes;
use super::path::exec_name;
use super::stats::{Detail, Stats};
use super::v1::{self, Nodes};
use super::{file, remove, v2};

/// A cgroup. Holds paths and nothing else: it is cheap, and the cgroup may come and go meanwhile.
#[derive(Debug, Clone)]
pub struct Cgroup {
    tree: Tree,
    notes: Notes,
}

#[derive(Debug, Clone)]
pub(super) enum Tree {
    V1(Nodes),
    V2(PathBuf),
    /// The path was none; every operation says so.
    Nowhere(Error),
}

impl Tree {
    /// Its directories.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::V1(nodes) => nodes.paths(),
            Self::V2(path) => vec![path.clone()],
            Self::Nowhere(_) => Vec::new(),
        }
    }
}

impl From<Tree> for Cgroup {
    fn from(tree: Tree) -> Self {
        Self {
            tree,
            notes: Notes::new(),
        }
    }
}

impl Cgroup {
    /// The cgroup that `join` leads to, without any look at how this node mounts its hierarchies.
    pub fn from_join(join: &CgroupJoin) -> Self {
        match join {
            CgroupJoin::V1(paths) => Tree::V1(Nodes::from_paths(paths)).into(),
            CgroupJoin::V2(path) => Tree::V2(path.clone()).into(),
        }
    }

    /// How a process gets in. For an exec on version 1 it names the container's directories but for the last.
    pub fn join(&self) -> CgroupJoin {
        match &self.tree {
            Tree::V1(nodes) => CgroupJoin::V1(nodes.paths()),
            Tree::V2(path) => CgroupJoin::V2(path.clone()),
            Tree::Nowhere(_) => CgroupJoin::V1(Vec::new()),
        }
    }

    /// What was asked for at its making and could not be had, where that is no reason to fail: one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(super) fn add_notes(&mut self, notes: Notes) {
        self.notes.extend(notes);
    }

    /// Changes the limits that `resources` sets and leaves the others. Device rules, if set, replace the present ones.
    ///
    /// # Errors
    /// `FailedPrecondition` with the numbers for a memory limit below what is in use; `InvalidArgument` for a value that
    /// the kernel refuses; `FailedPrecondition` for a controller that is not there.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        self.write(resources, true).map(drop)
    }

    /// Writes limits and device rules; returns the notes.
    pub(super) fn write(&self, resources: &LinuxResources, live: bool) -> Result<Notes> {
        let mut notes = Notes::new();
        let filter = resources
            .devices()
            .as_ref()
            .map(|rules| Filter::of(rules))
            .transpose()?;
        match &self.tree {
            Tree::V1(nodes) => {
                v1::limits::apply(nodes, resources, live, &mut notes)?;
                match (filter, nodes.dir(Controller::Devices)) {
                    (Some(filter), Some(dir)) => devices::v1::apply(dir, &filter, &mut notes)?,
                    // Without the controller nothing would be enforced, and nobody would know.
                    (Some(filter), None) if !filter.is_open() => drop(nodes.need(Controller::Devices)?),
                    _ => {}
                }
            }
            Tree::V2(dir) => {
                v2::limits::apply(dir, resources, live, &mut notes)?;
                if let Some(filter) = filter {
                    devices::v2::apply(dir, &filter)?;
                }
            }
            Tree::Nowhere(e) => return Err(e.clone()),
        }
        Ok(notes)
    }

    /// Moves a process, with all its threads, into the cgroup.
    ///
    /// # Errors
    /// The process or the cgroup is gone, or the kernel refuses.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        if let Tree::Nowhere(e) = &self.tree {
            return Err(e.clone());
        }
        self.tree
            .paths()
            .iter()
            .try_for_each(|dir| file::set(dir, "cgroup.procs", pid))
    }

    /// The processes in the cgroup and below it. Empty if it is gone.
    ///
    /// # Errors
    /// The list cannot be read, or is absurdly long.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let (dir, _) = self.frozen_tree()?;
        kill::processes(dir).with_context(|| format!("list processes of {}", dir.display()))
    }

    /// Kills every process in the cgroup and below it, frozen ones too, and waits until they are gone: at most two
    /// seconds. Fine if there are none.
    ///
    /// # Errors
    /// `DeadlineExceeded`, naming a process that did not die.
    pub fn kill(&self) -> Result<()> {
        let (dir, freezer) = self.frozen_tree()?;
        kill::kill(dir, freezer)
    }

    /// Stops every process in the cgroup and below it, and waits until they stand: at most two seconds.
    ///
    /// # Errors
    /// `DeadlineExceeded`: they run on. `Unimplemented`: version 1 without a freezer.
    pub fn freeze(&self) -> Result<()> {
        let (dir, freezer) = self.frozen_tree()?;
        kill::freeze(dir, freezer)
    }

    /// Undoes [`Cgroup::freeze`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        let (dir, freezer) = self.frozen_tree()?;
        kill::thaw(dir, freezer)
    }

    /// The cgroup, this one or one above it, that was told to keep its processes still; `None` if they may run.
    pub fn frozen_by(&self) -> Option<PathBuf> {
        let (dir, freezer) = self.frozen_tree().ok()?;
        kill::frozen_by(dir, freezer)
    }

    /// Makes a cgroup below this one for a single exec, so that it can be killed without the rest. It has the container's
    /// limits: on version 2 it is a child to which no controllers are handed down, on version 1 one in the freezer's
    /// hierarchy alone.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is not plain; `AlreadyExists`; the cgroup is gone.
    pub fn exec_child(&self, name: &str) -> Result<Self> {
        match &self.tree {
            Tree::V1(nodes) => Ok(Tree::V1(nodes.exec_child(name)?).into()),
            Tree::V2(dir) => {
                let path = dir.join(exec_name(name, dir)?);
                v1::make_exec(&path)?;
                Ok(Tree::V2(path).into())
            }
            Tree::Nowhere(e) => Err(e.clone()),
        }
    }

    /// The file whose `oom_kill N` line counts the kernel's OOM kills here; see [`super::oom_kills`]. `None` without a
    /// memory controller.
    pub fn oom_counter(&self) -> Option<PathBuf> {
        let path = match &self.tree {
            Tree::V1(nodes) => nodes.dir(Controller::Memory)?.join("memory.oom_control"),
            Tree::V2(dir) => dir.join("memory.events"),
            Tree::Nowhere(_) => return None,
        };
        path.exists().then_some(path)
    }

    /// Readings of everything there is to read; what is missing is zero or `None`.
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone.
    pub fn stats(&self) -> Result<Stats> {
        self.read(Detail::Full)
    }

    /// As [`Cgroup::stats`], with only as many files opened as `detail` takes.
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone.
    pub fn read(&self, detail: Detail) -> Result<Stats> {
        let what = |dir: &Path| format!("statistics of cgroup {}", dir.display());
        let gone = |dir: &Path| Error::not_found(format!("{}: it is gone", what(dir)));
        match &self.tree {
            Tree::V1(nodes) => {
                let (dir, _) = self.frozen_tree()?;
                v1::stats::read_all(nodes, dir, detail).ok_or_else(|| gone(dir))
            }
            Tree::V2(dir) => {
                let open = match file::Dir::open(dir) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(gone(dir)),
                    open => open.with_context(|| what(dir))?,
                };
                Ok(v2::stats::read_all(&open, detail))
            }
            Tree::Nowhere(e) => Err(e.clone()),
        }
    }

    /// Removes the cgroup and those below it; of an exec's, only what is its own. Waits up to two seconds for processes on
    /// their way out. Fine if it is gone.
    ///
    /// # Errors
    /// `FailedPrecondition`, naming a process that is still in it.
    pub fn remove(&self) -> Result<()> {
        match &self.tree {
            Tree::V1(nodes) => remove::remove(nodes.own()),
            Tree::V2(dir) => remove::remove([dir.as_path()]),
            Tree::Nowhere(e) => Err(e.clone()),
        }
    }

    /// As [`Cgroup::remove`] if no process is in there, without waiting for anything. `false`: one is, or the kernel is
    /// not done yet; asking again later is worth it.
    ///
    /// # Errors
    /// The kernel refuses for another reason.
    pub fn remove_if_empty(&self) -> Result<bool> {
        match &self.tree {
            Tree::V1(nodes) => nodes
                .own()
                .try_fold(true, |all, dir| Ok(remove::remove_if_empty(dir)? && all)),
            Tree::V2(dir) => remove::remove_if_empty(dir),
            Tree::Nowhere(e) => Err(e.clone()),
        }
    }

    /// The directory with all processes below it, and how it freezes.
    fn frozen_tree(&self) -> Result<(&Path, Freezer)> {
        match &self.tree {
            Tree::V1(nodes) => nodes
                .tree()
                .ok_or_else(|| Error::precondition("cgroup: no version 1 hierarchy was named")),
            Tree::V2(dir) => Ok((dir, Freezer::V2)),
            Tree::Nowhere(e) => Err(e.clone()),
        }
    }
}
