//! The per-pod process: parent of the pod's processes, owner of stdio, ttys, log files, exec sessions and exit codes.
//!
//! ```text
//! husk serve ──spawns──> template ──forks──> supervisor (one per pod) ──clones──> container inits, execs
//!      └───────────────── SOCK_SEQPACKET, protobuf, SCM_RIGHTS ──┘
//! ```
//!
//! [`template`] is started once per daemon and forks a supervisor for each pod, so that all share their memory until
//! they write to it. [`setup`] turns the fork into a supervisor; [`engine`] is its event loop. [`protocol`] is what can
//! be asked of it, in plain types for both ends, and [`wire`] is how that travels.
//!
//! Invariants: one thread; nothing wakes it but its descriptors (no timers); what must not be lost is on disk before it
//! is told; a slow daemon, log or attached client never blocks a container; it ends by Shutdown only.
//! It must not know policy: what to kill, restart or report is the daemon's to decide.

pub mod engine;
pub mod protocol;
pub mod record;
pub mod runner;
pub mod template;
pub mod wire;

mod attach;
mod connection;
mod container;
mod cri_log;
mod leftovers;
mod oom;
mod pidns;
mod poll;
mod setup;
mod shm;
mod stdio;
mod sysctl;
mod user_namespace;

pub use setup::address;

#[cfg(test)]
pub(crate) mod fake;
