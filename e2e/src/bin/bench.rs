//! Times the journeys of a CRI runtime, husk or any other, with one and the same client.
//!
//!     husk-bench                                      starts a husk of its own
//!     husk-bench --socket /run/containerd/containerd.sock --image registry/busybox:1
//!
//! Prints medians, 99th percentiles and what the bare kernel took in the same minute. Judges nothing.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use husk_e2e::config::{PodConfigExt, container, labels};
use husk_e2e::husk::shared_busybox;
use husk_e2e::v1::{
    ListContainerStatsRequest, ListPodSandboxMetricsRequest, ListPodSandboxStatsRequest, PodSandboxConfig,
    PodSandboxFilter,
};
use husk_e2e::{Cri, Options, Pod, process, run_with};

/// What to measure.
struct Plan {
    socket: Option<PathBuf>,
    image: Option<String>,
    runs: usize,
    fill: usize,
    /// Containers that have ended, ten to a pod, to be listed; 0 leaves that out.
    listed: usize,
    /// Pods with a container each, for what a node costs that is full and idle; 0 leaves that out.
    node: usize,
    workers: usize,
    own_network: bool,
}

impl Plan {
    fn from_arguments() -> Result<Self> {
        let mut plan = Self {
            socket: None,
            image: None,
            runs: 100,
            fill: 100,
            listed: 0,
            node: 0,
            workers: 10,
            own_network: true,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--socket" => plan.socket = Some(value()?.trim_start_matches("unix://").into()),
                "--image" => plan.image = Some(value()?),
                "--runs" => plan.runs = value()?.parse()?,
                "--fill" => plan.fill = value()?.parse()?,
                "--listed" => plan.listed = value()?.parse()?,
                "--node" => plan.node = value()?.parse()?,
                "--workers" => plan.workers = value()?.parse()?,
                "--host-network-only" => plan.own_network = false,
                _ => bail!(
                    "unknown argument {flag}\n\
                     usage: husk-bench [--socket PATH --image REF] [--runs 100] [--fill 100] [--listed 0] [--node 0] \
                     [--workers 10] [--host-network-only]"
                ),
            }
        }
        Ok(plan)
    }
}

fn main() -> Result<()> {
    let plan = Plan::from_arguments()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match &plan.socket {
            Some(socket) => {
                let image = plan.image.clone().context("--socket needs --image")?;
                let logs = tempfile::tempdir()?;
                Bench {
                    cri: Cri::new(socket),
                    socket,
                    image,
                    logs: logs.path().into(),
                    plan: &plan,
                }
                .run()
                .await
            }
            None => {
                // Debug output would be measured too.
                let mut options = Options::new().builtin_network().quiet();
                if plan.node > 0 {
                    options = options.crowd();
                }
                Box::pin(run_with(options, async |husk| {
                    let (socket, logs) = (husk.dir().join("run/husk.sock"), husk.dir().join("logs"));
                    let bench = Bench {
                        cri: husk.cri.clone(),
                        socket: &socket,
                        image: shared_busybox()?,
                        logs,
                        plan: &plan,
                    };
                    bench.run().await
                }))
                .await
            }
        }
    })
}

struct Bench<'a> {
    cri: Cri,
    socket: &'a PathBuf,
    image: String,
    logs: PathBuf,
    plan: &'a Plan,
}

