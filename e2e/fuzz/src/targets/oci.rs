//! OCI runtime specs as `husk oci` gets them, and seccomp profiles.

use husk::seccomp::profile::{Environment, parse};
use husk::seccomp::{Abi, compile};
use husk::spec::plan::{self, ContainerOptions, ExecOptions, LaunchPlan};
use husk::types::CapSet;
use oci_spec::runtime::Spec;

use crate::Said;

pub(super) const SECCOMP_WORDS: &[&str] = &[
    "\"defaultAction\"",
    "\"SCMP_ACT_ALLOW\"",
    "\"SCMP_ACT_ERRNO\"",
    "\"SCMP_ACT_NOTIFY\"",
    "\"archMap\"",
    "\"architectures\"",
    "\"SCMP_ARCH_X86\"",
    "\"syscalls\"",
    "\"names\"",
    "\"args\"",
    "\"index\"",
    "\"value\"",
    "\"valueTwo\"",
    "\"op\"",
    "\"SCMP_CMP_MASKED_EQ\"",
    "\"SCMP_CMP_GE\"",
    "\"includes\"",
    "\"excludes\"",
    "\"minKernel\"",
    "\"errnoRet\"",
    "4096",
    "0",
    "7",
    "18446744073709551615",
    "\"clone\"",
    "\"socketcall\"",
    "null",
];

pub(super) const WORDS: &[&str] = &[
    "\"ociVersion\"",
    "\"process\"",
    "\"args\"",
    "\"cwd\"",
    "\"mounts\"",
    "\"destination\"",
    "\"options\"",
    "\"rbind\"",
    "\"idmap\"",
    "\"linux\"",
    "\"namespaces\"",
    "\"path\"",
    "\"sysctl\"",
    "net/ipv4/../x",
    "\"timeOffsets\"",
    "\"devices\"",
    "\"rlimits\"",
    "\"RLIMIT_NOFILE\"",
    "\"scheduler\"",
    "\"SCHED_DEADLINE\"",
    "\"ioPriority\"",
    "\"personality\"",
    "\"hooks\"",
    "\"timeout\"",
    "-9223372036854775808",
    "18446744073709551615",
    "4294967296",
    "null",
    "\\u0000",
    "/",
    "..",
];

pub(super) fn spec(data: &[u8]) -> Said {
    let spec: Spec = match serde_json::from_slice(data) {
        Ok(spec) => spec,
        Err(e) => return format!("not JSON of a spec: {e}"),
    };
    let options = ContainerOptions {
        mount_point: "/run/husk/rootfs".into(),
        ..Default::default()
    };
    let said = match plan::container(&spec, &options) {
        Ok(plan) => {
            check(&plan);
            format!("{} mounts", plan.mounts.len())
        }
        Err(e) => e.to_string(),
    };
    if let Some(process) = spec.process()
        && let Err(e) = plan::exec(&spec, process, &ExecOptions::default())
    {
        return format!("{said}; exec: {e}");
    }
    said
}

/// A plan travels to the supervisor as JSON and must arrive as it was.
pub(super) fn check(plan: &LaunchPlan) {
    let json = serde_json::to_vec(plan).unwrap_or_default();
    let again: Result<LaunchPlan, _> = serde_json::from_slice(&json);
    assert_eq!(again.ok().as_ref(), Some(plan));
    assert!(plan.process.args.first().is_some_and(|a| !a.is_empty()));
}

pub(super) fn seccomp(data: &[u8]) -> Said {
    let environment = Environment {
        native: Abi::native().unwrap_or(Abi::X86_64),
        caps: CapSet::DEFAULT,
        kernel: (6, 12),
    };
    let profile = match parse("profile.json", data, &environment) {
        Ok(profile) => profile,
        Err(e) => return e.to_string(),
    };
    match compile(&profile) {
        Ok((program, ignored)) => {
            // Jumps of the filter are relative and forward; the kernel takes no longer one.
            assert!(
                (1..=4096).contains(&program.filter.len()),
                "{} steps",
                program.filter.len()
            );
            format!("{} unknown", format!("{ignored:?}").len() > 40)
        }
        Err(e) => e.to_string(),
    }
}
