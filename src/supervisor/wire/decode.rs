//! Generated types to plain types. What is missing or out of range becomes an error here, so that nobody checks twice.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::types::security::IdMapping;
use crate::types::{CgroupJoin, ContainerId, Error, Kind, PodId, Result};

use super::super::protocol::{self as plain, Event, Failure, Op, Reply};
use super::super::record::ExitRecord;
use super::Message;
use super::proto::{self, event, packet, request, response};

pub(super) fn packet(packet: proto::Packet) -> Result<Message> {
    Ok(match packet.body {
        Some(packet::Body::Hello(h)) => hello(h)?,
        Some(packet::Body::Request(r)) => Message::Request(r.id, request(r.op)),
        Some(packet::Body::Response(r)) => Message::Response(r.id, response(r)?),
        Some(packet::Body::Event(e)) => Message::Event(e.event.map(event).transpose()?),
        Some(packet::Body::Large(_)) => return Err(Error::invalid("a large packet inside a large packet")),
        // A kind of packet that came later than this build: whoever sends it must cope with silence.
        None => Message::Event(None),
    })
}

fn hello(h: proto::Hello) -> Result<Message> {
    if let Some(f) = h.failure {
        return Ok(Message::Greeting(Err(failure(f))));
    }
    if h.pod_id.is_empty() {
        return Ok(Message::Hello {
            protocol: h.protocol,
            oldest: h.oldest,
        });
    }
    Ok(Message::Greeting(Ok(plain::Greeting {
        protocol: h.protocol,
        oldest: h.oldest,
        software: h.software,
        pod_id: pod_id(&h.pod_id)?,
        pid: h.pid,
        pidns_init_pid: nonzero(h.pidns_init_pid),
        shm_fd: nonzero(h.shm_fd_plus_one).map(|n| n - 1),
        userns_fd: nonzero(h.userns_fd_plus_one).map(|n| n - 1),
    })))
}

fn failure(f: proto::Failure) -> Failure {
    use proto::failure::Kind as Wire;
    let kind = match f.kind() {
        Wire::Internal => Kind::Internal,
        Wire::InvalidArgument => Kind::InvalidArgument,
        Wire::NotFound => Kind::NotFound,
        Wire::AlreadyExists => Kind::AlreadyExists,
        Wire::FailedPrecondition => Kind::FailedPrecondition,
        Wire::DeadlineExceeded => Kind::DeadlineExceeded,
        Wire::Unavailable => Kind::Unavailable,
        Wire::ResourceExhausted => Kind::ResourceExhausted,
        Wire::Unimplemented => Kind::Unimplemented,
        Wire::PermissionDenied => Kind::PermissionDenied,
        Wire::Cancelled => Kind::Cancelled,
        Wire::Unknown => Kind::Unknown,
    };
    Failure {
        error: Error::new(kind, f.message),
        step: f.step,
        exit_code: f.exit_code,
    }
}

