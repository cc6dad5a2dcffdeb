//! Entrances for the fuzz targets of `e2e/fuzz` to the checks that requests pass before anything is made of them.
//!
//! Nothing in husk calls them.

use crate::spec::process::ImageDefaults;
use crate::types::{ContainerConfig, PodConfig, Result};

use super::{create, files, run};

/// As RunPodSandbox checks its request; the pod's resolv.conf.
///
/// # Errors
/// What the client is told.
pub fn pod(config: &PodConfig) -> Result<String> {
    run::check(config)?;
    files::resolv_conf(config.dns.as_ref())
}

/// As CreateContainer checks its request; the signal that stops the container.
///
/// # Errors
/// What the client is told.
pub fn container(config: &ContainerConfig, pod: &PodConfig, image: &ImageDefaults) -> Result<i32> {
    create::check(config, pod)?;
    create::stop_signal(config.stop_signal, image)
}
