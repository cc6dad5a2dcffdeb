//! One adjustment in, one spec out; two plugins, one conflict.
#![allow(clippy::unwrap_used)]

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccompAction, PosixRlimitType, Spec};

use super::*;

const ID: &str = "c";

fn spec() -> Spec {
    serde_json::from_str(
        r#"{
            "ociVersion": "1.2.1",
            "process": {
                "cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sleep", "1"], "env": ["A=1", "B=2", "C=3"],
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 10, "soft": 10}]
            },
            "annotations": {"keep": "1", "drop": "2"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "type": "bind", "source": "/old", "options": ["rbind"]}
            ],
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
                "resources": {"devices": [{"allow": false, "type": "a", "access": "rwm"}], "cpu": {"shares": 100}},
                "devices": [{"path": "/dev/old", "type": "c", "major": 1, "minor": 3}],
                "sysctl": {"net.ipv4.ip_forward": "0"}
            }
        }"#,
    )
    .unwrap()
}

fn adjusted(adjust: &p::ContainerAdjustment) -> Spec {
    let mut spec = spec();
    apply(&mut spec, &mut Owners::default(), ID, "10-p", adjust).unwrap();
    spec
}

fn refused(adjust: &p::ContainerAdjustment) -> Error {
    apply(&mut spec(), &mut Owners::default(), ID, "10-p", adjust).unwrap_err()
}

fn linux(set: p::LinuxContainerAdjustment) -> p::ContainerAdjustment {
    p::ContainerAdjustment {
        linux: Some(set),
        ..Default::default()
    }
}

fn pair(key: &str, value: &str) -> p::KeyValue {
    p::KeyValue {
        key: key.into(),
        value: value.into(),
    }
}

fn mount(destination: &str, source: &str, options: &[&str]) -> p::Mount {
    p::Mount {
        destination: destination.into(),
        r#type: "bind".into(),
        source: source.into(),
        options: options.iter().map(ToString::to_string).collect(),
    }
}

fn device(path: &str, kind: &str, mode: Option<u32>) -> p::LinuxDevice {
    p::LinuxDevice {
        path: path.into(),
        r#type: kind.into(),
        major: 5,
        minor: 6,
        file_mode: mode.map(|value| p::OptionalFileMode { value }),
        ..Default::default()
    }
}

#[test]
fn nothing_wanted_changes_nothing() {
    assert_eq!(adjusted(&p::ContainerAdjustment::default()), spec());
}

#[test]
fn environment_is_replaced_in_place_removed_and_added() {
    let env = vec![pair("B", "new=2"), pair("-A", ""), pair("D", "4")];
    let spec = adjusted(&p::ContainerAdjustment {
        env,
        ..Default::default()
    });
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(env, ["B=new=2", "C=3", "D=4"]);
}

#[test]
fn annotations_and_sysctls_are_set_and_removed() {
    let spec = adjusted(&p::ContainerAdjustment {
        annotations: [("-drop".into(), String::new()), ("new".into(), "3".into())].into(),
        linux: Some(p::LinuxContainerAdjustment {
            sysctl: [
                ("-net.ipv4.ip_forward".into(), String::new()),
                ("net.core.somaxconn".into(), "9".into()),
            ]
            .into(),
            ..Default::default()
        }),
        ..Default::default()
    });
    let annotations = spec.annotations().clone().unwrap();
    assert_eq!((annotations.len(), annotations["keep"].as_str()), (2, "1"));
    assert_eq!(annotations["new"], "3");
    let sysctl = spec.linux().as_ref().unwrap().sysctl().clone().unwrap();
    assert_eq!(
        sysctl.into_iter().collect::<Vec<_>>(),
        [("net.core.somaxconn".into(), "9".into())]
    );
}

#[test]
fn mounts_are_replaced_removed_and_kept_parents_first() {
    let spec = adjusted(&p::ContainerAdjustment {
        mounts: vec![
            mount("/data/deep/er", "/b", &["rbind"]),
            mount("/data", "/new", &["rbind", "rslave"]),
            mount("-/proc", "", &[]),
        ],
        ..Default::default()
    });
    let mounts: Vec<_> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|m| (m.destination().to_str().unwrap(), m.source().clone().unwrap()))
        .collect();
    assert_eq!(mounts, [("/data", "/new".into()), ("/data/deep/er", "/b".into())]);
    let root = spec.linux().as_ref().unwrap().rootfs_propagation().clone();
    assert_eq!(root.as_deref(), Some("rslave"));
    let relative = p::ContainerAdjustment {
        mounts: vec![mount("data", "/x", &[])],
        ..Default::default()
    };
    assert!(refused(&relative).message().contains("not absolute"));
}

