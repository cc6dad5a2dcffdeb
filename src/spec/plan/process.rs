//! The process part of a plan.

use std::path::PathBuf;

use oci_spec::runtime::{
    Hook as OciHook, IOPriorityClass, Linux, LinuxCapabilities, LinuxIOPriority, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimit, PosixRlimitType, Process as OciProcess,
    Scheduler as OciScheduler, Spec,
};
use serde::{Deserialize, Serialize};

use super::{Hook, Hooks};
use crate::types::{CapSet, Error, Kind, Result};

/// A compiled seccomp filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeccompProgram {
    /// `struct sock_filter`s in memory order.
    pub filter: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_*` bits.
    pub flags: u32,
}

/// Capability sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Most that any program may ever gain.
    pub bounding: CapSet,
    /// In force.
    pub effective: CapSet,
    /// Can be put in force.
    pub permitted: CapSet,
    /// Kept over execve by files that say so.
    pub inheritable: CapSet,
    /// Kept over execve by any file.
    pub ambient: CapSet,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Scheduling policy, as `struct sched_attr` has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// What the new process becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// Environment, verbatim; `HOME` is added if it is missing.
    pub env: Vec<String>,
    /// Working directory; made if it is missing.
    pub cwd: PathBuf,
    /// Run on a terminal of the container.
    pub terminal: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// File mode mask; `None` means 0022.
    pub umask: Option<u32>,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// No program gains privileges by execve.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Option<SeccompProgram>,
    /// Limits.
    pub rlimits: Vec<Rlimit>,
    /// Preference of the OOM killer, -1000 to 1000; `None` keeps the caller's.
    pub oom_score_adj: Option<i32>,
    /// Fail if `oom_score_adj` cannot be set.
    pub oom_score_adj_required: bool,
    /// AppArmor profile to change to on execve.
    pub apparmor: Option<String>,
    /// SELinux label to change to on execve.
    pub selinux: Option<String>,
    /// Argument of ioprio_set(2).
    pub io_priority: Option<u32>,
    /// Scheduling.
    pub scheduler: Option<Scheduler>,
    /// Argument of personality(2).
    pub personality: Option<u64>,
}

pub(super) fn process(process: &OciProcess) -> Result<Process> {
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("spec: process.args is empty: nothing to run"));
    }
    let env = process.env().clone().unwrap_or_default();
    if args.iter().chain(&env).any(|s| s.contains('\0')) {
        return Err(Error::invalid(
            "spec: process.args or process.env contains a NUL byte",
        ));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(format!(
            "spec: process.cwd {:?} is not an absolute path",
            process.cwd()
        )));
    }
    let user = process.user();
    let non_empty = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    Ok(Process {
        args,
        env,
        cwd: process.cwd().clone(),
        terminal: process.terminal().unwrap_or(false),
        console_size: process.console_size().map(|size| {
            let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
            (cells(size.height()), cells(size.width()))
        }),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capabilities(process.capabilities().as_ref())?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        oom_score_adj: oom_score_adj(process.oom_score_adj())?,
        apparmor: non_empty(process.apparmor_profile()),
        selinux: non_empty(process.selinux_label()),
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        ..Process::default()
    })
}

fn capabilities(sets: Option<&LinuxCapabilities>) -> Result<Capabilities> {
    let Some(sets) = sets else {
        return Ok(Capabilities::default());
    };
    let set =
        |s: &Option<oci_spec::runtime::Capabilities>| s.as_ref().map_or(Ok(CapSet::EMPTY), CapSet::from_oci);
    Ok(Capabilities {
        bounding: set(sets.bounding())?,
        effective: set(sets.effective())?,
        permitted: set(sets.permitted())?,
        inheritable: set(sets.inheritable())?,
        ambient: set(sets.ambient())?,
    })
}

fn oom_score_adj(value: Option<i32>) -> Result<Option<i32>> {
    match value {
        Some(v) if !(-1000..=1000).contains(&v) => Err(Error::invalid(format!(
            "spec: process.oomScoreAdj {v} is outside -1000 to 1000"
        ))),
        v => Ok(v),
    }
}

fn rlimits(list: &[PosixRlimit]) -> Result<Vec<Rlimit>> {
    let mut out: Vec<Rlimit> = Vec::with_capacity(list.len());
    for limit in list {
        let resource = resource(limit.typ());
        if out.iter().any(|l| l.resource == resource) {
            return Err(Error::invalid(format!(
                "spec: process.rlimits: {} is listed twice",
                limit.typ()
            )));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(format!(
                "spec: process.rlimits: {}: soft limit {} above hard limit {}",
                limit.typ(),
                limit.soft(),
                limit.hard()
            )));
        }
        out.push(Rlimit {
            resource,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(out)
}

fn resource(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => libc::RLIMIT_CPU,
        T::RlimitFsize => libc::RLIMIT_FSIZE,
        T::RlimitData => libc::RLIMIT_DATA,
        T::RlimitStack => libc::RLIMIT_STACK,
        T::RlimitCore => libc::RLIMIT_CORE,
        T::RlimitRss => libc::RLIMIT_RSS,
        T::RlimitNproc => libc::RLIMIT_NPROC,
        T::RlimitNofile => libc::RLIMIT_NOFILE,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        T::RlimitAs => libc::RLIMIT_AS,
        T::RlimitLocks => libc::RLIMIT_LOCKS,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        T::RlimitNice => libc::RLIMIT_NICE,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO,
        T::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// Class in the top bits, level below: `IOPRIO_PRIO_VALUE`.
fn io_priority(priority: &LinuxIOPriority) -> Result<u32> {
    let class: u32 = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority())
        .ok()
        .filter(|l| *l < 8)
        .ok_or_else(|| Error::invalid("spec: process.ioPriority: the priority is not 0 to 7"))?;
    Ok(class << 13 | level)
}

fn scheduler(s: &OciScheduler) -> Result<Scheduler> {
    use LinuxSchedulerPolicy as P;
    let policy = match s.policy() {
        P::SchedOther => libc::SCHED_OTHER,
        P::SchedFifo => libc::SCHED_FIFO,
        P::SchedRr => libc::SCHED_RR,
        P::SchedBatch => libc::SCHED_BATCH,
        P::SchedIdle => libc::SCHED_IDLE,
        P::SchedDeadline => libc::SCHED_DEADLINE,
        P::SchedIso => {
            return Err(Error::new(
                Kind::Unimplemented,
                "spec: process.scheduler: Linux has no SCHED_ISO",
            ));
        }
    };
    let flags = s
        .flags()
        .iter()
        .flatten()
        .fold(0, |bits, flag| bits | scheduler_flag(flag));
    Ok(Scheduler {
        policy: policy.unsigned_abs(),
        flags,
        nice: s.nice().unwrap_or(0),
        priority: u32::try_from(s.priority().unwrap_or(0))
            .map_err(|_| Error::invalid("spec: process.scheduler: negative priority"))?,
        runtime: s.runtime().unwrap_or(0),
        deadline: s.deadline().unwrap_or(0),
        period: s.period().unwrap_or(0),
    })
}

fn scheduler_flag(flag: &LinuxSchedulerFlag) -> u64 {
    use LinuxSchedulerFlag as F;
    match flag {
        F::SchedResetOnFork => 0x01,
        F::SchedFlagReclaim => 0x02,
        F::SchedFlagDLOverrun => 0x04,
        F::SchedFlagKeepPolicy => 0x08,
        F::SchedFlagKeepParams => 0x10,
        F::SchedFlagUtilClampMin => 0x20,
        F::SchedFlagUtilClampMax => 0x40,
    }
}

pub(super) fn personality(linux: &Linux) -> Result<Option<u64>> {
    let Some(personality) = linux.personality() else {
        return Ok(None);
    };
    if personality.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(Error::new(
            Kind::Unimplemented,
            "spec: linux.personality.flags: no flags are defined for it",
        ));
    }
    Ok(Some(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

/// Seconds that a hook may take which names no limit: one that hangs would hold up its pod for ever.
pub const HOOK_PATIENCE: u64 = 120;

/// The hooks up to the start of the program; what comes later is the caller's. So are those of the runtime, unless
/// they are to be `included`: then nobody but the executor watches over any of them, so each gets a limit.
pub(super) fn hooks(spec: &Spec, included: bool) -> Result<Hooks> {
    let convert = |list: &[OciHook]| {
        let mut list = convert(list)?;
        for hook in list.iter_mut().filter(|_| included) {
            hook.timeout.get_or_insert(HOOK_PATIENCE);
        }
        Ok::<_, Error>(list)
    };
    let Some(hooks) = spec.hooks() else {
        return Ok(Hooks::default());
    };
    let mut runtime = Vec::new();
    if included {
        #[allow(deprecated)]
        for (stage, list) in [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
        ] {
            let list = convert(list.as_deref().unwrap_or_default())?;
            runtime.extend(list.into_iter().map(|hook| (stage.to_owned(), hook)));
        }
    }
    Ok(Hooks {
        runtime,
        create_container: convert(hooks.create_container().as_deref().unwrap_or_default())?,
        start_container: convert(hooks.start_container().as_deref().unwrap_or_default())?,
        state: None,
    })
}

/// Hooks of the spec as the executor runs them.
///
/// # Errors
/// A path that is not absolute, a timeout that is not positive.
pub fn convert(list: &[OciHook]) -> Result<Vec<Hook>> {
    list.iter()
        .map(|h| {
            if !h.path().is_absolute() {
                return Err(Error::invalid(format!(
                    "spec: hooks: {} is not an absolute path",
                    h.path().display()
                )));
            }
            let timeout = match h.timeout() {
                None => None,
                Some(t) => Some(u64::try_from(t).ok().filter(|t| *t > 0).ok_or_else(|| {
                    Error::invalid(format!(
                        "spec: hooks: {}: timeout {t} is not positive",
                        h.path().display()
                    ))
                })?),
            };
            Ok(Hook {
                path: h.path().clone(),
                args: h.args().clone().unwrap_or_default(),
                env: h.env().clone().unwrap_or_default(),
                timeout,
            })
        })
        .collect()
}
