//! Small images made by hand.

use std::io::Write as _;

use bytes::Bytes;

use super::fake::Fake;
use crate::image::platform;
use crate::types::Digest;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layer: its archive, and the form it travels in.
#[derive(Clone)]
pub(super) struct Layer {
    pub tar: Vec<u8>,
    pub blob: Bytes,
    pub media_type: &'static str,
}

impl Layer {
    /// Compressed with gzip, holding `files`.
    pub(super) fn gzip(files: &[(&str, &[u8])]) -> Self {
        Self::gzip_of(tar(files))
    }

    pub(super) fn gzip_of(tar: Vec<u8>) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        let blob = encoder.finish().unwrap().into();
        Self {
            tar,
            blob,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }

    pub(super) fn zstd(files: &[(&str, &[u8])]) -> Self {
        let tar = tar(files);
        let blob = zstd::encode_all(&tar[..], 1).unwrap().into();
        Self {
            tar,
            blob,
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    pub(super) fn plain(files: &[(&str, &[u8])]) -> Self {
        let tar = tar(files);
        Self {
            blob: tar.clone().into(),
            tar,
            media_type: "application/vnd.oci.image.layer.v1.tar",
        }
    }

    /// One file of `size` bytes that do not compress.
    pub(super) fn large(name: &str, size: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ name.len() as u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(size)
        .collect();
        Self::plain(&[(name, &noise)])
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::sha256(&self.blob)
    }

    pub(super) fn diff_id(&self) -> Digest {
        Digest::sha256(&self.tar)
    }
}

/// An image: what a registry needs to serve it.
#[derive(Clone)]
pub(super) struct Sample {
    pub layers: Vec<Layer>,
    pub config: String,
    pub manifest: String,
}

impl Sample {
    pub(super) fn new(layers: &[Layer]) -> Self {
        Self::with_config(layers, r#"{"User":"1000:1000","Cmd":["/run"],"Env":["A=b"]}"#)
    }

    pub(super) fn with_config(layers: &[Layer], defaults: &str) -> Self {
        let host = platform::host();
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|l| format!("{:?}", l.diff_id().as_str()))
            .collect();
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{defaults},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            host.architecture,
            diff_ids.join(",")
        );
        let manifest = manifest(&config, layers);
        Self {
            layers: layers.to_vec(),
            config,
            manifest,
        }
    }

    /// Puts it into `registry` and returns the manifest's digest.
    pub(super) fn push(&self, registry: &Fake, repository: &str, tag: &str) -> Digest {
        for layer in &self.layers {
            registry.put_blob(layer.blob.clone());
        }
        registry.put_blob(self.config.clone());
        registry.put_manifest(repository, tag, MANIFEST, &self.manifest)
    }

    pub(super) fn id(&self) -> Digest {
        Digest::sha256(self.config.as_bytes())
    }

    pub(super) fn manifest_digest(&self) -> Digest {
        Digest::sha256(self.manifest.as_bytes())
    }
}

pub(super) fn manifest(config: &str, layers: &[Layer]) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|l| descriptor(l.media_type, &l.blob, ""))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes(), ""),
        layers.join(",")
    )
}

pub(super) fn descriptor(media_type: &str, bytes: &[u8], more: &str) -> String {
    let digest = Digest::sha256(bytes);
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}{more}}}"#,
        bytes.len()
    )
}

/// A ustar archive of regular files; their directories come along.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut dirs = std::collections::BTreeSet::new();
    for (name, content) in files {
        for (i, _) in name.match_indices('/') {
            if dirs.insert(&name[..=i]) {
                out.extend(header(&name[..=i], b'5', 0o755, 0, ""));
            }
        }
        out.extend(header(name, b'0', 0o644, content.len(), ""));
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An archive of one file, without an entry for the directory it is in.
pub(super) fn tar_bare(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = header(name, b'0', 0o644, content.len(), "");
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out
}

/// An archive of one directory.
pub(super) fn tar_dir(name: &str, mode: u32) -> Vec<u8> {
    let mut out = header(name, b'5', mode, 0, "");
    out.resize(out.len() + 1024, 0);
    out
}

/// An archive of one hard link.
pub(super) fn tar_link(name: &str, target: &str) -> Vec<u8> {
    let mut out = header(name, b'1', 0o644, 0, target);
    out.resize(out.len() + 1024, 0);
    out
}

fn header(name: &str, kind: u8, mode: u32, size: usize, link: &str) -> Vec<u8> {
    let mut h = vec![0u8; 512];
    let mut put = |at: usize, text: &str| h[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(157, link);
    put(257, "ustar");
    put(263, "00");
    h[156] = kind;
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    h
}
