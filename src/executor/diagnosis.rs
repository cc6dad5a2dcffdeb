//! Why a program cannot be executed: the kernel has one number for many reasons, and the one who reads the message has
//! no shell in the container to find out.
//!
//! Runs in the container as the container's user, after execve failed. It only looks; every step may find things changed
//! meanwhile, and then says less.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};

use super::elf;
use super::error::{LaunchError, NOT_EXECUTABLE, NOT_FOUND};

/// Enough of a file to tell what it is.
const HEAD: usize = 4096;
/// As many interpreters of interpreters as the kernel follows.
const MAX_INTERPRETERS: usize = 5;

/// Finds out why `path` cannot be executed.
pub(super) fn diagnose(path: &Path, errno: Errno) -> LaunchError {
    let error = LaunchError::errno("exec", path.display(), errno as i32).exit(NOT_EXECUTABLE);
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => missing(path, error),
        Errno::ENOEXEC | Errno::EINVAL | Errno::ELIBBAD => bad_format(path, error),
        Errno::EACCES | Errno::EPERM => refused(path, error),
        Errno::ELOOP => {
            error.advise("it is a symbolic link that leads to itself, or interpreters call each other")
        }
        Errno::E2BIG => error.advise("arguments and environment together are longer than the kernel takes"),
        Errno::ETXTBSY => error.advise("somebody has the file open for writing"),
        Errno::ENOMEM => error.advise("the container's memory limit may be too low to start it"),
        _ => error,
    }
}

/// Which directory on the way into `directory`, or itself, this user may not search; `None` if there is none.
pub(super) fn unsearchable(directory: &Path) -> Option<String> {
    let absolute = std::path::absolute(directory).ok()?;
    let mut directory = PathBuf::new();
    for part in absolute.components() {
        directory.push(part);
        if accessat(CWD, &directory, Access::EXEC_OK, AtFlags::EACCESS) == Err(rustix::io::Errno::ACCESS) {
            let whose = directory.metadata().map_or(String::new(), |m| {
                format!(" (mode {:o}, owner {}:{})", m.mode() & 0o7777, m.uid(), m.gid())
            });
            return Some(format!(
                "this user (uid {}) may not search the directory {}{whose}",
                rustix::process::geteuid().as_raw(),
                directory.display()
            ));
        }
    }
    None
}

/// The kernel says "not found" for the file as well as for what it needs.
fn missing(path: &Path, error: LaunchError) -> LaunchError {
    if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) && !path.exists() {
        let target = std::fs::read_link(path).unwrap_or_default();
        return error
            .advise(format!(
                "it is a symbolic link to {}, which does not exist",
                target.display()
            ))
            .exit(NOT_FOUND);
    }
    if !path.exists() {
        return error.advise(first_missing(path)).exit(NOT_FOUND);
    }
    let mut at = path.to_owned();
    for depth in 0..MAX_INTERPRETERS {
        let head = head(&at);
        // What messages call the file looked at.
        let file = match depth {
            0 => "the file".to_owned(),
            _ => format!("its interpreter {}", at.display()),
        };
        if let Some(interpreter) = shebang(&head) {
            if !Path::new(&interpreter).exists() {
                return script_interpreter(&interpreter, error);
            }
            at = interpreter.into();
            continue;
        }
        return match elf::interpreter(&at, &head) {
            Some(loader) if !Path::new(&loader).exists() => error.advise(format!(
                "{file} exists, but its loader {loader} does not: it was built for another C library, or the image \
                 lacks it"
            )),
            _ => error.advise(format!("{file} exists, but something it needs does not")),
        };
    }
    error.advise("its interpreters have interpreters of their own, more than the kernel follows")
}

/// Which part of a path is the first that is not there, or not a directory.
fn first_missing(path: &Path) -> String {
    let mut directory = PathBuf::new();
    let parent = path.parent().unwrap_or(Path::new(""));
    for part in parent.components() {
        directory.push(part);
        if matches!(part, Component::RootDir | Component::CurDir) {
            continue;
        }
        match directory.metadata() {
            Ok(meta) if !meta.is_dir() => return format!("{} is not a directory", directory.display()),
            Ok(_) => {}
            Err(_) => return format!("not even {} exists in the container", directory.display()),
        }
    }
    "the file does not exist in the container".into()
}

fn script_interpreter(interpreter: &str, error: LaunchError) -> LaunchError {
    if interpreter.ends_with('\r') {
        return error.advise(format!(
            "the script's first line ends in a carriage return, so its interpreter is taken to be {interpreter:?}: \
             save it with Unix line endings"
        ));
    }
    error.advise(format!(
        "the script exists, but its interpreter {interpreter} does not: install it in the image or change the first line"
    ))
}

fn bad_format(path: &Path, error: LaunchError) -> LaunchError {
    let head = head(path);
    if head.is_empty() {
        return error.advise("the file is empty or cannot be read");
    }
    if let Some(machine) = elf::foreign_machine(&head) {
        return error.advise(format!(
            "the program is for {machine}, this node is {}: use an image for this architecture",
            std::env::consts::ARCH
        ));
    }
    if elf::is_elf(&head) {
        return error.advise("the program file is damaged or of a kind this kernel cannot run");
    }
    if let Some(interpreter) = shebang(&head) {
        let machine = elf::foreign_machine(&self::head(Path::new(&interpreter)));
        return error.advise(match machine {
            Some(machine) => format!(
                "its interpreter {interpreter} is for {machine}, this node is {}: use an image for this architecture",
                std::env::consts::ARCH
            ),
            None => format!("its interpreter {interpreter} is not a program this kernel can run"),
        });
    }
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return error.advise("a byte order mark stands before #!: save the script as UTF-8 without it");
    }
    error.advise("it is neither a program nor a script with a #! line: add one such as #!/bin/sh")
}

