//! Images made in memory: the demo's own, which holds nothing but this program, and whatever a test wants to serve.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::image::layer::archive::{Entry, EntryKind};
use crate::image::layer::pack::Archive;
use crate::types::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image with everything a registry has to know of it.
#[derive(Debug, Clone)]
pub struct DemoImage {
    /// Repository, such as `husk/demo`.
    pub name: String,
    /// Tag.
    pub tag: String,
    /// Digest of what the tag means.
    pub digest: Digest,
    /// Manifests and indexes.
    pub manifests: Vec<Blob>,
    /// Configuration and layers.
    pub blobs: Vec<Blob>,
}

/// Bytes with their digest.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Digest of the bytes.
    pub digest: Digest,
    /// What they are.
    pub media_type: &'static str,
    /// The bytes.
    pub bytes: Bytes,
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// As most layers are.
    Gzip,
    /// As newer ones are.
    Zstd,
}

/// A layer for [`build`].
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// The archive, as it will be unpacked.
    pub tar: Vec<u8>,
    /// How to compress it.
    pub compression: Compression,
}

impl Blob {
    fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: Digest::sha256(&bytes),
            media_type,
            bytes,
        }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// The demo's image: this very program, which is linked statically and needs nothing around it, and the two files that
/// name its users.
pub(super) fn assemble() -> Result<DemoImage> {
    let program = Path::new("/proc/self/exe");
    let program = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let layers = [
        LayerSource {
            tar: accounts()?,
            compression: Compression::Zstd,
        },
        LayerSource {
            tar: executable(&program)?,
            compression: Compression::Gzip,
        },
    ];
    build(
        "husk/demo",
        "latest",
        &layers,
        json!({"Entrypoint": ["/husk"], "Env": ["PATH=/"], "WorkingDir": "/"}),
    )
}

/// Puts an image together. `config` is the part of the configuration that says what to run.
///
/// # Errors
/// Those of compressing the layers.
pub fn build(name: &str, tag: &str, layers: &[LayerSource], config: Value) -> Result<DemoImage> {
    let packed = layers
        .iter()
        .map(LayerSource::pack)
        .collect::<Result<Vec<_>>>()
        .context("compress a layer")?;
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(&layer.tar)).collect();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = Blob::new(CONFIG, config.to_string());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": packed.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    let manifest = Blob::new(MANIFEST, manifest.to_string());
    Ok(DemoImage {
        name: name.to_owned(),
        tag: tag.to_owned(),
        digest: manifest.digest.clone(),
        manifests: vec![manifest],
        blobs: std::iter::once(config).chain(packed).collect(),
    })
}

impl LayerSource {
    fn pack(&self) -> Result<Blob> {
        Ok(match self.compression {
            Compression::None => Blob::new("application/vnd.oci.image.layer.v1.tar", self.tar.clone()),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&self.tar)?;
                Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", encoder.finish()?)
            }
            Compression::Zstd => {
                let bytes = zstd::stream::encode_all(self.tar.as_slice(), 1)?;
                Blob::new("application/vnd.oci.image.layer.v1.tar+zstd", bytes)
            }
        })
    }
}

fn accounts() -> std::io::Result<Vec<u8>> {
    let directory = |path: &str, mode| (entry(EntryKind::Directory, path, mode), String::new());
    let file = |path: &str, text: &str| (entry(EntryKind::File, path, 0o644), text.to_owned());
    archive(&[
        directory("./", 0o755),
        directory("etc/", 0o755),
        file("etc/group", "root:x:0:\nnobody:x:65534:\n"),
        file(
            "etc/passwd",
            "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
        ),
        directory("tmp/", 0o1777),
    ])
}

fn executable(program: &[u8]) -> std::io::Result<Vec<u8>> {
    archive(&[(entry(EntryKind::File, "husk", 0o755), program)])
}

fn archive(entries: &[(Entry, impl AsRef<[u8]>)]) -> std::io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    for (entry, data) in entries {
        archive.append(entry, data.as_ref())?;
    }
    archive.finish()
}

fn entry(kind: EntryKind, path: &str, mode: u32) -> Entry {
    Entry {
        kind,
        path: path.into(),
        mode,
        ..Entry::default()
    }
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::image::layer::{Expected, Limits, unpack};

    #[test]
    fn the_demo_image_unpacks_to_this_program() {
        let image = assemble().unwrap();
        let manifest: Value = serde_json::from_slice(&image.manifests[0].bytes).unwrap();
        let config: Value = serde_json::from_slice(&image.blobs[0].bytes).unwrap();
        assert_eq!(image.digest, Digest::sha256(&image.manifests[0].bytes));
        let dir = tempfile::tempdir().unwrap();
        for (i, blob) in image.blobs[1..].iter().enumerate() {
            assert_eq!(manifest["layers"][i]["digest"], blob.digest.as_str());
            assert_eq!(manifest["layers"][i]["size"], blob.bytes.len());
            let dest = dir.path().join(i.to_string());
            std::fs::create_dir(&dest).unwrap();
            let diff_id = config["rootfs"]["diff_ids"][i].as_str().unwrap().parse().unwrap();
            let expected = Expected {
                blob: Some(&blob.digest),
                blob_size: Some(blob.bytes.len() as u64),
                diff_id: &diff_id,
            };
            unpack(blob.bytes.as_ref(), &expected, &dest, &[], &Limits::default()).unwrap();
        }
        assert!(
            std::fs::read_to_string(dir.path().join("0/etc/passwd"))
                .unwrap()
                .starts_with("root:x:0:0:")
        );
        let (here, there) = (
            std::fs::read("/proc/self/exe").unwrap(),
            std::fs::read(dir.path().join("1/husk")).unwrap(),
        );
        assert!(here == there, "{} and {} bytes", here.len(), there.len());
    }
}
