#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::*;
use crate::sys::mount::attr;
use crate::types::{CapSet, Kind};

fn base() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}]},
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Result<LaunchPlan> {
    let mut spec = base();
    change(&mut spec);
    let spec: Spec = serde_json::from_value(spec).unwrap();
    container(&spec, &ContainerOptions::default())
}

fn plan(change: impl FnOnce(&mut Value)) -> LaunchPlan {
    with(change).unwrap()
}

/// The message of a refusal, which must be the client's fault.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let error = with(change).unwrap_err();
    assert!(
        matches!(error.kind(), Kind::InvalidArgument | Kind::Unimplemented),
        "{error:?}"
    );
    error.to_string()
}

fn mount(spec: Value) -> Mount {
    plan(|s| s["mounts"] = json!([spec])).mounts.remove(0)
}

#[test]
fn a_minimal_spec_asks_for_nothing_more() {
    let plan = plan(|_| {});
    assert_eq!(plan.process.args, ["true"]);
    assert_eq!(plan.process.capabilities, Capabilities::default());
    assert!(plan.masked_paths.is_empty() && plan.readonly_paths.is_empty() && plan.mounts.is_empty());
    assert_eq!(plan.devices.len(), 6);
    assert!(plan.dev_links && !plan.readonly_root);
    assert_eq!(plan.process.oom_score_adj, None);
}

#[test]
fn plans_travel_as_json_between_versions() {
    let plan = plan(|s| {
        s["hostname"] = json!("box");
        s["mounts"] = json!([{"destination": "/x", "source": "/y", "options": ["rbind", "rro"]}]);
        s["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]});
    });
    let mut value = serde_json::to_value(&plan).unwrap();
    let same: LaunchPlan = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(same, plan);

    // From a newer daemon, with fields this version does not know.
    value["from_the_future"] = json!(1);
    value["process"]["also"] = json!({"new": true});
    assert_eq!(serde_json::from_value::<LaunchPlan>(value.clone()).unwrap(), plan);

    // From an older daemon, without fields this version has.
    let old = value.as_object_mut().unwrap();
    old.remove("readonly_root");
    old.remove("hooks");
    assert_eq!(serde_json::from_value::<LaunchPlan>(value).unwrap(), plan);
    assert_eq!(
        serde_json::from_str::<ExecPlan>("{}").unwrap(),
        ExecPlan::default()
    );
}

#[test]
fn namespaces_are_made_or_joined() {
    let plan = plan(|s| {
        s["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": "/run/netns/x"}]);
    });
    assert_eq!(plan.namespaces[0].path, None);
    assert_eq!(plan.namespaces[1].kind, NamespaceKind::Network);
    assert_eq!(
        plan.namespaces[1].path.as_deref(),
        Some(Path::new("/run/netns/x"))
    );

    let twice = refused(|s| s["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "mount"}]));
    assert!(twice.contains("listed twice"), "{twice}");
    assert!(refused(|s| s["linux"]["namespaces"] = json!([])).contains("a mount namespace is needed"));
    let joined = refused(|s| s["linux"]["namespaces"] = json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]));
    assert!(joined.contains("existing mount namespace"), "{joined}");
}

#[test]
fn names_need_a_namespace_of_their_own() {
    assert_eq!(
        plan(|s| s["hostname"] = json!("box")).hostname.as_deref(),
        Some("box")
    );
    let text = refused(|s| {
        s["hostname"] = json!("box");
        s["linux"]["namespaces"] = json!([{"type": "mount"}]);
    });
    assert!(text.contains("hostname"), "{text}");
    assert!(refused(|s| s["hostname"] = json!("x".repeat(65))).contains("at most 64"));
}

