//! A container that goes on from a checkpoint instead of starting.
//!
//! CRI has no call for it: a client names a checkpoint where a container's image is asked for. That is either the path
//! of an archive on this node, or an image whose files are those of an archive.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use tracing::{info, warn};

use crate::config::CheckpointLevel as Level;
use crate::image::Image;
use crate::image::layer::{Limits, remove_tree, unpack_unverified};
use crate::spec::plan::{LaunchPlan, RestorePlan};
use crate::supervisor::protocol::RESTORES;
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::{ContainerConfig, ContainerId};

use super::super::container::Container;
use super::super::criu::Criu;
use super::super::sandbox::{Pod, Supervisor};
use super::super::{Runtime, blocking};
use super::archive::{self, Description};

/// A checkpoint to make a container from.
#[derive(Debug, Clone)]
pub(in super::super) struct Checkpoint {
    /// The image under the container that was written down.
    pub base: Arc<Image>,
    /// The image that holds the checkpoint, if it is one.
    pub image: Option<Arc<Image>>,
    /// Its files.
    files: PathBuf,
    criu: Criu,
}

/// How long the image under a container may take: a client waits for it.
const PULL: Duration = Duration::from_secs(600);
/// Most mounts that a refusal names.
const MAX_NAMED: usize = 8;
/// Where a container's checkpoint is unpacked, in the container's directory.
const UNPACKED: &str = "checkpoint";

impl Runtime {
    /// The checkpoint that a container's config names as its image, with the image under it on this node; `None` if it
    /// names an image like any other.
    ///
    /// # Errors
    /// `InvalidArgument` for a checkpoint that makes no sense; `PermissionDenied` where it is not allowed; `Unimplemented`
    /// without a criu that works; those of pulling the image under it.
    pub(in super::super) async fn checkpoint_named(
        self: &Arc<Self>,
        config: &ContainerConfig,
        pod: &Pod,
        supervisor: &Supervisor,
        id: &ContainerId,
    ) -> Result<Option<Checkpoint>> {
        let name = &config.image.image;
        let (files, image) = match self.parts.images.resolve(name) {
            Some(image) => match self.files_in_image(&image, id)? {
                Some(files) => (files, Some(image)),
                None => return Ok(None),
            },
            None if name.starts_with('/') => (self.paths.container(id).join(UNPACKED), None),
            None => return Ok(None),
        };
        self.check_allowed(name)?;
        let what = |e: Error| e.context(format!("restore the checkpoint {name:?}"));
        let handler = self.parts.handlers.find(&supervisor.facts.handler)?;
        refuse_what_cannot_be(config, pod, supervisor, handler.options.is_builtin()).map_err(what)?;
        let criu = Criu::find(&self.parts.config.checkpoint).await.map_err(what)?;
        let archive = image.is_none().then(|| PathBuf::from(name));
        let dir = files.clone();
        let description = blocking(move || {
            if let Some(archive) = archive {
                unpack(&archive, &dir)?;
            }
            archive::check_images(&dir)?;
            archive::description(&dir)
        });
        let description = description.await.map_err(what)?;
        let base = self.image_under(&description).await.map_err(what)?;
        info!(container = ?id, checkpoint = %name, of = %description.id, image = %base.id, "restoring a container");
        Ok(Some(Checkpoint {
            base,
            image,
            files,
            criu,
        }))
    }

    /// The files of the checkpoint that an image holds, if it does. Each container asks this: it takes no time.
    fn files_in_image(&self, image: &Image, id: &ContainerId) -> Result<Option<PathBuf>> {
        // Held from here on, or the files could go.
        let layers = self.parts.images.lease(&image.id, id.as_str())?.layers;
        let top = layers.into_iter().next();
        Ok(top.filter(|dir| archive::is_checkpoint(dir)))
    }

    fn check_allowed(&self, name: &str) -> Result<()> {
        if self.parts.config.checkpoint.level == Level::Restore {
            return Ok(());
        }
        Err(Error::new(
            Kind::PermissionDenied,
            format!(
                "{name:?} is a checkpoint, and this node restores none: a checkpoint decides itself what its processes \
                 may do. If all who may choose images here can be trusted with that, set [checkpoint] level = \
                 \"restore\""
            ),
        ))
    }

    /// The image under the container that was written down, pulled if it is not here.
    async fn image_under(&self, of: &Description) -> Result<Arc<Image>> {
        let names = [&of.rootfs_image_ref, &of.rootfs_image, &of.rootfs_image_name];
        let names: Vec<&String> = names.into_iter().filter(|name| !name.is_empty()).collect();
        if let Some(image) = names.iter().find_map(|name| self.parts.images.resolve(name)) {
            return Ok(image);
        }
        // By an id nothing can be pulled.
        let name = names
            .iter()
            .rev()
            .find(|name| !name.starts_with("sha256:"))
            .ok_or_else(|| Error::invalid("it does not say of which image its container was"))?;
        let pull = self.parts.images.pull(name, None, None);
        let pulled = tokio::time::timeout(PULL, pull).await.unwrap_or_else(|_| {
            Err(Error::new(
                Kind::DeadlineExceeded,
                format!("it takes longer than {} s: pull it before", PULL.as_secs()),
            ))
        });
        pulled.with_context(|| format!("pull the image of the container, {name}"))
    }

