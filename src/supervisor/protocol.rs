//! What the daemon can ask of a supervisor and what it hears back, in plain types that both ends use.
//!
//! Owns the vocabulary and its defaults. Must not know how it travels; [`super::wire`] does.

use std::path::PathBuf;

use crate::types::security::IdMapping;
use crate::types::{CgroupJoin, ContainerId, Error, Kind, PodId};

use super::record::ExitRecord;

/// Protocol number of this build. Raise it when an operation is added that a daemon has to know to be there.
pub const PROTOCOL: u32 = 2;
/// Since this number a supervisor restores containers from checkpoints.
pub const RESTORES: u32 = 2;
/// Lowest protocol number this build still speaks.
pub const OLDEST: u32 = 1;
/// Longest log line content in bytes unless the container says otherwise.
pub const DEFAULT_MAX_LOG_LINE: u32 = 16 * 1024;

/// An error as it crosses the wire. Becomes a plain [`Error`] with `?` where the details do not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kind and message.
    pub error: Error,
    /// Step of the launch plan that failed; empty if no process was being launched.
    pub step: String,
    /// What a shell would exit with: 126 found but not executable, 127 not found.
    pub exit_code: Option<i32>,
}

impl Failure {
    /// A failure of `kind` without launch details.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error::new(kind, message).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            step: String::new(),
            exit_code: None,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// What a supervisor says of itself when a connection opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Highest protocol number it speaks.
    pub protocol: u32,
    /// Lowest protocol number it still speaks.
    pub oldest: u32,
    /// Version of husk it runs.
    pub software: String,
    /// The pod it serves.
    pub pod_id: PodId,
    /// Its process id.
    pub pid: i32,
    /// Process id, as the node counts, of the init of the pod's own pid namespace.
    pub pidns_init_pid: Option<i32>,
    /// Its descriptor of the pod's unattached `/dev/shm`: containers mount `/proc/<pid>/fd/<this>`.
    pub shm_fd: Option<i32>,
    /// Its descriptor of the pod's user namespace: containers join `/proc/<pid>/fd/<this>`.
    pub userns_fd: Option<i32>,
}

/// What a pod's supervisor has to set up for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpawn {
    /// The pod.
    pub pod_id: PodId,
    /// The pod's run directory, which exists: socket and own log go there.
    pub run_dir: PathBuf,
    /// Network namespace to enter; `None` stays in the node's.
    pub netns: Option<PathBuf>,
    /// Make a new IPC namespace.
    pub new_ipc: bool,
    /// Make a new UTS namespace.
    pub new_uts: bool,
    /// Host name of the new UTS namespace; empty leaves the node's.
    pub hostname: String,
    /// Sysctls of the pod's own namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Make a pid namespace with a tiny init that the pod's containers share.
    pub shared_pid: bool,
    /// Hold a tmpfs of this size for the pod's `/dev/shm`; 0 for none.
    pub shm_bytes: u64,
    /// Make a new network namespace.
    pub new_net: bool,
    /// User ids of the pod's own user namespace, which all of its new namespaces then belong to; empty for none.
    pub uids: Vec<IdMapping>,
    /// Group ids likewise.
    pub gids: Vec<IdMapping>,
    /// SELinux label of the pod's `/dev/shm` and of what else its containers see; empty for none.
    pub mount_label: String,
    /// SELinux label of the init of the pod's own pid namespace; empty for none.
    pub process_label: String,
}

/// Makes a container up to the gate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateContainer {
    /// `LaunchPlan` as JSON; empty if an OCI runtime makes the container.
    pub plan_json: Vec<u8>,
    /// `RuntimePlan` as JSON; empty for husk's own executor.
    pub runtime_json: Vec<u8>,
    /// `RestorePlan` as JSON: `plan_json` says where the container lives, its processes come from a checkpoint. Empty for
    /// a container that starts. Only for a supervisor that speaks [`RESTORES`].
    pub restore_json: Vec<u8>,
    /// Absolute path of the log; `None` keeps none.
    pub log_path: Option<PathBuf>,
    /// Run on a terminal; the plan has to say so too.
    pub tty: bool,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin once the first attached client is done.
    pub stdin_once: bool,
    /// Longest content of one log line in bytes; 0 takes [`DEFAULT_MAX_LOG_LINE`].
    pub max_log_line: u32,
    /// File with a line `oom_kill <n>` (v1 `memory.oom_control`, v2 `memory.events`).
    pub oom_counter_path: Option<PathBuf>,
    /// The container's cgroup.
    pub cgroup: Option<CgroupJoin>,
    /// Where the exit record goes.
    pub exit_record_path: Option<PathBuf>,
    /// The container does not own its pid namespace: kill its cgroup when its first process has ended.
    pub kill_cgroup_on_exit: bool,
}

/// Runs one more process in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// Name of the exec, unique within the container and safe as a file name.
    pub exec_id: String,
    /// `ExecPlan` as JSON; for a container that an OCI runtime made, the OCI process.
    pub plan_json: Vec<u8>,
    /// Run on a terminal, whose master comes back.
    pub tty: bool,
    /// Which of stdin, stdout, stderr come along as descriptors, in this order.
    pub stdio: [bool; 3],
    /// Give it a cgroup of its own below the container's, so that [`Op::KillExec`] reaches every descendant.
    pub own_cgroup: bool,
    /// Kill it when the connection that asked for it goes away.
    pub kill_on_disconnect: bool,
}

/// Operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Template only: enter this cgroup and say Hello.
    Prepare(Option<CgroupJoin>),
    /// Template only: try whether layers in this directory can be mounted with mapped ids.
    TryIdMaps(PathBuf),
    /// Template only: fork a supervisor. Descriptor: its end of the first connection.
    Spawn(PodSpawn),
    /// Answered by [`Reply::Created`].
    Create(ContainerId, CreateContainer),
    /// Answered by [`Reply::Started`].
    Start(ContainerId),
    /// Signals the first process, or with `all` every process of the cgroup.
    Signal {
        /// Container.
        container: ContainerId,
        /// Signal number.
        signal: i32,
        /// Every process of the cgroup.
        all: bool,
    },
    /// Answered by [`Reply::ExecStarted`]. Descriptors: as `stdio` says.
    Exec(ContainerId, Exec),
    /// Kills an exec with all descendants (without a cgroup of its own: its first process).
    KillExec {
        /// Container.
        container: ContainerId,
        /// Exec.
        exec_id: String,
    },
    /// Sets the window size of a terminal.
    ResizeTty {
        /// Container.
        container: ContainerId,
        /// Exec; empty means the container itself.
        exec_id: String,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Opens the log path anew, after rotation.
    ReopenLog(ContainerId),
    /// Copies output to pipes from now on. Descriptors: stdout, stderr as far as given. Answered by [`Reply::Attached`].
    Attach {
        /// Container.
        container: ContainerId,
        /// A pipe for stdout (and for everything a terminal shows) comes along.
        stdout: bool,
        /// A pipe for stderr comes along.
        stderr: bool,
        /// Ask for the container's stdin.
        stdin: bool,
    },
    /// Closes the supervisor's hold on the container's stdin.
    CloseStdin(ContainerId),
    /// Forgets an exited container.
    Remove(ContainerId),
    /// Answered by [`Reply::State`].
    State,
    /// Ends the supervisor; refused while a container lives unless `force`, which kills.
    Shutdown {
        /// Kill what still runs.
        force: bool,
    },
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// The container waits at its gate.
    Created(Created),
    /// The container runs.
    Started(Started),
    /// The exec runs. With a terminal its master comes as the descriptor.
    ExecStarted(ExecStarted),
    /// Attached. The descriptor, if `has_stdin`, is the container's stdin.
    Attached {
        /// The container runs on a terminal.
        tty: bool,
        /// The descriptor is there.
        has_stdin: bool,
    },
    /// Everything.
    State(State),
}

/// A container at its gate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Created {
    /// Its first process, as the node counts.
    pub pid: i32,
    /// What could not be done but did not matter enough to fail.
    pub notes: Vec<String>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
}

/// A running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Started {
    /// Its first process, as the node counts.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
}

/// A running exec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecStarted {
    /// Its first process, as the node counts.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// What could not be done but did not matter enough to fail.
    pub notes: Vec<String>,
}

/// Everything a supervisor knows, for a daemon that was restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The pod.
    pub pod_id: PodId,
    /// The supervisor.
    pub pid: i32,
    /// Init of the pod's pid namespace while it lives.
    pub pidns_init_pid: Option<i32>,
    /// Containers not yet removed.
    pub containers: Vec<ContainerStatus>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Being set up.
    #[default]
    Creating,
    /// Waits at the gate.
    Created,
    /// The gate is open, the program not yet running.
    Starting,
    /// Runs.
    Running,
    /// Ended.
    Exited,
}

/// One container in a [`State`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Container.
    pub id: ContainerId,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its first process, as the node counts.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 if it never ran.
    pub started_at: i64,
    /// Runs on a terminal.
    pub tty: bool,
    /// How it ended.
    pub exit: Option<ExitRecord>,
    /// Running execs.
    pub execs: Vec<ExecStatus>,
    /// Bytes of output that could not be written to the log.
    pub log_dropped: u64,
    /// Notes of its creation.
    pub notes: Vec<String>,
}

/// One running exec in a [`State`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStatus {
    /// Exec.
    pub exec_id: String,
    /// Its first process, as the node counts.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
}

/// What a supervisor tells unasked, to every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container's first process ended, or could not be started. Its exit record is written.
    ContainerExited(ContainerId, ExitRecord),
    /// An exec's first process ended. Its output may still be in the pipes.
    ExecExited(ExecExit),
    /// The kernel killed a process of a container for want of memory.
    OomSeen {
        /// Container.
        container: ContainerId,
        /// Kills so far.
        kills: u64,
    },
    /// Output was lost because the log could not be written, or (`reason` empty) writing works again.
    LogTrouble {
        /// Container.
        container: ContainerId,
        /// Bytes of output lost so far.
        dropped: u64,
        /// Why.
        reason: String,
    },
}

/// How an exec ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecExit {
    /// Container.
    pub container: ContainerId,
    /// Exec.
    pub exec_id: String,
    /// Its first process, as the node counted.
    pub pid: i32,
    /// 128 + signal if a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}
