//! SELinux on this node: the policy's contexts, a level for each pod, labels on files. On a node without it all of this
//! does nothing, and what clients ask for is ignored, as kubelet expects, unless the configuration says otherwise.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, XattrFlags, fstat, openat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::config::{Config, Selinux};
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
        if !on(&self.parts.host, &self.parts.config) {
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
        if !on(&self.parts.host, &self.parts.config) {
            if wish.is_some() && self.parts.config.container.selinux == Selinux::Required {
                return Err(Error::precondition(
                    "selinux_options: this node has no SELinux; leave them out, choose another node, or have them \
                     ignored by container.selinux = \"auto\"",
                ));
            }
            return Ok(Labels::default());
        }
        let labels = selinux::labels(&contexts(), wish, level)?;
        let Some(label) = [&labels.process, &labels.mount]
            .into_iter()
            .find(|label| !known(label))
        else {
            return Ok(labels);
        };
        Err(match wish {
            Some(_) => Error::invalid(format!(
                "selinux_options: the policy of this node knows no {label}: a user, role, type or level is not in it, or \
                 they do not go together"
            )),
            None => Error::precondition(format!(
                "the SELinux policy of this node knows no {label}: install the policy module for containers \
                 (container-selinux), or set container.selinux = \"off\""
            )),
        })
    }
}

fn on(host: &Host, config: &Config) -> bool {
    host.selinux && config.container.selinux != Selinux::Off
}

/// Whether the policy that is loaded knows `label`, which the kernel says. Whoever may not ask learns it when the label is
/// used.
fn known(label: &str) -> bool {
    let asked = fs::write("/sys/fs/selinux/context", label);
    !asked.is_err_and(|e| e.raw_os_error() == Some(nix::libc::EINVAL))
}

/// Labels the layers of the images below `root`, so that containers may read them: what a container has mapped is checked
/// against the label of the file in the layer too. What is unpacked later inherits the label.
///
/// Policies name the directories of the runtimes they know, which need not be this one.
pub fn label_layers(host: &Host, config: &Config, root: &Path) {
    let label = contexts().shared();
    if !on(host, config) || !known(&label) {
        return;
    }
    for directory in ["layers", "staging", "empty"].map(|name| root.join(name)) {
        if read(&directory).as_deref() == Some(label.as_bytes()) {
            continue;
        }
        if let Err(e) = relabel(&directory, &label) {
            warn!(directory = %directory.display(), %e, "containers may not be able to read their images");
        }
    }
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

/// Labels a file or a directory with all that is in it; links in it are not followed. Nothing happens for an empty label or
/// on a file system that has no labels. A directory is labelled after what is in it, so that one that has its label is done.
///
/// # Errors
/// A directory that the node needs as it is; what cannot be read or labelled.
pub(super) fn relabel(path: &Path, label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    let what = || format!("label {} for SELinux", path.display());
    let real = fs::canonicalize(path).with_context(what)?;
    if REFUSED
        .map(Path::new)
        .iter()
        .any(|refused| [path, &real].contains(refused))
    {
        return Err(Error::invalid(format!(
            "selinux_relabel of {}: the node could not use it any more",
            path.display()
        )));
    }
    let top = open(CWD, real.as_os_str()).with_context(what)?;
    walk(&top, label, 0).map_err(|e| Error::internal(format!("{}: {e}", what())))
}

/// Whoever may write to the directory, such as a container that has it already, may put a link in a directory's place at
/// any moment: everything is reached from a descriptor of what it is in.
fn walk(file: &OwnedFd, label: &str, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("too many directories in directories"));
    }
    if FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(file, ".", flags, Mode::empty())?;
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match open(file, OsStr::from_bytes(name.to_bytes())) {
                Ok(below) => walk(&below, label, depth + 1)?,
                // Removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    set(file, label)
}

fn open(place: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(place, name, flags, Mode::empty())
}

fn set(file: &OwnedFd, label: &str) -> io::Result<()> {
    let path = by_fd(file);
    // Setting it again would write to the disk.
    if read(&path).as_deref() == Some(label.as_bytes()) {
        return Ok(());
    }
    match rustix::fs::setxattr(&path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A descriptor that was opened as a path takes no attributes itself.
fn by_fd(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// The label of what is at `path`.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, ATTRIBUTE, &mut value).ok()?;
    value.truncate(length);
    // The kernel counts the NUL that it puts behind a label.
    value.pop_if(|last| *last == 0);
    Some(value)
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
