//! Pods with user namespaces: root inside is nobody on the node, and nothing of an image changes for it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, namespaces, script, sleeper};
use husk_e2e::husk::shared_registry;
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Options, Pod, eventually, process, run, run_with};
use husk_e2e::{image, late};
use serde_json::json;
use tonic::Code;

const FIRST: u32 = 700_000;
const IDS: u32 = 65_536;

fn mapping(host_id: u32) -> Vec<IdMapping> {
    vec![IdMapping {
        container_id: 0,
        host_id,
        length: IDS,
    }]
}

/// The namespaces that kubelet asks for with `hostUsers: false`.
fn options(network: NamespaceMode, pid: NamespaceMode, first: u32) -> NamespaceOption {
    NamespaceOption {
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: mapping(first),
            gids: mapping(first),
        }),
        ..namespaces(network, pid, NamespaceMode::Pod)
    }
}

fn private(first: u32) -> NamespaceOption {
    options(NamespaceMode::Pod, NamespaceMode::Container, first)
}

async fn pod(husk: &Husk, name: &str, options: NamespaceOption) -> Result<Pod> {
    Ok(husk
        .cri
        .pod(husk.pod_config(name).with_namespaces(options))
        .await?)
}

/// All owners of files below a directory.
fn owners(dir: &Path) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path)?;
        found.extend([meta.uid(), meta.gid()]);
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Where a container keeps what it writes.
fn upper(husk: &Husk, id: &str) -> PathBuf {
    husk.dir().join("root/containers").join(id).join("upper")
}

