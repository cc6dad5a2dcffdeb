#![allow(clippy::unwrap_used)]

use std::io;
use std::os::fd::AsFd as _;

use prost::Message as _;

use crate::types::security::IdMapping;
use crate::types::{CgroupJoin, ContainerId, Kind, PodId};

use super::super::protocol::*;
use super::super::record::ExitRecord;
use super::*;

fn id() -> ContainerId {
    ContainerId::parse(&"0123456789abcdef".repeat(4)).unwrap()
}

fn pod() -> PodId {
    PodId::parse(&"fedcba9876543210".repeat(4)).unwrap()
}

fn record() -> ExitRecord {
    ExitRecord {
        pid: 7,
        exit_code: 137,
        signal: Some(9),
        oom_killed: true,
        started_at: 5,
        finished_at: 6,
        start_error: "because".into(),
    }
}

fn ops() -> Vec<Op> {
    let container = id();
    let exec_id = String::from("exec-1");
    vec![
        Op::Prepare(None),
        Op::TryIdMaps("/var/lib/husk".into()),
        Op::Prepare(Some(CgroupJoin::V1(vec!["/a/b".into(), "/c".into()]))),
        Op::Spawn(PodSpawn {
            pod_id: pod(),
            run_dir: "/run/x".into(),
            netns: Some("/run/netns/y".into()),
            new_ipc: true,
            new_uts: true,
            hostname: "h".into(),
            sysctls: vec![("net.a".into(), "1".into())],
            shared_pid: true,
            shm_bytes: 0,
            new_net: true,
            uids: vec![IdMapping {
                container_id: 0,
                host_id: 100_000,
                length: 65_536,
            }],
            gids: vec![IdMapping {
                container_id: 1,
                host_id: 2,
                length: 3,
            }],
            mount_label: "u:r:t:s0".into(),
            process_label: "u:r:p:s0".into(),
        }),
        Op::Create(
            id(),
            CreateContainer {
                plan_json: b"{}".to_vec(),
                runtime_json: b"{1}".to_vec(),
                restore_json: b"{2}".to_vec(),
                log_path: Some("/log/0.log".into()),
                tty: true,
                stdin: true,
                stdin_once: true,
                max_log_line: 3,
                oom_counter_path: Some("/cg/memory.events".into()),
                cgroup: Some(CgroupJoin::V2("/cg".into())),
                exit_record_path: Some("/run/exit".into()),
                kill_cgroup_on_exit: true,
            },
        ),
        Op::Create(id(), CreateContainer::default()),
        Op::Start(id()),
        Op::Signal {
            container: id(),
            signal: 15,
            all: true,
        },
        Op::Exec(
            id(),
            Exec {
                exec_id: exec_id.clone(),
                plan_json: b"[]".to_vec(),
                tty: true,
                stdio: [true, false, true],
                own_cgroup: true,
                kill_on_disconnect: true,
            },
        ),
        Op::KillExec {
            container: container.clone(),
            exec_id: exec_id.clone(),
        },
        Op::ResizeTty {
            container: container.clone(),
            exec_id,
            rows: 24,
            columns: 80,
        },
        Op::ReopenLog(id()),
        Op::Attach {
            container,
            stdout: true,
            stderr: true,
            stdin: true,
        },
        Op::CloseStdin(id()),
        Op::Remove(id()),
        Op::State,
        Op::Shutdown { force: true },
    ]
}

fn state() -> State {
    State {
        pod_id: pod(),
        pid: 1,
        pidns_init_pid: Some(2),
        containers: vec![ContainerStatus {
            id: id(),
            phase: Phase::Exited,
            pid: 3,
            created_at: 4,
            started_at: 5,
            tty: true,
            exit: Some(record()),
            execs: vec![ExecStatus {
                exec_id: "e".into(),
                pid: 6,
                started_at: 7,
            }],
            log_dropped: 8,
            notes: vec!["note".into()],
        }],
    }
}

fn messages() -> Vec<Message> {
    let failure = Failure {
        error: Error::not_found("no such program"),
        step: "exec".into(),
        exit_code: Some(127),
    };
    let exit = ExecExit {
        container: id(),
        exec_id: "e".into(),
        pid: 1,
        exit_code: 2,
        signal: None,
        finished_at: 3,
    };
    let mut all: Vec<Message> = ops().into_iter().map(|op| Message::Request(9, Ok(op))).collect();
    all.extend([
        Message::hello(),
        Message::Greeting(Ok(Greeting {
            protocol: PROTOCOL,
            oldest: OLDEST,
            software: "9.9.9".into(),
            pod_id: pod(),
            pid: 4,
            pidns_init_pid: None,
            shm_fd: None,
            userns_fd: Some(0),
        })),
        Message::Greeting(Err(failure.clone())),
        Message::Response(1, Err(failure)),
        Message::Response(1, Ok(Reply::Done)),
        Message::Response(
            1,
            Ok(Reply::Created(Created {
                pid: 1,
                notes: vec!["n".into()],
                created_at: 2,
            })),
        ),
        Message::Response(
            1,
            Ok(Reply::Started(Started {
                pid: 1,
                started_at: 2,
            })),
        ),
        Message::Response(
            1,
            Ok(Reply::ExecStarted(ExecStarted {
                pid: 1,
                started_at: 2,
                notes: vec![],
            })),
        ),
        Message::Response(
            1,
            Ok(Reply::Attached {
                tty: true,
                has_stdin: true,
            }),
        ),
        Message::Response(1, Ok(Reply::State(state()))),
        Message::Event(Some(Event::ContainerExited(id(), record()))),
        Message::Event(Some(Event::ExecExited(exit))),
        Message::Event(Some(Event::OomSeen {
            container: id(),
            kills: 1,
        })),
        Message::Event(Some(Event::LogTrouble {
            container: id(),
            dropped: 1,
            reason: "full".into(),
        })),
    ]);
    all
}

