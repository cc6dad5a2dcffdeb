//! CheckpointContainer, and containers that are made from what it wrote.

mod archive;
mod dump;
mod restore;

pub(super) use restore::Checkpoint;

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::{Mutex, Semaphore};
use tracing::{info, warn};

use crate::config::CheckpointLevel as Level;
use crate::image::layer::remove_tree;
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::time::now_nanos;
use crate::types::{CgroupJoin, ContainerState, Digest};

use super::container::Container;
use super::criu::Criu;
use super::{Runtime, blocking, detached};

use archive::{Description, Standing};
use dump::Subject;

/// Most checkpoints that are being written or wait for it.
const MAX_WAITING: usize = 32;

/// Who writes a checkpoint: one at a time.
pub(super) struct Checkpoints {
    places: Semaphore,
    turn: Mutex<()>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            places: Semaphore::new(MAX_WAITING),
            turn: Mutex::default(),
        }
    }
}

impl Runtime {
    /// Writes a running container down, processes with memory and changed files, into the archive `location`. The
    /// container goes on. With a `limit` the answer comes no later than that; what was begun is then still brought to
    /// an end, for a dump cannot be broken off without harm to the processes.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a location that is no absolute path; `FailedPrecondition` unless the container
    /// runs, or where checkpoints are switched off; `Unimplemented` where criu is missing or cannot work with this kernel,
    /// and for containers that husk cannot write down; `DeadlineExceeded`; what criu said.
    pub async fn checkpoint_container(
        self: &Arc<Self>,
        id: &str,
        location: &str,
        limit: Option<Duration>,
    ) -> Result<()> {
        let container = self.find_container(id)?;
        let what = |e: Error| e.context(format!("checkpoint container {id}"));
        self.check_checkpoint(&container, location).map_err(what)?;
        let criu = Criu::find(&self.parts.config.checkpoint).await.map_err(what)?;
        let (this, location) = (Arc::clone(self), PathBuf::from(location));
        let work = detached(async move {
            let _place = this.checkpoints.places.try_acquire().map_err(|_| {
                Error::new(
                    Kind::ResourceExhausted,
                    format!("{MAX_WAITING} checkpoints are being written or wait for it"),
                )
            })?;
            // Each may need as much disk as its container has memory.
            let _turn = this.checkpoints.turn.lock().await;
            let (runtime, of) = (Arc::clone(&this), Arc::clone(&container));
            blocking(move || runtime.write_checkpoint(&criu, &of, &location)).await
        });
        let outcome = match limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                Err(Error::new(
                    Kind::DeadlineExceeded,
                    format!("it takes longer than {} s and goes on", limit.as_secs()),
                ))
            }),
        };
        outcome.map_err(what)
    }

    fn check_checkpoint(&self, container: &Container, location: &str) -> Result<()> {
        let location = Path::new(location);
        let cannot = |why: &str| Err(Error::new(Kind::Unimplemented, why));
        if !location.is_absolute() || location.file_name().is_none() {
            return Err(Error::invalid(format!(
                "location {location:?} is not an absolute path of a file"
            )));
        }
        if container.state() != ContainerState::Running {
            return Err(Error::precondition("it is not running"));
        }
        if self.parts.config.checkpoint.level == Level::None {
            return Err(Error::precondition(
                "checkpoints are switched off: [checkpoint] level in husk's configuration",
            ));
        }
        let facts = &container.facts;
        if facts.runtime.is_some() {
            return cannot(
                "an external OCI runtime made it; husk checkpoints containers of its own executor",
            );
        }
        if facts.config.tty {
            return cannot("it runs on a terminal, whose other end is husk's");
        }
        if facts.config.security.namespaces.own_user().is_some() {
            return cannot("its pod has a user namespace");
        }
        Ok(())
    }

    /// Blocks for as long as criu and the disk take.
    fn write_checkpoint(&self, criu: &Criu, container: &Container, location: &Path) -> Result<()> {
        if let Some(parent) = location.parent()
            && !parent.is_dir()
        {
            return Err(Error::precondition(format!(
                "{} is not a directory: create it",
                parent.display()
            )));
        }
        let dir = self.dump_dir(container);
        remove_tree(&dir).with_context(|| format!("delete {}", dir.display()))?;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("create {}", dir.display()))?;
        let outcome = self
            .fill(criu, container, &dir)
            .and_then(|()| archive::pack(&dir, location));
        self.drop_dump(container);
        outcome?;
        info!(container = ?container.id(), location = %location.display(), criu = criu.version, "container checkpointed");
        Ok(())
    }

    fn dump_dir(&self, container: &Container) -> PathBuf {
        self.paths.container(container.id()).join("dump")
    }

    /// Deletes what a checkpoint wrote on the way: it holds the container's memory. Blocks shortly.
    pub(super) fn drop_dump(&self, container: &Container) {
        if let Err(error) = remove_tree(&self.dump_dir(container)) {
            warn!(container = ?container.id(), %error, "what a checkpoint left cannot be deleted");
        }
    }

    fn fill(&self, criu: &Criu, container: &Container, dir: &Path) -> Result<()> {
        let facts = &container.facts;
        let status = container.status();
        let spec_path = self.paths.spec(&facts.pod, &facts.id);
        let spec = std::fs::read(&spec_path).with_context(|| format!("read {}", spec_path.display()))?;
        let subject = Subject {
            process: self.running_process(container)?,
            pid: status.pid,
            spec: serde_json::from_slice(&spec).context("read the container's spec")?,
            upper: self.paths.container(&facts.id).join("upper"),
        };
        dump::dump(criu, &subject, dir)?;
        // One that was restored shows the checkpoint as its image; its files are on top of another.
        let image = facts.restored_on.as_ref().unwrap_or(&facts.image_id);
        let name = self.name_of(image);
        let asked = match facts.restored_on {
            Some(_) => &name,
            None => &facts.config.image.image,
        };
        let spec_dump = dir.join(archive::SPEC);
        std::fs::write(&spec_dump, spec).with_context(|| format!("write {}", spec_dump.display()))?;
        archive::write_json(
            dir,
            archive::CONFIG,
            &Description {
                id: facts.id.to_string(),
                name: facts.config.metadata.name.clone(),
                rootfs_image: asked.clone(),
                rootfs_image_ref: image.to_string(),
                rootfs_image_name: name.clone(),
                runtime: "husk".to_owned(),
                created_time: archive::time(facts.created_at),
                checkpointed_time: archive::time(now_nanos()),
                restored_time: archive::time(0),
                restored: false,
            },
        )?;
        archive::write_json(
            dir,
            archive::STATUS,
            &Standing {
                created_at: facts.created_at,
                started_at: status.started_at,
                finished_at: status.finished_at,
                exit_code: status.exit_code,
                pid: status.pid,
                reason: status.reason,
                message: status.message,
            },
        )
    }

    /// The first process of a container, which must be running: while it waited its turn it may have ended, and its id
    /// be another's.
    fn running_process(&self, container: &Container) -> Result<OwnedFd> {
        let status = container.status();
        let process = Pid::from_raw(status.pid)
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .with_context(|| format!("open process {}", status.pid))?;
        let own = std::fs::read_to_string(format!("/proc/{}/cgroup", status.pid)).unwrap_or_default();
        let name = match self.parts.cgroups.open(&container.facts.cgroup_path).join() {
            CgroupJoin::V1(dirs) => dirs.into_iter().next(),
            CgroupJoin::V2(dir) => Some(dir),
        };
        let name = name.as_deref().and_then(Path::file_name).and_then(|n| n.to_str());
        let in_cgroup = name.is_some_and(|name| own.contains(name));
        match in_cgroup && container.state() == ContainerState::Running {
            true => Ok(process),
            false => Err(Error::precondition("it is not running any more")),
        }
    }

    /// A name by which another node can pull the image.
    fn name_of(&self, image: &Digest) -> String {
        let image = self.parts.images.resolve(&image.to_string());
        image
            .and_then(|i| i.repo_tags.first().or(i.repo_digests.first()).cloned())
            .unwrap_or_default()
    }
}
