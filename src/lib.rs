//! husk: a Kubernetes container runtime in one program.
//!
//! `ARCHITECTURE.md` is the map. The invariants that this crate lives by, checked by `tests/architecture.rs`:
//!
//! 1. `unsafe` appears under `sys/` only.
//! 2. `supervisor`, `executor`, `spec`, `seccomp`, `types` and `sys` never name an async runtime, gRPC, HTTP, the
//!    database or D-Bus: they run in small single-threaded processes.
//! 3. Generated protobuf types appear only in `cri/`, `api/`, `nri/`, the supervisor's wire protocol
//!    and what is said to criu.
//! 4. Only `pod::launcher` starts processes, only `executor` clones, only `network` runs plugins, only `state` opens
//!    the database.
//! 5. The daemon holds nothing that it cannot rebuild from the database, the run directories and the supervisors.

pub mod api;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod cri;
pub mod daemon;
pub mod executor;
pub mod exporter;
pub mod host;
pub mod image;
pub mod network;
pub mod nri;
pub mod pod;
pub mod seccomp;
pub mod socket;
pub mod spec;
pub mod state;
pub mod stats;
pub mod stream;
pub mod supervisor;
pub mod sys;
pub mod telemetry;
pub mod types;
