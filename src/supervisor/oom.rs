//! The OOM counter of a container's cgroup: `oom_kill <n>` in v1's `memory.oom_control` and v2's `memory.events`.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::event::EventfdFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

const V1_FILE: &str = "memory.oom_control";

/// Kills so far. 0 if the file is not there or has no such line: then nobody can tell.
pub fn kills(path: Option<&Path>) -> u64 {
    path.and_then(|path| std::fs::read_to_string(path).ok())
        .map_or(0, |text| parse(&text))
}

/// Something to wait for that becomes readable when the counter may have moved. `None` if the kernel offers nothing: the
/// counter is read at the container's end anyway.
pub fn watch(path: Option<&Path>) -> Option<OwnedFd> {
    let path = path?;
    if path.ends_with(V1_FILE) {
        watch_v1(path)
    } else {
        watch_v2(path)
    }
}

/// Version 1 counts an eventfd up that is named in `cgroup.event_control` beside the file.
fn watch_v1(path: &Path) -> Option<OwnedFd> {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let file = std::fs::File::open(path).ok()?;
    let order = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
    std::fs::write(path.with_file_name("cgroup.event_control"), order).ok()?;
    Some(event)
}

/// Version 2 reports a modification of the file.
fn watch_v2(path: &Path) -> Option<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    inotify::add_watch(&watch, path, WatchFlags::MODIFY).ok()?;
    Some(watch)
}

/// Whether [`watch`] becomes readable before the kernel has picked its victim, as version 1 does it: the counter then
/// moves a moment later, without another word.
pub fn announces_early(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path.ends_with(V1_FILE))
}

/// Takes note that `watch` was readable. `false` if the cgroup is gone and so is the point of watching.
pub fn acknowledge(watch: impl AsFd, path: Option<&Path>) -> bool {
    let mut news = [0u8; 512];
    while matches!(rustix::io::read(&watch, &mut news), Ok(n) if n > 0) {}
    path.is_some_and(Path::exists)
}

fn parse(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .find_map(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_versions() {
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(
            parse("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 7\n"),
            1
        );
    }

    #[test]
    fn what_cannot_be_told_is_none() {
        assert_eq!(parse(""), 0);
        assert_eq!(parse("oom_kill x\n"), 0);
        assert_eq!(kills(None), 0);
        assert_eq!(kills(Some(Path::new("/nonexistent/memory.events"))), 0);
    }
}
