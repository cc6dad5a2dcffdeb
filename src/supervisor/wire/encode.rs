//! Plain types to generated types.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::types::security::IdMapping;
use crate::types::{CgroupJoin, Kind};

use super::super::protocol::{self as plain, Event, Failure, Op, Reply};
use super::super::record::ExitRecord;
use super::Message;
use super::proto::{self, event, packet, request, response};

pub(super) fn packet(message: &Message) -> proto::Packet {
    let body = match message {
        Message::Hello { protocol, oldest } => packet::Body::Hello(proto::Hello {
            protocol: *protocol,
            oldest: *oldest,
            software: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        }),
        Message::Greeting(greeting) => packet::Body::Hello(hello(greeting)),
        Message::Request(id, op) => packet::Body::Request(proto::Request {
            id: *id,
            op: op.as_ref().ok().map(request),
        }),
        Message::Response(id, result) => packet::Body::Response(proto::Response {
            id: *id,
            failure: result.as_ref().err().map(failure),
            result: result.as_ref().ok().and_then(response),
        }),
        Message::Event(e) => packet::Body::Event(proto::Event {
            event: e.as_ref().map(event),
        }),
    };
    proto::Packet { body: Some(body) }
}

fn hello(greeting: &Result<plain::Greeting, Failure>) -> proto::Hello {
    let base = proto::Hello {
        protocol: plain::PROTOCOL,
        oldest: plain::OLDEST,
        software: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    match greeting {
        Ok(g) => proto::Hello {
            protocol: g.protocol,
            oldest: g.oldest,
            software: g.software.clone(),
            pod_id: g.pod_id.as_str().into(),
            pid: g.pid,
            pidns_init_pid: g.pidns_init_pid.unwrap_or(0),
            shm_fd_plus_one: g.shm_fd.map_or(0, |fd| fd + 1),
            userns_fd_plus_one: g.userns_fd.map_or(0, |fd| fd + 1),
            ..base
        },
        Err(f) => proto::Hello {
            failure: Some(failure(f)),
            ..base
        },
    }
}

fn failure(f: &Failure) -> proto::Failure {
    use proto::failure::Kind as Wire;
    let kind = match f.error.kind() {
        Kind::InvalidArgument => Wire::InvalidArgument,
        Kind::NotFound => Wire::NotFound,
        Kind::AlreadyExists => Wire::AlreadyExists,
        Kind::FailedPrecondition => Wire::FailedPrecondition,
        Kind::DeadlineExceeded => Wire::DeadlineExceeded,
        Kind::Unavailable => Wire::Unavailable,
        Kind::ResourceExhausted => Wire::ResourceExhausted,
        Kind::Unimplemented => Wire::Unimplemented,
        Kind::PermissionDenied => Wire::PermissionDenied,
        Kind::Cancelled => Wire::Cancelled,
        Kind::Unknown => Wire::Unknown,
        Kind::Internal => Wire::Internal,
    };
    proto::Failure {
        kind: kind.into(),
        message: f.error.message().into(),
        step: f.step.clone(),
        exit_code: f.exit_code,
    }
}

fn request(op: &Op) -> request::Op {
    match op {
        Op::Prepare(join) => request::Op::Prepare(proto::Prepare {
            cgroup: join.as_ref().map(cgroup),
        }),
        Op::Spawn(spawn) => request::Op::Spawn(pod_spawn(spawn)),
        Op::TryIdMaps(directory) => request::Op::TryIdMaps(proto::TryIdMaps {
            directory: bytes(directory),
        }),
        Op::Create(id, create) => request::Op::CreateContainer(create_container(id.as_str(), create)),
        Op::Start(id) => request::Op::StartContainer(proto::StartContainer {
            container_id: id.as_str().into(),
        }),
        Op::Signal {
            container,
            signal,
            all,
        } => request::Op::Signal(proto::Signal {
            container_id: container.as_str().into(),
            signal: *signal,
            all: *all,
        }),
        Op::Exec(id, exec) => request::Op::Exec(proto::Exec {
            container_id: id.as_str().into(),
            exec_id: exec.exec_id.clone(),
            plan: exec.plan_json.clone(),
            tty: exec.tty,
            has_stdin: exec.stdio[0],
            has_stdout: exec.stdio[1],
            has_stderr: exec.stdio[2],
            own_cgroup: exec.own_cgroup,
            kill_on_disconnect: exec.kill_on_disconnect,
        }),
        Op::KillExec { container, exec_id } => request::Op::KillExec(proto::KillExec {
            container_id: container.as_str().into(),
            exec_id: exec_id.clone(),
        }),
        Op::ResizeTty {
            container,
            exec_id,
            rows,
            columns,
        } => request::Op::ResizeTty(proto::ResizeTty {
            container_id: container.as_str().into(),
            exec_id: exec_id.clone(),
            rows: (*rows).into(),
            columns: (*columns).into(),
        }),
        Op::ReopenLog(id) => request::Op::ReopenLog(proto::ReopenLog {
            container_id: id.as_str().into(),
        }),
        Op::Attach {
            container,
            stdout,
            stderr,
            stdin,
        } => request::Op::Attach(proto::Attach {
            container_id: container.as_str().into(),
            has_stdout: *stdout,
            has_stderr: *stderr,
            want_stdin: *stdin,
        }),
        Op::CloseStdin(id) => request::Op::CloseStdin(proto::CloseStdin {
            container_id: id.as_str().into(),
        }),
        Op::Remove(id) => request::Op::RemoveContainer(proto::RemoveContainer {
            container_id: id.as_str().into(),
        }),
        Op::State => request::Op::GetState(proto::GetState {}),
        Op::Shutdown { force } => request::Op::Shutdown(proto::Shutdown { force: *force }),
    }
}

fn pod_spawn(spawn: &plain::PodSpawn) -> proto::Spawn {
    proto::Spawn {
        pod_id: spawn.pod_id.as_str().into(),
        run_dir: bytes(&spawn.run_dir),
        netns: optional(spawn.netns.as_ref()),
        new_ipc: spawn.new_ipc,
        new_uts: spawn.new_uts,
        hostname: spawn.hostname.clone(),
        sysctls: spawn
            .sysctls
            .iter()
            .map(|(name, value)| proto::Sysctl {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        shared_pid: spawn.shared_pid,
        shm_bytes: spawn.shm_bytes,
        new_net: spawn.new_net,
        uids: spawn.uids.iter().map(id_mapping).collect(),
        gids: spawn.gids.iter().map(id_mapping).collect(),
        mount_label: spawn.mount_label.clone(),
        process_label: spawn.process_label.clone(),
    }
}

fn id_mapping(m: &IdMapping) -> proto::IdMapping {
    proto::IdMapping {
        container_id: m.container_id,
        host_id: m.host_id,
        length: m.length,
    }
}

fn create_container(id: &str, create: &plain::CreateContainer) -> proto::CreateContainer {
    proto::CreateContainer {
        container_id: id.into(),
        plan: create.plan_json.clone(),
        log_path: optional(create.log_path.as_ref()),
        tty: create.tty,
        stdin: create.stdin,
        stdin_once: create.stdin_once,
        max_log_line: create.max_log_line,
        oom_counter_path: optional(create.oom_counter_path.as_ref()),
        cgroup: create.cgroup.as_ref().map(cgroup),
        exit_record_path: optional(create.exit_record_path.as_ref()),
        kill_cgroup_on_exit: create.kill_cgroup_on_exit,
        runtime: create.runtime_json.clone(),
        restore: create.restore_json.clone(),
    }
}

fn response(reply: &Reply) -> Option<response::Result> {
    Some(match reply {
        Reply::Done => return None,
        Reply::Created(c) => response::Result::Created(proto::Created {
            pid: c.pid,
            notes: c.notes.clone(),
            created_at: c.created_at,
        }),
        Reply::Started(s) => response::Result::Started(proto::Started {
            pid: s.pid,
            started_at: s.started_at,
        }),
        Reply::ExecStarted(s) => response::Result::ExecStarted(proto::ExecStarted {
            pid: s.pid,
            started_at: s.started_at,
            notes: s.notes.clone(),
        }),
        Reply::Attached { tty, has_stdin } => response::Result::Attached(proto::Attached {
            tty: *tty,
            has_stdin: *has_stdin,
        }),
        Reply::State(s) => response::Result::State(proto::State {
            pod_id: s.pod_id.as_str().into(),
            pid: s.pid,
            pidns_init_pid: s.pidns_init_pid.unwrap_or(0),
            containers: s.containers.iter().map(container).collect(),
        }),
    })
}

fn container(c: &plain::ContainerStatus) -> proto::Container {
    use proto::container::Phase as Wire;
    let phase = match c.phase {
        plain::Phase::Creating => Wire::Creating,
        plain::Phase::Created => Wire::Created,
        plain::Phase::Starting => Wire::Starting,
        plain::Phase::Running => Wire::Running,
        plain::Phase::Exited => Wire::Exited,
    };
    proto::Container {
        container_id: c.id.as_str().into(),
        phase: phase.into(),
        pid: c.pid,
        created_at: c.created_at,
        started_at: c.started_at,
        tty: c.tty,
        exit: c.exit.as_ref().map(exit),
        execs: c
            .execs
            .iter()
            .map(|e| proto::RunningExec {
                exec_id: e.exec_id.clone(),
                pid: e.pid,
                started_at: e.started_at,
            })
            .collect(),
        log_dropped: c.log_dropped,
        notes: c.notes.clone(),
    }
}

fn exit(record: &ExitRecord) -> proto::Exit {
    proto::Exit {
        pid: record.pid,
        exit_code: record.exit_code,
        signal: record.signal.unwrap_or(0),
        oom_killed: record.oom_killed,
        started_at: record.started_at,
        finished_at: record.finished_at,
        start_error: record.start_error.clone(),
    }
}

fn event(e: &Event) -> event::Event {
    match e {
        Event::ContainerExited(id, record) => event::Event::ContainerExited(proto::ContainerExited {
            container_id: id.as_str().into(),
            exit: Some(exit(record)),
        }),
        Event::ExecExited(e) => event::Event::ExecExited(proto::ExecExited {
            container_id: e.container.as_str().into(),
            exec_id: e.exec_id.clone(),
            pid: e.pid,
            exit_code: e.exit_code,
            signal: e.signal.unwrap_or(0),
            finished_at: e.finished_at,
        }),
        Event::OomSeen { container, kills } => event::Event::OomSeen(proto::OomSeen {
            container_id: container.as_str().into(),
            kills: *kills,
        }),
        Event::LogTrouble {
            container,
            dropped,
            reason,
        } => event::Event::LogTrouble(proto::LogTrouble {
            container_id: container.as_str().into(),
            dropped: *dropped,
            reason: reason.clone(),
        }),
    }
}

fn cgroup(join: &CgroupJoin) -> proto::CgroupJoin {
    match join {
        CgroupJoin::V1(dirs) => proto::CgroupJoin {
            v1: dirs.iter().map(|d| bytes(d)).collect(),
            v2: Vec::new(),
        },
        CgroupJoin::V2(dir) => proto::CgroupJoin {
            v1: Vec::new(),
            v2: bytes(dir),
        },
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn optional(path: Option<&PathBuf>) -> Vec<u8> {
    path.map(|p| bytes(p)).unwrap_or_default()
}