impl Bench<'_> {
    async fn run(&self) -> Result<()> {
        let version = self
            .cri
            .runtime()
            .version(husk_e2e::v1::VersionRequest::default())
            .await?
            .into_inner();
        println!(
            "{} {}, {} runs\n",
            version.runtime_name, version.runtime_version, self.plan.runs
        );
        println!(
            "{:<52}{:>6}{:>11}{:>11}{:>11}",
            "", "n", "median ms", "p99 ms", "max ms"
        );
        self.cri.pull(&self.image).await.context("pull the image")?;
        if self.plan.listed > 0 {
            return self.lists().await;
        }
        if self.plan.node > 0 {
            return self.node().await;
        }
        self.floor();
        self.lives(false).await?;
        if self.plan.own_network {
            self.lives(true).await?;
        }
        self.execs().await?;
        self.floor();
        self.throughput(false).await?;
        if self.plan.own_network {
            self.throughput(true).await?;
        }
        self.filled().await
    }

    fn pod_config(&self, own_network: bool) -> PodSandboxConfig {
        let config = husk_e2e::config::pod("bench", &self.logs);
        if own_network {
            config.with_own_network()
        } else {
            config
        }
    }

    /// What one process and one set of namespaces cost without any runtime, now.
    fn floor(&self) {
        let spawn = |command: &mut Command| {
            let mut times = Times::default();
            for _ in 0..self.plan.runs {
                let start = Instant::now();
                if command
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .status()
                    .is_ok_and(|s| s.success())
                {
                    times.add(start.elapsed());
                }
            }
            times
        };
        spawn(&mut Command::new("true")).print("floor: start a program and wait for it");
        let mut unshare = Command::new("unshare");
        unshare.args(["--fork", "--pid", "--mount", "--ipc", "--uts", "--cgroup", "true"]);
        spawn(&mut unshare).print("floor: the same in new namespaces, by unshare(1)");
        unshare = Command::new("unshare");
        unshare.args([
            "--fork", "--pid", "--mount", "--ipc", "--uts", "--cgroup", "--net", "true",
        ]);
        spawn(&mut unshare).print("floor: and a new network namespace");
    }

    async fn lives(&self, own_network: bool) -> Result<()> {
        let kind = if own_network {
            "own network"
        } else {
            "host network"
        };
        let mut times: [Times; 7] = Default::default();
        for _ in 0..self.plan.runs {
            let start = Instant::now();
            let pod = times[0].of(self.cri.pod(self.pod_config(own_network))).await?;
            let config = container("main", &self.image, &["sleep", "1000"]);
            let id = times[1].of(self.cri.create(&pod, config)).await?;
            times[2].of(self.cri.start(&id)).await?;
            times[3].add(start.elapsed());
            let start = Instant::now();
            times[4].of(self.cri.stop(&id, 0)).await?;
            times[5].of(self.cri.stop_pod(&pod.id)).await?;
            self.cri.remove_pod(&pod.id).await?;
            times[6].add(start.elapsed());
        }
        let names = [
            "RunPodSandbox",
            "CreateContainer",
            "StartContainer",
            "whole start: the three together",
            "StopContainer, no grace",
            "StopPodSandbox",
            "whole teardown: stop both, remove the pod",
        ];
        for (times, name) in times.iter_mut().zip(names) {
            times.print(&format!("{kind}: {name}"));
        }
        Ok(())
    }

    async fn started(&self, own_network: bool) -> Result<(Pod, String)> {
        let pod = self.cri.pod(self.pod_config(own_network)).await?;
        let id = self
            .cri
            .launch(&pod, container("main", &self.image, &["sleep", "1000"]))
            .await?;
        Ok((pod, id))
    }

    async fn removed(&self, pod: &Pod) -> Result<()> {
        self.cri.stop_pod(&pod.id).await?;
        Ok(self.cri.remove_pod(&pod.id).await?)
    }

    async fn execs(&self) -> Result<()> {
        let (pod, id) = self.started(false).await?;
        let mut times = Times::default();
        for _ in 0..self.plan.runs {
            times.of(self.cri.exec_sync(&id, &["true"], 10)).await?;
        }
        times.print("ExecSync true");
        self.removed(&pod).await
    }

    async fn throughput(&self, own_network: bool) -> Result<()> {
        let kind = if own_network {
            "own network"
        } else {
            "host network"
        };
        let each = self.plan.runs.div_ceil(self.plan.workers);
        let begin = Instant::now();
        let workers = (0..self.plan.workers).map(|_| async {
            let mut times = Times::default();
            for _ in 0..each {
                let (pod, _) = times.of(self.started(own_network)).await?;
                self.removed(&pod).await?;
            }
            anyhow::Ok(times)
        });
        let mut starts = Times::default();
        for times in futures(workers).await? {
            starts.0.extend(times.0);
        }
        let rate = (each * self.plan.workers) as f64 / begin.elapsed().as_secs_f64();
        starts.print(&format!("{kind}: whole start, {} at once", self.plan.workers));
        println!(
            "{:<52}{:>6}{rate:>11.1} pods/s",
            format!("{kind}: whole lives, {} at once", self.plan.workers),
            ""
        );
        Ok(())
    }

    /// A node with many pods: how long lists take, and what all of it weighs.
    async fn filled(&self) -> Result<()> {
        let mut pods = Vec::new();
        for _ in 0..self.plan.fill {
            pods.push(self.started(false).await?);
        }
        let mut times = Times::default();
        for _ in 0..self.plan.runs {
            times.of(self.cri.list(None)).await?;
        }
        times.print(&format!("ListContainers with {} containers", pods.len()));
        let mut times = Times::default();
        for _ in 0..self.plan.runs {
            times.of(self.cri.list_pods(None)).await?;
        }
        times.print(&format!("ListPodSandbox with {} pods", pods.len()));
        self.weigh(&pods).await?;
        for (pod, _) in &pods {
            self.removed(pod).await?;
        }
        Ok(())
    }

    /// kubelet's view of a full node: what its lists cost, whole and for one pod, and what relisting every second costs
    /// the daemon. Nothing else is measured with it.
    async fn lists(&self) -> Result<()> {
        let mut pods = Vec::new();
        while pods.len() * 10 < self.plan.listed {
            let pod = self.cri.pod(self.pod_config(false)).await?;
            for n in 0..10 {
                let config = container(&format!("c{n}"), &self.image, &["true"]);
                self.cri.launch(&pod, config).await?;
            }
            pods.push(pod);
        }
        let uid = pods
            .first()
            .and_then(|p| p.config.metadata.clone())
            .map(|m| m.uid);
        let label_selector = labels(&[("io.kubernetes.pod.uid", uid.as_deref().unwrap_or_default())]);
        let mut times: [Times; 3] = Default::default();
        for _ in 0..self.plan.runs {
            times[0].of(self.cri.list(None)).await?;
            times[1].of(self.cri.list_pods(None)).await?;
            let filter = PodSandboxFilter {
                label_selector: label_selector.clone(),
                ..Default::default()
            };
            times[2].of(self.cri.list_pods(Some(filter))).await?;
        }
        times[0].print(&format!("ListContainers with {} containers", pods.len() * 10));
        times[1].print(&format!("ListPodSandbox with {} pods", pods.len()));
        times[2].print("ListPodSandbox of one pod by its uid label");
        self.busy("both lists every second", 20, async |_| {
            self.cri.list(None).await?;
            self.cri.list_pods(None).await?;
            Ok(())
        })
        .await?;
        for pod in &pods {
            self.removed(pod).await?;
        }
        Ok(())
    }

    /// A full node on which nothing happens: what statistics cost, and what the daemon does and holds when nobody asks
    /// and when kubelet does. Nothing else is measured with it.
    async fn node(&self) -> Result<()> {
        let pods = self.settled().await?;
        let outcome = self.measure_node(pods.len()).await;
        // Also after a failure: these are many.
        let left = std::sync::Mutex::new(pods);
        let next = || left.lock().ok()?.pop();
        let workers = (0..self.plan.workers).map(|_| async {
            while let Some(pod) = next() {
                self.removed(&pod).await?;
            }
            anyhow::Ok(())
        });
        futures(workers).await?;
        outcome
    }

    async fn settled(&self) -> Result<Vec<Pod>> {
        let started = std::sync::atomic::AtomicUsize::new(0);
        let workers = (0..self.plan.workers).map(|_| async {
            let mut pods = Vec::new();
            while started.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < self.plan.node {
                pods.push(self.started(self.plan.own_network).await?.0);
            }
            anyhow::Ok(pods)
        });
        let pods = futures(workers).await?.concat();
        // What was begun in the background, such as measuring layers, comes to an end.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(pods)
    }

    async fn measure_node(&self, pods: usize) -> Result<()> {
        let fresh = Duration::from_millis(1100);
        let name = |call: &str| format!("{call}, {pods} pods");
        self.statistic(&name("ListPodSandboxStats"), fresh, async || {
            self.pod_stats().await
        })
        .await?;
        self.statistic(&name("ListContainerStats"), fresh, async || {
            self.container_stats().await
        })
        .await?;
        self.statistic(&name("ListPodSandboxMetrics"), fresh, async || {
            self.metrics().await
        })
        .await?;
        self.statistic(
            &name("ListPodSandboxStats, just read"),
            Duration::ZERO,
            async || self.pod_stats().await,
        )
        .await?;
        self.resident().await?;
        self.busy("nobody asks", 60, async |_| Ok(())).await?;
        let name = "lists every second, statistics every ten";
        self.busy(name, 60, async |second| {
            self.cri.list(None).await?;
            self.cri.list_pods(None).await?;
            if second % 10 == 0 {
                self.container_stats().await?;
                self.pod_stats().await?;
            }
            Ok(())
        })
        .await?;
        self.resident().await
    }

    /// Times a call and weighs what it takes of the daemon, which other load on the machine does not change. Readings are
    /// shared for a second, so a call after a longer `pause` pays for its own.
    async fn statistic(&self, name: &str, pause: Duration, call: impl AsyncFn() -> Result<()>) -> Result<()> {
        let (pid, mut times) = (self.daemon().await?, Times::default());
        let before = ticks(pid)?;
        for _ in 0..self.plan.runs {
            tokio::time::sleep(pause).await;
            times.of(call()).await?;
        }
        let each = (ticks(pid)? - before) as f64 * 10.0 / self.plan.runs as f64;
        times.print(name);
        println!("{:<58}{each:>11.1} ms", "  CPU time of the daemon for each");
        Ok(())
    }

    async fn pod_stats(&self) -> Result<()> {
        let request = ListPodSandboxStatsRequest::default();
        let reply = self.cri.runtime().list_pod_sandbox_stats(request).await?;
        anyhow::ensure!(!reply.into_inner().stats.is_empty(), "no statistics of pods");
        Ok(())
    }

    async fn container_stats(&self) -> Result<()> {
        let request = ListContainerStatsRequest::default();
        let reply = self.cri.runtime().list_container_stats(request).await?;
        anyhow::ensure!(
            !reply.into_inner().stats.is_empty(),
            "no statistics of containers"
        );
        Ok(())
    }

    async fn metrics(&self) -> Result<()> {
        let request = ListPodSandboxMetricsRequest::default();
        let reply = self.cri.runtime().list_pod_sandbox_metrics(request).await?;
        anyhow::ensure!(!reply.into_inner().pod_metrics.is_empty(), "no metrics");
        Ok(())
    }

    /// What the daemon uses of a core while `each` is done every second.
    async fn busy(&self, name: &str, seconds: u32, each: impl AsyncFn(u32) -> Result<()>) -> Result<()> {
        let pid = self.daemon().await?;
        let before = ticks(pid)?;
        for second in 0..seconds {
            let next = Instant::now() + Duration::from_secs(1);
            each(second).await?;
            tokio::time::sleep_until(next.into()).await;
        }
        // Linux counts in hundredths of a second whatever its timer.
        let share = (ticks(pid)? - before) as f64 / f64::from(seconds);
        println!("{:<58}{share:>11.2} % of a core", format!("the daemon, {name}"));
        Ok(())
    }

    async fn daemon(&self) -> Result<i32> {
        let stream = tokio::net::UnixStream::connect(self.socket).await?;
        stream.peer_cred()?.pid().context("the daemon has no pid")
    }

    async fn resident(&self) -> Result<()> {
        let status = process::file(self.daemon().await?, "status");
        let resident = kib(&String::from_utf8_lossy(&status), "VmRSS") / 1024.0;
        println!("{:<58}{resident:>11.1} MiB", "resident memory of the daemon");
        Ok(())
    }

    async fn weigh(&self, pods: &[(Pod, String)]) -> Result<()> {
        self.resident().await?;
        let mut parents = std::collections::BTreeSet::new();
        for (_, id) in pods {
            parents.insert(process::parent(self.cri.pid(id).await?)?);
        }
        let weights: Vec<_> = parents
            .iter()
            .map(|&pid| {
                kib(
                    &String::from_utf8_lossy(&process::file(pid, "smaps_rollup")),
                    "Pss",
                )
            })
            .collect();
        let each = weights.iter().sum::<f64>() / pods.len().max(1) as f64;
        let most = weights.iter().copied().fold(0.0, f64::max);
        let label = format!("proportional memory per pod of {} supervisors", weights.len());
        println!(
            "{label:<58}{:>11.2} MiB, the largest {:.2} MiB",
            each / 1024.0,
            most / 1024.0
        );
        Ok(())
    }
}

