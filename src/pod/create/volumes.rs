//! Volumes that the image declares: a directory of the container's own, filled with what the image has there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::image::lookup;
use crate::spec::mounts::ResolvedMount;
use crate::spec::plan::{Mount, MountKind};
use crate::spec::process::ImageDefaults;
use crate::types::error::{Context, Result};
use crate::types::security::UserNamespace;

use super::super::selinux;

/// Mounts for the image's volumes, but for those that a mount of the client already covers.
pub(super) fn mounts(
    container_dir: &Path,
    image: &ImageDefaults,
    client: &[ResolvedMount],
    user: Option<&UserNamespace>,
) -> Vec<ResolvedMount> {
    let taken: HashSet<&Path> = client.iter().map(|m| m.container_path.as_path()).collect();
    let mut list = Vec::new();
    for (number, volume) in image.volumes.iter().enumerate() {
        let path = Path::new("/").join(volume);
        if path == Path::new("/") || taken.contains(path.as_path()) {
            continue;
        }
        list.push(ResolvedMount {
            container_path: path,
            source: container_dir.join("volumes").join(number.to_string()),
            // Filled from the image as it is; its owners are mapped like the image's.
            uid_mappings: user.map(|u| u.uids.clone()).unwrap_or_default(),
            gid_mappings: user.map(|u| u.gids.clone()).unwrap_or_default(),
            ..Default::default()
        });
    }
    list
}

/// Makes and fills the directories that [`mounts`] named. `mapped` are those mounts that husk makes in the spec's place.
pub(super) fn fill(container_dir: &Path, layers: &[PathBuf], spec: &Spec, mapped: &[Mount]) -> Result<()> {
    let volumes = container_dir.join("volumes");
    let of_spec = spec.mounts().iter().flatten();
    let of_spec = of_spec.filter_map(|m| Some((m.source().as_deref()?, m.destination().as_path())));
    let mapped = mapped.iter().filter_map(|m| match &m.kind {
        MountKind::Bind { source, .. } => Some((source.as_path(), m.destination.as_path())),
        _ => None,
    });
    for (source, destination) in of_spec.chain(mapped).filter(|(s, _)| s.starts_with(&volumes)) {
        std::fs::create_dir_all(source).with_context(|| format!("create volume {}", source.display()))?;
        lookup::copy_tree(layers, destination, source)
            .map_err(|e| e.context(format!("fill volume {}", destination.display())))?;
        let label = spec.linux().as_ref().and_then(|l| l.mount_label().clone());
        selinux::relabel(source, label.as_deref().unwrap_or_default())?;
    }
    Ok(())
}
