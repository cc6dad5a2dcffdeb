//! CDI devices: reads the vendors' files and looks up device nodes, for the devices that a client names and for those that
//! plugins add.
//!
//! The files are read anew for each container that wants such devices: there are few of them, and what a device plugin
//! wrote a moment ago counts.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{LinuxDeviceType, Spec};

use crate::spec::cdi::{self, Input, Registry, edits};
use crate::types::ContainerConfig;
use crate::types::error::{Context, Error, Result};

use super::super::container::ContainerFacts;
use super::super::{Runtime, blocking};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Most files that are read of a directory.
const MAX_FILES: usize = 1024;

/// Edits `spec` for the devices that `config` names.
///
/// # Errors
/// A name that is none, a device that no file describes, and edits that cannot be.
pub(super) fn inject(config: &ContainerConfig, dirs: &[PathBuf], spec: &mut Spec) -> Result<()> {
    edit(&named(config)?, &[], dirs, spec)
}

impl Runtime {
    /// Edits `spec`, of a container that is being made, for the further devices `names`. What the container has by its
    /// own configuration is not edited in again.
    ///
    /// # Errors
    /// As for devices that clients name.
    pub async fn add_cdi_devices(
        self: &Arc<Self>,
        facts: &ContainerFacts,
        names: &[String],
        mut spec: Spec,
    ) -> Result<Spec> {
        let wanted = cdi::wanted(names, None)?;
        let given = named(&facts.config)?;
        let this = Arc::clone(self);
        blocking(move || {
            edit(&wanted, &given, &this.parts.config.container.cdi_dirs, &mut spec)?;
            Ok(spec)
        })
        .await
    }
}

/// Tells hooks, which look into the spec, where they will find the root file system that the executor mounts.
pub(in crate::pod) fn show_root(spec: &mut Spec, root: &Path) {
    if spec.hooks().is_some()
        && let Some(old) = spec.root_mut()
    {
        old.set_path(root.to_owned());
    }
}

fn named(config: &ContainerConfig) -> Result<Vec<String>> {
    cdi::wanted(&config.cdi_devices, &config.annotations)
}

fn edit(wanted: &[String], given: &[String], dirs: &[PathBuf], spec: &mut Spec) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let registry = Registry::read(files(dirs)?);
    let edits = registry.resolve(wanted, given, dirs)?;
    edits::apply(&edits, spec, look)
}

fn files(dirs: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for (priority, dir) in dirs.iter().enumerate() {
        let entries = match std::fs::read_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("read CDI directory {}", dir.display()))?,
        };
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| cdi::is_spec(p))
            .collect();
        if paths.len() > MAX_FILES {
            return Err(Error::precondition(format!(
                "CDI directory {} has more than {MAX_FILES} files",
                dir.display()
            )));
        }
        paths.sort();
        inputs.extend(paths.into_iter().map(|path| Input {
            content: read(&path),
            path,
            priority,
        }));
    }
    Ok(inputs)
}

fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("more than {MAX_FILE} bytes"));
    }
    Ok(bytes)
}

fn look(path: &Path) -> Result<edits::HostNode> {
    let meta = std::fs::metadata(path).with_context(|| format!("CDI: device {}", path.display()))?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        t if t.is_fifo() => LinuxDeviceType::P,
        _ => {
            return Err(Error::invalid(format!("CDI: {} is no device", path.display())));
        }
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(0);
    Ok(edits::HostNode {
        kind,
        major: number(nix::sys::stat::major(meta.rdev())),
        minor: number(nix::sys::stat::minor(meta.rdev())),
        mode: meta.mode() & 0o7777,
    })
}
