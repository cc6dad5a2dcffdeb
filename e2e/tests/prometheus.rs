//! The Prometheus endpoint: its form, and that it says what the CRI says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, bail, ensure};
use husk_e2e::config::{PodConfigExt, namespaces, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{Husk, Options, eventually, run_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// A port that nobody listens on.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn listening(address: &str) -> Options {
    Options::new().toml(&format!("[metrics]\naddress = \"{address}\"\n"))
}

/// HTTP/1.0, so that the answer ends with the connection.
async fn get(stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> Result<(String, String)> {
    let mut stream = stream;
    stream
        .write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let (head, body) = reply.split_once("\r\n\r\n").context("no end of the headers")?;
    Ok((head.to_owned(), body.to_owned()))
}

async fn page(at: SocketAddr) -> Result<Page> {
    let (head, body) = get(TcpStream::connect(at).await?, "GET /metrics").await?;
    ensure!(head.starts_with("HTTP/1.0 200"), "{head}");
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
    Page::parse(&body)
}

type Labels = BTreeMap<String, String>;

/// What a strict reader of the format makes of a page.
#[derive(Default)]
struct Page {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, Vec<(Labels, f64)>>,
}

impl Page {
    fn parse(text: &str) -> Result<Self> {
        let mut page = Self::default();
        let mut family = String::new();
        ensure!(text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            let parsed = match line.split_once(' ').context("a line of one word")? {
                ("#", rest) => page.comment(rest, &mut family),
                _ => page.sample(line, &family),
            };
            parsed.with_context(|| line.to_owned())?;
        }
        Ok(page)
    }

    fn comment(&mut self, text: &str, family: &mut String) -> Result<()> {
        let words: Vec<_> = text.splitn(3, ' ').collect();
        let ["HELP" | "TYPE", name, rest] = words[..] else {
            bail!("neither HELP nor TYPE");
        };
        if words[0] == "HELP" {
            ensure!(!self.types.contains_key(name), "declared twice");
            name.clone_into(family);
        } else {
            ensure!(family == name, "TYPE without its HELP");
            ensure!(
                ["counter", "gauge", "histogram", "summary"].contains(&rest),
                "odd type"
            );
            self.types.insert(name.to_owned(), rest.to_owned());
        }
        Ok(())
    }

    fn sample(&mut self, line: &str, family: &str) -> Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').context("no closing brace")?),
            None => (series, ""),
        };
        let suffix = name
            .strip_prefix(family)
            .context("not of the family declared above")?;
        let allowed = match self.types.get(family).map(String::as_str) {
            Some("histogram") => suffix == "_bucket" || suffix == "_sum" || suffix == "_count",
            Some("summary") => suffix == "_sum" || suffix == "_count",
            _ => suffix.is_empty(),
        };
        ensure!(allowed, "{suffix:?} is not of its type");
        let value = if value == "+Inf" {
            f64::INFINITY
        } else {
            value.parse()?
        };
        let labels = parse_labels(labels)?;
        let known = self.series.entry(name.to_owned()).or_default();
        ensure!(
            known.iter().all(|(other, _)| *other != labels),
            "the same series twice"
        );
        known.push((labels, value));
        Ok(())
    }

    /// The value of the only series of a name with these labels among its own.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let matching: Vec<_> = self
            .series
            .get(name)
            .with_context(|| format!("no {name}"))?
            .iter()
            .filter(|(l, _)| labels.iter().all(|&(k, v)| l.get(k).is_some_and(|x| x == v)))
            .collect();
        ensure!(matching.len() == 1, "{name} {labels:?}: {matching:?}");
        Ok(matching[0].1)
    }
}

fn parse_labels(text: &str) -> Result<Labels> {
    let mut labels = Labels::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").context("no value of a label")?;
        ensure!(
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "label {name:?}"
        );
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().context("a label without an end")? {
                (at, '"') => break at,
                (_, '\\') => value.push(chars.next().context("nothing escaped")?.1),
                (_, c) => value.push(c),
            }
        };
        ensure!(
            labels.insert(name.to_owned(), value).is_none(),
            "label {name} twice"
        );
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Ok(labels)
}

