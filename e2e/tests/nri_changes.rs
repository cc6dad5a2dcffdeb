//! What plugins of the node resource interface may change: containers that are being made, and limits of those that run.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{labels, sleeper};
use husk_e2e::nri::{ALL, Answer, Fields, Plugin, Record, Socket, consent, on, recorded};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, eventually, run_with};
use tonic::Code;

/// CreateContainerResponse with an adjustment.
fn adjust(fill: impl FnOnce(&mut Fields)) -> Answer {
    let mut adjustment = Fields::default();
    fill(&mut adjustment);
    let mut response = Fields::default();
    response.put_message(1, &adjustment);
    Answer::Say(response)
}

/// KeyValue, and what is like it: a key in field 1, a value in field 2.
fn pair(key: &str, value: &str) -> Fields {
    let mut fields = Fields::default();
    fields.put_text(1, key).put_text(2, value);
    fields
}

/// A message whose field 1 is a number: one of the optional values.
fn value(number: u64) -> Fields {
    let mut fields = Fields::default();
    fields.put_number(1, number);
    fields
}

/// LinuxResources with CPU shares.
fn shares(number: u64) -> Fields {
    let mut cpu = Fields::default();
    cpu.put_message(1, &value(number));
    let mut resources = Fields::default();
    resources.put_message(2, &cpu);
    resources
}

/// ContainerUpdate with CPU shares.
fn update(container: &str, number: u64) -> Fields {
    let mut linux = Fields::default();
    linux.put_message(1, &shares(number));
    let mut update = Fields::default();
    update.put_text(1, container).put_message(2, &linux);
    update
}

async fn shares_of(husk: &Husk, container: &str) -> Result<i64> {
    let status = husk.cri.status(container).await?;
    let resources = status.resources.context("no resources in the status")?;
    Ok(resources.linux.context("no limits in the status")?.cpu_shares)
}

