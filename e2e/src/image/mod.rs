//! Images made here, byte by byte, so that every variant and every lie of a registry can be tried.

mod base;
mod layer;
mod tar;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use base::{busybox, busybox_layer, debian};
pub use layer::{Compression, Layer};
pub use tar::{Entry, Kind};

/// Bytes and their digest.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The bytes.
    pub data: Vec<u8>,
    /// `sha256:...` of the bytes.
    pub digest: String,
}

impl Blob {
    /// Computes the digest.
    pub fn new(data: Vec<u8>) -> Self {
        let digest = digest_of(&data);
        Self { data, digest }
    }
}

/// `sha256:<hex>` of some bytes.
pub fn digest_of(data: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(data)
        .iter()
        .fold(String::from("sha256:"), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Which family of media types an image uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Docker's schema 2.
    Docker,
    /// The Open Container Initiative's.
    Oci,
}

/// An image in the making.
#[derive(Debug, Clone)]
pub struct Image {
    format: Format,
    layers: Vec<Layer>,
    config: Value,
    os: String,
    architecture: String,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            format: Format::Oci,
            layers: Vec::new(),
            config: json!({ "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] }),
            os: "linux".into(),
            architecture: "amd64".into(),
        }
    }
}

/// A finished image.
#[derive(Debug, Clone)]
pub struct Built {
    /// The manifest.
    pub manifest: Blob,
    /// Its media type.
    pub media_type: String,
    /// The configuration, whose digest is the image's id.
    pub config: Blob,
    /// The layers as they travel.
    pub layers: Vec<Blob>,
    platform: Value,
}

impl Image {
    /// An image without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Chooses the media types.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Compresses every layer so far this way.
    #[must_use]
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.layers = self
            .layers
            .into_iter()
            .map(|l| l.compressed(compression))
            .collect();
        self
    }

    /// Sets a key of the image's run-time configuration, such as `User` or `Entrypoint`.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, assignment: &str) -> Self {
        if let Some(env) = self.config["Env"].as_array_mut() {
            env.push(json!(assignment));
        }
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        (self.os, self.architecture) = (os.into(), architecture.into());
        self
    }

    /// Makes the bytes.
    pub fn build(&self) -> Result<Built> {
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        let mut descriptors = Vec::new();
        for layer in &self.layers {
            let (tar, packed, media_type) = layer.finish(self.format)?;
            diff_ids.push(tar.digest);
            descriptors.push(descriptor(&packed, media_type));
            layers.push(packed);
        }
        let config = Blob::new(serde_json::to_vec(&json!({
            "architecture": self.architecture, "os": self.os, "created": "2000-01-01T00:00:00Z",
            "config": self.config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?);
        let (media_type, config_type) = match self.format {
            Format::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
            ),
            Format::Oci => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
            ),
        };
        let manifest = Blob::new(serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": descriptor(&config, config_type), "layers": descriptors,
        }))?);
        let platform = json!({ "os": self.os, "architecture": self.architecture });
        Ok(Built {
            manifest,
            media_type: media_type.into(),
            config,
            layers,
            platform,
        })
    }
}

/// An index (or Docker's manifest list) over images for several platforms.
pub fn index(format: Format, images: &[&Built]) -> Result<(Blob, &'static str)> {
    let media_type = match format {
        Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        Format::Oci => "application/vnd.oci.image.index.v1+json",
    };
    let manifests: Vec<_> = images
        .iter()
        .map(|image| {
            let mut entry = descriptor(&image.manifest, &image.media_type);
            entry["platform"] = image.platform.clone();
            entry
        })
        .collect();
    let body = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    Ok((Blob::new(serde_json::to_vec(&body)?), media_type))
}

/// A descriptor of a blob.
pub fn descriptor(blob: &Blob, media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.data.len() })
}
