//! A cgroup of version 2: one directory.

pub(super) mod controllers;
pub(super) mod limits;
pub(super) mod stats;
