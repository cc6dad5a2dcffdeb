//! Why processes outlive SIGKILL: what each is in, what it waits for, and the file or mount behind that.
//!
//! Reads `/proc` and nothing else. What a process is stuck on may hang whoever touches it next, so no path is opened,
//! resolved or looked at: names come from the kernel's own lists. Of `/proc`, only files are read that take no lock a
//! stuck process may hold (`cmdline`, `maps` and `environ` do).

use std::path::{Path, PathBuf};

use crate::types::MountLine;

/// Most processes described; of the others only their number is told.
const MAX_PROCESSES: usize = 3;
/// Most threads looked at.
const MAX_THREADS: usize = 256;
/// Most descriptors looked at.
const MAX_FDS: usize = 1024;
/// Frames of a kernel stack that are told.
const MAX_FRAMES: usize = 6;
/// Most files named.
const MAX_FILES: usize = 3;

/// File systems whose server is somewhere else and may not answer.
const REMOTE: [&str; 16] = [
    "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "lustre", "gfs2", "ocfs2", "virtiofs", "beegfs",
    "gpfs", "orangefs", "coda", "fuseblk",
];

/// One mount of a process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    id: u64,
    point: String,
    fstype: String,
    source: String,
}

impl Mount {
    fn is_remote(&self) -> bool {
        REMOTE.contains(&self.fstype.as_str()) || self.fstype == "fuse" || self.fstype.starts_with("fuse.")
    }

    fn describe(&self) -> String {
        format!("{} ({} of {})", self.point, self.fstype, self.source)
    }
}

/// A sentence on each of the processes `pids`, as `proc` (`/proc`) shows them. `frozen` is the cgroup that holds them
/// still, if one does.
pub(super) fn describe(proc: &Path, pids: &[i32], frozen: Option<&Path>) -> String {
    let mut lines = Vec::new();
    let mut ended = 0;
    for pid in pids {
        match process(&proc.join(pid.to_string()), *pid) {
            Some(line) if lines.len() < MAX_PROCESSES => lines.push(line),
            Some(_) => {}
            None => ended += 1,
        }
    }
    let more = pids.len() - ended - lines.len();
    if more > 0 {
        lines.push(format!("{more} more processes"));
    }
    if lines.is_empty() {
        lines.push("its processes are gone now, and their end has not been reported yet".into());
    }
    if let Some(frozen) = frozen {
        lines.push(format!(
            "the cgroup {} is frozen, and what is in it cannot die before it is thawed",
            frozen.display()
        ));
    }
    lines.join("; ")
}

/// `None` if the process is gone.
fn process(dir: &Path, pid: i32) -> Option<String> {
    let thread = worst_thread(dir)?;
    let stat = read(&thread, "stat");
    let (name, state) = name_and_state(&stat)?;
    let mut text = format!("pid {pid} ({name}) is {}", state_in_words(state));
    let tid = thread.file_name().map(|n| n.to_string_lossy().into_owned());
    if let Some(tid) = tid.filter(|tid| *tid != pid.to_string()) {
        text += &format!(" in its thread {tid}");
    }
    let channel = read(&thread, "wchan");
    let channel = channel.trim();
    if !channel.is_empty() && channel != "0" {
        text += &format!(", waiting in {channel}");
    }
    let stack = stack(&read(&thread, "stack"));
    if !stack.is_empty() {
        text += &format!(" (kernel stack: {stack})");
    }
    let behind = behind(dir, &thread);
    if !behind.is_empty() {
        text += &format!(", behind it: {}", behind.join(", "));
    }
    Some(text)
}

/// The thread that tells most: one in uninterruptible sleep, or else the first that is no zombie.
fn worst_thread(dir: &Path) -> Option<PathBuf> {
    let tasks = std::fs::read_dir(dir.join("task")).ok()?;
    let rank = |state: char| match state {
        'D' => 0,
        'T' | 't' => 1,
        'Z' | 'X' => 3,
        _ => 2,
    };
    tasks
        .flatten()
        .take(MAX_THREADS)
        .filter_map(|task| {
            let (_, state) = name_and_state(&read(&task.path(), "stat"))?;
            Some((rank(state), task.path()))
        })
        .min()
        .map(|(_, path)| path)
}

