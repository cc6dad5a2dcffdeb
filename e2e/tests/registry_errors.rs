//! Registries that misbehave, and what kubelet makes of husk's answer: the reason that a pod waits with.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use husk_e2e::fake::{Answer, FakeRegistry, Gate};
use husk_e2e::image::{Built, Image, Layer};
use husk_e2e::registry::{Registry, Tls, free_port};
use husk_e2e::{CriExt, Options, run_with};
use tonic::{Code, Status};

/// The reason of the waiting container, worked out as kubelet does: from the code and the first word.
fn reason(status: &Status) -> &'static str {
    for word in ["RegistryUnavailable", "SignatureValidationFailed"] {
        // Under any other code kubelet's client leaves its own words in front.
        if status.code() == Code::Unknown && status.message().starts_with(word) {
            return word;
        }
    }
    "ErrImagePull"
}

/// Repositories with a fault of their own that is more than a status. Each has an image of its own: pulls share layers.
const FAULTS: [&str; 6] = ["silent", "stalled", "cut", "cutmanifest", "wrong", "garbage"];

fn images() -> Result<HashMap<&'static str, Built>> {
    let image = |name: &'static str| {
        let layer = Layer::new().file(name, format!("{name} ").repeat(1000), 0o644);
        Ok((name, Image::new().layer(layer).build()?))
    };
    FAULTS.into_iter().map(image).collect()
}

/// A registry whose repositories have each a fault; those called `s` and a number answer with that status.
fn faulty(gate: Gate) -> Result<FakeRegistry> {
    let images = images()?;
    let known = images.clone();
    let fake = FakeRegistry::start_with(move |asked, _| {
        let repository = asked.path.strip_prefix("/v2/")?.split('/').next()?;
        if let Some(code) = repository.strip_prefix('s').and_then(|c| c.parse().ok()) {
            return Some(match code {
                401 => Answer::status(401).with("WWW-Authenticate", "Basic realm=\"test\""),
                429 => Answer::status(429).with("Retry-After", "3600"),
                code => Answer::status(code),
            });
        }
        let image = known.get(repository)?;
        let manifest = || Answer::ok(&image.media_type, image.manifest.data.clone());
        let layer = || Answer::ok("application/octet-stream", image.layers[0].data.clone());
        let of_manifest = asked.path.contains("/manifests/");
        let of_layer = asked.is_blob() && asked.path.ends_with(&image.layers[0].digest);
        match repository {
            "silent" if of_manifest => Some(manifest().behind(&gate)),
            "stalled" if of_layer => Some(layer().behind(&gate)),
            "cut" if of_layer => Some(layer().cut_after(10)),
            "cutmanifest" if of_manifest => Some(manifest().cut_after(10)),
            "wrong" if of_layer => {
                let mut data = image.layers[0].data.clone();
                let middle = data.len() / 2;
                data[middle] ^= 1;
                Some(Answer::ok("application/octet-stream", data))
            }
            "garbage" if of_manifest => {
                Some(Answer::ok(&image.media_type, "<html>welcome to the hotel</html>"))
            }
            _ => None,
        }
    })?;
    for (name, image) in &images {
        fake.add(&format!("{name}/x"), "1", image);
    }
    Ok(fake)
}

#[tokio::test]
async fn each_fault_has_its_code_and_kubelets_reason() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let secure = Registry::start_with(Some(&Tls::for_loopback(dir.path())?))?;
    let gate = Gate::default();
    let fake = faulty(gate.clone())?;
    let (host, nobody) = (fake.host(), free_port()?);
    let table = [
        // What the registry says of the request is the request's problem.
        (
            format!("{host}/s401/x:1"),
            Code::PermissionDenied,
            "ErrImagePull",
            "401",
        ),
        (
            format!("{host}/s403/x:1"),
            Code::PermissionDenied,
            "ErrImagePull",
            "403",
        ),
        (format!("{host}/s404/x:1"), Code::NotFound, "ErrImagePull", "404"),
        (
            format!("{host}/s429/x:1"),
            Code::ResourceExhausted,
            "ErrImagePull",
            "429",
        ),
        (
            format!("{host}/s418/x:1"),
            Code::FailedPrecondition,
            "ErrImagePull",
            "418",
        ),
        // That there is no registry to say anything is not.
        (
            format!("{host}/s500/x:1"),
            Code::Unknown,
            "RegistryUnavailable",
            "500",
        ),
        (
            format!("{host}/s503/x:1"),
            Code::Unknown,
            "RegistryUnavailable",
            "503",
        ),
        (
            format!("{nobody}/x:1"),
            Code::Unknown,
            "RegistryUnavailable",
            "refused",
        ),
        (
            "no-such-host.invalid/x:1".into(),
            Code::Unknown,
            "RegistryUnavailable",
            "look up",
        ),
        (
            "untrusted.invalid/x:1".into(),
            Code::Unknown,
            "RegistryUnavailable",
            "ertificate",
        ),
        (
            "plain.invalid/x:1".into(),
            Code::Unknown,
            "RegistryUnavailable",
            "TLS",
        ),
        (
            format!("{host}/silent/x:1"),
            Code::Unknown,
            "RegistryUnavailable",
            "nothing for",
        ),
        (
            format!("{host}/stalled/x:1"),
            Code::Unknown,
            "RegistryUnavailable",
            "nothing for",
        ),
        (
            format!("{host}/cut/x:1"),
            Code::Unknown,
            "RegistryUnavailable",
            "of",
        ),
        (
            format!("{host}/cutmanifest/x:1"),
            Code::Unknown,
            "RegistryUnavailable",
            "x:1",
        ),
        // Wrong content is no outage: a client that waited for the registry to come back would wait for ever.
        (
            format!("{host}/wrong/x:1"),
            Code::FailedPrecondition,
            "ErrImagePull",
            "sha256:",
        ),
        (
            format!("{host}/garbage/x:1"),
            Code::FailedPrecondition,
            "ErrImagePull",
            "not valid",
        ),
    ];
    let tls = |at: &str| format!("server = \"https://{at}\"\n[host.\"https://{at}\"]\n");
    let options = Options::new()
        .toml("[image]\nstall_timeout_secs = 1\n")
        .hosts("untrusted.invalid", &tls(&secure.host()))
        .hosts("plain.invalid", &tls(&host));
    run_with(options, async |husk| {
        let mut pulls = Vec::new();
        for (reference, code, kubelets, part) in table {
            let cri = husk.cri.clone();
            pulls.push(tokio::spawn(async move {
                let status = cri.pull(&reference).await.refused()?;
                ensure!(
                    status.code() == code
                        && reason(&status) == kubelets
                        && status.message().contains(part)
                        && status
                            .message()
                            .contains(reference.split('/').next().unwrap_or_default()),
                    "{reference}: expected {code:?}, {kubelets} and {part:?}, got {status:?}"
                );
                Ok(())
            }));
        }
        let mut wrong = Vec::new();
        for pull in pulls {
            wrong.extend(pull.await?.err().map(|e: anyhow::Error| e.to_string()));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        ensure!(husk.cri.list_images().await?.is_empty());
        gate.open();
        Ok(())
    })
    .await
}