/// CPU time of a process, in hundredths of a second.
fn ticks(pid: i32) -> Result<u64> {
    let stat = String::from_utf8_lossy(&process::file(pid, "stat")).into_owned();
    let after = stat.rsplit_once(") ").context("no such process")?.1;
    let mut fields = after.split(' ').skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("short stat")?.parse()?) };
    Ok(next()? + next()?)
}

/// The value of `<key>: <number> kB`.
fn kib(text: &str, key: &str) -> f64 {
    let value = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    value.and_then(|v| v.trim().parse().ok()).unwrap_or(f64::NAN)
}

/// Runs all at once on this task.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    let mut pending: Vec<_> = all.map(Box::pin).map(Some).collect();
    let mut done: Vec<_> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (slot, result) in pending.iter_mut().zip(&mut done) {
            if let Some(std::task::Poll::Ready(value)) = slot.as_mut().map(|f| f.as_mut().poll(context)) {
                *slot = None;
                *result = Some(value);
            }
        }
        if pending.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Durations of one kind.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Times a call.
    async fn of<T, E>(&mut self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let start = Instant::now();
        let value = call.await?;
        self.add(start.elapsed());
        Ok(value)
    }

    fn print(&mut self, name: &str) {
        self.0.sort_unstable();
        let at = |share: f64| {
            let last = self.0.len().saturating_sub(1);
            // The smallest time that this share of the runs did not exceed.
            let rank = (share * self.0.len() as f64).ceil() as usize;
            self.0
                .get(rank.saturating_sub(1).min(last))
                .map_or(f64::NAN, |t| t.as_secs_f64() * 1000.0)
        };
        println!(
            "{name:<52}{:>6}{:>11.2}{:>11.2}{:>11.2}",
            self.0.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}