/// `pid (name) state ...`; the name may contain anything.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (before, after) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    Some((name, after.chars().next()?))
}

fn state_in_words(state: char) -> String {
    let words = match state {
        'D' => "uninterruptible sleep",
        'Z' => "a zombie that waits to be reaped, or for its children's end",
        'X' => "dead",
        'T' => "stopped",
        't' => "stopped by a debugger",
        'R' => "running",
        'S' => "sleep",
        'I' => "idle",
        _ => "a state of its own",
    };
    format!("in state {state} ({words})")
}

/// The names of the innermost functions.
fn stack(text: &str) -> String {
    let frames = text.lines().filter_map(|line| {
        let name = line.rsplit(' ').next()?.split('+').next()?;
        (!name.is_empty()).then_some(name)
    });
    frames.take(MAX_FRAMES).collect::<Vec<_>>().join(" < ")
}

/// The files and mounts that the process may be waiting for: the one that its system call is about, if that can be
/// told; else whatever it has open of a file system that somebody else serves; else the mounts of such file systems.
fn behind(dir: &Path, thread: &Path) -> Vec<String> {
    let mounts = mounts(&read(dir, "mountinfo"));
    if let Some(file) = called_on(dir, thread, &mounts) {
        return vec![file];
    }
    let mut found: Vec<String> = Vec::new();
    for link in ["cwd", "exe", "root"] {
        if let Ok(target) = std::fs::read_link(dir.join(link)) {
            let mount = mount_of(&mounts, &target).filter(|m| m.is_remote());
            found.extend(mount.map(|m| format!("{} {} on {}", link, target.display(), m.describe())));
        }
    }
    let fds = std::fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    for fd in fds.take(MAX_FDS) {
        let name = fd.file_name().to_string_lossy().into_owned();
        let mount = mount_of_fd(dir, &name, &mounts).filter(|m| m.is_remote());
        if let (Some(mount), Ok(target)) = (mount, std::fs::read_link(fd.path())) {
            found.push(format!("{} on {}", target.display(), mount.describe()));
        }
    }
    if found.is_empty() {
        let remote = mounts.iter().filter(|m| m.is_remote());
        found.extend(remote.map(|m| format!("perhaps the mount {}", m.describe())));
    }
    found.truncate(MAX_FILES);
    found
}

/// The file whose descriptor the thread's system call has as an argument.
fn called_on(dir: &Path, thread: &Path, mounts: &[Mount]) -> Option<String> {
    let text = read(thread, "syscall");
    let mut words = text.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let (call, position) = file_call(number)?;
    let argument = u64::from_str_radix(words.nth(position)?.strip_prefix("0x")?, 16).ok()?;
    let fd = i32::try_from(argument).ok().filter(|fd| *fd >= 0)?.to_string();
    let target = std::fs::read_link(dir.join("fd").join(&fd)).ok()?;
    Some(match mount_of_fd(dir, &fd, mounts) {
        Some(mount) => format!("{call} of {} on {}", target.display(), mount.describe()),
        None => format!("{call} of {}", target.display()),
    })
}