#[test]
fn sysctls_that_would_change_the_node_are_refused() {
    let plan = plan(|s| {
        s["linux"]["sysctl"] = json!({
            "net.ipv4.ip_forward": "1", "kernel.shmmax": "9", "fs.mqueue.msg_max": "5", "net/ipv4/conf/eth0.1/mtu": "1",
        });
    });
    let names: Vec<&str> = plan.sysctls.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        [
            "fs.mqueue.msg_max",
            "kernel.shmmax",
            "net.ipv4.conf.eth0/1.mtu",
            "net.ipv4.ip_forward"
        ]
    );
    for name in [
        "kernel.panic",
        "vm.swappiness",
        "kernel.msgmax_",
        "net",
        "fs.file-max",
        "kernel.shmmaxx",
    ] {
        let text = refused(|s| s["linux"]["sysctl"] = json!({name: "1"}));
        assert!(text.contains(name) && text.contains("no namespace"), "{text}");
    }
    let text = refused(|s| {
        s["linux"]["sysctl"] = json!({"net.core.somaxconn": "1"});
        s["linux"]["namespaces"] = json!([{"type": "mount"}]);
    });
    assert!(text.contains("the container uses the node's"), "{text}");
    for name in ["net...x", "net.", "net/../kernel/panic"] {
        assert!(
            refused(|s| s["linux"]["sysctl"] = json!({name: "1"})).contains("bad name"),
            "{name}"
        );
    }
}

#[test]
fn bind_options_become_attributes() {
    let m = mount(json!({"destination": "/x", "source": "/y", "type": "bind",
        "options": ["rbind", "ro", "nosuid", "noatime", "exec", "rprivate", "shared"]}));
    assert_eq!(
        m.kind,
        MountKind::Bind {
            source: "/y".into(),
            recursive: true
        }
    );
    assert_eq!(m.attributes.set, attr::RDONLY | attr::NOSUID | attr::NOATIME);
    assert_eq!(m.attributes.clear, attr::NOEXEC | attr::ATIME_MASK);
    assert_eq!(m.propagation, [libc::MS_PRIVATE | libc::MS_REC, libc::MS_SHARED]);

    // The last word counts.
    let m = mount(
        json!({"destination": "/x", "source": "/y", "options": ["bind", "ro", "rw", "noatime", "relatime"]}),
    );
    assert_eq!(
        m.attributes,
        Attributes {
            set: 0,
            clear: attr::RDONLY | attr::ATIME_MASK
        }
    );
    assert_eq!(
        m.kind,
        MountKind::Bind {
            source: "/y".into(),
            recursive: false
        }
    );

    let m = mount(json!({"destination": "/x", "source": "/y", "options": ["rbind", "rro", "rnoexec"]}));
    assert!(m.attributes.is_empty());
    assert_eq!(
        m.recursive,
        Attributes {
            set: attr::RDONLY | attr::NOEXEC,
            clear: 0
        }
    );
}

