//! Clients that mean harm, or have a bug that looks like it: the answer names the field and what is allowed, and the
//! daemon is as it was before, in memory and in descriptors.

mod connections;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, container, labels, script, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, eventually, process, run};
use tonic::Code;

/// A change that makes a good request bad.
type Spoil<T> = fn(&mut T);

/// Longest message of a status: a client that takes 16 KiB of headers must be able to show it.
const MAX_MESSAGE: usize = 4096;
/// What the allocator may keep of memory that was once needed, in KiB.
const ALLOWANCE: u64 = 96 << 10;

/// Open descriptors of the daemon.
fn descriptors(husk: &Husk) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", husk.pid()?))?.count())
}

/// Resident memory of the daemon in KiB.
fn memory(husk: &Husk) -> Result<u64> {
    let status = process::status(husk.pid()?);
    let rss = status.get("VmRSS").context("no VmRSS")?;
    Ok(rss.trim_end_matches(" kB").trim().parse()?)
}

/// Does it once to warm up and then again and again: the daemon must not grow, and must close what it opened.
async fn costs_nothing(husk: &mut Husk, mut harm: impl AsyncFnMut(&mut Husk) -> Result<()>) -> Result<()> {
    husk.assert_serving().await?;
    harm(husk).await?;
    husk.assert_serving().await?;
    let (before, open) = (memory(husk)?, descriptors(husk)?);
    for _ in 0..4 {
        harm(husk).await?;
        husk.assert_serving().await?;
    }
    let after = memory(husk)?;
    ensure!(after < before + ALLOWANCE, "grew from {before} to {after} KiB");
    eventually("the descriptors' return", async || {
        Ok((descriptors(husk)? <= open).then_some(()))
    })
    .await
    .with_context(|| format!("{open} descriptors before"))
}

#[tokio::test]
async fn a_pod_beyond_all_bounds_is_told_which() -> Result<()> {
    run(async |husk| {
        let cases: [(&str, Spoil<PodSandboxConfig>); 18] = [
            ("metadata.name", |c| {
                c.metadata.get_or_insert_default().name = "a\0b".into()
            }),
            ("metadata.name", |c| {
                c.metadata.get_or_insert_default().name = "n".repeat(1 << 20)
            }),
            ("metadata.namespace", |c| {
                c.metadata.get_or_insert_default().namespace = "a\nERROR b".into();
            }),
            ("metadata.uid", |c| {
                c.metadata.get_or_insert_default().uid = "\u{1b}[2J".into()
            }),
            ("annotations", |c| {
                drop(c.annotations.insert("a".into(), "x".repeat(1 << 20)))
            }),
            ("labels", |c| {
                c.labels = (0..100_000).map(|n| (format!("label-{n}"), "x".into())).collect();
            }),
            ("hostname", |c| c.hostname = "h".repeat(65)),
            ("hostname", |c| c.hostname = "a\n6.6.6.6 registry".into()),
            ("hostname", |c| c.hostname = "h".repeat(8 << 20)),
            ("log_directory", |c| c.log_directory = "/tmp/a\0b".into()),
            ("log_directory", |c| {
                c.log_directory = format!("/{}", "d/".repeat(5000))
            }),
            ("cgroup_parent", |c| {
                c.linux.get_or_insert_default().cgroup_parent = "/a\0b".into();
            }),
            ("cgroup_parent", |c| {
                c.linux.get_or_insert_default().cgroup_parent = "a/../../..".into();
            }),
            ("sysctl", |c| {
                c.linux.get_or_insert_default().sysctls =
                    labels(&[("net/ipv4/../../kernel/core_pattern", "|/bin/sh")]);
            }),
            ("sysctl", |c| {
                c.linux.get_or_insert_default().sysctls = labels(&[("net.ipv4.\0", "1")]);
            }),
            ("port_mappings", |c| {
                c.port_mappings = vec![PortMapping::default(); 10_000]
            }),
            ("host_port", |c| {
                c.port_mappings = vec![PortMapping {
                    host_port: -1,
                    container_port: 1,
                    ..Default::default()
                }];
            }),
            ("dns_config", |c| {
                c.dns_config = Some(DnsConfig {
                    searches: vec!["x".repeat(100_000)],
                    ..Default::default()
                });
            }),
        ];
        for (field, spoil) in cases {
            let mut config = husk.pod_config("hostile").with_own_network();
            spoil(&mut config);
            let refused = husk.cri.run_pod(&config).await;
            check(field, refused)?;
        }
        ensure!(husk.cri.list_pods(None).await?.is_empty(), "half a pod is listed");
        ensure!(
            !husk.log().lines().any(|l| l.starts_with("ERROR b")),
            "a client can write lines into the log"
        );
        husk.assert_serving().await
    })
    .await
}