#[tokio::test]
async fn what_a_plugin_adjusts_is_what_the_container_gets() -> Result<()> {
    let socket = Socket::new("adjust");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let share = husk.share("from-plugin")?;
        std::fs::write(share.join("file"), "mounted")?;
        let source = share.display().to_string();
        let record = Record::default();
        let answer = on("CreateContainer", move |_| {
            adjust(|adjustment| {
                let mut mount = Fields::default();
                mount
                    .put_text(1, "/from-plugin")
                    .put_text(2, "bind")
                    .put_text(3, &source);
                mount.put_text(4, "rbind").put_text(4, "ro");
                let mut limit = Fields::default();
                limit
                    .put_text(1, "RLIMIT_CORE")
                    .put_number(2, 4096)
                    .put_number(3, 4096);
                let mut linux = Fields::default();
                linux.put_message(2, &shares(77)).put_message(4, &value(123));
                adjustment
                    .put_message(2, &pair("example.com/note", "hello"))
                    .put_message(3, &mount)
                    .put_message(4, &pair("FROM_PLUGIN", "yes"))
                    .put_message(6, &linux)
                    .put_message(7, &limit);
            })
        });
        let _plugin = Plugin::join(&socket.0, "10-adjust", ALL, &record, answer).await?;
        let pod = husk.cri.pod(husk.pod_config("adjust")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;

        ensure!(husk.cri.sh(&id, "echo $FROM_PLUGIN").await? == "yes");
        ensure!(husk.cri.sh(&id, "cat /from-plugin/file").await? == "mounted");
        let written = husk.cri.exec_sync(&id, &["touch", "/from-plugin/x"], 60).await?;
        ensure!(written.exit_code != 0, "the mount is read-only");
        ensure!(husk.cri.sh(&id, "cat /proc/1/oom_score_adj").await? == "123");
        let limits = husk.cri.sh(&id, "grep core /proc/1/limits").await?;
        ensure!(limits.contains("4096"), "{limits}");
        ensure!(shares_of(husk, &id).await? == 77);
        let spec = &husk.cri.container_info(&id).await?["runtimeSpec"];
        ensure!(spec["annotations"]["example.com/note"] == "hello", "{spec}");

        // What is told afterwards is what was adjusted.
        let events = recorded(&record);
        let started = events
            .iter()
            .find(|e| e.method == "PostStartContainer")
            .context("not started")?;
        let env = started.request.message(2).texts(8);
        ensure!(env.contains(&"FROM_PLUGIN=yes".to_owned()), "{env:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn hooks_of_a_plugin_run_when_they_should() -> Result<()> {
    let socket = Socket::new("hooks");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let share = husk.share("hooks")?;
        let out = share.join("ran");
        let script = share.join("hook.sh");
        // Each hook writes its name and the status it was told.
        let text = r#"#!/bin/sh
status=$(sed 's/.*"status":"\([a-z]*\)".*/\1/')
echo "$2 $status" >> "$1"
"#;
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let (path, target) = (script.display().to_string(), out.display().to_string());
        let hook = move |name: &str| {
            let mut hook = Fields::default();
            hook.put_text(1, &path)
                .put_text(2, "hook")
                .put_text(2, &target)
                .put_text(2, name);
            hook.put_text(3, "PATH=/usr/bin:/bin");
            hook
        };
        let answer = on("CreateContainer", move |_| {
            let mut hooks = Fields::default();
            for (field, name) in [
                (2, "createRuntime"),
                (3, "createContainer"),
                (5, "poststart"),
                (6, "poststop"),
            ] {
                hooks.put_message(field, &hook(name));
            }
            adjust(|a| {
                a.put_message(5, &hooks);
            })
        });
        let _plugin = Plugin::join(&socket.0, "10-hooks", ALL, &Record::default(), answer).await?;
        let pod = husk.cri.pod(husk.pod_config("hooks")).await?;
        let ran = || -> Result<Vec<String>> {
            let text = std::fs::read_to_string(&out)?;
            Ok(text
                .lines()
                .filter(|l| !l.is_empty())
                .map(str::to_owned)
                .collect())
        };
        let id = husk.cri.create(&pod, sleeper("main", &image)).await?;
        let mut expected = vec!["createRuntime creating", "createContainer creating"];
        // runc runs the next one early, and crun tells all of them something else: what is husk's is that they run.
        let exactly = husk_e2e::husk::other_runtime().is_none();
        let check = |expected: &[&str]| -> Result<()> {
            let ran = ran()?;
            let names = |list: Vec<String>| {
                list.iter()
                    .filter_map(|l| l.split(' ').next().map(str::to_owned))
                    .collect()
            };
            let expected = expected.iter().map(|&e| e.to_owned()).collect();
            let (got, wanted): (Vec<_>, Vec<_>) = match exactly {
                true => (ran, expected),
                false => (names(ran), names(expected)),
            };
            ensure!(got == wanted, "{got:?} instead of {wanted:?}");
            Ok(())
        };
        if exactly {
            check(&expected)?;
        }
        husk.cri.start(&id).await?;
        expected.push("poststart running");
        check(&expected)?;
        husk.cri.remove(&id).await?;
        expected.push("poststop stopped");
        check(&expected)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn devices_that_plugins_name_are_those_of_the_vendors_files() -> Result<()> {
    let socket = Socket::new("cdi");
    let dir = tempfile::tempdir()?;
    let toml = format!("[container]\ncdi_dirs = [\"{}\"]\n", dir.path().display());
    run_with(socket.options("").toml(&toml), async |husk| {
        let image = husk.busybox().await?;
        let told = husk.share("cdi")?.join("told");
        let yaml = format!(
            r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits:
  env: ["VENDOR=yes"]
  hooks: [{{hookName: createRuntime, path: /bin/sh, args: [sh, -c, "echo once >> {told}"]}}]
devices:
  - name: zero
    containerEdits: {{deviceNodes: [{{path: /dev/vendor/zero, hostPath: /dev/zero, permissions: r}}]}}
  - name: one
    containerEdits: {{env: ["ONE=1"]}}
  - name: two
    containerEdits: {{env: ["TWO=2"]}}
"#,
            told = told.display()
        );
        std::fs::write(dir.path().join("vendor.yaml"), yaml)?;
        let record = Record::default();
        // Each wants one, which the containers' labels name.
        let wanting = |field: &'static str| {
            on("CreateContainer", move |event| {
                let labels = event.request.message(2).messages(5);
                let wanted = labels.into_iter().find(|label| label.text(1) == field);
                adjust(|a| {
                    if let Some(wanted) = wanted {
                        let mut device = Fields::default();
                        device.put_text(1, &wanted.text(2));
                        a.put_message(8, &device);
                    }
                })
            })
        };
        let one = Plugin::join(&socket.0, "10-one", ALL, &record, wanting("first")).await?;
        let _two = Plugin::join(&socket.0, "20-two", ALL, &record, wanting("second")).await?;
        let pod = husk.cri.pod(husk.pod_config("cdi")).await?;
        let labelled = |name: &str, first: &str, second: &str| {
            let mut config = sleeper(name, &image);
            config.labels = husk_e2e::config::labels(&[("first", first), ("second", second)]);
            config
        };
        let (zero, two) = ("vendor.com/gpu=zero", "vendor.com/gpu=two");
        // What the client asked for is there besides, and its vendor's hook still runs once.
        let mut config = labelled("main", zero, two);
        config.cdi_devices = vec![CdiDevice {
            name: "vendor.com/gpu=one".into(),
        }];
        let id = husk.cri.launch(&pod, config).await?;
        let text = "echo $VENDOR $ONE $TWO; head -c 2 /dev/vendor/zero | od -An -tx1";
        let seen = husk.cri.sh(&id, text).await?;
        ensure!(seen == "yes 1 2\n 00 00", "{seen}");
        ensure!(std::fs::read_to_string(&told)? == "once\n");
        let events = recorded(&record);
        let started = events.iter().find(|e| e.method == "PostStartContainer");
        let env = started.context("not started")?.request.message(2).texts(8);
        ensure!(env.contains(&"TWO=2".to_owned()), "{env:?}");

        // Nobody describes it, two plugins want the same, it is no name: the container is not made, and plugins hear it.
        for (name, first, second, part) in [
            ("unknown", "vendor.com/gpu=three", two, "vendor.com/gpu=three"),
            ("both", two, two, "10-one and 20-two"),
            ("nonsense", "gpu0", two, "\"gpu0\""),
        ] {
            let refused = husk
                .cri
                .create(&pod, labelled(name, first, second))
                .await
                .refused()?;
            ensure!(refused.message().contains(part), "{name}: {refused:?}");
        }
        ensure!(husk.cri.list(None).await?.len() == 1);
        let removed = one.events().into_iter().filter(|e| e.method == "RemoveContainer");
        // The record is both plugins'. The one behind a plugin that spoke nonsense was not asked.
        ensure!(removed.count() == 5);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_plugins_that_disagree_keep_the_container_from_being_made() -> Result<()> {
    let socket = Socket::new("conflict");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let record = Record::default();
        let set = || {
            on("CreateContainer", |_| {
                adjust(|a| {
                    a.put_message(4, &pair("KEY", "x"));
                })
            })
        };
        let _one = Plugin::join(&socket.0, "10-one", ALL, &record, set()).await?;
        let two = Plugin::join(&socket.0, "20-two", ALL, &record, set()).await?;
        let pod = husk.cri.pod(husk.pod_config("conflict")).await?;
        let refusal = husk.cri.create(&pod, sleeper("main", &image)).await;
        let refusal = refusal.err().context("the container was made")?;
        for word in ["10-one", "20-two", "KEY"] {
            ensure!(refusal.message().contains(word), "{refusal}");
        }
        ensure!(husk.cri.list(None).await?.is_empty());
        // Both were told of a creation, so both are told that nothing came of it.
        let removed = two
            .events()
            .iter()
            .filter(|e| e.method == "RemoveContainer")
            .count();
        ensure!(removed == 2, "{removed} of 2 plugins were told");
        ensure!(!two.events().iter().any(|e| e.method == "StartContainer"));
        drop(two);
        eventually("a container once the second plugin is gone", async || {
            Ok(husk.cri.create(&pod, sleeper("main", &image)).await.ok())
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_judge_can_reject_and_sees_who_set_what() -> Result<()> {
    let socket = Socket::new("judge");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let record = Record::default();
        let set = on("CreateContainer", |_| {
            adjust(|a| {
                a.put_message(4, &pair("KEY", "x"));
            })
        });
        let _one = Plugin::join(&socket.0, "10-one", ALL, &record, set).await?;
        let reject = on("ValidateContainerAdjustment", |_| {
            let mut response = Fields::default();
            response.put_number(1, 1).put_text(2, "no KEY here");
            Answer::Say(response)
        });
        let judge = Plugin::join(&socket.0, "00-judge", ALL, &record, reject).await?;
        let pod = husk.cri.pod(husk.pod_config("judge")).await?;
        let refusal = husk
            .cri
            .create(&pod, sleeper("main", &image))
            .await
            .refused_with(Code::PermissionDenied)?;
        ensure!(refusal.message().contains("no KEY here"), "{refusal}");
        ensure!(husk.cri.list(None).await?.is_empty());
        let events = judge.events();
        let asked = events.iter().find(|e| e.method == "ValidateContainerAdjustment");
        let asked = &asked.context("the judge was not asked")?.request;
        ensure!(asked.message(3).message(4) == pair("KEY", "x"), "{asked:?}");
        // OwningPlugins: by container, then field 6 (the environment), then key.
        let fields = asked.message(5).message(1).message(2);
        let env = fields.message(2);
        ensure!(
            env.number(1) == 6 && env.message(2).message(1) == pair("KEY", "10-one"),
            "{fields:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn limits_change_when_kubelet_or_a_plugin_wants_it() -> Result<()> {
    let socket = Socket::new("update");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let record = Record::default();
        // Whatever kubelet wants, this one makes 55 of it.
        let answer = on("UpdateContainer", |event| {
            let mut response = Fields::default();
            response.put_message(1, &update(&event.container(), 55));
            Answer::Say(response)
        });
        let plugin = Plugin::join(&socket.0, "10-limits", ALL, &record, answer).await?;
        let pod = husk.cri.pod(husk.pod_config("update")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;

        let mut request = Fields::default();
        request
            .put_message(1, &update(&id, 200))
            .put_message(1, &update("no-such-container", 2));
        let failed = plugin.call("UpdateContainers", request).await?.messages(1);
        ensure!(
            failed.len() == 1 && failed[0].text(1) == "no-such-container",
            "{failed:?}"
        );
        ensure!(shares_of(husk, &id).await? == 200);

        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(LinuxContainerResources {
                cpu_shares: 300,
                ..Default::default()
            }),
            ..Default::default()
        };
        husk.cri.runtime().update_container_resources(request).await?;
        ensure!(shares_of(husk, &id).await? == 55);
        let methods: Vec<_> = plugin.events().into_iter().map(|e| e.method).collect();
        ensure!(
            methods.ends_with(&["UpdateContainer".into(), "PostUpdateContainer".into()]),
            "{methods:?}"
        );

        let unknown = plugin.call("NoSuchMethod", Fields::default()).await;
        ensure!(unknown.is_err_and(|e| e.to_string().starts_with("12: ")));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_plugin_can_evict_a_container() -> Result<()> {
    let socket = Socket::new("evict");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let plugin = Plugin::join(&socket.0, "10-evict", ALL, &Record::default(), consent).await?;
        let pod = husk.cri.pod(husk.pod_config("evict")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let mut request = Fields::default();
        request.put_message(2, &pair(&id, "too greedy"));
        plugin.call("UpdateContainers", request).await?;
        husk.cri.wait_exit(&id).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn no_two_containers_get_one_cgroup() -> Result<()> {
    let socket = Socket::new("cgroup");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let above = husk.cgroup_parent();
        let at = format!("{above}/shared");
        // The name of a container says where it is to go.
        let answer = on("CreateContainer", move |event| {
            let path = match event.request.message(2).text(3).as_str() {
                "above" => above.clone(),
                "out" => "/a/../b".to_owned(),
                "own" => return consent(event),
                _ => at.clone(),
            };
            adjust(|adjustment| {
                let mut linux = Fields::default();
                linux.put_text(3, &path);
                adjustment.put_message(6, &linux);
            })
        });
        let record = Record::default();
        let _plugin = Plugin::join(&socket.0, "10-cgroup", ALL, &record, answer).await?;
        let pod = husk.cri.pod(husk.pod_config("cgroup")).await?;
        let first = husk.cri.launch(&pod, sleeper("first", &image)).await?;
        let seen = husk.cri.sh(&first, "cat /proc/1/cgroup").await?;
        let own = husk.cri.launch(&pod, sleeper("own", &image)).await?;
        for name in ["second", "above"] {
            let refused = husk.cri.create(&pod, sleeper(name, &image)).await;
            let refused = refused.refused_with(Code::FailedPrecondition)?;
            ensure!(refused.message().contains("cgroup path"), "{refused:?}");
        }
        let out = husk.cri.create(&pod, sleeper("out", &image)).await;
        out.refused_with(Code::InvalidArgument)?;
        for id in [&first, &own] {
            ensure!(husk.cri.status(id).await?.state() == ContainerState::ContainerRunning);
        }
        ensure!(husk.cri.sh(&first, "cat /proc/1/cgroup").await? == seen);

        // A plugin that comes later is shown those that are, and no others.
        let late = Plugin::join(&socket.0, "20-late", ALL, &Record::default(), consent).await?;
        let events = late.events();
        let state = events.iter().find(|e| e.method == "Synchronize");
        let shown = state.context("not synchronized")?.request.messages(2);
        ensure!(shown.len() == 2, "{shown:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_one_plugin_removed_the_next_is_not_shown() -> Result<()> {
    let socket = Socket::new("removed");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let remove = on("CreateContainer", |_| {
            adjust(|adjustment| {
                adjustment.put_message(2, &pair("-example.com/drop", ""));
            })
        });
        let record = Record::default();
        let _first = Plugin::join(&socket.0, "10-remove", ALL, &Record::default(), remove).await?;
        let _second = Plugin::join(&socket.0, "20-look", ALL, &record, consent).await?;
        let pod = husk.cri.pod(husk.pod_config("removed")).await?;
        let mut config = sleeper("main", &image);
        config.annotations = labels(&[("example.com/drop", "x"), ("example.com/keep", "y")]);
        husk.cri.launch(&pod, config).await?;
        for method in ["CreateContainer", "PostStartContainer"] {
            let events = recorded(&record);
            let event = events.iter().find(|e| e.method == method).context(method)?;
            let shown = event.request.message(2).messages(6);
            let keys: Vec<String> = shown.iter().map(|pair| pair.text(1)).collect();
            ensure!(
                keys.contains(&"example.com/keep".to_owned()),
                "{method}: {keys:?}"
            );
            ensure!(
                !keys.contains(&"example.com/drop".to_owned()),
                "{method}: {keys:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_plugin_asked_for_is_finished_after_its_death() -> Result<()> {
    let socket = Socket::new("death");
    run_with(socket.options(""), async |husk| {
        let image = husk.busybox().await?;
        let plugin = Plugin::join(&socket.0, "10-dies", ALL, &Record::default(), consent).await?;
        let pod = husk.cri.pod(husk.pod_config("death")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        // So many that it dies in the midst of them.
        let mut request = Fields::default();
        for number in 0..300 {
            request.put_message(1, &update(&id, 100 + number));
        }
        let call = plugin.call("UpdateContainers", request);
        let begun = eventually("the first is done", async || {
            Ok((shares_of(husk, &id).await? >= 100).then_some(()))
        });
        tokio::select! {
            begun = begun => begun?,
            answer = call => drop(answer?),
        }
        drop(plugin);
        eventually("the last is done", async || {
            Ok((shares_of(husk, &id).await? == 399).then_some(()))
        })
        .await?;
        Ok(())
    })
    .await
}
