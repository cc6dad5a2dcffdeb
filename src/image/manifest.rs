//! Manifests and indexes, OCI's and docker's: which layers an image has, and which image of several fits this machine.
//!
//! Pure. The bytes come from outside: everything is bounded, nothing is believed beyond what was checked here.

use serde::Deserialize;

use super::platform::{self, Platform};
use crate::types::Digest;

/// Most layers of an image; overlayfs stacks no more.
const MAX_LAYERS: usize = 500;
/// Most entries of an index.
const MAX_ENTRIES: usize = 4096;
/// Largest image configuration in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Media types a registry may answer a manifest request with.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// Content by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// What a manifest request led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    /// One image.
    Image(Manifest),
    /// One image per platform: the one for this machine.
    Index(Descriptor),
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub config: Descriptor,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "schemaVersion", default)]
    schema_version: u32,
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(rename = "fsLayers", default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

impl RawDescriptor {
    fn into_descriptor(self) -> Descriptor {
        Descriptor {
            media_type: self.media_type,
            digest: self.digest,
            size: self.size,
        }
    }
}

/// Reads a manifest or an index. `content_type` is what the registry called it. An error is a sentence on the content.
pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, String> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| format!("the manifest is not valid: {e}"))?;
    if raw.fs_layers.is_some() || raw.schema_version == 1 {
        return Err(
            "the image is in docker's old schema 1 format, which is not supported: push it again with \
                    a current tool"
                .into(),
        );
    }
    // One document that two programs read differently is an attack (CVE-2021-41190).
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err("the manifest is both an image and an index: refused".into());
    }
    if let (Some(inside), Some(outside)) = (&raw.media_type, content_type)
        && is_index_type(inside) != is_index_type(outside)
        && (is_known_type(inside) && is_known_type(outside))
    {
        return Err(format!(
            "the manifest says it is {inside:?}, the registry says {outside:?}: refused"
        ));
    }
    match raw.manifests {
        Some(entries) => choose(entries).map(Document::Index),
        None => image(raw.config, raw.layers).map(Document::Image),
    }
}

/// What a manifest or index says it is, or looks like, for want of a registry that says so.
pub(super) fn media_type(bytes: &[u8]) -> String {
    const OCI: &str = "application/vnd.oci.image";
    match serde_json::from_slice::<Raw>(bytes) {
        Ok(Raw {
            media_type: Some(given),
            ..
        }) => given,
        Ok(Raw {
            manifests: Some(_), ..
        }) => format!("{OCI}.index.v1+json"),
        _ => format!("{OCI}.manifest.v1+json"),
    }
}

fn is_index_type(media_type: &str) -> bool {
    media_type.ends_with("image.index.v1+json") || media_type.ends_with("manifest.list.v2+json")
}

fn is_known_type(media_type: &str) -> bool {
    is_index_type(media_type)
        || media_type.ends_with("image.manifest.v1+json")
        || media_type.ends_with("distribution.manifest.v2+json")
}

fn choose(entries: Vec<RawDescriptor>) -> Result<Descriptor, String> {
    if entries.len() > MAX_ENTRIES {
        return Err(format!("the image index has more than {MAX_ENTRIES} entries"));
    }
    let best = entries
        .iter()
        .enumerate()
        .filter_map(|(i, e)| Some((platform::rank(e.platform.as_ref())?, std::cmp::Reverse(i))))
        .max();
    let Some((_, std::cmp::Reverse(i))) = best else {
        let mut offered: Vec<String> = entries
            .iter()
            .filter_map(|e| e.platform.as_ref())
            .map(ToString::to_string)
            .take(20)
            .collect();
        offered.dedup();
        return Err(format!(
            "the image has no variant for {}; it has: {}",
            platform::host(),
            if offered.is_empty() {
                "none".to_owned()
            } else {
                offered.join(", ")
            }
        ));
    };
    entries
        .into_iter()
        .nth(i)
        .map(RawDescriptor::into_descriptor)
        .ok_or_else(|| "the index is empty".into())
}

fn image(config: Option<RawDescriptor>, layers: Option<Vec<RawDescriptor>>) -> Result<Manifest, String> {
    let config = config
        .ok_or("the manifest has no config: it is not a container image")?
        .into_descriptor();
    match config.media_type.as_str() {
        // Registries with old content leave it out or say octet-stream.
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json"
        | "application/octet-stream"
        | "" => {}
        other => {
            return Err(format!(
                "{other:?} is an artifact, not a container image that could be run"
            ));
        }
    }
    if config.size > MAX_CONFIG {
        return Err(format!(
            "the image configuration has {} bytes; at most {MAX_CONFIG} are allowed",
            config.size
        ));
    }
    let layers: Vec<_> = layers
        .unwrap_or_default()
        .into_iter()
        .map(RawDescriptor::into_descriptor)
        .collect();
    if layers.len() > MAX_LAYERS {
        return Err(format!(
            "the image has {} layers; at most {MAX_LAYERS} can be stacked",
            layers.len()
        ));
    }
    layers.iter().try_for_each(check_layer)?;
    Ok(Manifest { config, layers })
}

