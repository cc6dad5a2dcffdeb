//! Against a registry and a client that are not ours: Debian's docker-registry, filled by skopeo.

use std::process::{Child, Command, Stdio};

use super::sample::{Layer, MANIFEST, Sample, descriptor};
use super::*;

struct DockerRegistry {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    /// `None` on machines without the two programs.
    fn start() -> Option<Self> {
        let found = |name: &str| {
            ["/usr/bin", "/usr/local/bin"]
                .iter()
                .any(|d| Path::new(d).join(name).exists())
        };
        if !found("docker-registry") || !found("skopeo") {
            eprintln!("skipped: docker-registry and skopeo are not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, address, dir };
        while std::net::TcpStream::connect(&registry.address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(registry)
    }

    /// Has skopeo push `sample`, in docker's or OCI's form.
    fn push(&self, sample: &Sample, name: &str, format: &str) {
        let layout = self.dir.path().join(name.replace(['/', ':'], "-"));
        let blobs = layout.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            std::fs::write(blobs.join(crate::types::Digest::sha256(bytes).hex()), bytes).unwrap()
        };
        sample.layers.iter().for_each(|l| put(&l.blob));
        put(sample.config.as_bytes());
        put(sample.manifest.as_bytes());
        let entry = descriptor(MANIFEST, sample.manifest.as_bytes(), "");
        std::fs::write(
            layout.join("index.json"),
            format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#),
        )
        .unwrap();
        std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let out = Command::new("skopeo")
            .args([
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--format",
                format,
            ])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[tokio::test]
async fn pulls_what_skopeo_pushed() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let node = Node::new();
    let sample = Sample::new(&[
        Layer::gzip(&[("etc/a", b"1")]),
        Layer::large("usr/bin/b", 3 << 20),
    ]);
    for (name, format) in [("team/oci:v1", "oci"), ("team/docker:v1", "v2s2")] {
        registry.push(&sample, name, format);
        let image = node.pull(format!("{}/{name}", registry.address)).await.unwrap();
        assert_eq!(
            image.diff_ids,
            sample.layers.iter().map(Layer::diff_id).collect::<Vec<_>>(),
            "{format}"
        );
        let rootfs = node.store.lease(&image.id, format).unwrap();
        assert_eq!(std::fs::read(rootfs.layers[1].join("etc/a")).unwrap(), b"1");
        assert_eq!(
            std::fs::metadata(rootfs.layers[0].join("usr/bin/b"))
                .unwrap()
                .len(),
            3 << 20
        );
        let again = node.pull(&image.repo_digests[0]).await.unwrap();
        assert_eq!(again.id, image.id);
    }
    let error = node
        .pull(format!("{}/team/none:v1", registry.address))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), crate::types::Kind::NotFound);
}
