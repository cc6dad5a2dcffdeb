//! What plugins of the node resource interface send.

use husk::nri::fuzz;
use husk::spec::plan::{self, ContainerOptions};
use oci_spec::runtime::Spec;

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "nri.pkg.api.v1alpha1.Runtime",
    "RegisterPlugin",
    "UpdateContainers",
    "-",
    "-/etc",
    "/dev/fuse",
    "c",
    "RLIMIT_NOFILE",
    "A=B",
    "rbind",
    "tmpfs",
    "net.ipv4.ip_forward",
    "network",
    "/run/netns/x",
    "..",
    "\u{0}",
    "SCMP_ACT_ERRNO",
    "SCHED_FIFO",
];

/// Input: the bytes of a connection. However they arrive, they say the same.
pub(super) fn connection(data: &[u8]) -> Said {
    let whole = fuzz::connection(std::iter::once(data));
    let pieces = fuzz::connection(data.chunks(7));
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole, pieces);
            whole.join(", ")
        }
        (Err(whole), Err(pieces)) => {
            assert_eq!(whole, pieces);
            whole.to_string()
        }
        (whole, pieces) => panic!("{whole:?} in one piece, {pieces:?} in several"),
    }
}

/// Input: an adjustment. What a plugin makes of a spec is a spec still, which can be launched or is refused in words.
pub(super) fn adjustment(data: &[u8]) -> Said {
    let mut spec = Spec::default();
    if let Err(e) = fuzz::adjust(&mut spec, data) {
        return e.to_string();
    }
    let json = serde_json::to_vec(&spec).unwrap_or_default();
    assert_eq!(serde_json::from_slice(&json).ok().as_ref(), Some(&spec));
    match plan::container(&spec, &ContainerOptions::default()) {
        Ok(plan) => {
            super::oci::check(&plan);
            format!("{} mounts", plan.mounts.len())
        }
        Err(e) => e.to_string(),
    }
}
