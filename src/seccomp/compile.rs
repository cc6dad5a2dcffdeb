//! Profile to BPF program: decision trees over ranges of system call numbers instead of one test per call.
//!
//! ```text
//! load arch ── x86-64? ── load number ── ≥ 217? ── ≥ 56? ── … ── allow
//!     │           │                         └──── … ── check arguments ── allow / errno
//!     │           └ (x32 is the upper half of the same tree)
//!     ├── i386? ─── load number ── …
//!     └── kill the process
//! ```
//!
//! Neighbouring numbers with the same fate are one leaf, so the default profile needs some eight comparisons for
//! a call where a chain needs up to four hundred. The kernel converts the program on each load; a third of the
//! instructions also is a third of that time.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use serde::{Deserialize, Serialize};

use super::arch::Abi;
use super::tables;
use super::{numbers, rules};
use crate::types::{Error, Kind, Result};

/// `BPF_MAXINSNS`: the kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;

/// A filter ready for the kernel. Plain data, so that it can travel to the process that installs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// `struct sock_filter`s, each in this machine's memory order.
    pub filter: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_*` bits.
    pub flags: u32,
}

/// What a profile asks for that has no effect here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Names that no known ABI has.
    pub syscalls: Vec<String>,
    /// Architectures whose calls this processor cannot make.
    pub architectures: Vec<String>,
}

/// Compiles `profile` for the machine husk runs on.
///
/// # Errors
/// `InvalidArgument` for rules that make no sense or a program longer than the kernel takes, `Unimplemented` for
/// `SCMP_ACT_NOTIFY`.
pub fn compile(profile: &LinuxSeccomp) -> Result<(Program, Ignored)> {
    let native = Abi::native().ok_or_else(|| {
        Error::new(
            Kind::Unimplemented,
            "seccomp: husk has no system call table for this processor; run the pod Unconfined",
        )
    })?;
    compile_for(native, profile)
}

/// As [`compile`], for a machine whose own ABI is `native`.
pub fn compile_for(native: Abi, profile: &LinuxSeccomp) -> Result<(Program, Ignored)> {
    let default = rules::return_value(profile.default_action(), profile.default_errno_ret())?;
    let (abis, architectures) = abis(native, profile);
    let mut sections = Vec::new();
    for abi in abis {
        sections.push((abi, rules::for_abi(profile, abi, default)?));
    }
    let filter = numbers::program(&sections, default)
        .ok_or_else(|| Error::internal("compile seccomp profile: a jump is out of reach"))?;
    check_length(filter.len())?;
    let program = Program {
        filter,
        flags: flags(profile),
    };
    let ignored = Ignored {
        syscalls: unknown_syscalls(profile),
        architectures,
    };
    Ok((program, ignored))
}

/// The ABIs to filter, native first: libseccomp adds the native one too where a profile leaves it out.
fn abis(native: Abi, profile: &LinuxSeccomp) -> (Vec<Abi>, Vec<String>) {
    let (mut abis, mut foreign) = (vec![native], Vec::new());
    for arch in profile.architectures().iter().flatten() {
        match Abi::from_oci(*arch, native) {
            Some(abi) if abi == native => {}
            Some(abi) if native.companions().contains(&abi) => abis.push(abi),
            _ => foreign.push(arch.to_string()),
        }
    }
    abis.sort_unstable();
    abis.dedup();
    (abis, foreign)
}

fn check_length(instructions: usize) -> Result<()> {
    if instructions <= MAX_INSTRUCTIONS {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "seccomp profile needs {instructions} BPF instructions, the kernel takes {MAX_INSTRUCTIONS}: \
         give it fewer architectures or fewer conditions on arguments"
    )))
}

fn unknown_syscalls(profile: &LinuxSeccomp) -> Vec<String> {
    let names = profile.syscalls().iter().flatten().flat_map(|s| s.names());
    let known = |name: &str| Abi::ALL.iter().any(|abi| tables::number(*abi, name).is_some());
    names.filter(|n| !known(n)).cloned().collect()
}

/// `WAIT_KILLABLE_RECV` says how a supervisor is waited for. Without one the kernel refuses it, so it is left out.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    profile
        .flags()
        .iter()
        .flatten()
        .map(bit)
        .fold(0, |all, bit| all | bit)
}