#[test]
fn everything_survives_the_journey() {
    for message in messages() {
        let arrived = Message::decode(&message.encode()).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{message:?}"));
    }
}

#[test]
fn fields_from_the_future_are_ignored() {
    // Field 500, length-delimited, appended to the packet and, by way of the request, inside it.
    let unknown = [0xa2, 0x1f, 0x03, b'n', b'e', b'w'];
    let mut bytes = Message::Request(3, Ok(Op::Start(id()))).encode();
    bytes.extend_from_slice(&unknown);
    assert!(matches!(
        Message::decode(&bytes),
        Ok(Message::Request(3, Ok(Op::Start(_))))
    ));
    let mut request = proto::Request { id: 3, op: None }.encode_to_vec();
    request.extend_from_slice(&unknown);
    // Field 2 of Packet is the request.
    let mut packet = vec![0x12, u8::try_from(request.len()).unwrap()];
    packet.extend(request);
    let Message::Request(3, Err(failure)) = Message::decode(&packet).unwrap() else {
        panic!("an operation from the future is a request all the same")
    };
    assert_eq!(failure.error.kind(), Kind::Unimplemented);
}

#[test]
fn packets_and_events_from_the_future_are_no_error() {
    assert!(matches!(
        Message::decode(&[0xa2, 0x1f, 0x00]),
        Ok(Message::Event(None))
    ));
    let event = proto::Packet {
        body: Some(proto::packet::Body::Event(proto::Event { event: None })),
    };
    assert!(matches!(
        Message::decode(&event.encode_to_vec()),
        Ok(Message::Event(None))
    ));
}

#[test]
fn a_bad_id_is_the_requests_failure_not_the_connections() {
    for (container_id, exec_id) in [
        ("", "e"),
        ("../../x", "e"),
        (id().as_str(), ""),
        (id().as_str(), "a/../b"),
    ] {
        let request = proto::Request {
            id: 5,
            op: Some(proto::request::Op::Exec(proto::Exec {
                container_id: container_id.into(),
                exec_id: exec_id.into(),
                ..Default::default()
            })),
        };
        let packet = proto::Packet {
            body: Some(proto::packet::Body::Request(request)),
        };
        let Message::Request(5, Err(failure)) = Message::decode(&packet.encode_to_vec()).unwrap() else {
            panic!("{container_id:?} {exec_id:?} passed")
        };
        assert_eq!(failure.error.kind(), Kind::InvalidArgument);
    }
}

fn take(socket: &OwnedFd) -> (Message, Descriptors) {
    match receive(socket).unwrap() {
        Received::Message(message, descriptors) => (message, descriptors),
        Received::Closed => panic!("closed"),
    }
}

#[test]
fn descriptors_travel_beside_packets_in_order() {
    let (one, other) = pair().unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    send(&one, &Message::hello().encode(), &[read.as_fd(), write.as_fd()]).unwrap();
    let (_, descriptors) = take(&other);
    rustix::io::write(&descriptors[1], b"through").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(rustix::io::read(&descriptors[0], &mut buffer).unwrap(), 7);
    let flags = rustix::io::fcntl_getfd(&descriptors[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn large_packets_go_through_a_file_with_their_descriptors() {
    let (one, other) = pair().unwrap();
    let plan_json = vec![b'x'; 3_000_000];
    let config = CreateContainer {
        plan_json: plan_json.clone(),
        ..Default::default()
    };
    let (read, _write) = rustix::pipe::pipe().unwrap();
    send(
        &one,
        &Message::Request(1, Ok(Op::Create(id(), config))).encode(),
        &[read.as_fd()],
    )
    .unwrap();
    let (message, descriptors) = take(&other);
    assert_eq!(descriptors.len(), 1);
    let Message::Request(1, Ok(Op::Create(_, config))) = message else {
        panic!("{message:?}")
    };
    assert!(config.plan_json == plan_json);
}

#[test]
fn the_end_and_rubbish_are_told_apart() {
    let (one, other) = pair().unwrap();
    assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    rustix::io::write(&one, &[0xff; 20]).unwrap();
    assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
    // A large packet without its file, and one whose file is shorter than announced.
    let stub = |length| proto::Packet {
        body: Some(proto::packet::Body::Large(proto::Large { length })),
    };
    rustix::io::write(&one, &stub(5).encode_to_vec()).unwrap();
    assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
    let null = std::fs::File::open("/dev/null").unwrap();
    for length in [5, u64::MAX] {
        send(&one, &stub(length).encode_to_vec(), &[null.as_fd()]).unwrap();
        assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    drop(one);
    assert!(matches!(receive(&other).unwrap(), Received::Closed));
}