fn request(op: Option<request::Op>) -> Result<Op, Failure> {
    let Some(op) = op else {
        return Err(Failure::new(
            Kind::Unimplemented,
            format!(
                "supervisor {} does not know this operation",
                env!("CARGO_PKG_VERSION")
            ),
        ));
    };
    Ok(match op {
        request::Op::Prepare(p) => Op::Prepare(p.cgroup.and_then(cgroup)),
        request::Op::Spawn(s) => Op::Spawn(pod_spawn(s)?),
        request::Op::TryIdMaps(t) => {
            Op::TryIdMaps(path(t.directory).ok_or_else(|| Error::invalid("try id maps without a directory"))?)
        }
        request::Op::CreateContainer(c) => Op::Create(container_id(&c.container_id)?, create_container(c)),
        request::Op::StartContainer(s) => Op::Start(container_id(&s.container_id)?),
        request::Op::Signal(s) => Op::Signal {
            container: container_id(&s.container_id)?,
            signal: s.signal,
            all: s.all,
        },
        request::Op::Exec(e) => Op::Exec(
            container_id(&e.container_id)?,
            plain::Exec {
                exec_id: exec_id(e.exec_id)?,
                plan_json: e.plan,
                tty: e.tty,
                stdio: [e.has_stdin, e.has_stdout, e.has_stderr],
                own_cgroup: e.own_cgroup,
                kill_on_disconnect: e.kill_on_disconnect,
            },
        ),
        request::Op::KillExec(k) => Op::KillExec {
            container: container_id(&k.container_id)?,
            exec_id: exec_id(k.exec_id)?,
        },
        request::Op::ResizeTty(r) => Op::ResizeTty {
            container: container_id(&r.container_id)?,
            exec_id: r.exec_id,
            rows: window(r.rows)?,
            columns: window(r.columns)?,
        },
        request::Op::ReopenLog(r) => Op::ReopenLog(container_id(&r.container_id)?),
        request::Op::Attach(a) => Op::Attach {
            container: container_id(&a.container_id)?,
            stdout: a.has_stdout,
            stderr: a.has_stderr,
            stdin: a.want_stdin,
        },
        request::Op::CloseStdin(c) => Op::CloseStdin(container_id(&c.container_id)?),
        request::Op::RemoveContainer(r) => Op::Remove(container_id(&r.container_id)?),
        request::Op::GetState(proto::GetState {}) => Op::State,
        request::Op::Shutdown(s) => Op::Shutdown { force: s.force },
    })
}

fn pod_spawn(s: proto::Spawn) -> Result<plain::PodSpawn> {
    Ok(plain::PodSpawn {
        pod_id: pod_id(&s.pod_id)?,
        run_dir: path(s.run_dir).ok_or_else(|| Error::invalid("spawn without a run directory"))?,
        netns: path(s.netns),
        new_ipc: s.new_ipc,
        new_uts: s.new_uts,
        hostname: s.hostname,
        sysctls: s.sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
        shared_pid: s.shared_pid,
        shm_bytes: s.shm_bytes,
        new_net: s.new_net,
        uids: s.uids.into_iter().map(id_mapping).collect(),
        gids: s.gids.into_iter().map(id_mapping).collect(),
        mount_label: s.mount_label,
        process_label: s.process_label,
    })
}

fn id_mapping(m: proto::IdMapping) -> IdMapping {
    IdMapping {
        container_id: m.container_id,
        host_id: m.host_id,
        length: m.length,
    }
}

fn create_container(c: proto::CreateContainer) -> plain::CreateContainer {
    plain::CreateContainer {
        plan_json: c.plan,
        log_path: path(c.log_path),
        tty: c.tty,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        max_log_line: c.max_log_line,
        oom_counter_path: path(c.oom_counter_path),
        cgroup: c.cgroup.and_then(cgroup),
        exit_record_path: path(c.exit_record_path),
        kill_cgroup_on_exit: c.kill_cgroup_on_exit,
        runtime_json: c.runtime,
        restore_json: c.restore,
    }
}

fn response(r: proto::Response) -> Result<Result<Reply, Failure>> {
    if let Some(f) = r.failure {
        return Ok(Err(failure(f)));
    }
    Ok(Ok(match r.result {
        None => Reply::Done,
        Some(response::Result::Created(c)) => Reply::Created(plain::Created {
            pid: c.pid,
            notes: c.notes,
            created_at: c.created_at,
        }),
        Some(response::Result::Started(s)) => Reply::Started(plain::Started {
            pid: s.pid,
            started_at: s.started_at,
        }),
        Some(response::Result::ExecStarted(s)) => Reply::ExecStarted(plain::ExecStarted {
            pid: s.pid,
            started_at: s.started_at,
            notes: s.notes,
        }),
        Some(response::Result::Attached(a)) => Reply::Attached {
            tty: a.tty,
            has_stdin: a.has_stdin,
        },
        Some(response::Result::State(s)) => Reply::State(plain::State {
            pod_id: pod_id(&s.pod_id)?,
            pid: s.pid,
            pidns_init_pid: nonzero(s.pidns_init_pid),
            containers: s.containers.into_iter().map(container).collect::<Result<_>>()?,
        }),
    }))
}

