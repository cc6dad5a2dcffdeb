//! Debian's docker-registry on a random loopback port, with storage of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::http::request;
use crate::image::{Blob, Built};

/// A registry that lives as long as this value or this process, whichever ends first.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    guard: Child,
    storage: PathBuf,
}

/// A certificate with its key, and the authority that signed it.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Tls {
    /// An authority and a certificate for 127.0.0.1, written to `dir`.
    pub fn for_loopback(dir: &Path) -> Result<Self> {
        let tls = Self {
            authority: dir.join("ca.crt"),
            certificate: dir.join("registry.crt"),
            key: dir.join("registry.key"),
        };
        let authority_key = dir.join("ca.key");
        let new = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ];
        openssl(
            Command::new("openssl")
                .args(new)
                .args([
                    "-subj",
                    "/CN=test authority",
                    "-addext",
                    "keyUsage=critical,keyCertSign",
                ])
                .arg("-keyout")
                .arg(&authority_key)
                .arg("-out")
                .arg(&tls.authority),
        )?;
        openssl(
            Command::new("openssl")
                .args(new)
                .args([
                    "-subj",
                    "/CN=test registry",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                ])
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .arg("-CA")
                .arg(&tls.authority)
                .arg("-CAkey")
                .arg(&authority_key)
                .arg("-keyout")
                .arg(&tls.key)
                .arg("-out")
                .arg(&tls.certificate),
        )?;
        Ok(tls)
    }
}

fn openssl(command: &mut Command) -> Result<()> {
    let output = command.output().context("run openssl")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Registry {
    /// Starts one that speaks plain HTTP.
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// Starts one, with TLS if a certificate is given.
    pub fn start_with(tls: Option<&Tls>) -> Result<Self> {
        let address = free_port()?;
        let storage = crate::base_dir().join(format!("registry-{}-{}", std::process::id(), address.port()));
        std::fs::create_dir_all(&storage)?;
        let tls = tls.map_or(String::new(), |t| {
            format!(
                ", tls: {{certificate: {}, key: {}}}",
                t.certificate.display(),
                t.key.display()
            )
        });
        let config = storage.join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}/data}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: \"{address}\"{tls}}}\n",
                storage.display()
            ),
        )?;
        let log = std::fs::File::create(storage.join("log"))?;
        // The shell ends the registry and removes its storage when its standard input closes, which happens however this process ends.
        let guard = Command::new("sh")
            .args([
                "-c",
                "docker-registry serve \"$1/config.yml\" & read -r _; kill $!; wait $!; rm -rf \"$1\"",
                "sh",
            ])
            .arg(&storage)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start a shell")?;
        let registry = Self {
            address,
            guard,
            storage,
        };
        registry.wait_until_up()?;
        Ok(registry)
    }

    fn wait_until_up(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if std::net::TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = std::fs::read_to_string(self.storage.join("log")).unwrap_or_default();
        bail!("docker-registry did not come up (apt-get install docker-registry): {log}");
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Pushes an image and returns its reference.
    pub fn push(&self, repository: &str, tag: &str, image: &Built) -> Result<String> {
        for blob in image.layers.iter().chain([&image.config]) {
            self.push_blob(repository, blob)?;
        }
        self.push_manifest(repository, tag, &image.manifest, &image.media_type)?;
        Ok(format!("{}/{repository}:{tag}", self.address))
    }

    /// Pushes a manifest or an index whose blobs are already there. `reference` is a tag or a digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        body: &Blob,
        media_type: &str,
    ) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let (code, reply) = request(
            self.address,
            "PUT",
            &path,
            &[("Content-Type", media_type)],
            &body.data,
        )?;
        ensure!(
            code == 201,
            "PUT {path}: {code} {}",
            String::from_utf8_lossy(&reply.body)
        );
        Ok(())
    }

    fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let (code, reply) = request(self.address, "POST", &path, &[], &[])?;
        ensure!(
            code == 202,
            "POST {path}: {code} {}",
            String::from_utf8_lossy(&reply.body)
        );
        let location = reply.header("location").context("an upload without a location")?;
        let path = location
            .split_once("//")
            .map_or(location, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
        let path = format!("{path}&digest={}", blob.digest);
        let kind = [("Content-Type", "application/octet-stream")];
        let (code, reply) = request(self.address, "PUT", &path, &kind, &blob.data)?;
        ensure!(
            code == 201,
            "PUT {path}: {code} {}",
            String::from_utf8_lossy(&reply.body)
        );
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A loopback address that nothing listens on, outside the range that outgoing connections take their ports from.
pub fn free_port() -> Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(37).wrapping_add(step)) % 10_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", u16::try_from(port)?)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no free port between 20000 and 30000");
}
