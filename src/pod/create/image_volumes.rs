//! Images that a client mounts into a container besides its own (`mount.image`).
//!
//! Every failure begins with the word by which kubelet counts them, wherever it comes from.

use std::path::{Path, PathBuf};

use crate::spec::plan::ImageVolume;
use crate::types::ContainerId;
use crate::types::container::{ImageSpec, Mount, Propagation};
use crate::types::error::{Error, IMAGE_VOLUME_MOUNT_FAILED as WORD, Result};

use super::super::Runtime;
use super::super::container::ImageMount;

/// Refuses an image mount that contradicts itself.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn check(m: &Mount, image: &ImageSpec) -> Result<()> {
    let fail = |why: &str| {
        Err(Error::invalid(format!(
            "{WORD}: mount at {:?}: {why}",
            m.container_path
        )))
    };
    if image.image.is_empty() {
        return fail("the image is not named");
    }
    if !m.host_path.is_empty() {
        return fail("an image mount has no host_path");
    }
    if !m.readonly {
        return fail("an image cannot be written to: set readonly");
    }
    // Towards the container there is nothing to propagate: nobody can mount anything in an image. What a container
    // mounts there would be hidden from the node, which is not what was asked for.
    if m.propagation == Propagation::Bidirectional {
        return fail("mounts made in an image cannot propagate to the node: ask for private propagation");
    }
    if m.image_sub_path.contains('\0') {
        return fail("image_sub_path contains a NUL byte");
    }
    Ok(())
}

/// Finds the image and keeps it on the node for the container `id`.
///
/// # Errors
/// `NotFound` for an image that is not on this node.
pub(super) fn resolve(
    runtime: &Runtime,
    m: &Mount,
    image: &ImageSpec,
    id: &ContainerId,
) -> Result<(ImageMount, ImageVolume)> {
    let images = &runtime.parts.images;
    let what = |e: Error| e.context(format!("{WORD}: mount at {:?}", m.container_path));
    let found = images.resolve(&image.image).ok_or_else(|| {
        what(Error::not_found(format!(
            "image {:?} is not on this node; pull it first",
            image.image
        )))
    })?;
    let rootfs = images.lease_volume(&found.id, id.as_str()).map_err(what)?;
    let mount = ImageMount {
        container_path: m.container_path.clone(),
        image: found.id.clone(),
    };
    let volume = ImageVolume {
        destination: Path::new("/").join(&m.container_path),
        image: match image.user_specified_image.as_str() {
            "" => image.image.clone(),
            name => name.to_owned(),
        },
        layers: rootfs.layers,
        sub_path: PathBuf::from(&m.image_sub_path),
    };
    Ok((mount, volume))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::error::Kind;

    fn mount(change: impl FnOnce(&mut Mount)) -> Mount {
        let mut mount = Mount {
            container_path: "/data".into(),
            readonly: true,
            image: Some(ImageSpec {
                image: "data:1".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut mount);
        mount
    }

    fn checked(change: impl FnOnce(&mut Mount)) -> Result<()> {
        let mount = mount(change);
        check(&mount, mount.image.as_ref().unwrap_or(&ImageSpec::default()))
    }

    #[test]
    fn what_an_image_mount_may_be() {
        for change in [
            (|_| {}) as fn(&mut Mount),
            |m| m.recursive_read_only = true,
            |m| m.propagation = Propagation::HostToContainer,
            |m| m.image_sub_path = "../etc".into(),
        ] {
            assert_eq!(checked(change), Ok(()));
        }
        for (change, part) in [
            ((|m| m.readonly = false) as fn(&mut Mount), "readonly"),
            (|m| m.host_path = "/tmp".into(), "host_path"),
            (|m| m.propagation = Propagation::Bidirectional, "propagate"),
            (|m| m.image = Some(ImageSpec::default()), "not named"),
            (|m| m.image_sub_path = "a\0b".into(), "NUL"),
        ] {
            let error = checked(change).err().map(|e| (e.kind(), e.message().to_owned()));
            let Some((kind, message)) = error else {
                panic!("{part}: accepted");
            };
            assert_eq!(kind, Kind::InvalidArgument, "{message}");
            assert!(
                message.starts_with("ImageVolumeMountFailed: mount at \"/data\": ") && message.contains(part),
                "{message}"
            );
        }
    }
}
