//! Seccomp profiles and their compiler to BPF.
//!
//! A profile starts as JSON ([`profile`]) or as husk's own ([`default`]), becomes OCI's `LinuxSeccomp`, which is what
//! clients see, and ends as a [`Program`] that a container's process installs before it executes ([`compiled`]).
//! Nothing here does I/O, and nothing here knows CRI.

mod arch;
mod arguments;
mod assemble;
#[cfg(test)]
mod bpf;
mod cache;
mod compile;
pub mod default;
mod errno;
mod json;
mod numbers;
pub mod profile;
mod rules;
mod tables;
#[cfg(test)]
mod tests;

pub use arch::Abi;
pub use cache::compiled;
pub use compile::{Ignored, Program, compile, compile_for};
pub use default::default_profile;