/// A call that must be refused because of `field`, in words that a client can show.
fn check<T: std::fmt::Debug>(field: &str, refused: Result<T, tonic::Status>) -> Result<()> {
    let status = refused
        .refused_with(Code::InvalidArgument)
        .with_context(|| field.to_owned())?;
    let message = status.message();
    ensure!(message.contains(field), "{field} is not named: {message:?}");
    ensure!(
        message.len() <= MAX_MESSAGE,
        "{field}: a message of {} bytes",
        message.len()
    );
    Ok(())
}

#[tokio::test]
async fn a_container_beyond_all_bounds_is_told_which() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("hostile")).await?;
        let cases: [(&str, Spoil<ContainerConfig>); 24] = [
            ("metadata.name", |c| {
                c.metadata.get_or_insert_default().name = "a\nb".into()
            }),
            ("annotations", |c| {
                drop(c.annotations.insert("a".into(), "x".repeat(1 << 20)))
            }),
            ("mounts", |c| {
                let many = (0..10_000).map(|n| mount(&format!("/m/{n}"), "/tmp"));
                c.mounts = many.collect();
            }),
            ("root", |c| c.mounts = vec![mount("/", "/tmp")]),
            ("root", |c| c.mounts = vec![mount("/a/../", "/tmp")]),
            ("/proc", |c| c.mounts = vec![mount("/proc", "/tmp")]),
            ("container_path", |c| c.mounts = vec![mount("/a\0b", "/tmp")]),
            ("host_path", |c| c.mounts = vec![mount("/a", "/tmp/\0")]),
            ("host_path", |c| c.mounts = vec![mount("/a", "tmp")]),
            ("log_path", |c| c.log_path = "a/../../escape.log".into()),
            ("log_path", |c| c.log_path = "/etc/cron.d/escape".into()),
            ("log_path", |c| c.log_path = "a\0.log".into()),
            ("args", |c| c.args = vec!["x".repeat(7 << 20)]),
            ("args", |c| c.args = vec!["a\0b".into()]),
            ("environment variable", |c| c.envs = vec![variable("", "x")]),
            ("environment variable", |c| c.envs = vec![variable("A=B", "x")]),
            ("working_dir", |c| c.working_dir = "/\0".into()),
            ("device", |c| {
                c.devices = vec![Device {
                    host_path: "/dev/\0".into(),
                    ..Default::default()
                }];
            }),
            ("cpu_shares", |c| c.resources().cpu_shares = -1),
            ("cpu_period", |c| c.resources().cpu_period = i64::MIN),
            ("oom_score_adj", |c| c.resources().oom_score_adj = i64::MAX),
            ("group", |c| c.security().supplemental_groups = vec![-1]),
            ("user", |c| {
                c.security().run_as_user = Some(Int64Value { value: i64::MAX })
            }),
            ("masked_paths", |c| {
                c.security().masked_paths = vec!["/a\0".into()]
            }),
        ];
        for (field, spoil) in cases {
            let mut config = sleeper("hostile", &image);
            spoil(&mut config);
            check(field, husk.cri.create(&pod, config).await)?;
        }
        ensure!(
            husk.cri.list(None).await?.is_empty(),
            "half a container is listed"
        );
        // The name was never taken.
        husk.cri.launch(&pod, sleeper("hostile", &image)).await?;
        husk.assert_serving().await
    })
    .await
}

fn mount(inside: &str, host: &str) -> Mount {
    Mount {
        container_path: inside.into(),
        host_path: host.into(),
        ..Default::default()
    }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
    }
}

