//! What went wrong on the way to execve, in a form that travels from the child to its parent.

use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::types::error::IMAGE_VOLUME_MOUNT_FAILED;
use crate::types::{Error, Kind};

/// Exit code for a failure that is not the command's: what containerd uses for a container that could not start.
pub const NOT_STARTED: i32 = 128;
/// The shell's exit code for a command that was not found.
pub const NOT_FOUND: i32 = 127;
/// The shell's exit code for a command that cannot be executed.
pub const NOT_EXECUTABLE: i32 = 126;

/// A launch failed. The text reads `<step> <object>: <reason>; <advice>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchError {
    /// What was being done, such as `mount`.
    pub step: String,
    /// To what.
    pub object: String,
    /// What the kernel said, if it was the kernel.
    #[serde(default)]
    pub errno: Option<i32>,
    /// Why it failed.
    pub reason: String,
    /// What to do about it, where known.
    #[serde(default)]
    pub advice: Option<String>,
    /// What a shell would exit with: 127 for a missing command, 126 for one that cannot be executed, 128 for all else.
    pub exit_code: i32,
    /// It failed with an image volume: the word by which kubelet recognises that stands in front of everything.
    #[serde(default)]
    pub of_image_volume: bool,
    /// The request asks for what cannot be, whatever the node is like.
    #[serde(default)]
    pub bad_request: bool,
}

/// Result of one step.
pub type Step<T = ()> = Result<T, LaunchError>;

impl LaunchError {
    /// A failure that is not a system call's.
    pub fn new(step: &str, object: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self {
            step: step.to_owned(),
            object: object.to_string(),
            errno: None,
            reason: reason.into(),
            advice: None,
            exit_code: NOT_STARTED,
            of_image_volume: false,
            bad_request: false,
        }
    }

    /// A failed system call.
    pub fn errno(step: &str, object: impl fmt::Display, errno: i32) -> Self {
        Self {
            errno: Some(errno),
            ..Self::new(step, object, describe(errno))
        }
    }

    /// Adds what to do, unless something more specific was said already.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.get_or_insert_with(|| advice.into());
        self
    }

    /// Sets the exit code that a shell would use.
    #[must_use]
    pub fn exit(mut self, code: i32) -> Self {
        self.exit_code = code;
        self
    }

    /// Marks it as a failure with an image volume.
    #[must_use]
    pub fn of_image_volume(mut self) -> Self {
        self.of_image_volume = true;
        self
    }

    /// Blames the request.
    #[must_use]
    pub fn blame_request(mut self) -> Self {
        self.bad_request = true;
        self
    }

    /// Whether the kernel said `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.errno == Some(errno)
    }

    fn kind(&self) -> Kind {
        match (self.exit_code, self.errno) {
            _ if self.bad_request => Kind::InvalidArgument,
            (NOT_FOUND | NOT_EXECUTABLE, _) => Kind::InvalidArgument,
            (_, Some(libc::ENOSPC | libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::EDQUOT)) => {
                Kind::ResourceExhausted
            }
            _ => Kind::Internal,
        }
    }
}

/// `No such file or directory (ENOENT)`.
pub fn describe(errno: i32) -> String {
    let errno = Errno::from_raw(errno);
    format!("{} ({errno:?})", errno.desc())
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.of_image_volume {
            write!(f, "{IMAGE_VOLUME_MOUNT_FAILED}: ")?;
        }
        write!(f, "{} {}: {}", self.step, self.object, self.reason)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LaunchError {}

impl From<LaunchError> for Error {
    fn from(e: LaunchError) -> Self {
        Self::new(e.kind(), e.to_string())
    }
}

/// Errors of system calls, whichever crate made them.
pub trait Cause {
    /// The error number.
    fn number(&self) -> i32;
}

impl Cause for std::io::Error {
    fn number(&self) -> i32 {
        self.raw_os_error().unwrap_or(libc::EIO)
    }
}

impl Cause for rustix::io::Errno {
    fn number(&self) -> i32 {
        self.raw_os_error()
    }
}

impl Cause for Errno {
    fn number(&self) -> i32 {
        *self as i32
    }
}

/// Says which step a failed system call was.
pub trait During<T> {
    /// Adds the step and its object.
    fn during<O: fmt::Display>(self, step: &str, object: impl FnOnce() -> O) -> Step<T>;
}

impl<T, E: Cause> During<T> for Result<T, E> {
    fn during<O: fmt::Display>(self, step: &str, object: impl FnOnce() -> O) -> Step<T> {
        self.map_err(|e| LaunchError::errno(step, object(), e.number()))
    }
}
