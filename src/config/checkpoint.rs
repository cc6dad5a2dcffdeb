//! `[checkpoint]`: containers written down and made again by criu.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[checkpoint]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// What is allowed.
    pub level: Level,
    /// The program; empty looks for `criu` in `PATH`.
    pub criu: PathBuf,
}

/// What is allowed of checkpoints.
///
/// A checkpoint says what its processes are allowed to do: users, capabilities, filters of system calls. Whoever may
/// choose what is restored may run anything on the node, so that takes a decision of whoever runs the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing.
    None,
    /// Containers are written down.
    #[default]
    Checkpoint,
    /// They are also made again: an image, or a file, that is a checkpoint can be named as a container's image.
    Restore,
}