#[tokio::test]
async fn limits_that_no_kernel_takes_are_refused_and_change_nothing() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("limits")).await?;
        for (field, spoil) in [
            (
                "cpuset",
                (|c| c.resources().cpuset_cpus = "0;1".into()) as Spoil<ContainerConfig>,
            ),
            ("page", |c| {
                c.resources().hugepage_limits = vec![HugepageLimit {
                    page_size: "../../2MB".into(),
                    limit: 1,
                }];
            }),
        ] {
            let mut config = sleeper("limits", &image);
            spoil(&mut config);
            let status = husk.cri.create(&pod, config).await.refused().context(field)?;
            ensure!(
                status.message().contains(field),
                "{field} is not named: {status:?}"
            );
        }
        let id = husk.cri.launch(&pod, sleeper("limits", &image)).await?;
        let update = |linux| UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(linux),
            ..Default::default()
        };
        let negative = LinuxContainerResources {
            cpu_shares: -2,
            ..Default::default()
        };
        let refused = husk
            .cri
            .runtime()
            .update_container_resources(update(negative))
            .await;
        check("cpu_shares", refused)?;
        ensure!(husk.cri.sh(&id, "echo fine").await? == "fine");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_launch_that_does_not_fit_costs_the_pod_nothing() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("large")).await?;
        let first = husk.cri.launch(&pod, sleeper("first", &image)).await?;
        // What an OCI runtime gets, it reads from a file, and that the kernel takes no such argument it finds out when
        // nobody asks any more.
        if husk_e2e::husk::other_runtime().is_none() {
            // Six times as long on its way to the supervisor, which takes no such packet.
            let unwieldy = container("unwieldy", &image, &["echo", &"\u{1}".repeat(5 << 20)]);
            check(
                "fewer mounts or shorter arguments",
                husk.cri.create(&pod, unwieldy).await,
            )?;
            // Within what the supervisor takes and beyond what the kernel does.
            let long = container("long", &image, &["echo", &"x".repeat(1 << 20)]);
            let status = husk.cri.launch(&pod, long).await.refused()?;
            ensure!(status.message().contains("arguments"), "{status:?}");
        }
        // The same connection serves on.
        ensure!(husk.cri.sh(&first, "echo fine").await? == "fine");
        let second = husk.cri.launch(&pod, sleeper("second", &image)).await?;
        let command = ["echo", &"\u{1}".repeat(5 << 20)];
        husk.cri
            .exec_sync(&second, &command, 10)
            .await
            .refused_with(Code::InvalidArgument)?;
        husk.cri
            .exec_sync(&second, &[""], 10)
            .await
            .refused_with(Code::InvalidArgument)?;
        husk.cri
            .exec_sync(&second, &["a\0b"], 10)
            .await
            .refused_with(Code::InvalidArgument)?;
        ensure!(husk.cri.sh(&second, "echo fine").await? == "fine");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fifty_thousand_variables_are_merged_and_many_mounts_made() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("many")).await?;
        let share = husk.share("many")?;
        let mut config = script("main", &image, "echo $V49999; ls /m | wc -l");
        config.envs = (0..50_000)
            .map(|n| variable(&format!("V{n}"), &n.to_string()))
            .collect();
        for n in 0..300 {
            config = config.mounted(&share, &format!("/m/{n}"), |_| {});
        }
        let status = husk.cri.run_to_end(&pod, config).await?;
        ensure!(status.exit_code == 0, "{status:?}");
        let log = std::fs::read_to_string(&status.log_path)?;
        ensure!(log.contains(" 49999\n") && log.contains(" 300\n"), "{log}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn times_at_the_ends_of_their_range_are_understood() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("times")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        for bad in [-1, i64::MIN] {
            check("timeout", husk.cri.exec_sync(&id, &["true"], bad).await)?;
        }
        ensure!(husk.cri.exec_sync(&id, &["true"], i64::MAX).await?.exit_code == 0);
        husk.cri.stop(&id, i64::MAX).await?;
        let id = husk.cri.launch(&pod, sleeper("second", &image)).await?;
        husk.cri.stop(&id, i64::MIN).await?;
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn names_without_end_are_answered_briefly() -> Result<()> {
    run(async |husk| {
        costs_nothing(husk, async |husk| {
            let long = "\u{7f}".repeat(4 << 20);
            for status in [
                husk.cri.pod_status(&long).await.refused_with(Code::NotFound)?,
                husk.cri.status(&long).await.refused_with(Code::NotFound)?,
                husk.cri.pull(&long).await.refused_with(Code::InvalidArgument)?,
                husk.cri
                    .exec_sync(&long, &["true"], 1)
                    .await
                    .refused_with(Code::NotFound)?,
                husk.cri.start(&long).await.refused_with(Code::NotFound)?,
            ] {
                ensure!(
                    status.message().len() <= MAX_MESSAGE,
                    "{} bytes",
                    status.message().len()
                );
            }
            ensure!(husk.cri.image(&long).await?.is_none());
            let filter = ContainerFilter {
                id: long.clone(),
                label_selector: (0..100_000).map(|n| (n.to_string(), String::new())).collect(),
                ..Default::default()
            };
            ensure!(husk.cri.list(Some(filter)).await?.is_empty());
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn images_with_impossible_names_are_refused() -> Result<()> {
    run(async |husk| {
        for name in [
            "../../etc/passwd",
            "http://registry.example/a",
            "a@sha256:zz",
            "a:b:c",
            "a\0b",
            "UPPER",
            "registry.example:99999999/../a",
            "a//b",
            " ",
        ] {
            check("not valid", husk.cri.pull(name).await).with_context(|| format!("{name:?}"))?;
        }
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn messages_at_and_over_the_limit_leave_nothing_behind() -> Result<()> {
    run(async |husk| {
        costs_nothing(husk, async |husk| {
            let mut config = husk.pod_config("limit");
            // As much as the socket takes, with the rest of the message.
            config
                .annotations
                .insert("big".into(), "x".repeat((16 << 20) - 1000));
            check("annotations", husk.cri.run_pod(&config).await)?;
            config.annotations.insert("more".into(), "x".repeat(2000));
            let status = husk.cri.run_pod(&config).await.refused()?;
            ensure!(
                matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
                "{status:?}"
            );
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_log_is_not_written_through_a_link() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("link")).await?;
        let precious = husk.dir().join("precious");
        std::fs::write(&precious, "untouched")?;
        let log = std::path::Path::new(&pod.config.log_directory).join("main.log");
        std::os::unix::fs::symlink(&precious, &log)?;
        let status = husk
            .cri
            .launch(&pod, script("main", &image, "echo spoilt"))
            .await
            .refused()?;
        ensure!(status.message().contains("main.log"), "{status:?}");
        // One that appears while the container runs: kubelet asks for the log to be opened anew.
        std::fs::remove_file(&log)?;
        let id = husk
            .cri
            .launch(
                &pod,
                script("main", &image, "while :; do echo spoilt; sleep 0.1; done"),
            )
            .await?;
        std::fs::rename(&log, log.with_extension("1"))?;
        std::os::unix::fs::symlink(&precious, &log)?;
        let status = husk.cri.reopen_log(&id).await.refused()?;
        ensure!(status.message().contains("main.log"), "{status:?}");
        ensure!(std::fs::read_to_string(&precious)? == "untouched");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_profile_that_is_no_file_holds_nobody_up() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("profile")).await?;
        let pipe = husk.dir().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
        for path in [pipe.display().to_string(), "/dev/zero".to_owned(), "/".to_owned()] {
            let config = sleeper("main", &image).secured(|s| {
                s.seccomp = Some(SecurityProfile {
                    profile_type: security_profile::ProfileType::Localhost.into(),
                    localhost_ref: path.clone(),
                });
            });
            check(&path, husk.cri.create(&pod, config).await)?;
        }
        husk.cri.stop_pod(&pod.id).await?;
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn more_listeners_than_there_may_be_are_told_so() -> Result<()> {
    run(async |husk| {
        costs_nothing(husk, async |husk| {
            let (mut open, mut refused) = (Vec::new(), 0);
            for _ in 0..100 {
                match husk.cri.runtime().get_container_events(GetEventsRequest {}).await {
                    Ok(stream) => open.push(stream),
                    Err(status) => {
                        ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
                        refused += 1;
                    }
                }
            }
            ensure!(
                !open.is_empty() && refused > 0,
                "{} open, {refused} refused",
                open.len()
            );
            husk.assert_serving().await?;
            drop(open);
            eventually("a place for a new listener", async || {
                Ok(husk
                    .cri
                    .runtime()
                    .get_container_events(GetEventsRequest {})
                    .await
                    .ok())
            })
            .await?;
            Ok(())
        })
        .await
    })
    .await
}
