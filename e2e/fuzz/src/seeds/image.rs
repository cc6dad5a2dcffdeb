//! References, manifests and configurations of images.

use super::{Seed, bytes};

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Image configurations.
pub fn configs() -> Vec<Seed> {
    let full = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2020-01-02T03:04:05.678901234Z","history":[{{"created_by":"x"}}],"config":{{"User":"app:staff","Entrypoint":["/e"],"Cmd":["-x"],"Env":["A=1","PATH=/bin","EMPTY"],"WorkingDir":"/w","Volumes":{{"/b":{{}},"a":{{}}}},"ExposedPorts":{{"80/tcp":{{}}}},"Labels":{{"l":"v"}},"StopSignal":"SIGRTMIN+3","Healthcheck":{{"Test":["CMD"]}},"OnBuild":null}},"rootfs":{{"type":"layers","diff_ids":["{D}","{D}"]}}}}"#
    );
    let stop = |signal: &str| {
        bytes(&format!(
            r#"{{"config":{{"Cmd":["x"],"StopSignal":"{signal}"}},"rootfs":{{}}}}"#
        ))
    };
    vec![
        ("full", bytes(&full)),
        (
            "null",
            bytes(
                r#"{"config":{"User":null,"Entrypoint":null,"Cmd":"one","Env":null,"Volumes":null,"Labels":null},"rootfs":{"diff_ids":null},"created":null}"#,
            ),
        ),
        ("minimal", bytes(r#"{"rootfs":{}}"#)),
        ("stop-signal-overflow-up", stop("SIGRTMIN+2147483647")),
        ("stop-signal-overflow-down", stop("RTMAX--2147483648")),
        (
            "working-dir-nul",
            bytes(r#"{"config":{"Cmd":["x"],"WorkingDir":"/a\u0000b"},"rootfs":{}}"#),
        ),
    ]
}

/// Manifests and indexes.
pub fn manifests() -> Vec<Seed> {
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{D}","size":7023}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{D}","size":32654}},{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"{D}","size":16724}}]}}"#
    );
    let docker = format!(
        "application/vnd.docker.distribution.manifest.v2+json\n{{\"schemaVersion\":2,\"config\":{{\"mediaType\":\"application/vnd.docker.container.image.v1+json\",\"digest\":\"{D}\",\"size\":1}},\"layers\":[{{\"mediaType\":\"application/vnd.docker.image.rootfs.diff.tar.gzip\",\"digest\":\"{D}\",\"size\":2}}]}}"
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{D}","size":7143,"platform":{{"architecture":"arm64","os":"linux","variant":"v8"}}}},{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{D}","size":7682,"platform":{{"architecture":"amd64","os":"linux","os.version":"1","os.features":["x"]}}}},{{"digest":"{D}","size":1,"platform":{{"architecture":"unknown","os":"unknown"}}}}]}}"#
    );
    let old =
        r#"{"schemaVersion":1,"name":"a/b","tag":"x","fsLayers":[{"blobSum":"sha256:0"}],"history":[]}"#;
    vec![
        ("image", bytes(&image)),
        ("docker", bytes(&docker)),
        ("index", bytes(&index)),
        ("schema-1", bytes(old)),
    ]
}

/// References.
pub fn references() -> Vec<Seed> {
    [
        ("short", "busybox".to_owned()),
        ("tag", "docker.io/library/busybox:1.36".to_owned()),
        ("port", "registry.example:5000/team/app_x.y/z-1:v1".to_owned()),
        ("digest", format!("quay.io/a/b@{D}")),
        ("both", format!("localhost/a:tag@{D}")),
        ("address", "[fd00::1]:5000/a/b".to_owned()),
        ("id", D.to_owned()),
        (
            "repository-like-a-registry",
            "docker.io/team.example/app:1".to_owned(),
        ),
        ("library-of-two", "docker.io/library/a/b".to_owned()),
        ("bad", "UPPER/case:a:b@x".to_owned()),
    ]
    .map(|(name, text)| (name, text.into_bytes()))
    .into()
}
