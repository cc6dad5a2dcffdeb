//! Layers go in as archives, directories come out.

#![allow(clippy::unwrap_used)]

mod bounds;
mod compression;
mod hostile;
mod lowers;
mod nasty;
mod other_tars;
mod overlay;
mod round_trip;
mod tree;
mod whiteouts;

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::archive::{Entry, EntryKind, Time};
use super::pack::Archive;
use super::{Expected, LayerError, Limits, Unpacked, unpack};
use crate::types::Digest;

/// An archive under construction.
#[derive(Default)]
struct Tar(Vec<(Entry, Vec<u8>)>);

impl Tar {
    fn add(mut self, kind: EntryKind, path: impl AsRef<[u8]>, change: impl FnOnce(&mut Entry)) -> Self {
        let mode = if kind == EntryKind::Directory {
            0o755
        } else {
            0o644
        };
        let mtime = Time {
            seconds: 1_700_000_000,
            nanos: 0,
        };
        let mut entry = Entry {
            kind,
            path: path.as_ref().to_vec(),
            mode,
            mtime,
            ..Entry::default()
        };
        change(&mut entry);
        self.0.push((entry, Vec::new()));
        self
    }

    fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        let mut tar = self.add(EntryKind::File, path, |_| {});
        if let Some(last) = tar.0.last_mut() {
            last.1 = data.as_ref().to_vec();
        }
        tar
    }

    fn dir(self, path: impl AsRef<[u8]>) -> Self {
        self.add(EntryKind::Directory, path, |_| {})
    }

    fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(EntryKind::Symlink, path, |e| e.link = target.as_ref().to_vec())
    }

    fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(EntryKind::HardLink, path, |e| e.link = target.as_ref().to_vec())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        for (entry, data) in &self.0 {
            archive.append(entry, data).unwrap();
        }
        archive.finish().unwrap()
    }

    fn unpack(&self) -> Layer {
        unpack_bytes(&self.bytes())
    }
}

/// An unpacked layer in a directory of its own. Next to it lies `secret`, which no layer may reach.
struct Layer {
    dir: TempDir,
    result: Result<Unpacked, LayerError>,
}

impl Layer {
    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("layer").join(path)
    }

    fn read(&self, path: &str) -> String {
        assert!(
            fs::symlink_metadata(self.path(path)).unwrap().is_file(),
            "{path} is a file"
        );
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn metadata(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(path)).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 65536];
        let n = rustix::fs::lgetxattr(self.path(path), name, value.as_mut_slice()).ok()?;
        value.truncate(n);
        Some(value)
    }

    fn is_whiteout(&self, path: &str) -> bool {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let metadata = self.metadata(path);
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }

    #[track_caller]
    fn ok(self) -> Self {
        if let Err(error) = &self.result {
            panic!("{error}");
        }
        self.assert_contained();
        self
    }

    /// Expects a failure whose message has `text`, and nothing outside the layer changed.
    #[track_caller]
    fn fails_with(&self, text: &str) {
        self.assert_contained();
        match &self.result {
            Ok(_) => panic!("unpacked, though it should fail with {text:?}"),
            Err(error) => assert!(error.to_string().contains(text), "{error} does not say {text:?}"),
        }
    }

    #[track_caller]
    fn assert_contained(&self) {
        let names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let secret = self.dir.path().join("secret");
        assert_eq!(fs::read(secret.join("file")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
    }
}

fn unpack_bytes(bytes: &[u8]) -> Layer {
    unpack_with(bytes, &Digest::sha256(bytes), &[], &Limits::default())
}

fn unpack_with(blob: &[u8], diff_id: &Digest, lowers: &[PathBuf], limits: &Limits) -> Layer {
    let digest = Digest::sha256(blob);
    let expected = Expected {
        blob: Some(&digest),
        blob_size: Some(blob.len() as u64),
        diff_id,
    };
    unpack_from(blob, &expected, lowers, limits)
}

fn unpack_from(
    source: impl Read + Send,
    expected: &Expected<'_>,
    lowers: &[PathBuf],
    limits: &Limits,
) -> Layer {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("secret")).unwrap();
    fs::write(dir.path().join("secret/file"), "kept").unwrap();
    let layer = dir.path().join("layer");
    fs::create_dir(&layer).unwrap();
    let result = unpack(source, expected, &layer, lowers, limits);
    Layer { dir, result }
}

fn os(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
