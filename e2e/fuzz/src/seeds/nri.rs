//! What plugins of the node resource interface send.

use std::collections::BTreeMap;

use husk::nri::proto as p;
use husk::nri::proto::ttrpc::Request;
use prost::Message as _;

use super::Seed;

/// The bytes of a plugin's connection: frames of a multiplexer, in them messages of ttrpc, in them protobuf.
pub fn connections() -> Vec<Seed> {
    let register = p::RegisterPluginRequest {
        plugin_name: "example".into(),
        plugin_idx: "10".into(),
        ..Default::default()
    };
    let update = p::UpdateContainersRequest {
        update: vec![p::ContainerUpdate {
            container_id: "0123".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let calls = [
        call(1, "RegisterPlugin", register.encode_to_vec()),
        call(3, "UpdateContainers", update.encode_to_vec()),
        call(5, "Unknown", Vec::new()),
    ];
    vec![
        ("register", frame(2, &calls[0])),
        ("three-calls", frame(2, &calls.concat())),
        (
            "in-pieces",
            calls
                .concat()
                .chunks(16)
                .flat_map(|piece| frame(2, piece))
                .collect(),
        ),
        ("other-connection", [frame(1, b"abc"), frame(7, b"")].concat()),
    ]
}

fn call(stream: u32, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let request = Request {
        service: "nri.pkg.api.v1alpha1.Runtime".into(),
        method: method.into(),
        payload,
        timeout_nano: 5,
    }
    .encode_to_vec();
    let length = (request.len() as u32).to_be_bytes();
    [&length[..], &stream.to_be_bytes(), &[1, 0], &request].concat()
}

fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&connection.to_be_bytes()[..], &length, payload].concat()
}

/// Adjustments of a container.
pub fn adjustments() -> Vec<Seed> {
    let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let full = p::ContainerAdjustment {
        annotations: one("a", "b"),
        mounts: vec![p::Mount {
            destination: "/data".into(),
            r#type: "bind".into(),
            source: "/srv".into(),
            options: vec!["rbind".into(), "ro".into()],
        }],
        env: vec![p::KeyValue {
            key: "A".into(),
            value: "B".into(),
        }],
        hooks: Some(p::Hooks {
            create_container: vec![p::Hook {
                path: "/bin/hook".into(),
                args: vec!["hook".into()],
                ..Default::default()
            }],
            ..Default::default()
        }),
        rlimits: vec![p::PosixRlimit {
            r#type: "RLIMIT_NOFILE".into(),
            hard: 1024,
            soft: 512,
        }],
        args: vec!["sh".into()],
        linux: Some(p::LinuxContainerAdjustment {
            devices: vec![p::LinuxDevice {
                path: "/dev/fuse".into(),
                r#type: "c".into(),
                major: 10,
                minor: 229,
                ..Default::default()
            }],
            resources: Some(p::LinuxResources {
                memory: Some(p::LinuxMemory {
                    limit: Some(p::OptionalInt64 { value: 64 << 20 }),
                    ..Default::default()
                }),
                cpu: Some(p::LinuxCpu {
                    shares: Some(p::OptionalUInt64 { value: 512 }),
                    cpus: "0".into(),
                    ..Default::default()
                }),
                unified: one("memory.high", "1"),
                ..Default::default()
            }),
            cgroups_path: "/x".into(),
            oom_score_adj: Some(p::OptionalInt { value: 5 }),
            namespaces: vec![p::LinuxNamespace {
                r#type: "network".into(),
                path: "/run/netns/x".into(),
            }],
            sysctl: one("net.ipv4.ip_forward", "1"),
            scheduler: Some(p::LinuxScheduler {
                nice: 5,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let removal = p::ContainerAdjustment {
        annotations: one("-a", ""),
        env: vec![p::KeyValue {
            key: "-PATH".into(),
            ..Default::default()
        }],
        mounts: vec![p::Mount {
            destination: "-/proc".into(),
            ..Default::default()
        }],
        args: vec![String::new(), "sh".into()],
        ..Default::default()
    };
    vec![
        ("full", full.encode_to_vec()),
        ("removal", removal.encode_to_vec()),
        ("nothing", Vec::new()),
    ]
}
