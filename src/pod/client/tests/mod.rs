//! A real supervisor, driven through the client; only its runner is a fake that starts plain processes.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use crate::pod::launcher::{Config, Launcher};
use crate::supervisor::fake::{Plan, TEMPLATE};
use crate::supervisor::protocol::{CreateContainer, Exec, ExecExit, Phase, PodSpawn};
use crate::supervisor::record::ExitRecord;
use crate::types::{CgroupJoin, ContainerId, PodId};

use super::*;

mod execs;
mod life;
mod output;

pub fn config() -> Config {
    let arguments = [
        "supervisor::fake::template_process",
        "--exact",
        "--ignored",
        "--nocapture",
    ];
    Config {
        program: "/proc/self/exe".into(),
        arguments: arguments.map(Into::into).into(),
        environment: vec![(TEMPLATE.into(), "1".into())],
        cgroup: None,
    }
}

pub async fn launcher() -> Launcher {
    Launcher::start(config()).await.unwrap()
}

pub fn pod_spawn(run_dir: &Path) -> PodSpawn {
    PodSpawn {
        pod_id: PodId::random(),
        run_dir: run_dir.to_owned(),
        netns: None,
        new_ipc: false,
        new_uts: false,
        hostname: String::new(),
        sysctls: Vec::new(),
        shared_pid: false,
        shm_bytes: 0,
        new_net: false,
        uids: Vec::new(),
        gids: Vec::new(),
        mount_label: String::new(),
        process_label: String::new(),
    }
}

/// Waits for a condition that nothing announces. The limit is only there to end a failing test.
pub async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

/// A pod with its supervisor.
pub struct Pod {
    pub client: Client,
    pub events: Events,
    dir: tempfile::TempDir,
    guard: Guard,
}

/// Leaves nothing behind if a test fails half-way: kills the supervisor and its children.
struct Guard {
    pid: i32,
    pidfd: OwnedFd,
}

impl Drop for Guard {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid));
        // Alive until here, so the list is the supervisor's and not that of a successor to its number.
        if crate::sys::signal::send_by_pidfd(&self.pidfd, 9).is_ok() {
            for child in children.unwrap_or_default().split_whitespace() {
                let _ = kill(
                    nix::unistd::Pid::from_raw(child.parse().unwrap()),
                    Signal::SIGKILL,
                );
            }
        }
    }
}

impl Pod {
    pub async fn spawn(launcher: &Launcher, adjust: impl FnOnce(&mut PodSpawn)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut spawn = pod_spawn(dir.path());
        adjust(&mut spawn);
        let client = launcher.spawn(spawn).await.unwrap().client;
        let events = client.events().unwrap();
        let guard = Guard {
            pid: client.greeting().pid,
            pidfd: client.pidfd().try_clone_to_owned().unwrap(),
        };
        Self {
            client,
            events,
            dir,
            guard,
        }
    }

    pub fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("0.log")
    }

    fn record(&self) -> PathBuf {
        self.dir.path().join("exit.json")
    }

    fn config(&self, plan: &Plan) -> CreateContainer {
        CreateContainer {
            plan_json: plan.json(),
            log_path: Some(self.log()),
            exit_record_path: Some(self.record()),
            tty: plan.tty,
            ..CreateContainer::default()
        }
    }

    async fn start(&self, config: CreateContainer) -> ContainerId {
        let id = ContainerId::random();
        self.client.create(&id, config).await.unwrap();
        self.client.start(&id).await.unwrap();
        id
    }

    /// The end of `id`, skipping whatever else happens.
    async fn exit_of(&mut self, id: &ContainerId) -> ExitRecord {
        loop {
            match self.events.recv().await.unwrap() {
                Event::ContainerExited(which, record) if which == *id => return record,
                _ => {}
            }
        }
    }

    async fn exec_exit(&mut self) -> ExecExit {
        loop {
            if let Event::ExecExited(exit) = self.events.recv().await.unwrap() {
                return exit;
            }
        }
    }

    /// Runs a script as a container of its own and returns its stdout.
    pub async fn run_script(&self, script: &str) -> String {
        let log = self.dir.path().join("script.log");
        let _ = std::fs::remove_file(&log);
        let mut config = self.config(&Plan::shell(script));
        config.log_path = Some(log.clone());
        let id = self.start(config).await;
        loop {
            let state = self.client.state().await.unwrap();
            if state
                .containers
                .iter()
                .any(|c| c.id == id && c.phase == Phase::Exited)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.client.remove(&id).await.unwrap();
        lines(&log, "stdout")
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Ends the supervisor, whatever runs.
    pub async fn end(self) {
        self.client.shutdown(true).await.unwrap();
        self.client.closed().await;
    }
}

/// Contents of a log's records of one stream.
fn lines(log: &Path, stream: &str) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap();
    let fields = text
        .split_terminator('\n')
        .map(|line| line.splitn(4, ' ').collect::<Vec<_>>());
    fields
        .filter(|f| f[1] == stream)
        .map(|f| f[3].to_owned())
        .collect()
}

fn pipe() -> (std::fs::File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

async fn read_all(mut file: std::fs::File) -> String {
    tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap()
}

fn exec(id: &str, script: &str) -> Exec {
    Exec {
        exec_id: id.into(),
        plan_json: Plan::shell(script).json(),
        ..Exec::default()
    }
}
