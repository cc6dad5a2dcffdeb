//! SELinux: on a node that has it, labels that keep containers from the node and from each other; on one that has not, what
//! becomes of a wish for them. `make vm LSM=selinux` runs this where the kernel enforces a policy.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, namespaces, script, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Options, Pod, eventually, process, run, run_with};
use tonic::Code;

/// Whether this kernel enforces a policy. Elsewhere there is nothing to see, unless the caller says that there must be.
fn enforcing() -> bool {
    let on = std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text == "1");
    assert!(
        on || std::env::var_os("HUSK_E2E_SELINUX").is_none(),
        "no SELinux here, or it enforces nothing"
    );
    on
}

/// Runs a test where a policy is enforced.
async fn enforced(options: Options, test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    match enforcing() {
        true => run_with(options, test).await,
        false => Ok(()),
    }
}

fn options(kind: &str, level: &str) -> SeLinuxOption {
    SeLinuxOption {
        r#type: kind.into(),
        level: level.into(),
        ..Default::default()
    }
}

async fn pod(husk: &Husk, name: &str) -> Result<Pod> {
    Ok(husk.cri.pod(husk.pod_config(name)).await?)
}

/// The label of a process that is executed in the container.
async fn label(husk: &Husk, id: &str) -> Result<String> {
    let text = husk.cri.sh(id, "cat /proc/self/attr/current").await?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
}

async fn launch(husk: &Husk, pod: &Pod, name: &str) -> Result<String> {
    let image = husk.busybox().await?;
    Ok(husk.cri.launch(pod, sleeper(name, &image)).await?)
}

