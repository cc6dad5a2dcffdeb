//! What the rest of husk sees of images.

use std::path::PathBuf;
use std::sync::Arc;

use super::config::{self, ImageDefaults};
use super::record::ImageRecord;
use crate::types::Digest;

/// An image that is whole and may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration: the same image has the same id whatever registry it came from.
    pub id: Digest,
    /// `name:tag`, sorted. Empty for an image pulled by digest.
    pub repo_tags: Vec<String>,
    /// `name@digest`, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes on disk; layers shared with other images count in each. Never 0.
    pub size: u64,
    /// What it says about containers made from it.
    pub config: ImageDefaults,
    /// The configuration as the registry sent it.
    pub raw_config: Arc<str>,
    /// Digests of the layers' archives, bottom first.
    pub diff_ids: Vec<Digest>,
    /// The chain id of all layers; `None` without layers.
    pub chain_id: Option<Digest>,
    /// Not to be garbage-collected, says husk's configuration.
    pub pinned: bool,
    /// When it was built, in nanoseconds since the epoch, if it says so.
    pub created: Option<i64>,
    /// When it was pulled, in nanoseconds since the epoch.
    pub pulled_at: i64,
}

impl Image {
    /// `USER` of the image: a number or else a name, never both; neither if the image names none.
    pub fn user(&self) -> (Option<i64>, String) {
        config::user(&self.config.user)
    }

    /// Makes the view of a record. An error is a sentence on the configuration.
    pub(super) fn from_record(record: &ImageRecord, pins: &Pins) -> Result<Self, String> {
        let parsed = config::parse(record.config.as_bytes())?;
        let repo_tags: Vec<String> = record.tags.keys().cloned().collect();
        let repo_digests: Vec<String> = record.digests.iter().cloned().collect();
        let pinned = repo_tags
            .iter()
            .chain(&repo_digests)
            .any(|name| pins.match_name(name));
        Ok(Self {
            id: record.id.clone(),
            repo_tags,
            repo_digests,
            size: record.size.max(1),
            config: parsed.defaults,
            raw_config: record.config.as_str().into(),
            chain_id: config::chain_ids(&parsed.diff_ids).pop(),
            diff_ids: parsed.diff_ids,
            pinned,
            created: parsed.created,
            pulled_at: record.pulled_at,
        })
    }
}

/// What a container's root file system is made of, besides its own writable layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The image.
    pub image: Arc<Image>,
    /// Directories for overlayfs, topmost first. Never empty: an image without layers has one empty directory.
    pub layers: Vec<PathBuf>,
}

/// Disk use of the image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// A directory on the store's file system.
    pub mountpoint: PathBuf,
    /// Bytes of all layers.
    pub used_bytes: u64,
    /// Inodes of all layers.
    pub inodes_used: u64,
}

/// Names of images not to be garbage-collected. In a pattern, `*` stands for any run of characters, `/` included; one
/// without it is a reference as a user would write it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Vec<String>);

impl Pins {
    pub(super) fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    fn match_name(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.contains('*') {
            true => matches(pattern, name),
            false => super::reference::ImageRef::parse(pattern).is_ok_and(|r| r.to_string() == name),
        })
    }
}

/// Whether all of `name` fits `pattern`. Each part between stars is looked for from left to right: taking the first
/// place where one fits leaves the most for the rest.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|start| name.strip_prefix(start)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_match_as_documented() {
        let pinned = |pattern: &str, name: &str| Pins::new(vec![pattern.into()]).match_name(name);
        assert!(pinned("busybox", "docker.io/library/busybox:latest"));
        assert!(!pinned("busybox", "docker.io/library/busybox:1"));
        assert!(pinned("docker.io/library/*", "docker.io/library/busybox:1"));
        assert!(!pinned("library/*", "docker.io/library/busybox:1"));
        assert!(pinned("*library/busy*", "docker.io/library/busybox:1"));
        assert!(!pinned("", "docker.io/library/busybox:1"));
    }

    #[test]
    fn stars_stand_for_anything_anywhere() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "anything", true),
            ("**", "anything", true),
            ("a*", "a", true),
            ("*/pause:*", "registry.k8s.io/pause:3.9", true),
            ("*/pause:*", "registry.k8s.io/pause", false),
            ("registry.*/pause:3.*", "registry.k8s.io/pause:3.9", true),
            ("registry.*/pause:3.*", "registry.k8s.io/pause:4.3", false),
            ("*:latest", "docker.io/a/b:latest", true),
            ("*:latest", "docker.io/a/b:latest2", false),
            // The part before the last star must not eat what the end needs.
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
            ("x*y*z", "xzyz", true),
            ("x*y*z", "xzy", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
