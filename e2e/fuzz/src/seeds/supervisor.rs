//! Packets of the supervisor protocol.

use husk::supervisor::protocol::{CreateContainer, Exec, Op, PodSpawn, Reply, Started};
use husk::supervisor::wire::Message;
use husk::types::{CgroupJoin, ContainerId, PodId};

use super::Seed;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// One packet of each kind that matters.
pub fn packets() -> Vec<Seed> {
    let (Some(pod), Some(container)) = (PodId::parse(ID), ContainerId::parse(ID)) else {
        return Vec::new();
    };
    let cgroup = CgroupJoin::V1(vec![
        "/sys/fs/cgroup/memory/x".into(),
        "/sys/fs/cgroup/cpu/x".into(),
    ]);
    let spawn = PodSpawn {
        pod_id: pod,
        run_dir: "/run/husk/pods/x".into(),
        netns: Some("/run/husk/netns/x".into()),
        new_ipc: true,
        new_uts: true,
        hostname: "pod".into(),
        sysctls: vec![("net.ipv4.ip_forward".into(), "1".into())],
        shared_pid: true,
        shm_bytes: 64 << 20,
        new_net: false,
        uids: Vec::new(),
        gids: Vec::new(),
        mount_label: String::new(),
        process_label: String::new(),
    };
    let create = CreateContainer {
        runtime_json: Vec::new(),
        restore_json: br#"{"program":"/usr/sbin/criu","images":"/x","streams":["","pipe:[1]"]}"#.to_vec(),
        plan_json: br#"{"mounts":[{"destination":"/x","kind":"Cgroup"}],"process":{"args":["sh"]}}"#.to_vec(),
        log_path: Some("/var/log/pods/x/0.log".into()),
        tty: true,
        stdin: true,
        stdin_once: true,
        max_log_line: 16384,
        oom_counter_path: Some("/sys/fs/cgroup/memory/x/memory.oom_control".into()),
        cgroup: Some(cgroup.clone()),
        exit_record_path: Some("/run/husk/exit.json".into()),
        kill_cgroup_on_exit: true,
    };
    let exec = Exec {
        exec_id: "1a-2".into(),
        plan_json: br#"{"process":{"args":["true"],"cwd":"/"}}"#.to_vec(),
        ..Default::default()
    };
    let request = |op| Message::Request(7, Ok(op)).encode();
    vec![
        ("hello", Message::hello().encode()),
        ("prepare", request(Op::Prepare(Some(cgroup)))),
        ("spawn", request(Op::Spawn(spawn))),
        ("create", request(Op::Create(container.clone(), create))),
        ("exec", request(Op::Exec(container.clone(), exec))),
        (
            "resize",
            request(Op::ResizeTty {
                container: container.clone(),
                exec_id: "1a-2".into(),
                rows: 24,
                columns: 80,
            }),
        ),
        (
            "signal",
            request(Op::Signal {
                container,
                signal: 15,
                all: false,
            }),
        ),
        (
            "started",
            Message::Response(
                7,
                Ok(Reply::Started(Started {
                    pid: 42,
                    started_at: 1,
                })),
            )
            .encode(),
        ),
        ("done", Message::Response(8, Ok(Reply::Done)).encode()),
    ]
}