/// The name of a system call that may wait for a file system, and which argument is its file's descriptor.
fn file_call(number: i64) -> Option<(&'static str, usize)> {
    if number == libc::SYS_sendfile {
        return Some(("sendfile", 1));
    }
    let calls = [
        (libc::SYS_read, "read"),
        (libc::SYS_write, "write"),
        (libc::SYS_pread64, "pread"),
        (libc::SYS_pwrite64, "pwrite"),
        (libc::SYS_readv, "readv"),
        (libc::SYS_writev, "writev"),
        (libc::SYS_preadv, "preadv"),
        (libc::SYS_pwritev, "pwritev"),
        (libc::SYS_readahead, "readahead"),
        (libc::SYS_fadvise64, "fadvise"),
        (libc::SYS_copy_file_range, "copy"),
        (libc::SYS_splice, "splice"),
        (libc::SYS_fsync, "fsync"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_sync_file_range, "sync_file_range"),
        (libc::SYS_syncfs, "syncfs"),
        (libc::SYS_ftruncate, "ftruncate"),
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_fstat, "fstat"),
        (libc::SYS_fstatfs, "fstatfs"),
        (libc::SYS_getdents64, "getdents"),
        (libc::SYS_ioctl, "ioctl"),
        (libc::SYS_flock, "flock"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_lseek, "lseek"),
        (libc::SYS_close, "close"),
        (libc::SYS_openat, "open in"),
        (libc::SYS_newfstatat, "stat in"),
    ];
    calls
        .iter()
        .find(|(n, _)| *n == number)
        .map(|(_, name)| (*name, 0))
}

/// The mount that a descriptor's file is on, by the number that the kernel gives for both.
fn mount_of_fd<'a>(dir: &Path, fd: &str, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let info = read(&dir.join("fdinfo"), fd);
    let id = info.lines().find_map(|l| l.strip_prefix("mnt_id:"))?;
    let id: u64 = id.trim().parse().ok()?;
    mounts.iter().find(|m| m.id == id)
}

/// The mount that a path is on: of several at one place the last, which covers the others.
fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let on = mounts.iter().filter(|m| path.starts_with(&m.point));
    on.max_by_key(|m| Path::new(&m.point).components().count())
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    let owned = |m: MountLine<'_>| Mount {
        id: m.id,
        point: m.point.to_string_lossy().into_owned(),
        fstype: m.fstype.to_owned(),
        source: m.source.to_owned(),
    };
    MountLine::all(mountinfo).map(owned).collect()
}