#[tokio::test]
async fn every_pod_has_categories_that_its_containers_share() -> Result<()> {
    enforced(Options::new(), async |husk| {
        let (one, other) = (pod(husk, "one").await?, pod(husk, "other").await?);
        let first = launch(husk, &one, "first").await?;
        let second = launch(husk, &one, "second").await?;
        let elsewhere = launch(husk, &other, "elsewhere").await?;
        let mine = label(husk, &first).await?;
        let level = mine
            .strip_prefix("system_u:system_r:container_t:s0:")
            .with_context(|| format!("{mine:?} is no container's label"))?;
        ensure!(level.split(',').count() == 2, "{level}");
        ensure!(label(husk, &second).await? == mine);
        ensure!(label(husk, &elsewhere).await? != mine);
        // The first process too, and what is in the container.
        let pid = husk.cri.pid(&first).await?;
        let of_first = std::fs::read_to_string(format!("/proc/{pid}/attr/current"))?;
        ensure!(of_first.trim_end_matches('\0') == mine, "{of_first}");
        let mounts = husk.cri.sh(&first, "cat /proc/self/mountinfo").await?;
        let context = format!("context=\"system_u:object_r:container_file_t:s0:{level}\"");
        for file_system in [" / / ", " /dev ", " /dev/pts ", " /dev/shm "] {
            let line = mounts
                .lines()
                .find(|line| line.contains(file_system))
                .with_context(|| format!("no{file_system}in {mounts}"))?;
            ensure!(line.contains(&context), "{line}");
        }
        // With one pid namespace for all, its init, and what it shows.
        let options = namespaces(NamespaceMode::Node, NamespaceMode::Pod, NamespaceMode::Pod);
        let shared = husk.pod_config("shared").with_namespaces(options.clone());
        let shared = husk.cri.pod(shared).await?;
        let config = sleeper("main", &husk.busybox().await?).with_namespaces(options);
        let id = husk.cri.launch(&shared, config).await?;
        let inits = husk
            .cri
            .sh(&id, "cat /proc/1/attr/current && cat /proc/1/mountinfo")
            .await?;
        ensure!(inits.starts_with(&label(husk, &id).await?), "{inits}");
        ensure!(
            inits.contains("husk-init") && inits.contains("context="),
            "{inits}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_containers_are_used_to_works_under_a_policy() -> Result<()> {
    enforced(Options::new().builtin_network(), async |husk| {
        let image = husk.busybox().await?;
        let share = husk.share("relabelled")?;
        std::fs::write(share.join("file"), "from the node")?;
        let pod = husk
            .cri
            .pod(husk.pod_config("ordinary").with_own_network())
            .await?;
        let config = sleeper("main", &image)
            .mounted(&share, "/share", |m| m.selinux_relabel = true)
            .secured(|s| {
                s.masked_paths = vec!["/proc/acpi".into(), "/sys/firmware".into(), "/proc/kcore".into()]
            });
        let id = husk.cri.launch(&pod, config).await?;
        for what in [
            "echo x > /file && cat /file && mkdir -p /a/b && touch /a/b/c && rm -r /a",
            // Programs are mapped, which the kernel checks against the layers and the upper directory as well.
            "mkdir /own && cp /bin/busybox /own/busybox && /own/busybox true",
            "echo x > /dev/null && head -c 4 /dev/zero /dev/urandom > /dev/null",
            "echo x > /dev/shm/file && cat /dev/shm/file && ls /dev/mqueue && touch /dev/mqueue/queue",
            "cat /etc/resolv.conf /etc/hosts /etc/hostname",
            "cat /share/file && echo x > /share/answer",
            "ls /sys/firmware && ls /sys /proc",
            "echo x > /tmp/pipe.$$; sleep 0 | cat; kill -0 $$",
            // The session's keyring is there, and its own.
            "grep -q _ses /proc/keys",
        ] {
            husk.cri.sh(&id, what).await?;
        }
        let ended = husk
            .cri
            .run_to_end(&pod, script("said", &image, "echo to the log; echo x >&2"))
            .await?;
        ensure!(ended.exit_code == 0, "{ended:?}");
        let log = std::fs::read_to_string(&ended.log_path)?;
        ensure!(log.contains("to the log"), "{log}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn root_in_a_user_namespace_is_labelled_too() -> Result<()> {
    enforced(Options::new().builtin_network(), async |husk| {
        let mapping = vec![IdMapping {
            container_id: 0,
            host_id: 900_000,
            length: 65_536,
        }];
        let user = NamespaceOption {
            userns_options: Some(UserNamespace {
                mode: NamespaceMode::Pod.into(),
                uids: mapping.clone(),
                gids: mapping,
            }),
            ..namespaces(NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod)
        };
        let pod = husk
            .cri
            .pod(husk.pod_config("mapped").with_namespaces(user))
            .await?;
        let id = launch(husk, &pod, "main").await?;
        ensure!(label(husk, &id).await?.contains(":container_t:s0:c"));
        let text = "echo x > /file && echo x > /dev/null && head -c 4 /dev/zero && echo x > /dev/shm/file && \
                    mkdir /own && cp /bin/busybox /own/busybox && /own/busybox true && cat /etc/resolv.conf && cat /proc/self/uid_map";
        ensure!(husk.cri.sh(&id, text).await?.contains("900000"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_reaches_neither_the_nodes_files_nor_anothers() -> Result<()> {
    enforced(Options::new(), async |husk| {
        let image = husk.busybox().await?;
        let (nodes, ones) = (husk.share("nodes")?, husk.share("ones")?);
        for dir in [&nodes, &ones] {
            std::fs::write(dir.join("file"), "secret")?;
        }
        let (one, other) = (pod(husk, "one").await?, pod(husk, "other").await?);
        let mounts = |config: ContainerConfig, relabel: bool| {
            config
                .mounted(&nodes, "/nodes", |_| {})
                .mounted(&ones, "/ones", |m| m.selinux_relabel = relabel)
        };
        let owner = husk
            .cri
            .launch(&one, mounts(sleeper("owner", &image), true))
            .await?;
        let stranger = husk
            .cri
            .launch(&other, mounts(sleeper("stranger", &image), false))
            .await?;
        ensure!(husk.cri.sh(&owner, "cat /ones/file").await? == "secret");
        for (id, file) in [
            (&owner, "/nodes/file"),
            (&stranger, "/nodes/file"),
            (&stranger, "/ones/file"),
        ] {
            let reply = husk.cri.exec_sync(id, &["cat", file], 20).await?;
            let said = String::from_utf8_lossy(&reply.stderr);
            ensure!(
                reply.exit_code == 1 && said.contains("Permission denied"),
                "{file}: {reply:?}"
            );
        }
        let mut config = husk.pod_config("privileged");
        config.security().privileged = true;
        let privileged = husk.cri.pod(config).await?;
        let config = mounts(sleeper("all", &image), false).secured(|s| s.privileged = true);
        let all = husk.cri.launch(&privileged, config).await?;
        let its = label(husk, &all).await?;
        ensure!(its == "system_u:system_r:spc_t:s0", "{its}");
        ensure!(husk.cri.sh(&all, "cat /nodes/file /ones/file").await? == "secretsecret");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_may_not_signal_anothers_processes() -> Result<()> {
    enforced(Options::new(), async |husk| {
        let options = namespaces(NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Pod);
        let image = husk.busybox().await?;
        let launch = async |name: &str| -> Result<String> {
            let config = husk.pod_config(name).with_namespaces(options.clone());
            let pod = husk.cri.pod(config).await?;
            let config = sleeper(name, &image).with_namespaces(options.clone());
            Ok(husk.cri.launch(&pod, config).await?)
        };
        let (one, other) = (launch("one").await?, launch("other").await?);
        let pid = husk.cri.pid(&one).await?.to_string();
        husk.cri.sh(&one, &format!("kill -0 {pid}")).await?;
        let reply = husk.cri.exec_sync(&other, &["kill", "-0", &pid], 20).await?;
        ensure!(reply.exit_code != 0, "{reply:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_init_of_a_pod_ends_with_its_supervisor() -> Result<()> {
    enforced(Options::new(), async |husk| {
        let options = namespaces(NamespaceMode::Node, NamespaceMode::Pod, NamespaceMode::Pod);
        let config = husk.pod_config("killed").with_namespaces(options);
        husk.cri.pod(config).await?;
        let init = process::with_command("husk-init");
        ensure!(init.len() == 1, "{init:?}");
        // A process that gets another label loses the wish to die with its parent.
        let supervisor = process::parent(init[0])?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(supervisor),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        eventually("the init is gone", async || {
            Ok((!process::alive(init[0])).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn images_that_were_pulled_without_selinux_can_be_used() -> Result<()> {
    enforced(Options::new(), async |husk| {
        let image = husk.busybox().await?;
        husk.stop().await?;
        let store = husk.dir().join("root/images");
        let status = std::process::Command::new("chcon")
            .args(["-R", "system_u:object_r:node_file_t:s0"])
            .arg(&store)
            .status()?;
        ensure!(status.success(), "chcon: {status}");
        husk.start_again().await?;
        let pod = pod(husk, "migrated").await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        ensure!(husk.cri.sh(&id, "echo ok").await? == "ok");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn wishes_for_labels_are_met_or_refused_with_the_reason() -> Result<()> {
    enforced(Options::new(), async |husk| {
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("wishes");
        config.security().selinux_options = Some(options("", "s0:c7,c9"));
        let pod = husk.cri.pod(config).await?;
        let with = |name: &str, wish: SeLinuxOption| {
            sleeper(name, &image).secured(|s| s.selinux_options = Some(wish))
        };
        let plain = launch(husk, &pod, "plain").await?;
        ensure!(label(husk, &plain).await? == "system_u:system_r:container_t:s0:c7,c9");
        let own = husk
            .cri
            .launch(&pod, with("own", options("", "s0:c1,c2,c3")))
            .await?;
        // The kernel writes a range its own way.
        ensure!(label(husk, &own).await? == "system_u:system_r:container_t:s0:c1.c3");
        let spc = husk.cri.launch(&pod, with("spc", options("spc_t", "s0"))).await?;
        ensure!(label(husk, &spc).await? == "system_u:system_r:spc_t:s0");
        for (wish, word) in [
            (options("", "s0,c1,c2"), "is no level"),
            (options("", "s0:c1,c5000"), "policy"),
            (options("no_such_t", ""), "no_such_t"),
        ] {
            let refused = husk
                .cri
                .create(&pod, with("bad", wish))
                .await
                .refused_with(Code::InvalidArgument)?;
            ensure!(refused.message().contains(word), "{refused:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_selinux_a_wish_is_ignored() -> Result<()> {
    if enforcing() {
        return Ok(());
    }
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("ignored");
        config.security().selinux_options = Some(options("spc_t", "s0"));
        let pod = husk.cri.pod(config).await?;
        let config = sleeper("main", &image).secured(|s| s.selinux_options = Some(options("", "s0:c1,c2")));
        husk.cri.launch(&pod, config).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_selinux_a_wish_is_refused_where_the_node_has_to_have_it() -> Result<()> {
    if enforcing() {
        return Ok(());
    }
    let strict = Options::new().toml("[container]\nselinux = \"required\"\n");
    run_with(strict, async |husk| {
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("refused");
        config.security().selinux_options = Some(options("spc_t", ""));
        let refused = husk
            .cri
            .pod(config)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(refused.message().contains("has no SELinux"), "{refused:?}");
        let pod = pod(husk, "plain").await?;
        let wish = sleeper("main", &image).secured(|s| s.selinux_options = Some(options("", "s0:c1,c2")));
        let refused = husk
            .cri
            .create(&pod, wish)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(refused.message().contains("container.selinux"), "{refused:?}");
        // An empty wish is none.
        let none = sleeper("main", &image).secured(|s| s.selinux_options = Some(options("", "")));
        husk.cri.launch(&pod, none).await?;
        Ok(())
    })
    .await
}