#[test]
fn file_system_options_become_flags_and_data() {
    let m = mount(json!({"destination": "dev", "source": "tmpfs", "type": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k", "tmpcopyup", "defaults"]}));
    assert_eq!(m.destination, Path::new("/dev"));
    assert_eq!(
        m.kind,
        MountKind::Filesystem {
            fstype: "tmpfs".into(),
            source: "tmpfs".into(),
            flags: libc::MS_NOSUID | libc::MS_STRICTATIME,
            data: "mode=755,size=65536k".into(),
            copy_up: true,
        }
    );
    assert_eq!(
        mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup2"})).kind,
        MountKind::Cgroup
    );
    let remount = mount(json!({"destination": "/x", "type": "tmpfs", "options": ["remount", "ro"]}));
    assert_eq!(
        remount.kind,
        MountKind::Remount {
            flags: libc::MS_RDONLY,
            data: String::new()
        }
    );
}

#[test]
fn labels_go_to_file_systems_that_take_them() {
    let plan = plan(|s| {
        s["linux"]["mountLabel"] = json!("a:b:c");
        s["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ]);
    });
    let data: Vec<&str> = plan
        .mounts
        .iter()
        .map(|m| match &m.kind {
            MountKind::Filesystem { data, .. } => data.as_str(),
            _ => "",
        })
        .collect();
    assert_eq!(data, ["", "mode=755,context=\"a:b:c\""]);
}

#[test]
fn mounts_that_make_no_sense_are_refused() {
    for (mount, text) in [
        (
            json!({"destination": "/x", "options": ["bind"]}),
            "needs a source",
        ),
        (
            json!({"destination": "/x", "source": "y", "options": ["bind"]}),
            "not absolute",
        ),
        (
            json!({"destination": "/x", "source": "/y"}),
            "neither a type nor bind",
        ),
        (
            json!({"destination": "/x", "source": "x", "type": "proc", "options": ["tmpcopyup"]}),
            "tmpfs only",
        ),
    ] {
        let error = refused(|s| s["mounts"] = json!([mount]));
        assert!(error.contains(text) && error.contains("/x"), "{error}");
    }
}

#[test]
fn a_bound_dev_is_left_alone() {
    let bound =
        plan(|s| s["mounts"] = json!([{"destination": "/dev/", "source": "/dev", "options": ["rbind"]}]));
    assert!(bound.devices.is_empty() && !bound.dev_links);
    let below =
        plan(|s| s["mounts"] = json!([{"destination": "/dev/shm", "source": "/y", "options": ["bind"]}]));
    assert!(!below.devices.is_empty() && below.dev_links);
}

#[test]
fn devices_of_the_spec_replace_the_usual_ones() {
    let plan = plan(|s| {
        s["linux"]["devices"] = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20600},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "gid": 6},
        ]);
    });
    assert_eq!(plan.devices.len(), 7);
    let find = |path: &str| plan.devices.iter().find(|d| d.path == Path::new(path)).unwrap();
    assert_eq!(find("/dev/null").mode, 0o600);
    assert_eq!(
        (find("/dev/sda").kind, find("/dev/sda").gid, find("/dev/sda").mode),
        (DeviceKind::Block, 6, 0o666)
    );
    for device in [
        json!({"path": "dev/x", "type": "c"}),
        json!({"path": "/dev/x", "type": "a"}),
        json!({"path": "/dev/x", "type": "c", "major": -1}),
    ] {
        assert!(refused(|s| s["linux"]["devices"] = json!([device])).contains("linux.devices"));
    }
}

