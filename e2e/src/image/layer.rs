//! A layer: an archive, and how it is compressed on its way.

use std::io::Write;

use anyhow::Result;

use super::tar::{Entry, Kind};
use super::{Blob, Format};

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// An archive in the making.
#[derive(Debug, Clone)]
pub struct Layer {
    tar: Vec<u8>,
    compression: Compression,
}

impl Default for Layer {
    fn default() -> Self {
        Self {
            tar: Vec::new(),
            compression: Compression::Gzip,
        }
    }
}

impl Layer {
    /// An empty layer that will be gzipped.
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer from a finished archive.
    pub fn from_tar(mut tar: Vec<u8>) -> Self {
        // Members can still be added: drop the end mark and write it again later.
        while tar.len() >= 512 && tar[tar.len() - 512..].iter().all(|&b| b == 0) {
            tar.truncate(tar.len() - 512);
        }
        Self {
            tar,
            ..Self::default()
        }
    }

    /// Adds a member.
    #[must_use]
    pub fn entry(mut self, entry: Entry) -> Self {
        entry.write(&mut self.tar);
        self
    }

    /// Adds a directory with mode 0755.
    #[must_use]
    pub fn dir(self, name: &str) -> Self {
        self.entry(Entry::new(name, Kind::Dir))
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, name: &str, data: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.entry(Entry::new(name, Kind::File(data.into())).mode(mode))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, to: &str) -> Self {
        self.entry(Entry::new(name, Kind::Symlink(to.into())).mode(0o777))
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hardlink(self, name: &str, to: &str) -> Self {
        self.entry(Entry::new(name, Kind::Hardlink(to.into())))
    }

    /// Marks `name` of the layers below as removed.
    #[must_use]
    pub fn whiteout(self, name: &str) -> Self {
        let (dir, file) = name.rsplit_once('/').unwrap_or(("", name));
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(&format!("{dir}{slash}.wh.{file}"), "", 0o644)
    }

    /// Hides everything that the layers below have in `dir`.
    #[must_use]
    pub fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), "", 0o644)
    }

    /// Chooses the compression.
    #[must_use]
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    pub(super) fn finish(&self, format: Format) -> Result<(Blob, Blob, &'static str)> {
        let mut tar = self.tar.clone();
        tar.resize(tar.len() + 1024, 0);
        let tar = Blob::new(tar);
        let packed = match self.compression {
            Compression::None => tar.data.clone(),
            Compression::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(&tar.data)?;
                out.finish()?
            }
            Compression::Zstd => zstd::encode_all(tar.data.as_slice(), 1)?,
        };
        let media_type = match (format, self.compression) {
            (Format::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Format::Docker, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
            (Format::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Format::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        Ok((tar, Blob::new(packed), media_type))
    }
}
