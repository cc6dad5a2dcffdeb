//! From a profile to what one ABI does with each system call number. Knows the meaning of profiles, not BPF.
//!
//! Where OCI leaves the meaning open, this follows runc with libseccomp:
//! * A rule whose action is the default action counts for nothing.
//! * A rule without conditions silences all conditional rules of the same call, wherever it stands.
//! * Conditions of a rule must all hold; if two of them look at the same argument, each stands alone instead.
//! * Numbers above the newest one a profile names for an ABI fail with ENOSYS, so that programs fall back
//!   instead of giving up on a call that the profile's author could not have known.
//!
//! Where several conditional rules of one call hold at once, the strictest action wins (in libseccomp it
//! depends on the order of insertion).

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

use super::arch::{ARM_PRIVATE, Abi};
use super::tables;
use crate::types::{Error, Kind, Result};

/// Most arguments a system call has.
const ARGUMENTS: usize = 6;

/// Most conditional rules for one ABI. Each needs an instruction or more, of which a program has at most 4096.
const MAX_CONDITIONAL: usize = 4096;

/// The kernel clamps errno values of filters to this.
const MAX_ERRNO: u32 = 4095;

pub(super) const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// How a condition compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// `argument & mask <op> value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) arg: usize,
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) mask: u64,
}

impl Condition {
    fn new(arg: &LinuxSeccompArg, narrow: bool) -> Result<Self> {
        if arg.index() >= ARGUMENTS {
            return Err(Error::invalid(format!(
                "seccomp rule compares argument {}; system calls have arguments 0 to 5",
                arg.index()
            )));
        }
        let all = if narrow { u64::from(u32::MAX) } else { u64::MAX };
        let (op, value, mask) = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => (Op::Eq, arg.value(), all),
            LinuxSeccompOperator::ScmpCmpNe => (Op::Ne, arg.value(), all),
            LinuxSeccompOperator::ScmpCmpLt => (Op::Lt, arg.value(), all),
            LinuxSeccompOperator::ScmpCmpLe => (Op::Le, arg.value(), all),
            LinuxSeccompOperator::ScmpCmpGt => (Op::Gt, arg.value(), all),
            LinuxSeccompOperator::ScmpCmpGe => (Op::Ge, arg.value(), all),
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (Op::Eq, arg.value_two().unwrap_or(0), arg.value() & all)
            }
        };
        Ok(Self {
            arg: arg.index(),
            op,
            value: value & mask,
            mask,
        })
    }
}

/// Conditions that must all hold, and the filter's return value if they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) ret: u32,
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Always the same.
    Always(u32),
    /// The first rule that holds, else the default. Strictest first.
    Rules(Vec<Rule>),
}

/// A profile as one ABI sees it.
#[derive(Debug)]
pub(super) struct AbiRules {
    pub(super) calls: BTreeMap<u32, Verdict>,
    /// Numbers above it (but for ARM's private ones) get ENOSYS. `None`: they get the default.
    pub(super) newest: Option<u32>,
}

/// The filter's return value for an action.
pub(super) fn return_value(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    let data = || match errno.unwrap_or(libc::EPERM as u32) {
        n if n <= MAX_ERRNO => Ok(n),
        n => Err(Error::invalid(format!(
            "seccomp profile: error number {n} is out of range, at most {MAX_ERRNO}"
        ))),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKillProcess => RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActTrap => RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => RET_ERRNO | data()?,
        LinuxSeccompAction::ScmpActTrace => RET_TRACE | data()?,
        LinuxSeccompAction::ScmpActLog => RET_LOG,
        LinuxSeccompAction::ScmpActAllow => RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::new(
                Kind::Unimplemented,
                "seccomp profile uses SCMP_ACT_NOTIFY (listenerPath), which husk does not support; \
                 use SCMP_ACT_ERRNO or SCMP_ACT_LOG, or a RuntimeClass with an external runtime",
            ));
        }
    })
}