#[tokio::test]
async fn root_inside_is_nobody_on_the_node() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let before = owners(&husk.dir().join("root/images"))?;
        let pod = pod(husk, "userns", private(FIRST)).await?;
        let config = sleeper("main", &image).with_namespaces(private(FIRST));
        let id = husk.cri.launch(&pod, config).await?;
        let pid = husk.cri.pid(&id).await?;
        let status = process::status(pid);
        ensure!(
            status.get("Uid").is_some_and(|u| u.starts_with(&format!("{FIRST}\t"))),
            "{:?}",
            status.get("Uid")
        );
        let text = "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /bin/busybox / /etc; \
                    echo own > /etc/made; cat /etc/made; touch /etc/hosts && echo hosts; cat /etc/resolv.conf > /dev/null && echo dns; \
                    echo x > /dev/shm/x && stat -c '%u %a' /dev/shm /dev/shm/x; hostname inside 2>/dev/null || echo refused; \
                    grep -c ' /proc proc ' /proc/mounts; grep -c '/dev/mqueue mqueue' /proc/mounts; grep -c ' /sys sysfs ' /proc/mounts; \
                    stat -c %U /dev/pts; echo x > /dev/null && echo null; ls /sys/class/net | tr '\\n' ' '";
        let wanted = format!(
            "0\n0 {FIRST} {IDS}\n0 {FIRST} {IDS}\n0:0\n0:0\n0:0\nown\nhosts\ndns\n0 1777\n0 644\nrefused\n1\n1\n1\nroot\nnull\neth0 lo"
        );
        let got = husk.cri.sh(&id, text).await?;
        ensure!(got.trim_end() == wanted, "{got}\nis not\n{wanted}");
        ensure!(std::fs::metadata(upper(husk, &id).join("etc/made"))?.uid() == FIRST);
        // Another user of the container is another user of the node.
        let user = sleeper("user", &image)
            .with_namespaces(private(FIRST))
            .secured(|s| s.run_as_user = Some(Int64Value { value: 1001 }));
        let user = husk.cri.launch(&pod, user).await?;
        let status = process::status(husk.cri.pid(&user).await?);
        ensure!(
            status
                .get("Uid")
                .is_some_and(|u| u.starts_with(&format!("{}\t", FIRST + 1001))),
            "{:?}",
            status.get("Uid")
        );
        ensure!(husk.cri.sh(&user, "id -u; touch /tmp/x; stat -c %u /tmp/x").await? == "1001\n1001");
        // Both share the pod's namespaces, which belong to it: root inside may set up its network.
        for kind in ["user", "net", "ipc", "uts"] {
            let one = process::namespace(&pid.to_string(), kind)?;
            let two = process::namespace(&husk.cri.pid(&user).await?.to_string(), kind)?;
            ensure!(one == two && one != process::namespace("self", kind)?, "{kind}: {one} {two}");
        }
        let admin = sleeper("admin", &image).with_namespaces(private(FIRST)).secured(|s| {
            s.capabilities = Some(Capability {
                add_capabilities: vec!["NET_ADMIN".into(), "SYS_ADMIN".into()],
                ..Default::default()
            });
            s.seccomp = None;
            // The default profile of AppArmor lets nobody mount.
            s.apparmor = Some(SecurityProfile {
                profile_type: security_profile::ProfileType::Unconfined.into(),
                ..Default::default()
            });
        });
        let admin = husk.cri.launch(&pod, admin).await?;
        husk.cri
            .sh(&admin, "ip link add dummy type bridge && mount -t tmpfs x /tmp && umount /tmp && hostname inside")
            .await?;
        ensure!(husk.cri.sh(&id, "hostname").await? == "inside");
        let after = owners(&husk.dir().join("root/images"))?;
        ensure!(before == after, "layers changed: {before:?} became {after:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn files_on_volumes_belong_to_whom_the_mount_says() -> Result<()> {
    run(async |husk| {
        let (plain, mapped) = (husk.share("plain")?, husk.share("mapped")?);
        for dir in [&plain, &mapped] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))?;
            std::fs::write(dir.join("roots"), "")?;
        }
        let image = husk.busybox().await?;
        let options = options(NamespaceMode::Node, NamespaceMode::Container, FIRST);
        let pod = pod(husk, "volumes", options.clone()).await?;
        let config = sleeper("main", &image)
            .with_namespaces(options.clone())
            .mounted(&plain, "/plain", |_| {})
            .mounted(&mapped, "/mapped", |m| {
                m.uid_mappings = mapping(FIRST);
                m.gid_mappings = mapping(FIRST);
            });
        let id = husk.cri.launch(&pod, config).await?;
        let seen = husk
            .cri
            .sh(
                &id,
                "touch /plain/new /mapped/new; stat -c %u /plain/roots /mapped/roots /plain/new /mapped/new",
            )
            .await?;
        ensure!(seen == "65534\n0\n0\n0", "{seen}");
        let owner = |path: PathBuf| std::fs::metadata(path).map(|m| (m.uid(), m.gid()));
        ensure!(owner(plain.join("new"))? == (FIRST, FIRST));
        ensure!(owner(mapped.join("new"))? == (0, 0));
        // A file system that cannot be mapped is named.
        let config =
            sleeper("proc", &image)
                .with_namespaces(options)
                .mounted(Path::new("/proc/sys"), "/in", |m| {
                    m.uid_mappings = mapping(FIRST);
                    m.gid_mappings = mapping(FIRST);
                });
        let refused = husk.cri.create(&pod, config).await.refused()?;
        ensure!(
            refused.message().contains("/in") && refused.message().contains("(proc)"),
            "{refused:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn volumes_of_the_image_and_all_layers_are_shared_by_pods_with_other_ids() -> Result<()> {
    run(async |husk| {
        let file = |path: &str, uid: u64| {
            image::Entry::new(path, image::Kind::File(b"x".to_vec())).owner(uid, uid)
        };
        let layer = image::Layer::new()
            .entry(file("data/roots", 0))
            .entry(file("data/webs", 1001))
            .entry(file("opt/webs", 1001));
        let built = image::busybox()?.layer(layer).set("Volumes", json!({"/data": {}})).build()?;
        let reference = shared_registry()?.push("userns/volume", "1", &built)?;
        husk.cri.pull(&reference).await?;
        let before = owners(&husk.dir().join("root/images"))?;
        for (name, first) in [("one", FIRST), ("two", 2 * FIRST)] {
            let options = options(NamespaceMode::Node, NamespaceMode::Container, first);
            let pod = pod(husk, name, options.clone()).await?;
            let config = sleeper("main", &reference).with_namespaces(options);
            let id = husk.cri.launch(&pod, config).await?;
            let text = "stat -c %u:%g /data/roots /data/webs /opt/webs; chown 5:6 /opt/webs; touch /data/new; stat -c %u:%g /opt/webs /data/new";
            let seen = husk.cri.sh(&id, text).await?;
            ensure!(seen == "0:0\n1001:1001\n1001:1001\n5:6\n0:0", "{name}: {seen}");
            let changed = std::fs::metadata(upper(husk, &id).join("opt/webs"))?;
            ensure!((changed.uid(), changed.gid()) == (first + 5, first + 6));
        }
        ensure!(owners(&husk.dir().join("root/images"))? == before, "layers changed");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn images_mounted_as_volumes_have_the_owners_of_the_pod() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let file = |path: &str, uid| image::Entry::new(path, image::Kind::File(b"x".to_vec())).owner(uid, 0);
        let layer = |path: &str| image::Layer::new().entry(file(path, 1001));
        let one = image::Image::new().layer(layer("data/one")).build()?;
        let two = image::Image::new()
            .layer(layer("data/one"))
            .layer(layer("data/two").entry(file("data/beyond", 70_000)))
            .build()?;
        let mut references = Vec::new();
        for (name, built) in [("one", one), ("two", two)] {
            let reference = shared_registry()?.push("userns/data", name, &built)?;
            husk.cri.pull(&reference).await?;
            references.push((name, reference));
        }
        let before = owners(&husk.dir().join("root/images"))?;
        // The same layers in pods with other ids.
        for first in [FIRST, 2 * FIRST] {
            let options = options(NamespaceMode::Node, NamespaceMode::Container, first);
            let pod = pod(husk, &format!("images-{first}"), options.clone()).await?;
            for (name, reference) in &references {
                let volume = |at: &str, part: &str| late::Mount {
                    container_path: at.into(),
                    readonly: true,
                    image: Some(late::ImageSpec {
                        image: reference.clone(),
                        ..Default::default()
                    }),
                    image_sub_path: part.into(),
                };
                let volumes = vec![
                    volume("/in", ""),
                    volume("/part", "data"),
                    volume("/file", "data/one"),
                ];
                let config = sleeper(name, &image).with_namespaces(options.clone());
                let id = husk.cri.create_with_mounts(&pod, config, volumes).await?;
                husk.cri.start(&id).await?;
                let text = "stat -c %u:%g /in /in/data/one /part/one /file; cat /in/data/one /part/one /file; \
                            for f in /in/new /part/new /file; do touch $f 2>&1; done | grep -c Read-only; \
                            mount -o remount,rw /in 2> /dev/null || echo refused";
                let seen = husk.cri.sh(&id, text).await?;
                ensure!(
                    seen == "0:0\n1001:0\n1001:0\n1001:0\nxxx3\nrefused",
                    "{name}: {seen}"
                );
                if *name == "two" {
                    // Nobody's in the pod, as it has no such user.
                    let seen = husk.cri.sh(&id, "stat -c %u /in/data/beyond").await?;
                    ensure!(seen == "65534", "{seen}");
                }
            }
        }
        ensure!(
            owners(&husk.dir().join("root/images"))? == before,
            "layers changed"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_with_user_namespaces_have_a_network() -> Result<()> {
    for options in [Options::new().cni(), Options::new().builtin_network()] {
        run_with(options, async |husk| {
            let image = husk.busybox().await?;
            let mut config = husk.pod_config("web").with_namespaces(private(FIRST));
            config.linux.get_or_insert_default().sysctls =
                husk_e2e::config::labels(&[("net.ipv4.ip_local_port_range", "10000 10100"), ("kernel.shm_rmid_forced", "1")]);
            config.hostname = "web-0".into();
            let web = husk.cri.pod(config).await?;
            let text = "mkdir /www && hostname > /www/index.html && exec httpd -f -p 80 -h /www";
            let server = script("web", &image, text).with_namespaces(private(FIRST));
            let server = husk.cri.launch(&web, server).await?;
            let address = husk.cri.pod_status(&web.id).await?.network.context("no network")?.ip;
            let other = pod(husk, "client", private(3 * FIRST)).await?;
            let client = sleeper("client", &image).with_namespaces(private(3 * FIRST));
            let client = husk.cri.launch(&other, client).await?;
            eventually("an answer", async || {
                let reply = husk
                    .cri
                    .exec_sync(&client, &["wget", "-q", "-O", "-", &format!("http://{address}/")], 20)
                    .await?;
                Ok((reply.stdout == b"web-0\n").then_some(()))
            })
            .await?;
            let set = husk
                .cri
                .sh(&server, "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced | tr '\\t' ' '")
                .await?;
            ensure!(set == "10000 10100\n1", "{set}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_shared_pid_namespace_belongs_to_the_user_namespace() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let options = options(NamespaceMode::Node, NamespaceMode::Pod, FIRST);
        let pod = pod(husk, "shared", options.clone()).await?;
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            ids.push(
                husk.cri
                    .launch(&pod, sleeper(name, &image).with_namespaces(options.clone()))
                    .await?,
            );
        }
        let seen = husk
            .cri
            .sh(
                &ids[0],
                "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; grep -c ' /proc proc ' /proc/mounts",
            )
            .await?;
        ensure!(
            seen.matches("trap 'exit 0' TERM").count() >= 2 && seen.ends_with('1'),
            "{seen}"
        );
        let pid = husk.cri.pid(&ids[1]).await?;
        husk.cri
            .exec_sync(&ids[0], &["sh", "-c", "setsid sleep 4343 & exit 0"], 20)
            .await?;
        husk.cri.stop(&ids[0], 5).await?;
        ensure!(process::alive(pid), "the other container is gone");
        // One that joins another's process ids.
        let mut target = options.clone();
        target.pid = NamespaceMode::Target.into();
        target.target_id.clone_from(&ids[1]);
        let debugger = husk
            .cri
            .launch(&pod, sleeper("debugger", &image).with_namespaces(target))
            .await?;
        ensure!(
            !husk
                .cri
                .sh(&debugger, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
                .await?
                .contains("sleep 4343")
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_network_of_the_node_can_be_used_from_a_user_namespace() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let options = options(NamespaceMode::Node, NamespaceMode::Container, FIRST);
        let pod = pod(husk, "hostnet", options.clone()).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image).with_namespaces(options)).await?;
        let seen = husk.cri.sh(&id, "id -u; readlink /proc/self/ns/net; ls -d /sys/class/net; touch /sys/x 2>&1 | grep -c Read-only").await?;
        ensure!(
            seen == format!("0\n{}\n/sys/class/net\n1", process::namespace("self", "net")?),
            "{seen}"
        );
        // Root inside has no say over it.
        let reply = husk.cri.exec_sync(&id, &["ip", "link", "add", "dummy9", "type", "bridge"], 20).await?;
        ensure!(reply.exit_code != 0, "{reply:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_with_user_namespaces_outlive_the_daemon() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let pod = pod(husk, "survivor", private(FIRST)).await?;
        let first = husk
            .cri
            .launch(&pod, sleeper("first", &image).with_namespaces(private(FIRST)))
            .await?;
        husk.kill()?;
        husk.start_again().await?;
        ensure!(
            husk.cri
                .sh(&first, "id -u; touch /etc/x; stat -c %u /etc/x")
                .await?
                == "0\n0"
        );
        let second = husk
            .cri
            .launch(&pod, sleeper("second", &image).with_namespaces(private(FIRST)))
            .await?;
        let namespace = async |id: &str| process::namespace(&husk.cri.pid(id).await?.to_string(), "user");
        ensure!(namespace(&first).await? == namespace(&second).await?);
        let told = husk
            .cri
            .pod_status(&pod.id)
            .await?
            .linux
            .and_then(|l| l.namespaces)
            .and_then(|n| n.options)
            .context("no namespaces in the status")?;
        ensure!(told == private(FIRST), "{told:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn impossible_user_namespaces_are_refused() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let base = || options(NamespaceMode::Node, NamespaceMode::Container, FIRST);
        type Change<'a> = &'a dyn Fn(&mut NamespaceOption, &mut UserNamespace);
        let cases: [(&str, Change<'_>); 9] = [
            ("two mappings", &|_, u| u.uids.push(mapping(1)[0])),
            ("no mapping", &|_, u| u.gids.clear()),
            ("id 0", &|_, u| u.uids[0].container_id = 1),
            ("no ids", &|_, u| u.uids[0].length = 0),
            ("beyond the last id", &|_, u| u.uids[0].host_id = u32::MAX - 5),
            ("container", &|_, u| u.set_mode(NamespaceMode::Container)),
            ("target", &|_, u| u.set_mode(NamespaceMode::Target)),
            ("the node's pids", &|o, _| o.set_pid(NamespaceMode::Node)),
            ("the node's ipc", &|o, _| o.set_ipc(NamespaceMode::Node)),
        ];
        for (name, change) in cases {
            let mut options = base();
            let mut user = options.userns_options.take().context("no options")?;
            change(&mut options, &mut user);
            options.userns_options = Some(user);
            let refused = husk
                .cri
                .pod(husk.pod_config("bad").with_namespaces(options))
                .await;
            refused.refused_with(Code::InvalidArgument).context(name)?;
        }
        // A container cannot have another one than its pod, nor share mounts with the node from within.
        let pod = pod(husk, "good", base()).await?;
        let other = options(NamespaceMode::Node, NamespaceMode::Container, 2 * FIRST);
        let config = sleeper("other", &image).with_namespaces(other);
        husk.cri
            .create(&pod, config)
            .await
            .refused_with(Code::InvalidArgument)?;
        let config =
            sleeper("shared", &image)
                .with_namespaces(base())
                .mounted(&husk.share("shared")?, "/in", |m| {
                    m.set_propagation(MountPropagation::PropagationBidirectional)
                });
        husk.cri
            .create(&pod, config)
            .await
            .refused_with(Code::InvalidArgument)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn devices_of_the_node_keep_their_owners() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let options = options(NamespaceMode::Node, NamespaceMode::Container, FIRST);
        let pod = pod(husk, "devices", options.clone()).await?;
        let mut config = sleeper("main", &image).with_namespaces(options);
        for (inside, host) in [("/dev/everyones", "/dev/zero"), ("/dev/roots", "/dev/kmsg")] {
            config.devices.push(Device {
                container_path: inside.into(),
                host_path: host.into(),
                permissions: "rwm".into(),
            });
        }
        let id = husk.cri.launch(&pod, config).await?;
        let seen = husk
            .cri
            .sh(&id, "head -c 2 /dev/everyones | od -An -tx1; cat /dev/roots > /dev/null 2>&1 || echo refused; stat -c %u /dev/roots")
            .await?;
        ensure!(seen.trim() == "00 00\nrefused\n65534", "{seen}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_advertised_is_what_works() -> Result<()> {
    run(async |husk| {
        let reply = husk
            .cri
            .runtime()
            .status(StatusRequest { verbose: false })
            .await?
            .into_inner();
        let names: Vec<&str> = reply.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
        ensure!(names.contains(&""), "{names:?}");
        for handler in &reply.runtime_handlers {
            let features = handler.features.context("no features")?;
            ensure!(
                features.user_namespaces && features.recursive_read_only_mounts,
                "{handler:?}"
            );
        }
        Ok(())
    })
    .await
}
