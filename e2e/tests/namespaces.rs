//! Which namespaces a pod and its containers share with each other and with the node.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, namespaces, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{Husk, Options, Pod, process, run, run_with};

const PRIVATE: NamespaceMode = NamespaceMode::Container;
const POD: NamespaceMode = NamespaceMode::Pod;
const NODE: NamespaceMode = NamespaceMode::Node;

/// A pod and two containers in it, all with the same options, as kubelet would send them.
async fn pair(husk: &Husk, options: NamespaceOption) -> Result<(Pod, [String; 2])> {
    let image = husk.busybox().await?;
    let pod = husk
        .cri
        .pod(husk.pod_config("pair").with_namespaces(options.clone()))
        .await?;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let config = sleeper(name, &image).with_namespaces(options.clone());
        ids.push(husk.cri.launch(&pod, config).await?);
    }
    let ids = ids.try_into().map_err(|_| anyhow::anyhow!("two containers"))?;
    Ok((pod, ids))
}

/// The namespace as each of the two sees it, and the node's own.
async fn three(husk: &Husk, ids: &[String; 2], kind: &str) -> Result<[String; 3]> {
    let one = husk
        .cri
        .sh(&ids[0], &format!("readlink /proc/self/ns/{kind}"))
        .await?;
    let two = husk
        .cri
        .sh(&ids[1], &format!("readlink /proc/self/ns/{kind}"))
        .await?;
    Ok([one, two, process::namespace("self", kind)?])
}