fn read(dir: &Path, file: &str) -> String {
    // Names of processes and files need not be UTF-8.
    std::fs::read(dir.join(file)).map_or(String::new(), |b| String::from_utf8_lossy(&b).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    /// A process as `/proc` would show it.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new(pid: i32) -> Self {
            let proc = Self(tempfile::tempdir().unwrap());
            for dir in ["fd", "fdinfo"] {
                std::fs::create_dir_all(proc.path(pid).join(dir)).unwrap();
            }
            proc.file(
                pid,
                "mountinfo",
                "21 1 0:20 / / rw - overlay overlay rw\n\
                 33 21 0:40 / /data rw,relatime shared:9 - fuse.sshfs me@far:/ rw\n\
                 34 21 0:41 / /local rw - ext4 /dev/sda1 rw\n",
            );
            proc
        }

        fn path(&self, pid: i32) -> PathBuf {
            self.0.path().join(pid.to_string())
        }

        fn file(&self, pid: i32, name: &str, text: &str) {
            let path = self.path(pid).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn thread(&self, pid: i32, tid: i32, name: &str, state: char) {
            self.file(
                pid,
                &format!("task/{tid}/stat"),
                &format!("{tid} ({name}) {state} 1 1"),
            );
        }

        fn fd(&self, pid: i32, fd: &str, target: &str, mount: u64) {
            symlink(target, self.path(pid).join("fd").join(fd)).unwrap();
            self.file(
                pid,
                &format!("fdinfo/{fd}"),
                &format!("pos:\t0\nmnt_id:\t{mount}\n"),
            );
        }

        fn describe(&self, pids: &[i32]) -> String {
            describe(self.0.path(), pids, None)
        }
    }

    #[test]
    fn the_file_of_the_system_call_is_named() {
        let proc = Fixture::new(7);
        proc.thread(7, 7, "cat (odd) name", 'D');
        proc.file(7, "task/7/wchan", "request_wait_answer");
        proc.file(
            7,
            "task/7/stack",
            "[<0>] request_wait_answer+0x1/0x2\n[<0>] fuse_simple_request+0x3/0x4\n",
        );
        proc.file(
            7,
            "task/7/syscall",
            &format!("{} 0x3 0x7f 0x1 0x0\n", libc::SYS_read),
        );
        proc.fd(7, "3", "/data/big/file", 33);
        proc.fd(7, "4", "/data/other", 33);
        assert_eq!(
            proc.describe(&[7]),
            "pid 7 (cat (odd) name) is in state D (uninterruptible sleep), waiting in request_wait_answer \
             (kernel stack: request_wait_answer < fuse_simple_request), \
             behind it: read of /data/big/file on /data (fuse.sshfs of me@far:/)"
        );
        proc.file(
            7,
            "task/7/syscall",
            &format!("{} 0x1 0x4 0x0\n", libc::SYS_sendfile),
        );
        assert!(proc.describe(&[7]).contains("sendfile of /data/other on /data"));
        // A file on a disk of the node's own is named as well, if the call is about it.
        proc.file(
            7,
            "task/7/syscall",
            &format!("{} 0x5 0x7f 0x1 0x0\n", libc::SYS_fsync),
        );
        proc.fd(7, "5", "/local/db", 34);
        assert!(
            proc.describe(&[7])
                .ends_with("fsync of /local/db on /local (ext4 of /dev/sda1)")
        );
    }

    #[test]
    fn without_the_call_what_is_served_from_elsewhere_is_suspected() {
        let proc = Fixture::new(7);
        proc.thread(7, 7, "main", 'Z');
        proc.thread(7, 9, "worker", 'D');
        proc.file(7, "task/9/syscall", "running\n");
        proc.fd(7, "3", "/local/file", 34);
        let text = proc.describe(&[7]);
        assert!(
            text.starts_with("pid 7 (worker) is in state D (uninterruptible sleep) in its thread 9"),
            "{text}"
        );
        assert!(
            text.ends_with("perhaps the mount /data (fuse.sshfs of me@far:/)"),
            "{text}"
        );
        symlink("/data/work", proc.path(7).join("cwd")).unwrap();
        proc.fd(7, "8", "/data/open", 33);
        let text = proc.describe(&[7]);
        assert!(
            text.contains("cwd /data/work on /data (fuse.sshfs of me@far:/), /data/open on /data"),
            "{text}"
        );
        assert!(!text.contains("/local"), "{text}");
    }

    #[test]
    fn many_and_none() {
        let proc = Fixture::new(1);
        let pids: Vec<i32> = (1..=9).collect();
        for pid in &pids[..8] {
            proc.thread(*pid, *pid, "x", 'S');
        }
        let text = proc.describe(&pids);
        assert_eq!(text.matches("in state S").count(), MAX_PROCESSES, "{text}");
        assert!(text.ends_with("5 more processes"), "{text}");
        let text = describe(proc.0.path(), &[9], Some(Path::new("/sys/fs/cgroup/freezer/pod")));
        assert!(
            text.contains("are gone now") && text.contains("cgroup /sys/fs/cgroup/freezer/pod is frozen"),
            "{text}"
        );
    }

    #[test]
    fn nonsense_says_less_and_does_not_fail() {
        let proc = Fixture::new(7);
        for stat in ["", "7", "7 (x", "7 (x)", "7 (x) "] {
            proc.file(7, "task/7/stat", stat);
            assert!(proc.describe(&[7]).contains("are gone now"), "{stat:?}");
        }
        proc.thread(7, 7, "x", '?');
        proc.file(7, "mountinfo", "1 2 3\n - - -\nx y z a /b - \n");
        for syscall in ["-1 0x7ff 0x1", "0 3 4", "0 0xzz", "0 0xffffffffffffffff", ""] {
            proc.file(7, "task/7/syscall", syscall);
            assert_eq!(
                proc.describe(&[7]),
                "pid 7 (x) is in state ? (a state of its own)"
            );
        }
    }

    #[test]
    fn the_kernels_own_files_are_understood() {
        let own = i32::try_from(std::process::id()).unwrap();
        let text = describe(Path::new("/proc"), &[own], None);
        assert!(text.starts_with(&format!("pid {own} (")), "{text}");
    }
}
