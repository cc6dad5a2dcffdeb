//! Compiled programs by profile: a node runs thousands of containers with a handful of profiles.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::compile::{Ignored, Program, compile};
use crate::types::error::Context;
use crate::types::{Digest, Result};

/// Programs kept. Each is some kilobytes.
const CAPACITY: usize = 64;

/// Names of ignored calls in one log line.
const NAMES_LOGGED: usize = 20;

static CACHE: Mutex<VecDeque<(Digest, Arc<Program>)>> = Mutex::new(VecDeque::new());

/// The program for `profile`, compiled at its first use in this process.
///
/// # Errors
/// As [`compile`].
pub fn compiled(profile: &LinuxSeccomp) -> Result<Arc<Program>> {
    let json = serde_json::to_vec(profile).context("serialise the seccomp profile")?;
    let key = Digest::sha256(&json);
    if let Some(program) = recall(&key) {
        return Ok(program);
    }
    // Outside the lock: two callers may compile the same profile at once, with the same result.
    let (program, ignored) = compile(profile)?;
    report(&key, &program, &ignored);
    let program = Arc::new(program);
    remember(key, Arc::clone(&program));
    Ok(program)
}

fn recall(key: &Digest) -> Option<Arc<Program>> {
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let at = cache.iter().position(|(k, _)| k == key)?;
    // Most recently used last.
    let entry = cache.remove(at)?;
    let program = Arc::clone(&entry.1);
    cache.push_back(entry);
    Some(program)
}

fn remember(key: Digest, program: Arc<Program>) {
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    while cache.len() >= CAPACITY {
        cache.pop_front();
    }
    cache.push_back((key, program));
}

fn report(key: &Digest, program: &Program, ignored: &Ignored) {
    let names = &ignored.syscalls[..ignored.syscalls.len().min(NAMES_LOGGED)];
    tracing::debug!(
        profile = &key.hex()[..12],
        instructions = program.filter.len(),
        unknown_syscalls = ignored.syscalls.len(),
        ?names,
        architectures = ?ignored.architectures,
        "compiled seccomp profile"
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::default_profile;
    use super::*;
    use crate::types::{CapSet, Capability};

    /// One test: the cache is the process's, two would disturb each other.
    #[test]
    fn same_profile_same_program_and_bounded() {
        let first = compiled(&default_profile(CapSet::DEFAULT)).unwrap();
        let again = compiled(&default_profile(CapSet::DEFAULT)).unwrap();
        let other = compiled(&default_profile(Capability::SYS_ADMIN.into())).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_ne!(first, other);

        for errno in 1..=2 * CAPACITY as u32 {
            let mut profile = LinuxSeccomp::default();
            profile.set_default_errno_ret(Some(errno));
            compiled(&profile).unwrap();
        }
        let kept = CACHE.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert!(kept <= CAPACITY, "{kept}");
    }
}
