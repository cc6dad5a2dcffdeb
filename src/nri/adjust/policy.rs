//! Scheduling, I/O priority and seccomp, from NRI's words to those of the OCI spec.

use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxIOPriorityBuilder, LinuxSeccomp, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall, Scheduler,
};

use crate::nri::proto as p;
use crate::types::error::{Context, Error, Result};

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::invalid(format!("{what} {text:?} is not known")))
}

/// `None` for the class that means nothing is set.
pub(super) fn io_priority(set: &p::LinuxIoPriority) -> Result<Option<LinuxIOPriority>> {
    if set.class() == p::IoPrioClass::IoprioClassNone {
        return Ok(None);
    }
    LinuxIOPriorityBuilder::default()
        .class(parse::<IOPriorityClass>(
            "I/O priority class",
            set.class().as_str_name(),
        )?)
        .priority(set.priority)
        .build()
        .context("I/O priority")
        .map(Some)
}

/// `None` for the policy that means nothing is set.
pub(super) fn scheduler(set: &p::LinuxScheduler) -> Result<Option<Scheduler>> {
    if set.policy() == p::LinuxSchedulerPolicy::SchedNone {
        return Ok(None);
    }
    let flags = set
        .flags()
        .map(|f| match f {
            // The two specifications spell this one differently.
            p::LinuxSchedulerFlag::SchedFlagResetOnFork => parse("scheduler flag", "SCHED_RESET_ON_FORK"),
            p::LinuxSchedulerFlag::SchedFlagDlOverrun => {
                Ok(oci_spec::runtime::LinuxSchedulerFlag::SchedFlagDLOverrun)
            }
            other => parse("scheduler flag", other.as_str_name()),
        })
        .collect::<Result<Vec<_>>>()?;
    let mut out = Scheduler::default();
    out.set_policy(parse("scheduling policy", set.policy().as_str_name())?)
        .set_nice(Some(set.nice))
        .set_priority(Some(set.priority))
        .set_flags((!flags.is_empty()).then_some(flags))
        .set_runtime(Some(set.runtime))
        .set_deadline(Some(set.deadline))
        .set_period(Some(set.period));
    Ok(Some(out))
}

pub(super) fn seccomp(set: &p::LinuxSeccomp) -> Result<LinuxSeccomp> {
    let mut out = LinuxSeccomp::default();
    out.set_default_action(parse("seccomp action", &set.default_action)?)
        .set_default_errno_ret(set.default_errno.as_ref().map(|e| e.value))
        .set_architectures(list("seccomp architecture", &set.architectures)?)
        .set_flags(list("seccomp flag", &set.flags)?)
        .set_listener_path((!set.listener_path.is_empty()).then(|| PathBuf::from(&set.listener_path)))
        .set_listener_metadata((!set.listener_metadata.is_empty()).then(|| set.listener_metadata.clone()))
        .set_syscalls(Some(set.syscalls.iter().map(syscall).collect::<Result<_>>()?));
    Ok(out)
}

fn list<T: FromStr>(what: &str, names: &[String]) -> Result<Option<Vec<T>>> {
    if names.is_empty() {
        return Ok(None);
    }
    names
        .iter()
        .map(|n| parse(what, n))
        .collect::<Result<_>>()
        .map(Some)
}

fn syscall(set: &p::LinuxSyscall) -> Result<LinuxSyscall> {
    let args = set.args.iter().map(argument).collect::<Result<Vec<_>>>()?;
    let mut out = LinuxSyscall::default();
    out.set_names(set.names.clone());
    out.set_action(parse("seccomp action", &set.action)?);
    out.set_errno_ret(set.errno_ret.as_ref().map(|e| e.value));
    out.set_args((!args.is_empty()).then_some(args));
    Ok(out)
}

fn argument(set: &p::LinuxSeccompArg) -> Result<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default()
        .index(set.index as usize)
        .value(set.value)
        .value_two(set.value_two)
        .op(parse::<LinuxSeccompOperator>("seccomp operator", &set.op)?)
        .build()
        .context("seccomp argument")
}