fn refused(path: &Path, error: LaunchError) -> LaunchError {
    if let Some(directory) = path.parent().and_then(unsearchable) {
        return error.advise(directory);
    }
    if path.metadata().is_err() {
        return error.advise("a directory on the way to it cannot be searched by this user");
    }
    if let Some(reason) = forbidden(path) {
        return error.advise(format!("it {reason}"));
    }
    let head = head(path);
    if let Some(interpreter) = shebang(&head)
        && let Some(reason) = forbidden(Path::new(&interpreter))
    {
        return error.advise(format!("its interpreter {interpreter} {reason}"));
    }
    if let Some(loader) = elf::interpreter(path, &head)
        && let Some(reason) = forbidden(Path::new(&loader))
    {
        return error.advise(format!("its loader {loader} {reason}"));
    }
    error.advise("its permissions allow it: look for a security module (SELinux, AppArmor) that does not")
}

/// Why this user may not execute a file that is there; `None` if nothing speaks against it.
fn forbidden(path: &Path) -> Option<String> {
    if let Some(directory) = path.parent().and_then(unsearchable) {
        return Some(format!("cannot be reached: {directory}"));
    }
    let meta = path.metadata().ok()?;
    if meta.is_dir() {
        return Some("is a directory".into());
    }
    if !meta.is_file() {
        return Some("is not a regular file".into());
    }
    if meta.mode() & 0o111 == 0 {
        return Some("has no execute permission: chmod +x it in the image".into());
    }
    if statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        return Some(match mount_of(path) {
            Some(point) => format!("is on {point}, which is mounted noexec"),
            None => "is on a file system that is mounted noexec".into(),
        });
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).err()?;
    Some(format!(
        "may not be executed by this user (uid {}; its mode is {:o}, its owner {}:{})",
        rustix::process::geteuid().as_raw(),
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid()
    ))
}

/// The mount point that a path is on, as far as the container's own list tells.
fn mount_of(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(4));
    points
        .filter(|point| real.starts_with(point))
        .max_by_key(|point| point.len())
        .map(str::to_owned)
}

/// The beginning of a regular file; empty if it cannot be read.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Non-blocking, for it could be a pipe by now.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    if let Ok(file) = file
        && file.metadata().is_ok_and(|m| m.is_file())
    {
        let _ = file.take(HEAD as u64).read_to_end(&mut bytes);
    }
    bytes
}

/// The interpreter in a `#!` line, with a carriage return if it has one.
fn shebang(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let word = line.trim_start_matches([' ', '\t']).split([' ', '\t']).next()?;
    (!word.is_empty()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn first_lines_of_scripts() {
        assert_eq!(shebang(b"#!/bin/sh -e\nx").as_deref(), Some("/bin/sh"));
        assert_eq!(shebang(b"#! /bin/sh\r\n").as_deref(), Some("/bin/sh\r"));
        assert_eq!(shebang(b"#!\n"), None);
        assert_eq!(shebang(b"\x7fELF"), None);
    }

    #[test]
    fn the_first_missing_part_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let said = |rest: &str| {
            let error = diagnose(&dir.path().join(rest), Errno::ENOENT);
            assert_eq!(error.exit_code, NOT_FOUND);
            error.advice.unwrap().replace(&*dir.path().to_string_lossy(), "")
        };
        assert_eq!(said("none"), "the file does not exist in the container");
        assert_eq!(said("a/b/c"), "not even /a exists in the container");
        assert_eq!(said("file/b/c"), "/file is not a directory");
        std::os::unix::fs::symlink("/no/where", dir.path().join("link")).unwrap();
        assert_eq!(
            said("link"),
            "it is a symbolic link to /no/where, which does not exist"
        );
    }

    #[test]
    fn what_an_interpreter_lacks_is_not_the_scripts_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        // A program whose loader is elsewhere: as much of ELF as it takes.
        let mut program = vec![0u8; 64 + 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[32] = 64;
        program[54] = 56;
        program[56] = 1;
        program[64] = 3;
        program[64 + 8] = 120;
        program[64 + 32] = 9;
        program.extend(b"/no/such\0");
        std::fs::write(path("interpreter"), &program).unwrap();
        std::fs::write(path("script"), format!("#!{}\n", path("interpreter").display())).unwrap();
        let advice = diagnose(&path("script"), Errno::ENOENT).advice.unwrap();
        assert!(
            advice.starts_with("its interpreter ") && advice.contains("its loader /no/such does not"),
            "{advice}"
        );
        // Scripts that interpret each other without end.
        for (one, other) in [("a", "b"), ("b", "a")] {
            std::fs::write(path(one), format!("#!{}\n", path(other).display())).unwrap();
        }
        let advice = diagnose(&path("a"), Errno::ENOENT).advice.unwrap();
        assert!(advice.contains("more than the kernel follows"), "{advice}");
    }
}
