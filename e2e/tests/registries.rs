//! Transfers: credentials, mirrors, TLS, shared, interrupted and resumed pulls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use husk_e2e::fake::{Answer, Asked, FakeRegistry, Gate};
use husk_e2e::husk::{shared_busybox, shared_registry};
use husk_e2e::image::{self, Built, Image, Layer};
use husk_e2e::registry::{Registry, Tls, free_port};
use husk_e2e::v1::AuthConfig;
use husk_e2e::{CriExt, Options, eventually, run, run_with};
use tonic::Code;

/// `robot:sesame`.
const BASIC: &str = "Basic cm9ib3Q6c2VzYW1l";

fn credentials() -> AuthConfig {
    AuthConfig {
        username: "robot".into(),
        password: "sesame".into(),
        ..Default::default()
    }
}

fn small(mark: &str) -> Result<Built> {
    Image::new().layer(Layer::new().file("mark", mark, 0o644)).build()
}

/// Bytes that do not compress.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    noise.take(bytes / 8).flatten().collect()
}

/// An image with a layer that takes many reads to transfer.
fn bulky(bytes: usize) -> Result<Built> {
    image::busybox()?
        .layer(Layer::new().file("noise", noise(bytes), 0o644))
        .build()
}

fn authorization(asked: &Asked) -> Option<&str> {
    asked.message.header("authorization")
}

#[tokio::test]
async fn basic_credentials_open_a_registry() -> Result<()> {
    run(async |husk| {
        let fake = FakeRegistry::start_with(|asked, _| {
            let challenge = Answer::status(401).with("WWW-Authenticate", "Basic realm=\"test\"");
            (authorization(asked) != Some(BASIC)).then_some(challenge)
        })?;
        let reference = fake.add("private/basic", "1", &small("basic")?);
        for (what, auth) in [
            ("no credentials", None),
            (
                "a wrong password",
                Some(AuthConfig {
                    password: "wrong".into(),
                    ..credentials()
                }),
            ),
        ] {
            let status = husk.cri.pull_with(&reference, auth).await.refused()?;
            let message = status.message();
            ensure!(
                !message.starts_with("RegistryUnavailable"),
                "{what}: the registry is there: {status:?}"
            );
            ensure!(
                message.contains("401") || message.to_lowercase().contains("unauthorized"),
                "{what}: {status:?}"
            );
            ensure!(
                !message.contains("sesame") && !message.contains("wrong"),
                "{what}: a secret: {status:?}"
            );
        }
        let encoded = AuthConfig {
            auth: BASIC["Basic ".len()..].into(),
            ..Default::default()
        };
        for auth in [credentials(), encoded] {
            husk.cri.pull_with(&reference, Some(auth)).await?;
            husk.cri.remove_image(&reference).await?;
        }
        ensure!(!husk.log().contains("sesame"), "the log has the password");
        Ok(())
    })
    .await
}

/// A registry that wants a bearer token, which its own `/token` gives to whoever knows the password.
fn token_registry(tokens: Arc<AtomicUsize>) -> Result<FakeRegistry> {
    let host = Arc::new(Mutex::new(String::new()));
    let for_hook = Arc::clone(&host);
    let fake = FakeRegistry::start_with(move |asked, _| {
        let host = for_hook.lock().map(|h| h.clone()).unwrap_or_default();
        if asked.path.starts_with("/token?") {
            let scoped = asked.path.contains("scope=repository%3Aprivate%2Ftoken%3Apull")
                || asked.path.contains("scope=repository:private/token:pull");
            let fine = authorization(asked) == Some(BASIC) && scoped && asked.path.contains("service=");
            tokens.fetch_add(usize::from(fine), Ordering::SeqCst);
            let token = Answer::ok("application/json", r#"{"token":"t0k3n","expires_in":300}"#);
            return Some(if fine { token } else { Answer::status(401) });
        }
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"fake\",scope=\"repository:private/token:pull\""
        );
        let refused = Answer::status(401).with("WWW-Authenticate", &challenge);
        (authorization(asked) != Some("Bearer t0k3n")).then_some(refused)
    })?;
    if let Ok(mut known) = host.lock() {
        *known = fake.host();
    }
    Ok(fake)
}