#[test]
fn processes_that_cannot_be_are_refused() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 8] = [
        (|s| s["process"] = Value::Null, "process is missing"),
        (|s| s["process"]["args"] = json!([]), "args is empty"),
        (|s| s["process"]["args"] = json!([""]), "args is empty"),
        (|s| s["process"]["args"] = json!(["a\0b"]), "NUL"),
        (|s| s["process"]["cwd"] = json!("here"), "not an absolute path"),
        (
            |s| s["process"]["oomScoreAdj"] = json!(1001),
            "outside -1000 to 1000",
        ),
        (
            |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "above hard limit",
        ),
        (
            |s| {
                let limit = json!({"type": "RLIMIT_CPU", "soft": 1, "hard": 1});
                s["process"]["rlimits"] = json!([limit, limit]);
            },
            "listed twice",
        ),
    ];
    for (change, text) in cases {
        let error = refused(change);
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_process_is_carried_over_whole() {
    let p = plan(|s| {
        s["process"] = json!({
            "args": ["a", "b"], "env": ["A=b"], "cwd": "/c", "terminal": true,
            "consoleSize": {"height": 70000, "width": 80},
            "user": {"uid": 1, "gid": 2, "additionalGids": [3], "umask": 0o77},
            "capabilities": {"bounding": ["CAP_KILL"], "ambient": ["CAP_CHOWN"]},
            "noNewPrivileges": true, "oomScoreAdj": -5, "apparmorProfile": "p", "selinuxLabel": "",
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        });
        s["linux"]["personality"] = json!({"domain": "LINUX32"});
    })
    .process;
    assert_eq!(
        (p.args.len(), p.env.len(), p.cwd.as_path()),
        (2, 1, Path::new("/c"))
    );
    assert_eq!(p.console_size, Some((u16::MAX, 80)));
    assert_eq!(
        (p.uid, p.gid, p.groups.as_slice(), p.umask),
        (1, 2, &[3][..], Some(0o77))
    );
    assert_eq!(p.capabilities.bounding, CapSet::parse(&["KILL"]).unwrap());
    assert_eq!(p.capabilities.ambient, CapSet::parse(&["CHOWN"]).unwrap());
    assert!(p.terminal && p.no_new_privileges && !p.oom_score_adj_required);
    assert_eq!(
        (p.oom_score_adj, p.apparmor.as_deref(), p.selinux),
        (Some(-5), Some("p"), None)
    );
    assert_eq!(p.io_priority, Some(2 << 13 | 4));
    assert_eq!(
        p.rlimits,
        [Rlimit {
            resource: libc::RLIMIT_NOFILE,
            soft: 1,
            hard: 2
        }]
    );
    assert_eq!(p.personality, Some(8));
}

#[test]
fn the_root_is_as_the_spec_says() {
    let plan = plan(|s| {
        s["root"] = json!({"path": "/ignored", "readonly": true});
        s["linux"]["rootfsPropagation"] = json!("rshared");
        s["linux"]["maskedPaths"] = json!(["/proc/keys"]);
        s["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    });
    assert!(plan.readonly_root);
    assert_eq!(plan.root_propagation, libc::MS_SHARED | libc::MS_REC);
    assert_eq!(plan.masked_paths, [PathBuf::from("/proc/keys")]);
    assert_eq!(plan.readonly_paths, [PathBuf::from("/proc/sys")]);
    assert!(refused(|s| s["linux"]["rootfsPropagation"] = json!("loud")).contains("rootfsPropagation"));
}

#[test]
fn clock_offsets_need_a_time_namespace() {
    let offsets = json!({"monotonic": {"secs": 5, "nanosecs": 6}});
    let plan = plan(|s| {
        s["linux"]["timeOffsets"] = offsets.clone();
        s["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "time"}]);
    });
    assert_eq!(plan.time_offsets, [("monotonic".to_owned(), 5, 6)]);
    assert!(refused(|s| s["linux"]["timeOffsets"] = offsets).contains("time namespace"));
}

#[test]
fn hooks_are_checked() {
    let hook = |h: Value| move |s: &mut Value| s["hooks"] = json!({"createContainer": [h]});
    let plan = plan(hook(json!({"path": "/h", "args": ["h", "x"], "timeout": 3})));
    assert_eq!(
        plan.hooks.create_container,
        [Hook {
            path: "/h".into(),
            args: vec!["h".into(), "x".into()],
            env: vec![],
            timeout: Some(3),
        }]
    );
    assert!(refused(hook(json!({"path": "h"}))).contains("not an absolute path"));
    assert!(refused(hook(json!({"path": "/h", "timeout": 0}))).contains("not positive"));
}

#[test]
fn no_hook_of_a_pod_runs_for_ever() {
    let list = json!([{"path": "/h"}, {"path": "/h", "timeout": 3}]);
    let spec = |s: &mut Value| {
        let stages = ["prestart", "createRuntime", "createContainer", "startContainer"];
        s["hooks"] = stages.into_iter().map(|stage| (stage, list.clone())).collect();
    };
    let hooks = plan(spec).hooks;
    let runtime = hooks.runtime.iter().map(|(_, hook)| hook);
    let all = runtime
        .chain(&hooks.create_container)
        .chain(&hooks.start_container);
    let limits: Vec<_> = all.map(|hook| hook.timeout).collect();
    assert_eq!(limits, [Some(HOOK_PATIENCE), Some(3)].repeat(4));

    // Who runs hooks by himself, as a runtime of the OCI does, keeps to what the spec says.
    let mut value = base();
    spec(&mut value);
    let options = ContainerOptions {
        pause_before_pivot: true,
        ..ContainerOptions::default()
    };
    let plan = container(&serde_json::from_value(value).unwrap(), &options).unwrap();
    assert_eq!(plan.hooks.create_container[0].timeout, None);
}

#[test]
fn an_exec_takes_options_and_personality() {
    let mut value = base();
    value["linux"]["personality"] = json!({"domain": "LINUX"});
    let spec: Spec = serde_json::from_value(value).unwrap();
    let seccomp = SeccompProgram {
        filter: vec![6],
        flags: 2,
    };
    let options = ExecOptions {
        seccomp: Some(seccomp.clone()),
        require_oom_score_adj: true,
        ..ExecOptions::default()
    };
    let plan = exec(&spec, spec.process().as_ref().unwrap(), &options).unwrap();
    assert_eq!(plan.process.seccomp, Some(seccomp));
    assert_eq!(plan.process.personality, Some(0));
    assert!(plan.process.oom_score_adj_required);
}
