//! Version 2: the filter is an eBPF program on the cgroup. There is never more than one of them.

use std::fs::File;
use std::path::Path;

use crate::sys::bpf;
use crate::types::Result;
use crate::types::error::Context;

use super::{Filter, program};

/// Makes `dir` enforce `wanted`: puts its program in place of whatever is attached, or takes that off if nothing is to be
/// forbidden.
///
/// # Errors
/// The kernel refuses the program or its attachment.
pub(crate) fn apply(dir: &Path, wanted: &Filter) -> Result<()> {
    let what = |step: &str| format!("device filter of {}: {step}", dir.display());
    let cgroup = File::open(dir).with_context(|| what("open the cgroup"))?;
    let attached = bpf::device_programs(&cgroup);
    if wanted.is_open() && attached.as_ref().is_ok_and(Vec::is_empty) {
        return Ok(());
    }
    let attached = attached.with_context(|| what("list eBPF programs (needs CAP_BPF or CAP_SYS_ADMIN)"))?;
    let mut old = attached.iter();
    if !wanted.is_open() {
        let program = bpf::load_device_program(&program::emit(wanted))
            .with_context(|| what("load eBPF program (needs CAP_BPF or CAP_SYS_ADMIN)"))?;
        bpf::attach_device_program(&cgroup, &program, old.next())
            .with_context(|| what("attach eBPF program"))?;
    }
    // Others are left only if something else once added to the cgroup.
    old.try_for_each(|program| bpf::detach_device_program(&cgroup, program))
        .with_context(|| what("detach eBPF program"))
}