#[test]
fn devices_bring_their_rules() {
    let spec = adjusted(&linux(p::LinuxContainerAdjustment {
        devices: vec![
            device("/dev/new", "c", Some(0o444)),
            device("/dev/disk", "b", None),
            device("-/dev/old", "", None),
        ],
        ..Default::default()
    }));
    let linux = spec.linux().as_ref().unwrap();
    let nodes: Vec<_> = linux
        .devices()
        .iter()
        .flatten()
        .map(|d| d.path().display().to_string())
        .collect();
    assert_eq!(nodes, ["/dev/new", "/dev/disk"]);
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    let access: Vec<_> = rules
        .iter()
        .map(|r| (r.allow(), r.access().clone().unwrap()))
        .collect();
    assert_eq!(
        access,
        [(false, "rwm".into()), (true, "r".into()), (true, "rwm".into())]
    );
}

#[test]
fn args_limits_and_scores_arrive() {
    let spec = adjusted(&p::ContainerAdjustment {
        args: vec!["/bin/true".into()],
        rlimits: vec![p::PosixRlimit {
            r#type: "RLIMIT_NOFILE".into(),
            hard: 7,
            soft: 6,
        }],
        linux: Some(p::LinuxContainerAdjustment {
            oom_score_adj: Some(p::OptionalInt { value: -5 }),
            cgroups_path: "/pods/x".into(),
            io_priority: Some(p::LinuxIoPriority {
                class: p::IoPrioClass::IoprioClassBe.into(),
                priority: 3,
            }),
            scheduler: Some(p::LinuxScheduler {
                policy: p::LinuxSchedulerPolicy::SchedBatch.into(),
                nice: 2,
                flags: vec![
                    p::LinuxSchedulerFlag::SchedFlagResetOnFork.into(),
                    p::LinuxSchedulerFlag::SchedFlagDlOverrun.into(),
                ],
                ..Default::default()
            }),
            resources: Some(p::LinuxResources {
                pids: Some(p::LinuxPids { limit: 9 }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    });
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().clone().unwrap(), ["/bin/true"]);
    let limits = process.rlimits().clone().unwrap();
    assert_eq!(limits.len(), 1);
    assert_eq!(
        (limits[0].typ(), limits[0].hard(), limits[0].soft()),
        (PosixRlimitType::RlimitNofile, 7, 6)
    );
    assert_eq!(process.oom_score_adj(), Some(-5));
    assert_eq!(process.io_priority().as_ref().unwrap().priority(), 3);
    assert_eq!(
        process
            .scheduler()
            .as_ref()
            .unwrap()
            .flags()
            .as_ref()
            .unwrap()
            .len(),
        2
    );
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.cgroups_path().clone().unwrap(), Path::new("/pods/x"));
    let limits = linux.resources().clone().unwrap();
    assert_eq!(limits.pids().unwrap().limit(), 9);
    assert_eq!(limits.cpu().as_ref().unwrap().shares(), Some(100));
}

#[test]
fn namespaces_are_replaced_and_removed() {
    let ns = |kind: &str, path: &str| p::LinuxNamespace {
        r#type: kind.into(),
        path: path.into(),
    };
    let spec = adjusted(&linux(p::LinuxContainerAdjustment {
        namespaces: vec![ns("network", "/run/netns/y"), ns("-pid", ""), ns("cgroup", "")],
        ..Default::default()
    }));
    let list = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let path = |kind| list.iter().find(|n| n.typ() == kind).map(|n| n.path().clone());
    assert_eq!(
        path(LinuxNamespaceType::Network),
        Some(Some("/run/netns/y".into()))
    );
    assert_eq!(path(LinuxNamespaceType::Pid), None);
    assert_eq!(path(LinuxNamespaceType::Cgroup), Some(None));
    let unknown = linux(p::LinuxContainerAdjustment {
        namespaces: vec![ns("planet", "")],
        ..Default::default()
    });
    assert!(refused(&unknown).message().contains("planet"));
}

#[test]
fn a_seccomp_policy_replaces_the_profile() {
    let policy = |action: &str| p::LinuxSeccomp {
        default_action: action.into(),
        architectures: vec!["SCMP_ARCH_X86_64".into()],
        syscalls: vec![p::LinuxSyscall {
            names: vec!["mkdir".into()],
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(p::OptionalUInt32 { value: 1 }),
            args: vec![p::LinuxSeccompArg {
                index: 1,
                value: 2,
                value_two: 0,
                op: "SCMP_CMP_EQ".into(),
            }],
        }],
        ..Default::default()
    };
    let wanted = |action| {
        linux(p::LinuxContainerAdjustment {
            seccomp_policy: Some(policy(action)),
            ..Default::default()
        })
    };
    let spec = adjusted(&wanted("SCMP_ACT_ALLOW"));
    let seccomp = spec.linux().as_ref().unwrap().seccomp().clone().unwrap();
    assert_eq!(seccomp.default_action(), LinuxSeccompAction::ScmpActAllow);
    let call = &seccomp.syscalls().as_ref().unwrap()[0];
    assert_eq!(
        (call.errno_ret(), call.args().as_ref().unwrap()[0].value()),
        (Some(1), 2)
    );
    assert!(
        refused(&wanted("SCMP_ACT_SULK"))
            .message()
            .contains("SCMP_ACT_SULK")
    );
}

#[test]
fn hooks_of_several_plugins_add_up() {
    let hook = |path: &str| p::ContainerAdjustment {
        hooks: Some(p::Hooks {
            create_container: vec![p::Hook {
                path: path.into(),
                args: vec![path.into()],
                timeout: Some(p::OptionalInt { value: 3 }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let (mut spec, mut owners) = (spec(), Owners::default());
    apply(&mut spec, &mut owners, ID, "00-a", &hook("/a")).unwrap();
    apply(&mut spec, &mut owners, ID, "10-b", &hook("/b")).unwrap();
    let hooks = spec.hooks().clone().unwrap();
    let list = hooks.create_container().clone().unwrap();
    let paths: Vec<_> = list.iter().map(|h| h.path().display().to_string()).collect();
    assert_eq!(
        (paths, list[0].timeout()),
        (vec!["/a".to_owned(), "/b".to_owned()], Some(3))
    );
    assert!(hooks.poststart().is_none());
}

#[test]
fn two_plugins_cannot_set_the_same_unless_the_later_says_so() {
    let args = |words: &[&str]| p::ContainerAdjustment {
        args: words.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let (mut spec, mut owners) = (spec(), Owners::default());
    apply(&mut spec, &mut owners, ID, "00-a", &args(&["a"])).unwrap();
    let conflict = apply(&mut spec, &mut owners, ID, "10-b", &args(&["b"])).unwrap_err();
    assert!(
        conflict.message().contains("00-a") && conflict.message().contains("10-b"),
        "{conflict}"
    );
    apply(&mut spec, &mut owners, ID, "20-c", &args(&["", "c"])).unwrap();
    assert_eq!(spec.process().as_ref().unwrap().args().clone().unwrap(), ["c"]);

    let env = |keys: &[&str]| p::ContainerAdjustment {
        env: keys.iter().map(|k| pair(k, "x")).collect(),
        ..Default::default()
    };
    apply(&mut spec, &mut owners, ID, "00-a", &env(&["K"])).unwrap();
    assert!(apply(&mut spec, &mut owners, ID, "10-b", &env(&["K"])).is_err());
    apply(&mut spec, &mut owners, ID, "10-b", &env(&["-K", "K"])).unwrap();
}

#[test]
fn cdi_devices_are_claimed_one_by_one() {
    let cdi = |names: &[&str]| p::ContainerAdjustment {
        cdi_devices: names.iter().map(|n| p::CdiDevice { name: (*n).into() }).collect(),
        ..Default::default()
    };
    let (mut before, mut owners) = (spec(), Owners::default());
    apply(&mut before, &mut owners, ID, "00-a", &cdi(&["v/c=one"])).unwrap();
    apply(&mut before, &mut owners, ID, "10-b", &cdi(&["v/c=two"])).unwrap();
    assert_eq!(before, spec(), "what they are is not known here");
    let twice = apply(
        &mut before,
        &mut owners,
        ID,
        "20-c",
        &cdi(&["v/c=three", "v/c=one"]),
    )
    .unwrap_err();
    for word in ["00-a", "20-c", "v/c=one"] {
        assert!(twice.message().contains(word), "{twice}");
    }
    for name in ["", "gpu0", "v/c=", "-v/c=one"] {
        assert_eq!(refused(&cdi(&[name])).kind(), Kind::InvalidArgument, "{name}");
    }
}

#[test]
fn what_husk_cannot_do_is_refused_by_name() {
    for (adjust, word) in [
        (
            linux(p::LinuxContainerAdjustment {
                net_devices: [("eth1".into(), p::LinuxNetDevice::default())].into(),
                ..Default::default()
            }),
            "network devices",
        ),
        (
            linux(p::LinuxContainerAdjustment {
                memory_policy: Some(p::LinuxMemoryPolicy::default()),
                ..Default::default()
            }),
            "memory policies",
        ),
        (
            linux(p::LinuxContainerAdjustment {
                rdt: Some(p::LinuxRdt::default()),
                ..Default::default()
            }),
            "RDT",
        ),
    ] {
        let error = refused(&adjust);
        assert_eq!(error.kind(), Kind::Unimplemented);
        assert!(
            error.message().contains(word) && error.message().contains("10-p"),
            "{error}"
        );
    }
}

#[test]
fn nonsense_is_refused() {
    for adjust in [
        p::ContainerAdjustment {
            env: vec![pair("", "x")],
            ..Default::default()
        },
        p::ContainerAdjustment {
            env: vec![pair("A=B", "x")],
            ..Default::default()
        },
        p::ContainerAdjustment {
            args: vec![String::new()],
            ..Default::default()
        },
        p::ContainerAdjustment {
            rlimits: vec![p::PosixRlimit {
                r#type: "RLIMIT_JOY".into(),
                ..Default::default()
            }],
            ..Default::default()
        },
        linux(p::LinuxContainerAdjustment {
            devices: vec![device("/dev/x", "q", None)],
            ..Default::default()
        }),
    ] {
        refused(&adjust);
    }
}