#[tokio::test]
async fn a_bearer_token_is_fetched_with_the_password() -> Result<()> {
    run(async |husk| {
        let tokens = Arc::new(AtomicUsize::new(0));
        let fake = token_registry(Arc::clone(&tokens))?;
        let image = image::busybox()?
            .layer(Layer::new().file("mark", "token", 0o644))
            .build()?;
        let reference = fake.add("private/token", "1", &image);
        husk.cri.pull_with(&reference, None).await.refused()?;
        husk.cri.pull_with(&reference, Some(credentials())).await?;
        let fetched = tokens.load(Ordering::SeqCst);
        ensure!((1..=2).contains(&fetched), "{fetched} tokens for one pull");
        husk.cri.remove_image(&reference).await?;
        let ready = AuthConfig {
            registry_token: "t0k3n".into(),
            ..Default::default()
        };
        husk.cri
            .pull_with(&reference, Some(ready))
            .await
            .context("with a ready token")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() -> Result<()> {
    run(async |husk| {
        let store = FakeRegistry::start()?;
        let image = small("redirected")?;
        store.add("private/redirect", "1", &image);
        let target = store.host();
        let fake = FakeRegistry::start_with(move |asked, _| {
            if authorization(asked) != Some(BASIC) {
                return Some(Answer::status(401).with("WWW-Authenticate", "Basic realm=\"test\""));
            }
            let elsewhere = format!("http://{target}{}", asked.path);
            asked
                .is_blob()
                .then(|| Answer::status(307).with("Location", &elsewhere))
        })?;
        let reference = fake.add("private/redirect", "1", &image);
        husk.cri.pull_with(&reference, Some(credentials())).await?;
        let asked = store.asked();
        ensure!(!asked.is_empty(), "the redirect was not followed");
        ensure!(
            asked.iter().all(|a| authorization(a).is_none()),
            "the password went elsewhere"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_the_name_stays() -> Result<()> {
    shared_busybox()?;
    let toml = format!(
        "server = \"https://registry.invalid\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        free_port()?,
        shared_registry()?.host()
    );
    run_with(Options::new().hosts("registry.invalid", &toml), async |husk| {
        let name = "registry.invalid/base/busybox:1";
        let id = husk.cri.pull(name).await?;
        let image = husk.cri.image(name).await?.context("not there")?;
        ensure!(image.id == id && image.repo_tags == [name], "{image:?}");
        ensure!(
            image.repo_digests[0].starts_with("registry.invalid/base/busybox@sha256:"),
            "{image:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn short_names_mean_the_docker_hub() -> Result<()> {
    let image = image::busybox()?
        .layer(Layer::new().file("mark", "hub", 0o644))
        .build()?;
    shared_registry()?.push("library/tiny", "latest", &image)?;
    let toml = format!("[host.\"http://{}\"]\n", shared_registry()?.host());
    run_with(Options::new().hosts("docker.io", &toml), async |husk| {
        let id = husk.cri.pull("tiny").await?;
        for name in [
            "tiny",
            "tiny:latest",
            "library/tiny",
            "docker.io/tiny",
            "docker.io/library/tiny:latest",
        ] {
            let found = husk
                .cri
                .image(name)
                .await?
                .with_context(|| format!("not found as {name}"))?;
            ensure!(
                found.id == id && found.repo_tags == ["docker.io/library/tiny:latest"],
                "{name}: {found:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_default_entry_serves_hosts_without_their_own() -> Result<()> {
    shared_busybox()?;
    let toml = format!(
        "[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        shared_registry()?.host()
    );
    run_with(Options::new().hosts("_default", &toml), async |husk| {
        husk.cri.pull("anything.invalid/base/busybox:1").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tls_is_verified_against_the_systems_roots() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tls = Tls::for_loopback(dir.path())?;
    let registry = Registry::start_with(Some(&tls))?;
    let toml = format!(
        "server = \"https://{0}\"\n[host.\"https://{0}\"]\n",
        registry.host()
    );
    let options = Options::new().hosts("secure.invalid", &toml);
    run_with(options.clone(), async |husk| {
        let status = husk.cri.pull("secure.invalid/x:1").await.refused()?;
        ensure!(
            status.message().to_lowercase().contains("certificate"),
            "{status:?}"
        );
        Ok(())
    })
    .await?;
    let trusted = tls.authority.display().to_string();
    run_with(options.env("SSL_CERT_FILE", &trusted), async |husk| {
        // The registry is empty: that it says so proves that the connection was made.
        husk.cri
            .pull("secure.invalid/x:1")
            .await
            .refused_with(Code::NotFound)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn concurrent_pulls_share_one_download() -> Result<()> {
    run(async |husk| {
        let gate = Gate::default();
        let for_hook = gate.clone();
        let image = small("shared")?;
        let layer = image.layers[0].clone();
        let fake = FakeRegistry::start_with(move |asked, _| {
            let is_layer = asked.is_blob() && asked.path.ends_with(&layer.digest);
            is_layer.then(|| Answer::ok("application/octet-stream", layer.data.clone()).behind(&for_hook))
        })?;
        let reference = fake.add("shared/pull", "1", &image);
        let pulls: Vec<_> = (0..5)
            .map(|_| {
                let (cri, reference) = (husk.cri.clone(), reference.clone());
                tokio::spawn(async move { cri.pull(&reference).await })
            })
            .collect();
        eventually("the layer's request", async || {
            Ok(fake.asked().iter().any(Asked::is_blob).then_some(()))
        })
        .await?;
        gate.open();
        for pull in pulls {
            ensure!(pull.await?? == image.config.digest);
        }
        let layer = &image.layers[0].digest;
        let times = fake
            .asked()
            .iter()
            .filter(|a| a.is_blob() && a.path.ends_with(layer))
            .count();
        ensure!(times == 1, "the layer was fetched {times} times");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_layer_that_is_there_is_not_fetched_again() -> Result<()> {
    run(async |husk| {
        let fake = FakeRegistry::start()?;
        let base = image::busybox()?;
        let one = fake.add(
            "layers/one",
            "1",
            &base.clone().layer(Layer::new().file("a", "a", 0o644)).build()?,
        );
        let two = base.layer(Layer::new().file("b", "b", 0o644)).build()?;
        let other = fake.add("layers/two", "1", &two);
        husk.cri.pull(&one).await?;
        husk.cri.pull(&other).await?;
        let shared = &two.layers[0].digest;
        let times = fake
            .asked()
            .iter()
            .filter(|a| a.is_blob() && a.path.ends_with(shared))
            .count();
        ensure!(times == 1, "the shared layer was fetched {times} times");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pull_whose_client_went_away_leaves_nothing_listed_and_can_be_repeated() -> Result<()> {
    run(async |husk| {
        let gate = Gate::default();
        let for_hook = gate.clone();
        let image = bulky(1 << 20)?;
        let layer = image.layers[1].clone();
        let fake = FakeRegistry::start_with(move |asked, before| {
            let first = asked.is_blob() && asked.path.ends_with(&layer.digest) && before == 0;
            first.then(|| Answer::ok("application/octet-stream", layer.data.clone()).behind(&for_hook))
        })?;
        let reference = fake.add("gone/client", "1", &image);
        let (cri, name) = (husk.cri.clone(), reference.clone());
        let pull = tokio::spawn(async move { cri.pull(&name).await });
        eventually("the layer's request", async || {
            Ok(fake
                .asked()
                .iter()
                .any(|a| a.path.ends_with(&image.layers[1].digest))
                .then_some(()))
        })
        .await?;
        pull.abort();
        ensure!(pull.await.is_err(), "the pull ended by itself");
        ensure!(
            husk.cri.list_images().await?.is_empty(),
            "half an image is listed"
        );
        ensure!(husk.cri.image(&reference).await?.is_none());
        gate.open();
        ensure!(husk.cri.pull(&reference).await? == image.config.digest);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pull_cut_short_by_the_daemons_death_leaves_nothing_and_can_be_repeated() -> Result<()> {
    run(async |husk| {
        let gate = Gate::default();
        let for_hook = gate.clone();
        let image = bulky(1 << 20)?;
        let layer = image.layers[1].clone();
        let fake = FakeRegistry::start_with(move |asked, before| {
            let first = asked.is_blob() && asked.path.ends_with(&layer.digest) && before == 0;
            first.then(|| Answer::ok("application/octet-stream", layer.data.clone()).behind(&for_hook))
        })?;
        let reference = fake.add("gone/daemon", "1", &image);
        let (cri, name) = (husk.cri.clone(), reference.clone());
        let pull = tokio::spawn(async move { cri.pull(&name).await });
        eventually("the layer's request", async || {
            Ok(fake
                .asked()
                .iter()
                .any(|a| a.path.ends_with(&image.layers[1].digest))
                .then_some(()))
        })
        .await?;
        husk.kill()?;
        pull.await?.refused()?;
        husk.start_again().await?;
        ensure!(
            husk.cri.list_images().await?.is_empty(),
            "half an image is listed"
        );
        ensure!(husk.cri.pull(&reference).await? == image.config.digest);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_broken_transfer_resumes_where_it_stopped() -> Result<()> {
    run(async |husk| {
        let image = bulky(1 << 20)?;
        let layer = image.layers[1].clone();
        let digest = layer.digest.clone();
        let fake = FakeRegistry::start_with(move |asked, before| {
            let first = asked.is_blob() && asked.path.ends_with(&layer.digest) && before == 0;
            first.then(|| {
                Answer::ok("application/octet-stream", layer.data.clone())
                    .with("Accept-Ranges", "bytes")
                    .cut_after(layer.data.len() / 2)
            })
        })?;
        let reference = fake.add("broken/transfer", "1", &image);
        ensure!(husk.cri.pull(&reference).await? == image.config.digest);
        let asked = fake.asked();
        let transfers: Vec<_> = asked
            .iter()
            .filter(|a| a.is_blob() && a.path.ends_with(&digest))
            .collect();
        ensure!(transfers.len() == 2, "{} transfers", transfers.len());
        let range = transfers[1]
            .message
            .header("range")
            .context("the second transfer began at the start")?;
        ensure!(
            range.starts_with("bytes=") && !range.starts_with("bytes=0-"),
            "range {range}"
        );
        Ok(())
    })
    .await
}
