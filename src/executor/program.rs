//! The last step: finding the program and executing it, or saying exactly why that does not work.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};

use super::elf;
use super::error::{LaunchError, NOT_EXECUTABLE, NOT_FOUND, Step};

/// Where programs are looked for if the container's environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Enough of a file to tell what it is.
const HEAD: usize = 4096;

/// A program with all that execve takes.
pub(super) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds the program that `args` names, by the `PATH` in `env` if it has no slash.
    pub fn find(args: &[String], env: &[String]) -> Step<Self> {
        let name = args
            .first()
            .ok_or_else(|| LaunchError::new("exec", "nothing", "no command is given").exit(NOT_FOUND))?;
        let path = if name.contains('/') {
            PathBuf::from(name)
        } else {
            search(name, env)?
        };
        Ok(Self {
            path: c_string(path.as_os_str().as_bytes())?,
            args: c_strings(args)?,
            env: c_strings(env)?,
        })
    }

    /// Whether it looks as if executing it will work.
    pub fn check(&self) -> Step {
        let path = Path::new(OsStr::from_bytes(self.path.as_bytes()));
        match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if path.is_dir() => Err(diagnose(path, Errno::EACCES)),
            Ok(()) => Ok(()),
            Err(e) => Err(diagnose(path, Errno::from_raw(e.raw_os_error()))),
        }
    }

    /// Becomes the program.
    pub fn exec(&self) -> Step<Infallible> {
        match nix::unistd::execve(&self.path, &self.args, &self.env) {
            Ok(never) => match never {},
            Err(errno) => Err(diagnose(
                Path::new(OsStr::from_bytes(self.path.as_bytes())),
                errno,
            )),
        }
    }
}

fn c_strings(list: &[String]) -> Step<Vec<CString>> {
    list.iter().map(|s| c_string(s.as_bytes())).collect()
}

fn c_string(bytes: &[u8]) -> Step<CString> {
    CString::new(bytes).map_err(|_| {
        LaunchError::new("exec", String::from_utf8_lossy(bytes), "it contains a NUL byte")
            .exit(NOT_EXECUTABLE)
    })
}

fn search(name: &str, env: &[String]) -> Step<PathBuf> {
    let path = env
        .iter()
        .rev()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut refused = None;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if !candidate.is_dir() => return Ok(candidate),
            Err(rustix::io::Errno::ACCESS) => {
                refused.get_or_insert(candidate);
            }
            _ => {}
        }
    }
    match refused {
        // As a shell does, go on with what is there but cannot be executed: the reason will be told.
        Some(candidate) if !name.is_empty() => Ok(candidate),
        _ => Err(
            LaunchError::new("exec", format!("{name:?}"), "executable file not found in $PATH")
                .advise(format!(
                    "PATH is {path}: check the spelling, or give an absolute path"
                ))
                .exit(NOT_FOUND),
        ),
    }
}

/// Finds out why `path` cannot be executed.
fn diagnose(path: &Path, errno: Errno) -> LaunchError {
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
        return error
            .advise("the file does not exist in the container")
            .exit(NOT_FOUND);
    }
    let head = head(path);
    if let Some(interpreter) = shebang(&head) {
        return script_interpreter(&interpreter, error);
    }
    match elf::interpreter(path, &head) {
        Some(loader) => error.advise(format!(
            "the file exists, but its loader {loader} does not: it was built for another C library, or the image lacks it"
        )),
        None => error.advise("the file exists, but something it needs does not"),
    }
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
        return error.advise(format!(
            "its interpreter {interpreter} is not a program this kernel can run"
        ));
    }
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return error.advise("a byte order mark stands before #!: save the script as UTF-8 without it");
    }
    error.advise("it is neither a program nor a script with a #! line: add one such as #!/bin/sh")
}

fn refused(path: &Path, error: LaunchError) -> LaunchError {
    let Ok(meta) = path.metadata() else {
        return error.advise("a directory on the way to it cannot be searched by this user");
    };
    if meta.is_dir() {
        return error.advise("it is a directory");
    }
    if !meta.is_file() {
        return error.advise("it is not a regular file");
    }
    if meta.mode() & 0o111 == 0 {
        return error.advise("it has no execute permission: chmod +x it in the image");
    }
    if statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        return error.advise("its file system is mounted noexec");
    }
    if let Some(interpreter) = shebang(&head(path)) {
        return error.advise(format!(
            "this user may not execute it, or not its interpreter {interpreter}"
        ));
    }
    error.advise(format!(
        "this user may not execute it (mode {:o}, owner {}:{})",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid()
    ))
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
    use super::*;

    #[test]
    fn first_lines_of_scripts() {
        assert_eq!(shebang(b"#!/bin/sh -e\nx").as_deref(), Some("/bin/sh"));
        assert_eq!(shebang(b"#! /bin/sh\r\n").as_deref(), Some("/bin/sh\r"));
        assert_eq!(shebang(b"#!\n"), None);
        assert_eq!(shebang(b"\x7fELF"), None);
    }

    #[test]
    fn a_missing_command_is_127_and_names_the_path() {
        let error = Program::find(&["no-such-command".into()], &["PATH=/bin:/x".into()]).err();
        let error = error.map(|e| (e.exit_code, e.to_string()));
        let Some((code, text)) = error else {
            panic!("found a command that does not exist");
        };
        assert_eq!(code, NOT_FOUND);
        assert!(
            text.contains("\"no-such-command\"") && text.contains("/bin:/x"),
            "{text}"
        );
    }
}
