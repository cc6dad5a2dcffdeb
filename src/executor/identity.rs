//! Who the process is: limits, user, groups, capabilities, no_new_privs.

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::spec::plan::{Capabilities, Process, Rlimit};
use crate::sys::cap;
use crate::sys::process::{self as sys, SchedAttr};
use crate::types::{CapSet, Capability};

use super::error::{Cause, During, LaunchError, Step};

/// Personality, scheduling, resource limits.
pub(super) fn set_limits(process: &Process, notes: &mut Vec<String>) -> Step {
    if let Some(personality) = process.personality {
        sys::set_personality(personality).during("set", || format!("personality {personality:#x}"))?;
    }
    if let Some(s) = process.scheduler {
        let attributes = SchedAttr {
            size: 0,
            policy: s.policy,
            flags: s.flags,
            nice: s.nice,
            priority: s.priority,
            runtime: s.runtime,
            deadline: s.deadline,
            period: s.period,
        };
        sys::set_scheduler(attributes).during("set", || format!("scheduling policy {}", s.policy))?;
    }
    if let Some(value) = process.io_priority {
        sys::set_io_priority(value).during("set", || "I/O priority")?;
    }
    process.rlimits.iter().try_for_each(|l| set_limit(l, notes))
}

/// Raises hard limits while this is still the node's root: nobody may in a user namespace. What cannot be raised is
/// noted later, by [`set_limits`].
pub(super) fn raise_hard_limits(process: &Process) {
    for limit in &process.rlimits {
        if let Ok((soft, hard)) = sys::limits(limit.resource)
            && hard < limit.hard
        {
            let _ = sys::set_limit(limit.resource, soft, limit.hard);
        }
    }
}

/// A hard limit cannot be raised without CAP_SYS_RESOURCE; the container then gets as much as there is.
fn set_limit(limit: &Rlimit, notes: &mut Vec<String>) -> Step {
    let object = || format!("limit {} to {}/{}", limit.resource, limit.soft, limit.hard);
    match sys::set_limit(limit.resource, limit.soft, limit.hard) {
        Err(e) if e.number() == libc::EPERM => {
            let (_, most) = sys::limits(limit.resource).during("read", object)?;
            let hard = limit.hard.min(most);
            let soft = limit.soft.min(hard);
            sys::set_limit(limit.resource, soft, hard).during("set", object)?;
            notes.push(format!(
                "resource limit {} is {soft}/{hard} instead of {}/{}: raising it needs CAP_SYS_RESOURCE",
                limit.resource, limit.soft, limit.hard
            ));
            Ok(())
        }
        result => result.during("set", object),
    }
}

/// Becomes the user with its groups and capabilities. What is left to do after the seccomp filter is in place is
/// returned.
pub(super) fn take(process: &Process, notes: &mut Vec<String>) -> Step<Remaining> {
    let wanted = available(process.capabilities, notes)?;
    drop_bounding(wanted.bounding)?;
    if process.uid != 0 {
        cap::keep_over_setuid().during("keep", || "capabilities over the change of user")?;
    }
    become_user(process)?;

    // Without no_new_privs the filter can only be loaded with CAP_SYS_ADMIN.
    let early_filter = process.seccomp.is_some() && !process.no_new_privileges;
    let mut sets = to_sets(wanted);
    if early_filter {
        let admin = CapSet::from(Capability::SYS_ADMIN).bits();
        sets.effective |= admin;
        sets.permitted |= admin;
    }
    cap::set(sets)
        .during("set", || "capabilities")
        .map_err(|e| match early_filter {
            true => e.advise("a seccomp profile without noNewPrivileges needs CAP_SYS_ADMIN"),
            false => e,
        })?;
    raise_ambient(wanted)?;
    if process.no_new_privileges {
        sys::set_no_new_privileges().during("set", || "no_new_privs")?;
    }
    Ok(Remaining(early_filter.then_some(wanted)))
}

/// Capabilities that are put down only after the seccomp filter is loaded.
#[derive(Debug)]
#[must_use]
pub(super) struct Remaining(Option<Capabilities>);

impl Remaining {
    /// Puts them down.
    pub fn drop_them(self) -> Step {
        match self.0 {
            Some(wanted) => cap::set(to_sets(wanted)).during("set", || "capabilities"),
            None => Ok(()),
        }
    }
}

fn to_sets(c: Capabilities) -> cap::Sets {
    cap::Sets {
        effective: c.effective.bits(),
        permitted: c.permitted.bits(),
        inheritable: c.inheritable.bits(),
    }
}

/// Nobody can give what they do not have: the rest is noted.
fn available(wanted: Capabilities, notes: &mut Vec<String>) -> Step<Capabilities> {
    let have = CapSet::from_bits(cap::get().during("read", || "capabilities")?.permitted);
    let asked = wanted.bounding | wanted.effective | wanted.permitted | wanted.inheritable | wanted.ambient;
    let missing = asked - have;
    if missing.is_empty() {
        return Ok(wanted);
    }
    let names: Vec<String> = missing.iter().map(|c| c.to_string()).collect();
    notes.push(format!(
        "{} left out: husk does not have them itself",
        names.join(", ")
    ));
    Ok(Capabilities {
        bounding: wanted.bounding - missing,
        effective: wanted.effective - missing,
        permitted: wanted.permitted - missing,
        inheritable: wanted.inheritable - missing,
        ambient: wanted.ambient - missing,
    })
}

fn drop_bounding(keep: CapSet) -> Step {
    for n in 0..64u8 {
        if keep.bits() & (1 << n) != 0 {
            continue;
        }
        match cap::drop_bounding(n) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(e) if e.number() == libc::EINVAL => break,
            Err(e) => {
                return Err(LaunchError::errno(
                    "drop",
                    format!("capability {n} from the bounding set"),
                    e.number(),
                ));
            }
        }
    }
    Ok(())
}

fn raise_ambient(wanted: Capabilities) -> Step {
    for capability in wanted.ambient.iter() {
        if wanted.permitted.contains(capability) && wanted.inheritable.contains(capability) {
            cap::raise_ambient(capability.number()).during("raise", || format!("ambient {capability}"))?;
        }
    }
    Ok(())
}

fn become_user(process: &Process) -> Step {
    let unmapped = |e: LaunchError| match e.errno {
        Some(libc::EINVAL) => e.advise("the id has no mapping in the container's user namespace"),
        _ => e,
    };
    let groups: Vec<Gid> = process.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    match set_thread_groups(&groups) {
        // A user namespace may deny setgroups; then there are none to set.
        Err(e) if e.number() == libc::EPERM && groups.is_empty() => {}
        result => result
            .during("set", || format!("groups {:?}", process.groups))
            .map_err(unmapped)?,
    }
    let gid = Gid::from_raw(process.gid);
    set_thread_res_gid(gid, gid, gid)
        .during("become", || format!("group {}", process.gid))
        .map_err(unmapped)?;
    let uid = Uid::from_raw(process.uid);
    set_thread_res_uid(uid, uid, uid)
        .during("become", || format!("user {}", process.uid))
        .map_err(unmapped)
}
