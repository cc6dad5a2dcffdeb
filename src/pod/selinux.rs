//! SELinux on this node: the policy's contexts, a level for each pod, labels on files. On a node without it all of this
//! does nothing, and what clients ask for is ignored, as kubelet expects, unless the configuration says otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::host::Host;
use crate::spec::selinux::{self, Contexts, Labels};
use crate::types::PodId;
use crate::types::error::{Context, Error, Result};
use crate::types::security::SelinuxLabel;

use super::Runtime;
use super::sandbox::Pod;

/// The attribute that holds a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// Deeper trees are refused rather than followed.
const MAX_DEPTH: usize = 256;
/// Directories of the node that would no longer work for the node with a container's label.
const REFUSED: [&str; 12] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/usr", "/var",
];

impl Runtime {
    /// The level for a new pod: the one it asks for, or one that no other pod has. Empty without SELinux.
    pub(super) fn selinux_level(&self, pod: &Pod) -> String {
        if !self.parts.host.selinux {
            return String::new();
        }
        match &pod.config.security.selinux {
            Some(wish) if !wish.level.is_empty() => wish.level.clone(),
            _ => {
                let all = self.index.all_pods();
                let taken: BTreeSet<String> = all
                    .iter()
                    .filter_map(|p| p.supervisor().map(|s| s.facts.selinux_level))
                    .collect();
                selinux::level(seed(&pod.id), &taken)
            }
        }
    }

    /// The labels for a pod's files or one of its containers; empty without SELinux.
    ///
    /// # Errors
    /// Options that are no label, or not one of the policy's; any option on a node without SELinux that has to have it.
    pub(super) fn selinux_labels(&self, wish: Option<&SelinuxLabel>, level: &str) -> Result<Labels> {
        let wish = wish.filter(|w| **w != SelinuxLabel::default());
        if !self.parts.host.selinux {
            if wish.is_some() && self.parts.config.container.selinux_required {
                return Err(Error::precondition(
                    "selinux_options: this node has no SELinux; leave them out, choose another node, or set \
                     container.selinux_required = false to have them ignored",
                ));
            }
            return Ok(Labels::default());
        }
        let labels = selinux::labels(&contexts(), wish, level)?;
        known(&labels.process)?;
        known(&labels.mount)?;
        Ok(labels)
    }
}

/// Whether the policy that is loaded knows `label`, which the kernel says.
fn known(label: &str) -> Result<()> {
    match fs::write("/sys/fs/selinux/context", label) {
        Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => Err(Error::invalid(format!(
            "selinux_options: the policy of this node knows no {label}: a user, role, type or level is not in it, or they do \
             not go together"
        ))),
        // Whoever may not ask is told when the label is used.
        _ => Ok(()),
    }
}

/// Labels the layers of the images below `root`, so that containers may read them: what a container has mapped is checked
/// against the label of the file in the layer too. What is unpacked later inherits the label.
///
/// Policies name the directories of the runtimes they know, which need not be this one.
pub fn label_layers(host: &Host, root: &Path) {
    if !host.selinux {
        return;
    }
    let label = contexts().shared();
    for directory in ["layers", "staging", "empty"].map(|name| root.join(name)) {
        if read(&directory).as_deref() == Some(label.as_bytes()) {
            continue;
        }
        if let Err(e) = relabel(&directory, &label) {
            warn!(directory = %directory.display(), %e, "containers may not be able to read their images");
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value).ok()?;
    value.truncate(length);
    // The kernel counts the NUL that it puts behind a label.
    value.pop_if(|last| *last == 0);
    Some(value)
}

fn seed(pod: &PodId) -> u64 {
    let digest = Sha256::digest(pod.as_str());
    digest.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn contexts() -> Contexts {
    let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let policy = config
        .lines()
        .find_map(|l| l.trim().strip_prefix("SELINUXTYPE="))
        .unwrap_or("targeted");
    let path = format!("/etc/selinux/{}/contexts/lxc_contexts", policy.trim());
    fs::read_to_string(path).map_or_else(|_| Contexts::default(), |text| Contexts::parse(&text))
}

/// Labels a file or a directory with all that is in it; links are not followed. Nothing happens for an empty label or on
/// a file system that has no labels.
///
/// # Errors
/// A directory that the node needs as it is; what cannot be read or labelled.
pub(super) fn relabel(path: &Path, label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    if REFUSED.iter().any(|refused| path == Path::new(refused)) {
        return Err(Error::invalid(format!(
            "selinux_relabel of {}: the node could not use it any more",
            path.display()
        )));
    }
    walk(path, label, 0)
}

fn walk(path: &Path, label: &str, depth: usize) -> Result<()> {
    let what = || format!("label {} for SELinux", path.display());
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!(
            "{}: too many directories in directories",
            what()
        )));
    }
    match rustix::fs::lsetxattr(path, ATTRIBUTE, label.as_bytes(), rustix::fs::XattrFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(e) => return Err(Error::internal(format!("{}: {e}", what()))),
    }
    if !fs::symlink_metadata(path).with_context(what)?.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(what)? {
        let name = entry.with_context(what)?.file_name();
        if !name.as_bytes().is_empty() {
            walk(&path.join(name), label, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_nodes_own_directories_are_not_relabelled() {
        for path in REFUSED {
            assert!(relabel(Path::new(path), "l").is_err(), "{path}");
        }
        assert!(relabel(Path::new("/"), "").is_ok());
    }

    #[test]
    fn everything_in_a_directory_is_labelled_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        relabel(dir.path(), label).unwrap();
        let of = |path: &Path| {
            let mut value = [0u8; 128];
            let n = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value).ok()?;
            Some(String::from_utf8(value[..n].to_vec()).unwrap())
        };
        // Without SELinux the kernel keeps the attribute as any other, where the file system has attributes.
        if let Some(found) = of(dir.path()) {
            assert_eq!(found, label);
            assert_eq!(of(&dir.path().join("sub/file")).as_deref(), Some(label));
            assert_ne!(of(outside.path()).as_deref(), Some(label));
        }
    }
}
