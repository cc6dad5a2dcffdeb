//! What the processes of a container hold: descriptors, sockets, limits. From `/proc`, and only where asked for.

use std::fs;

use crate::cgroup::Cgroup;

/// Most descriptors looked at in one container. What has more is counted so far, so that no container can keep husk
/// busy at will.
const MAX_DESCRIPTORS: u64 = 1 << 16;

/// Processes of a container or a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    /// How many.
    pub count: u64,
    /// Open descriptors of all of them.
    pub descriptors: u64,
    /// Of those, sockets.
    pub sockets: u64,
    /// Soft limits of the first process by cAdvisor's names; -1 is unlimited.
    pub soft_limits: Vec<(&'static str, i64)>,
}

impl Processes {
    /// Everything about the processes of one cgroup, the first of which is `pid`.
    pub(super) fn of(cgroup: &Cgroup, pid: i32) -> Self {
        let pids = cgroup.processes().unwrap_or_default();
        let mut out = Self {
            count: pids.len() as u64,
            soft_limits: soft_limits(pid),
            ..Self::default()
        };
        for pid in pids {
            out.count_descriptors(pid);
        }
        out
    }

    /// How many there are in some cgroups, and nothing else.
    pub(super) fn counted(cgroups: impl Iterator<Item = Cgroup>) -> Self {
        let count = |c: Cgroup| c.processes().map_or(0, |pids| pids.len() as u64);
        Self {
            count: cgroups.map(count).sum(),
            ..Self::default()
        }
    }

    /// All of some containers' together. Limits do not add up.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |mut out, one| {
            out.count += one.count;
            out.descriptors += one.descriptors;
            out.sockets += one.sockets;
            out
        })
    }

    fn count_descriptors(&mut self, pid: i32) {
        // A process may end at any moment.
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return;
        };
        for entry in entries.flatten() {
            if self.descriptors >= MAX_DESCRIPTORS {
                return;
            }
            self.descriptors += 1;
            let is_socket = fs::read_link(entry.path())
                .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            self.sockets += u64::from(is_socket);
        }
    }
}

fn soft_limits(pid: i32) -> Vec<(&'static str, i64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    parse_limits(&text)
}

/// cAdvisor reports this one limit.
fn parse_limits(text: &str) -> Vec<(&'static str, i64)> {
    let line = text.lines().find_map(|l| l.strip_prefix("Max open files"));
    match line.and_then(|l| l.split_ascii_whitespace().next()) {
        Some("unlimited") => vec![("max_open_files", -1)],
        Some(number) => number
            .parse()
            .map_or_else(|_| Vec::new(), |n| vec![("max_open_files", n)]),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_limits_of_this_process_are_found() {
        let _socket = std::os::unix::net::UnixDatagram::unbound();
        let mut seen = Processes::default();
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        seen.count_descriptors(pid);
        assert!(seen.sockets >= 1 && seen.descriptors > seen.sockets, "{seen:?}");
        assert!(matches!(soft_limits(pid)[..], [("max_open_files", n)] if n > 0));
        assert!(soft_limits(-1).is_empty());
    }

    #[test]
    fn limits_are_read_as_the_kernel_prints_them() {
        let line = |soft| format!("Limit Soft Limit\nMax open files            {soft}     4096   files\n");
        assert_eq!(parse_limits(&line("1024")), [("max_open_files", 1024)]);
        assert_eq!(parse_limits(&line("unlimited")), [("max_open_files", -1)]);
        assert!(parse_limits(&line("many")).is_empty() && parse_limits("").is_empty());
    }
}