    /// Deletes a checkpoint that was unpacked for a container which runs by now.
    pub(in super::super) async fn drop_checkpoint(&self, container: &Container) {
        let dir = self.paths.container(container.id()).join(UNPACKED);
        let outcome = blocking(move || remove_tree(&dir).map(drop).context("delete a checkpoint")).await;
        if let Err(error) = outcome {
            warn!(container = ?container.id(), %error, "an unpacked checkpoint stays until its container is removed");
        }
    }
}

impl Checkpoint {
    /// Refuses a container that lacks a mount the one that was written down had: its processes may be using it.
    ///
    /// # Errors
    /// `InvalidArgument` with the places of the mounts.
    pub(in super::super) fn check_mounts(&self, spec: &Spec) -> Result<()> {
        let had: Spec = archive::spec(&self.files)?;
        let missing = missing(&had, spec);
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the container that was written down had mounts at {}: give this one mounts there, too",
            missing.join(", ")
        )))
    }

    /// Puts the files that the container had changed in place: into `upper`, over `lowers`.
    ///
    /// # Errors
    /// The archive of them makes no sense; the disk is full.
    pub(in super::super) fn put_changes(
        &self,
        id: &ContainerId,
        upper: &Path,
        lowers: &[PathBuf],
    ) -> Result<()> {
        let changes = self.files.join(archive::CHANGES);
        if self.files.join("deleted.files").exists() {
            warn!(
                container = ?id,
                "files that the container had deleted are back: its checkpoint names them in a way that husk does not know"
            );
        }
        // A container that changed nothing may have none, if it was written down by somebody else.
        if !changes.exists() {
            return Ok(());
        }
        unpack_unverified(archive::open(&changes)?, upper, lowers, &Limits::default())
            .with_context(|| format!("unpack {}", changes.display()))
    }

    /// Refuses a plan that asks for what restoring leaves out.
    ///
    /// # Errors
    /// `Unimplemented`.
    pub(in super::super) fn check_plan(plan: &LaunchPlan) -> Result<()> {
        if plan.process.selinux.is_none() && !plan.mount_label.is_empty() {
            return Err(Error::new(
                Kind::Unimplemented,
                "restore a privileged container under SELinux: its label would stay that of the checkpoint's pod",
            ));
        }
        let hooks = &plan.hooks;
        match hooks.runtime.is_empty()
            && hooks.create_container.is_empty()
            && hooks.start_container.is_empty()
        {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Unimplemented,
                "a device or a plugin wants hooks run before the container starts, and a container that is restored \
                 does not start",
            )),
        }
    }

    /// What the supervisor needs to know, as JSON. criu works in the directory `work`.
    ///
    /// # Errors
    /// The checkpoint makes no sense.
    pub(in super::super) fn plan(&self, work: PathBuf) -> Result<Vec<u8>> {
        std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
        let plan = RestorePlan {
            program: self.criu.program.clone(),
            images: self.files.join(archive::IMAGES),
            work,
            streams: archive::streams(&self.files)?,
        };
        serde_json::to_vec(&plan).context("encode the plan to restore a container")
    }
}

/// The places in which `had` has a mount and `has` does not.
fn missing(had: &Spec, has: &Spec) -> Vec<String> {
    let places = |spec: &Spec| -> Vec<PathBuf> {
        let mounts = spec.mounts().iter().flatten();
        mounts.map(|m| m.destination().clone()).collect()
    };
    let has = places(has);
    let lost = places(had).into_iter().filter(|place| !has.contains(place));
    lost.take(MAX_NAMED)
        .map(|place| format!("{:?}", place.display().to_string()))
        .collect()
}

fn unpack(path: &Path, dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let what = || format!("unpack {}", path.display());
    let file = archive::open(path)?;
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    unpack_unverified(file, dir, &[], &Limits::default()).with_context(what)?;
    if !archive::is_checkpoint(dir) {
        return Err(Error::invalid(format!(
            "{} is not a checkpoint: {}, {} or {} is missing",
            path.display(),
            archive::CONFIG,
            archive::SPEC,
            archive::IMAGES
        )));
    }
    // It holds the memory of processes, whatever the archive says of its own root.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).with_context(what)
}

fn refuse_what_cannot_be(
    config: &ContainerConfig,
    pod: &Pod,
    supervisor: &Supervisor,
    builtin: bool,
) -> Result<()> {
    let cannot = |why: &str| Err(Error::new(Kind::Unimplemented, why));
    if supervisor.client.greeting().protocol < RESTORES {
        return cannot("the pod was made by an older husk, whose supervisor cannot: make it anew");
    }
    if !builtin {
        return cannot(
            "the pod's containers are made by an external OCI runtime; husk restores with its own executor",
        );
    }
    if config.tty {
        return cannot("a container on a terminal cannot be restored");
    }
    if pod.config.security.namespaces.own_user().is_some() {
        return cannot("a container cannot be restored in a pod with a user namespace");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(places: &[&str]) -> Spec {
        let mounts: Vec<_> = places
            .iter()
            .map(|p| serde_json::json!({"destination": p, "type": "bind"}))
            .collect();
        serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "mounts": mounts})).unwrap()
    }

    #[test]
    fn mounts_that_are_gone_are_named() {
        let had = spec(&["/proc", "/data", "/dev/termination-log"]);
        assert_eq!(
            missing(&had, &spec(&["/data", "/proc", "/more", "/dev/termination-log"])),
            [""; 0]
        );
        assert_eq!(
            missing(&had, &spec(&["/proc"])),
            ["\"/data\"", "\"/dev/termination-log\""]
        );
        let many: Vec<String> = (0..100).map(|n| format!("/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(missing(&spec(&many), &spec(&[])).len(), MAX_NAMED);
    }
}
