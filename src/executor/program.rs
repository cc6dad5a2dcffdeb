//! The last step: finding the program and executing it. Why that does not work is for [`super::diagnosis`] to say.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::diagnosis::diagnose;
use super::error::{LaunchError, NOT_EXECUTABLE, NOT_FOUND, Step};

/// Where programs are looked for if the container's environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
    let (mut refused, mut folder) = (None, None);
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if candidate.is_dir() => {
                folder.get_or_insert(candidate);
            }
            Ok(()) => return Ok(candidate),
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
                .advise(match folder {
                    Some(folder) if !name.is_empty() => format!(
                        "{} is a directory, and nothing else of that name is in PATH, which is {path}",
                        folder.display()
                    ),
                    _ => format!("PATH is {path}: check the spelling, or give an absolute path"),
                })
                .exit(NOT_FOUND),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