#[tokio::test]
async fn with_pod_namespaces_containers_share_all_but_pid_and_mounts() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let (_, ids) = pair(husk, namespaces(POD, PRIVATE, POD)).await?;
        for kind in ["net", "ipc", "uts"] {
            let [one, two, node] = three(husk, &ids, kind).await?;
            ensure!(
                one == two && one != node,
                "{kind}: {one} {two}, the node has {node}"
            );
        }
        for kind in ["pid", "mnt"] {
            let [one, two, node] = three(husk, &ids, kind).await?;
            ensure!(
                one != two && one != node && two != node,
                "{kind}: {one} {two}, the node has {node}"
            );
        }
        ensure!(
            husk.cri
                .sh(&ids[0], "cat /proc/1/cmdline | tr '\\0' ' '")
                .await?
                .starts_with("sh -c trap")
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn with_node_namespaces_containers_are_on_the_host() -> Result<()> {
    run(async |husk| {
        let (pod, ids) = pair(husk, namespaces(NODE, NODE, NODE)).await?;
        for kind in ["net", "ipc", "pid"] {
            let [one, two, node] = three(husk, &ids, kind).await?;
            ensure!(
                one == node && two == node,
                "{kind}: {one} {two}, the node has {node}"
            );
        }
        let options = husk
            .cri
            .pod_status(&pod.id)
            .await?
            .linux
            .and_then(|l| l.namespaces)
            .and_then(|n| n.options);
        ensure!(options == Some(namespaces(NODE, NODE, NODE)), "{options:?}");
        // Stopping must find the container's processes although its pid namespace is everyone's.
        let pid = husk.cri.pid(&ids[0]).await?;
        husk.cri.stop(&ids[0], 10).await?;
        ensure!(!process::alive(pid), "still alive");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn with_a_shared_pid_namespace_containers_see_each_other() -> Result<()> {
    run(async |husk| {
        let (_, ids) = pair(husk, namespaces(NODE, POD, POD)).await?;
        let [one, two, node] = three(husk, &ids, "pid").await?;
        ensure!(one == two && one != node, "{one} {two}, the node has {node}");
        let seen = husk
            .cri
            .sh(&ids[0], "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .await?;
        ensure!(
            seen.matches("trap 'exit 0' TERM").count() >= 2,
            "one container sees: {seen}"
        );
        // The end of one container is not the end of the other, and takes its stray processes along.
        husk.cri
            .exec_sync(&ids[0], &["sh", "-c", "setsid sleep 4242 & exit 0"], 20)
            .await?;
        husk.cri.stop(&ids[0], 5).await?;
        let seen = husk
            .cri
            .sh(&ids[1], "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .await?;
        ensure!(!seen.contains("sleep 4242"), "a stray process lives on: {seen}");
        ensure!(husk.cri.status(&ids[1]).await?.state() == ContainerState::ContainerRunning);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn orphans_in_a_shared_pid_namespace_are_reaped() -> Result<()> {
    run(async |husk| {
        let (_, ids) = pair(husk, namespaces(NODE, POD, POD)).await?;
        husk.cri
            .sh(&ids[0], "for i in 1 2 3 4 5; do (setsid true &) ; done")
            .await?;
        husk_e2e::eventually("no zombies", async || {
            let zombies = husk
                .cri
                .sh(
                    &ids[0],
                    "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l",
                )
                .await?;
            Ok((zombies == "0").then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_container_can_join_anothers_pid_namespace() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("debug")).await?;
        let target = husk.cri.launch(&pod, sleeper("target", &image)).await?;
        let mut options = namespaces(NODE, NamespaceMode::Target, POD);
        options.target_id.clone_from(&target);
        let debugger = husk
            .cri
            .launch(&pod, sleeper("debugger", &image).with_namespaces(options.clone()))
            .await?;
        let [one, two, _] = three(husk, &[target.clone(), debugger.clone()], "pid").await?;
        ensure!(one == two, "{one} {two}");
        let pid = husk.cri.pid(&debugger).await?;
        husk.cri.stop(&debugger, 5).await?;
        ensure!(!process::alive(pid), "the debugger lives on");
        ensure!(husk.cri.status(&target).await?.state() == ContainerState::ContainerRunning);
        options.target_id = "0123456789abcdef".into();
        let lost = sleeper("lost", &image).with_namespaces(options);
        husk.cri
            .create(&pod, lost)
            .await
            .err()
            .context("a target that does not exist was accepted")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_hostname_is_the_pods() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("named").with_own_network();
        config.hostname = "web-0".into();
        let pod = husk.cri.pod(config).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let seen = husk.cri.sh(
            &id,
            "hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname; env | grep HOSTNAME",
        );
        ensure!(seen.await? == "web-0\nweb-0\nweb-0\nHOSTNAME=web-0");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn on_the_hosts_network_the_hostname_is_the_hosts() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("unnamed")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
        ensure!(husk.cri.sh(&id, "hostname").await? == own.trim());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn dns_is_what_was_asked_for() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("dns");
        config.dns_config = Some(DnsConfig {
            servers: vec!["192.0.2.53".into(), "2001:db8::53".into()],
            searches: vec!["e2e.svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into(), "timeout:2".into()],
        });
        let pod = husk.cri.pod(config).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let wanted = "search e2e.svc.cluster.local cluster.local\nnameserver 192.0.2.53\n\
                      nameserver 2001:db8::53\noptions ndots:5 timeout:2";
        let got = husk.cri.sh(&id, "cat /etc/resolv.conf").await?;
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        ensure!(sorted(&got) == sorted(wanted), "{got}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_a_dns_configuration_the_hosts_is_used() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("hostdns")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let own = std::fs::read_to_string("/etc/resolv.conf")?;
        ensure!(husk.cri.sh(&id, "cat /etc/resolv.conf").await? == own.trim_end_matches('\n'));
        ensure!(husk.cri.sh(&id, "cat /etc/hosts").await?.contains("localhost"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sysctls_are_set_in_the_pods_namespaces_only() -> Result<()> {
    run_with(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let before = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")?;
        let mut config = husk.pod_config("sysctls").with_own_network();
        config.linux.get_or_insert_default().sysctls = husk_e2e::config::labels(&[
            ("net.ipv4.ip_local_port_range", "10000 10100"),
            ("kernel.shm_rmid_forced", "1"),
            ("fs.mqueue.msg_max", "77"),
        ]);
        let pod = husk.cri.pod(config).await?;
        let options = namespaces(POD, PRIVATE, POD);
        let id = husk
            .cri
            .launch(&pod, sleeper("main", &image).with_namespaces(options))
            .await?;
        let files = "net/ipv4/ip_local_port_range kernel/shm_rmid_forced fs/mqueue/msg_max";
        let got = husk
            .cri
            .sh(&id, &format!("cd /proc/sys; cat {files} | tr '\\t' ' '"))
            .await?;
        ensure!(got == "10000 10100\n1\n77", "{got}");
        let after = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")?;
        ensure!(before == after, "the host's value changed");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn shared_memory_is_the_pods() -> Result<()> {
    run(async |husk| {
        let (_, ids) = pair(husk, namespaces(NODE, PRIVATE, POD)).await?;
        husk.cri.sh(&ids[0], "echo shared > /dev/shm/e2e").await?;
        ensure!(husk.cri.sh(&ids[1], "cat /dev/shm/e2e").await? == "shared");
        ensure!(!std::path::Path::new("/dev/shm/e2e").exists(), "it is the host's");
        let size = husk
            .cri
            .sh(&ids[0], "df -k /dev/shm | tail -1 | awk '{print $2}'")
            .await?;
        ensure!(size == "65536", "/dev/shm has {size} KiB");
        Ok(())
    })
    .await
}