/// The kernel's order of actions: smaller is stricter.
fn strictness(ret: u32) -> i32 {
    (ret & 0xffff_0000).cast_signed()
}

/// ENOSYS as a return value.
pub(super) const RET_ENOSYS: u32 = RET_ERRNO | libc::ENOSYS as u32;

/// Works out what `abi` does under `profile`.
pub(super) fn for_abi(profile: &LinuxSeccomp, abi: Abi, default: u32) -> Result<AbiRules> {
    let mut raw: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    let mut newest = None;
    let mut conditional = 0;
    for syscall in profile.syscalls().iter().flatten() {
        let ret = return_value(syscall.action(), syscall.errno_ret())?;
        let alternatives = alternatives(syscall.args().as_deref().unwrap_or(&[]), abi)?;
        for name in syscall.names() {
            let number = tables::number(abi, name);
            if let Some(number) = number {
                newest = newest.max(Some(number).filter(|n| abi != Abi::Arm || *n < ARM_PRIVATE));
            }
            if ret == default {
                continue;
            }
            if let Some(number) = number {
                let rules = raw.entry(number).or_default();
                if rules.iter().any(|r| r.conditions.is_empty()) {
                    continue;
                }
                rules.extend(
                    alternatives
                        .iter()
                        .cloned()
                        .map(|conditions| Rule { conditions, ret }),
                );
                conditional += alternatives.iter().filter(|c| !c.is_empty()).count();
            }
            if abi == Abi::X86
                && let Some((door, rule)) = door_rule(name, &alternatives, ret, default)
            {
                raw.entry(door).or_default().push(rule);
                conditional += 1;
            }
            if conditional > MAX_CONDITIONAL {
                return Err(Error::invalid(format!(
                    "seccomp profile has more than {MAX_CONDITIONAL} rules with conditions on arguments"
                )));
            }
        }
    }
    Ok(AbiRules {
        calls: raw.into_iter().map(|(n, rules)| (n, verdict(rules))).collect(),
        newest: newest.filter(|_| !is_permissive(default)),
    })
}

/// The sets of conditions under which a rule applies; one empty set when there are none.
fn alternatives(args: &[LinuxSeccompArg], abi: Abi) -> Result<Vec<Vec<Condition>>> {
    let conditions = args
        .iter()
        .map(|a| Condition::new(a, abi.narrow()))
        .collect::<Result<Vec<_>>>()?;
    let repeats = (0..ARGUMENTS).any(|i| conditions.iter().filter(|c| c.arg == i).count() > 1);
    Ok(if repeats {
        conditions.into_iter().map(|c| vec![c]).collect()
    } else {
        vec![conditions]
    })
}

/// 32-bit x86 reaches sockets and System V IPC through `socketcall` and `ipc` as well. Their arguments lie
/// behind a pointer, which a filter cannot follow: a rule with conditions is carried over without them where it
/// forbids, and not at all where it permits.
fn door_rule(name: &str, alternatives: &[Vec<Condition>], ret: u32, default: u32) -> Option<(u32, Rule)> {
    let (door, _, call) = tables::X86_DOORS.iter().find(|(_, n, _)| *n == name)?;
    let conditional = alternatives.iter().all(|c| !c.is_empty());
    if conditional && strictness(ret) >= strictness(default) {
        return None;
    }
    let which = Condition {
        arg: 0,
        op: Op::Eq,
        value: u64::from(*call),
        mask: u64::from(u32::MAX),
    };
    let rule = Rule {
        conditions: vec![which],
        ret,
    };
    Some((tables::number(Abi::X86, door)?, rule))
}

fn verdict(mut rules: Vec<Rule>) -> Verdict {
    if let Some(whole) = rules.iter().find(|r| r.conditions.is_empty()) {
        return Verdict::Always(whole.ret);
    }
    rules.sort_by_key(|r| strictness(r.ret));
    rules.dedup();
    Verdict::Rules(rules)
}

/// With such a default, calls of the future are meant to work.
fn is_permissive(default: u32) -> bool {
    strictness(default) >= strictness(RET_TRACE)
}
