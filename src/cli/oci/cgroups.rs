//! The one place where `husk oci` meets cgroups.

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::cgroup::{Cgroup, Cgroups, Driver};
use crate::types::{CgroupJoin, Result};

use super::log::Log;

/// Makes the container's cgroup with its limits: at `linux.cgroupsPath`, else named after the container.
///
/// # Errors
/// If the cgroup cannot be made or a limit cannot be set.
pub(super) fn create(spec: &Spec, id: &str, log: &Log) -> Result<Option<CgroupJoin>> {
    let Some(linux) = spec.linux() else {
        return Ok(None);
    };
    let path = match linux.cgroups_path() {
        Some(path) => path.display().to_string(),
        None => format!("/{id}"),
    };
    let cgroups = Cgroups::probe(Path::new("/sys/fs/cgroup"), Driver::Cgroupfs)?;
    let cgroup = cgroups.create(&path, &linux.resources().clone().unwrap_or_default())?;
    cgroup.notes().iter().for_each(|note| log.warn(note));
    Ok(Some(cgroup.join()))
}

/// Kills whatever is in the cgroup.
///
/// # Errors
/// If that is not possible.
pub(super) fn kill(cgroup: &CgroupJoin) -> Result<()> {
    Cgroup::from_join(cgroup).kill()
}

/// Removes the cgroup, which is empty.
///
/// # Errors
/// If it is not.
pub(super) fn remove(cgroup: &CgroupJoin) -> Result<()> {
    Cgroup::from_join(cgroup).remove()
}
