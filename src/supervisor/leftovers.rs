//! Cgroups of ended execs in which descendants live on.
//!
//! To wait for them would hold everything else up, and nobody tells when they are gone: so one looks again whenever an
//! exec of the container starts or ends. A probe that leaves something behind each time would otherwise leave a directory
//! each time.

use std::collections::VecDeque;

use crate::cgroup::Cgroup;

/// Most that are looked at in one go. More than can be added between two looks, so that they become fewer.
const SWEEP: usize = 32;

/// Most that are kept: each has a process at least, and a container with more has other problems. What is not kept goes
/// with the container's cgroup.
const MAX: usize = 4096;

/// Cgroups that are to be removed once they are empty.
#[derive(Debug, Default)]
pub struct Leftovers(VecDeque<Cgroup>);

impl Leftovers {
    /// Removes the cgroup of an ended exec, or keeps it until it is empty. Looks at others, too.
    pub fn add(&mut self, cgroup: Option<Cgroup>) {
        self.sweep();
        if let Some(cgroup) = cgroup.filter(stays)
            && self.0.len() < MAX
        {
            self.0.push_back(cgroup);
        }
    }

    /// Removes those that have become empty, as far as a short look goes. The ones it has seen come last the next time.
    pub fn sweep(&mut self) {
        for _ in 0..self.0.len().min(SWEEP) {
            if let Some(cgroup) = self.0.pop_front().filter(stays) {
                self.0.push_back(cgroup);
            }
        }
    }
}

/// Removes the cgroup if it is empty; whether it is worth to look again.
fn stays(cgroup: &Cgroup) -> bool {
    match cgroup.remove_if_empty() {
        Ok(removed) => !removed,
        Err(e) => {
            eprintln!("remove the cgroup of an exec: {e}");
            false
        }
    }
}