fn container(c: proto::Container) -> Result<plain::ContainerStatus> {
    use proto::container::Phase as Wire;
    let phase = match c.phase() {
        Wire::Unspecified | Wire::Creating => plain::Phase::Creating,
        Wire::Created => plain::Phase::Created,
        Wire::Starting => plain::Phase::Starting,
        Wire::Running => plain::Phase::Running,
        Wire::Exited => plain::Phase::Exited,
    };
    Ok(plain::ContainerStatus {
        id: container_id(&c.container_id)?,
        phase,
        pid: c.pid,
        created_at: c.created_at,
        started_at: c.started_at,
        tty: c.tty,
        exit: c.exit.map(exit),
        execs: c
            .execs
            .into_iter()
            .map(|e| plain::ExecStatus {
                exec_id: e.exec_id,
                pid: e.pid,
                started_at: e.started_at,
            })
            .collect(),
        log_dropped: c.log_dropped,
        notes: c.notes,
    })
}

fn exit(e: proto::Exit) -> ExitRecord {
    ExitRecord {
        pid: e.pid,
        exit_code: e.exit_code,
        signal: nonzero(e.signal),
        oom_killed: e.oom_killed,
        started_at: e.started_at,
        finished_at: e.finished_at,
        start_error: e.start_error,
    }
}

fn event(e: event::Event) -> Result<Event> {
    Ok(match e {
        event::Event::ContainerExited(e) => {
            Event::ContainerExited(container_id(&e.container_id)?, exit(e.exit.unwrap_or_default()))
        }
        event::Event::ExecExited(e) => Event::ExecExited(plain::ExecExit {
            container: container_id(&e.container_id)?,
            exec_id: e.exec_id,
            pid: e.pid,
            exit_code: e.exit_code,
            signal: nonzero(e.signal),
            finished_at: e.finished_at,
        }),
        event::Event::OomSeen(o) => Event::OomSeen {
            container: container_id(&o.container_id)?,
            kills: o.kills,
        },
        event::Event::LogTrouble(l) => Event::LogTrouble {
            container: container_id(&l.container_id)?,
            dropped: l.dropped,
            reason: l.reason,
        },
    })
}

fn pod_id(text: &str) -> Result<PodId> {
    PodId::parse(text).ok_or_else(|| Error::invalid(format!("{text:.80?} is no pod id")))
}

fn container_id(text: &str) -> Result<ContainerId> {
    ContainerId::parse(text).ok_or_else(|| Error::invalid(format!("{text:.80?} is no container id")))
}

/// Exec ids become names of cgroups, hence the narrow alphabet.
fn exec_id(text: String) -> Result<String> {
    let fits = (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits {
        Ok(text)
    } else {
        Err(Error::invalid(format!(
            "exec id {text:.80?} is not 1 to 128 letters, digits, '-' or '_'"
        )))
    }
}

fn window(size: u32) -> Result<u16> {
    u16::try_from(size).map_err(|_| Error::invalid(format!("terminal size {size} is not below 65536")))
}

fn cgroup(join: proto::CgroupJoin) -> Option<CgroupJoin> {
    if let Some(dir) = path(join.v2) {
        return Some(CgroupJoin::V2(dir));
    }
    let dirs: Vec<PathBuf> = join.v1.into_iter().filter_map(path).collect();
    (!dirs.is_empty()).then_some(CgroupJoin::V1(dirs))
}

fn path(bytes: Vec<u8>) -> Option<PathBuf> {
    (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes)))
}

fn nonzero(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}