fn check_layer(layer: &Descriptor) -> Result<(), String> {
    let media_type = layer.media_type.as_str();
    let base = ["+gzip", ".gzip", "+zstd", ".zstd"]
        .iter()
        .find_map(|s| media_type.strip_suffix(s));
    match base.unwrap_or(media_type) {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Ok(()),
        _ if media_type.contains("+encrypted") => Err(format!(
            "layer {} is encrypted, which is not supported",
            layer.digest
        )),
        _ => Err(format!(
            "layer {} has the unsupported media type {media_type:?}",
            layer.digest
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn descriptor(media_type: &str, c: char, more: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":7{more}}}"#,
            digest(c)
        )
    }

    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

    fn manifest(config: &str, layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}],"unknown":[1]}}"#,
            descriptor(config, 'a', ""),
            descriptor(layer, 'b', r#","annotations":{"x":"y"},"urls":["http://z"]"#)
        )
    }

    fn refusal(text: &str) -> String {
        parse(text.as_bytes(), None).unwrap_err()
    }

    #[test]
    fn images_of_both_families() {
        for (config, layer) in [
            (CONFIG, LAYER),
            (CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            (
                "application/octet-stream",
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            ),
        ] {
            let Document::Image(image) = parse(manifest(config, layer).as_bytes(), None).unwrap() else {
                panic!("not an image")
            };
            assert_eq!(image.layers[0].media_type, layer);
            assert_eq!(image.config.digest.as_str(), digest('a'));
        }
    }

    #[test]
    fn the_entry_for_this_machine_is_chosen() {
        let host = platform::host();
        let other = if host.architecture == "amd64" {
            "arm64"
        } else {
            "amd64"
        };
        let entry = |os: &str, arch: &str, c: char| {
            descriptor(
                "m",
                c,
                &format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#),
            )
        };
        let index =
            |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let chosen = |entries: &[String]| match parse(index(entries).as_bytes(), None).unwrap() {
            Document::Index(d) => d.digest.to_string(),
            Document::Image(_) => panic!("not an index"),
        };
        let ours = entry("linux", &host.architecture, 'c');
        assert_eq!(
            chosen(&[
                entry("linux", other, 'a'),
                entry("unknown", "unknown", 'b'),
                ours.clone()
            ]),
            digest('c')
        );
        assert_eq!(
            chosen(&[ours.clone(), entry("linux", &host.architecture, 'd')]),
            digest('c')
        );
        assert_eq!(chosen(&[descriptor("m", 'e', ""), ours]), digest('c'));
        let none = refusal(&index(&[
            entry("windows", &host.architecture, 'a'),
            entry("linux", other, 'b'),
        ]));
        assert!(
            none.contains("no variant for linux/") && none.contains(&format!("linux/{other}")),
            "{none}"
        );
        assert!(refusal(&index(&[])).contains("it has: none"));
    }

    #[test]
    fn what_is_no_container_image_is_refused_with_a_reason() {
        for (text, reason) in [
            (
                manifest("application/vnd.cncf.helm.config.v1+json", LAYER),
                "artifact",
            ),
            (
                manifest(CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
                "encrypted",
            ),
            (manifest(CONFIG, "text/plain"), "unsupported media type"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), "schema 1"),
            (r#"{"schemaVersion":2}"#.into(), "no config"),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.into(), "both"),
            (
                r#"{"schemaVersion":2,"config":{"digest":"sha256:zz","size":1}}"#.into(),
                "not valid",
            ),
            (
                r#"{"schemaVersion":2,"config":{"digest":"x","size":-1}}"#.into(),
                "not valid",
            ),
            ("[]".into(), "no config"),
            ("7".into(), "not valid"),
            (String::new(), "not valid"),
            (
                manifest(CONFIG, LAYER).replacen("\"size\":7", "\"size\":99999999999", 1),
                "bytes",
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                    descriptor(CONFIG, 'a', ""),
                    vec![descriptor(LAYER, 'b', ""); 501].join(",")
                ),
                "501 layers",
            ),
        ] {
            let error = refusal(&text);
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let error = parse(
            manifest(CONFIG, LAYER)
                .replace(
                    "\"schemaVersion\":2",
                    "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\"",
                )
                .as_bytes(),
            Some("application/vnd.oci.image.index.v1+json"),
        )
        .unwrap_err();
        assert!(error.contains("the registry says"), "{error}");
    }
}
