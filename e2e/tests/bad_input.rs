//! Requests that are wrong: the code that the contract names, nothing half-made, and a daemon that goes on.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, container, namespaces, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, run};
use tonic::Code;

/// A change that makes a good request bad.
type Spoil<T> = fn(&mut T);

#[tokio::test]
async fn pods_that_make_no_sense_are_refused() -> Result<()> {
    run(async |husk| {
        let cases: [(&str, Spoil<PodSandboxConfig>); 11] = [
            ("no metadata", |c| c.metadata = None),
            ("no name", |c| c.metadata.get_or_insert_default().name.clear()),
            ("no namespace", |c| {
                c.metadata.get_or_insert_default().namespace.clear()
            }),
            ("no uid", |c| c.metadata.get_or_insert_default().uid.clear()),
            ("a hostname of 300 letters", |c| {
                c.hostname = "h".repeat(300);
                *c = c.clone().with_own_network();
            }),
            ("a relative log directory", |c| {
                c.log_directory = "relative/logs".into()
            }),
            ("a port beyond 65535", |c| {
                c.port_mappings = vec![PortMapping {
                    container_port: 70_000,
                    host_port: 80,
                    ..Default::default()
                }];
            }),
            ("a cgroup parent that climbs", |c| {
                c.linux.get_or_insert_default().cgroup_parent = "/../../escape".into();
            }),
            ("a sysctl that climbs", |c| {
                let sysctls = husk_e2e::config::labels(&[("net/../../vm/drop_caches", "1")]);
                c.linux.get_or_insert_default().sysctls = sysctls;
            }),
            ("a sysctl of the whole machine", |c| {
                let sysctls = husk_e2e::config::labels(&[("vm.swappiness", "61")]);
                c.linux.get_or_insert_default().sysctls = sysctls;
            }),
            ("a target for a pod", |c| {
                let target = namespaces(NamespaceMode::Node, NamespaceMode::Target, NamespaceMode::Pod);
                c.security().namespace_options = Some(target);
            }),
        ];
        for (what, spoil) in cases {
            let mut config = husk.pod_config("bad");
            spoil(&mut config);
            let refused = husk
                .cri
                .run_pod(&config)
                .await
                .refused_with(Code::InvalidArgument);
            let status = refused.context(what)?;
            ensure!(!status.message().is_empty(), "{what}: no message");
            ensure!(
                husk.cri.list_pods(None).await?.is_empty(),
                "{what}: half a pod is listed"
            );
        }
        husk.cri
            .runtime()
            .run_pod_sandbox(RunPodSandboxRequest::default())
            .await
            .refused_with(Code::InvalidArgument)?;
        let unknown = RunPodSandboxRequest {
            config: Some(husk.pod_config("handler")),
            runtime_handler: "no-such-handler".into(),
        };
        let status = husk.cri.runtime().run_pod_sandbox(unknown).await.refused()?;
        ensure!(status.message().contains("no-such-handler"), "{status:?}");
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn containers_that_make_no_sense_are_refused() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("bad")).await?;
        let cases: [(&str, Spoil<ContainerConfig>); 13] = [
            ("no metadata", |c| c.metadata = None),
            ("no name", |c| c.metadata.get_or_insert_default().name.clear()),
            ("no image", |c| c.image = None),
            ("a mount without a path", |c| {
                c.mounts = vec![Mount {
                    host_path: "/tmp".into(),
                    ..Default::default()
                }]
            }),
            ("a mount without a source", |c| {
                c.mounts = vec![Mount {
                    container_path: "/x".into(),
                    ..Default::default()
                }];
            }),
            ("a read-only tree that may be written", |c| {
                c.mounts = vec![Mount {
                    container_path: "/x".into(),
                    host_path: "/tmp".into(),
                    recursive_read_only: true,
                    ..Default::default()
                }];
            }),
            ("a read-only tree that is propagated", |c| {
                c.mounts = vec![Mount {
                    container_path: "/x".into(),
                    host_path: "/tmp".into(),
                    readonly: true,
                    recursive_read_only: true,
                    propagation: MountPropagation::PropagationHostToContainer.into(),
                    ..Default::default()
                }];
            }),
            ("a group without a user", |c| {
                c.security().run_as_group = Some(Int64Value { value: 5 })
            }),
            ("a negative user", |c| {
                c.security().run_as_user = Some(Int64Value { value: -5 })
            }),
            ("an unknown capability", |c| {
                c.security().capabilities = Some(Capability {
                    add_capabilities: vec!["FLY".into()],
                    ..Default::default()
                });
            }),
            ("a log path that climbs", |c| {
                c.log_path = "../../../../escape.log".into()
            }),
            ("a variable with a zero byte", |c| {
                c.envs = vec![KeyValue {
                    key: "A\0B".into(),
                    value: "x".into(),
                }];
            }),
            ("device permissions that do not exist", |c| {
                c.devices = vec![Device {
                    host_path: "/dev/null".into(),
                    container_path: "/dev/x".into(),
                    permissions: "rwxyz".into(),
                }];
            }),
        ];
        for (what, spoil) in cases {
            let mut config = sleeper("bad", &image);
            spoil(&mut config);
            let status = husk
                .cri
                .create(&pod, config)
                .await
                .refused_with(Code::InvalidArgument)
                .context(what)?;
            ensure!(!status.message().is_empty(), "{what}: no message");
            ensure!(
                husk.cri.list(None).await?.is_empty(),
                "{what}: half a container is listed"
            );
        }
        let empty = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            ..Default::default()
        };
        husk.cri
            .runtime()
            .create_container(empty)
            .await
            .refused_with(Code::InvalidArgument)?;
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn what_cannot_be_found_is_named() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("missing")).await?;
        let sysfs = std::path::Path::new("/sys/kernel/no/such/place");
        let device = Device {
            host_path: "/dev/no-such".into(),
            container_path: "/dev/x".into(),
            permissions: "r".into(),
        };
        let mut with_device = sleeper("device", &image);
        with_device.devices = vec![device];
        for (config, wanted) in [
            (
                container("image", "127.0.0.1:1/no/such:image", &["true"]),
                "no/such",
            ),
            (
                sleeper("user", &image).secured(|s| s.run_as_username = "nobody-i-know".into()),
                "nobody-i-know",
            ),
            (
                sleeper("mount", &image).mounted(sysfs, "/x", |_| {}),
                "/sys/kernel/no/such/place",
            ),
            (with_device, "/dev/no-such"),
            (
                container("command", &image, &["/no/such/command"]),
                "/no/such/command",
            ),
            (container("directory", &image, &["/etc"]), "/etc"),
            (container("text", &image, &["/etc/passwd"]), "/etc/passwd"),
        ] {
            let status = husk.cri.launch(&pod, config).await.refused().context(wanted)?;
            ensure!(
                status.message().contains(wanted),
                "{wanted} is not named: {status:?}"
            );
        }
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn a_failed_creation_leaves_no_container() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("failed")).await?;
        let nobody = sleeper("main", &image).secured(|s| s.run_as_username = "nobody-i-know".into());
        husk.cri.create(&pod, nobody).await.refused()?;
        ensure!(
            husk.cri.list(None).await?.is_empty(),
            "half a container is listed"
        );
        // The name is free again.
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        ensure!(husk.cri.sh(&id, "echo fine").await? == "fine");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn directories_that_cannot_be_written_are_named() -> Result<()> {
    run(async |husk| {
        let file = husk.share("logs")?.join("file");
        std::fs::write(&file, "in the way")?;
        let mut config = husk.pod_config("logs");
        config.log_directory = file.join("below").display().to_string();
        let status = husk.cri.run_pod(&config).await.refused()?;
        ensure!(status.message().contains(&config.log_directory), "{status:?}");
        ensure!(husk.cri.list_pods(None).await?.is_empty(), "half a pod is listed");

        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("later")).await?;
        std::fs::remove_dir_all(&pod.config.log_directory)?;
        std::fs::write(&pod.config.log_directory, "in the way")?;
        let status = husk.cri.launch(&pod, sleeper("main", &image)).await.refused()?;
        ensure!(status.message().contains(&pod.config.log_directory), "{status:?}");
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn noise_on_the_socket_harms_nobody() -> Result<()> {
    run(async |husk| {
        let socket = husk.dir().join("run/husk.sock");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let half_frame = [preface.as_slice(), &[0, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 1, 2, 3]].concat();
        let odd_frame = [
            preface.as_slice(),
            &[0, 0, 4, 0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        ]
        .concat();
        let mut open = Vec::new();
        for noise in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            &[0; 100_000],
            &[0xff; 1000],
            &half_frame,
            &odd_frame,
        ] {
            let mut stream = UnixStream::connect(&socket)?;
            // The daemon may hang up at any byte.
            let _ = stream.write_all(noise);
            open.push(stream);
        }
        husk.assert_serving().await?;
        drop(open);
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn a_request_of_monstrous_size_is_refused() -> Result<()> {
    run(async |husk| {
        let mut config = husk.pod_config("monster");
        config.annotations.insert("big".into(), "x".repeat(32 << 20));
        husk.cri.run_pod(&config).await.refused()?;
        let mut config = husk.pod_config("large");
        config.annotations.insert("big".into(), "x".repeat(200_000));
        let pod = husk
            .cri
            .pod(config.clone())
            .await
            .context("kubelet allows 256 KiB of annotations")?;
        ensure!(husk.cri.pod_status(&pod.id).await?.annotations == config.annotations);
        husk.assert_serving().await
    })
    .await
}

#[tokio::test]
async fn ids_that_are_paths_lead_nowhere() -> Result<()> {
    run(async |husk| {
        for id in ["..", "../..", "/", "a/b", "\0", "*", &"f".repeat(10_000)] {
            husk.cri
                .pod_status(id)
                .await
                .refused_with(Code::NotFound)
                .context(id.to_owned())?;
            husk.cri.status(id).await.refused_with(Code::NotFound)?;
            husk.cri.stop_pod(id).await?;
            husk.cri.remove_pod(id).await?;
            husk.cri.stop(id, 0).await?;
            husk.cri.remove(id).await?;
        }
        husk.assert_serving().await
    })
    .await
}