async fn one_container(husk: &Husk) -> Result<(String, String)> {
    let image = husk.busybox().await?;
    let pod = husk
        .cri
        .pod(husk.pod_config("scraped").with_own_network())
        .await?;
    let own = namespaces(NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod);
    let id = husk
        .cri
        .launch(&pod, sleeper("main", &image).with_own(own))
        .await?;
    Ok((pod.id, id))
}

trait WithOwn {
    fn with_own(self, options: NamespaceOption) -> Self;
}

impl WithOwn for ContainerConfig {
    fn with_own(self, options: NamespaceOption) -> Self {
        husk_e2e::config::ContainerConfigExt::with_namespaces(self, options)
    }
}

#[tokio::test]
async fn the_page_has_the_names_labels_and_values_of_the_cri_metrics() -> Result<()> {
    let at = free_port()?;
    run_with(listening(&at.to_string()).builtin_network(), async |husk| {
        let (pod, id) = one_container(husk).await?;
        let page = page(at).await?;
        let runtime = || husk.cri.runtime();
        let declared = runtime()
            .list_metric_descriptors(ListMetricDescriptorsRequest::default())
            .await?
            .into_inner()
            .descriptors;
        let metrics = runtime()
            .list_pod_sandbox_metrics(ListPodSandboxMetricsRequest::default())
            .await?
            .into_inner()
            .pod_metrics;
        let here: BTreeSet<_> = page
            .types
            .keys()
            .filter(|n| n.starts_with("container_"))
            .collect();
        let aliases = here
            .iter()
            .filter(|n| n.starts_with("container_runtime_crio_"))
            .count();
        ensure!(aliases > 0, "no aliases");
        let there: BTreeSet<_> = declared.iter().map(|d| &d.name).collect();
        let only_here: Vec<_> = here
            .difference(&there)
            .filter(|n| !n.starts_with("container_runtime_crio_"))
            .collect();
        ensure!(only_here.is_empty() && there.is_subset(&here), "{only_here:?}");

        let keys: BTreeMap<_, _> = declared.iter().map(|d| (&d.name, &d.label_keys)).collect();
        let inner = metrics
            .iter()
            .flat_map(|p| p.container_metrics.iter().flat_map(|c| &c.metrics));
        let mut compared = 0;
        for metric in inner.chain(metrics.iter().flat_map(|p| &p.metrics)) {
            let labels: Labels = keys[&metric.name]
                .iter()
                .cloned()
                .zip(metric.label_values.iter().cloned())
                .collect();
            let series = page
                .series
                .get(&metric.name)
                .with_context(|| metric.name.clone())?;
            let value = series
                .iter()
                .find(|(l, _)| *l == labels)
                .with_context(|| format!("{metric:?}"))?
                .1;
            // Limits do not change between two readings.
            if metric.name.starts_with("container_spec_") || metric.name == "container_start_time_seconds" {
                ensure!(
                    value as u64 == metric.value.as_ref().map_or(0, |v| v.value),
                    "{metric:?}"
                );
            }
            compared += 1;
        }
        ensure!(compared > 40, "{compared}");
        let container = [
            ("container", "main"),
            ("name", id.as_str()),
            ("namespace", "e2e"),
            ("pod", "scraped"),
        ];
        ensure!(page.value("container_memory_working_set_bytes", &container)? > 0.0);
        let interface = [("interface", "eth0"), ("name", pod.as_str()), ("container", "")];
        ensure!(page.value("container_network_receive_bytes_total", &interface)? >= 0.0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn husks_own_operations_are_counted_under_three_names() -> Result<()> {
    let at = free_port()?;
    run_with(listening(&at.to_string()).builtin_network(), async |husk| {
        one_container(husk).await?;
        for _ in 0..3 {
            husk.cri.list(None).await?;
        }
        let no_such = ContainerStatusRequest {
            container_id: "no-such".into(),
            verbose: false,
        };
        ensure!(husk.cri.runtime().container_status(no_such).await.is_err());
        let page = page(at).await?;
        let listed = page.value(
            "husk_calls_total",
            &[("method", "ListContainers"), ("code", "OK")],
        )?;
        ensure!(listed >= 3.0);
        let missed = [("method", "ContainerStatus"), ("code", "NOT_FOUND")];
        ensure!(page.value("husk_calls_total", &missed)? >= 1.0);
        let buckets = page
            .series
            .get("husk_call_duration_seconds_bucket")
            .context("no buckets")?;
        let of_list: Vec<_> = buckets
            .iter()
            .filter(|(l, _)| l["method"] == "ListContainers")
            .collect();
        ensure!(of_list.windows(2).all(|w| w[0].1 <= w[1].1), "{of_list:?}");
        ensure!(
            of_list
                .last()
                .is_some_and(|(l, v)| l["le"] == "+Inf" && *v == listed)
        );
        ensure!(page.value("containerd_cri_container_list_seconds_count", &[])? == listed);
        let crio = [("operation", "ListContainers")];
        ensure!(page.value("container_runtime_crio_operations_total", &crio)? == listed);
        let crio = [("operation", "ContainerStatus")];
        ensure!(page.value("container_runtime_crio_operations_errors_total", &crio)? >= 1.0);
        ensure!(page.value("containerd_cri_sandbox_create_network_seconds_count", &[])? == 1.0);
        ensure!(
            page.value(
                "containerd_cri_sandboxed_image_pulls_total",
                &[("status", "success")]
            )? >= 1.0
        );
        ensure!(page.value("husk_pods", &[("state", "Ready")])? == 1.0);
        ensure!(page.value("husk_containers", &[("state", "Running")])? == 1.0);
        ensure!(page.value("process_resident_memory_bytes", &[])? > 1e6);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_that_runs_out_of_memory_is_counted_once() -> Result<()> {
    use husk_e2e::config::{ContainerConfigExt, script};
    let at = free_port()?;
    run_with(listening(&at.to_string()), async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("hungry")).await?;
        let config = script("main", &image, "head -c 200000000 /dev/zero | tail")
            .limited(|r| r.memory_limit_in_bytes = 32 << 20);
        let status = husk.cri.run_to_end(&pod, config).await?;
        ensure!(status.reason == "OOMKilled", "{status:?}");
        eventually("the count", async || {
            let page = page(at).await?;
            let both = (
                page.value("husk_containers_out_of_memory_total", &[])?,
                page.value("container_runtime_crio_containers_oom_total", &[])?,
            );
            Ok((both == (1.0, 1.0)).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_unix_socket_serves_too_and_odd_requests_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("metrics.sock");
    run_with(listening(&format!("unix://{}", path.display())), async |husk| {
        let ask = async |request: &str| get(UnixStream::connect(&path).await?, request).await;
        let (head, body) = ask("GET /metrics").await?;
        ensure!(head.starts_with("HTTP/1.0 200"), "{head}");
        Page::parse(&body)?.value("husk_build_info", &[])?;
        ensure!(ask("GET /").await?.0.starts_with("HTTP/1.0 404"));
        ensure!(ask("POST /metrics").await?.0.starts_with("HTTP/1.0 405"));

        // Neither silence nor noise nor a crowd keeps others from being served.
        let mut idle = Vec::new();
        for _ in 0..40 {
            idle.push(UnixStream::connect(&path).await?);
        }
        for stream in &mut idle {
            let _ = stream.write_all(b"\x00\xff GET").await;
        }
        drop(idle);
        eventually("an answer after the noise", async || {
            Ok(ask("GET /metrics")
                .await
                .ok()
                .filter(|(head, _)| head.contains(" 200 ")))
        })
        .await?;
        husk.assert_serving().await
    })
    .await?;
    ensure!(!path.exists(), "the socket is left behind");
    Ok(())
}
