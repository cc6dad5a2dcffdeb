//! What it takes to let a container go on from a checkpoint, besides the plan of the container itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A checkpoint to restore. Travels as a [`super::LaunchPlan`] does, and beside one: that says where the container lives,
/// this where its processes come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestorePlan {
    /// criu, as an absolute path.
    pub program: PathBuf,
    /// Directory of criu's images. It is only read.
    pub images: PathBuf,
    /// An existing directory for criu's log and a mount point.
    pub work: PathBuf,
    /// What stdin, stdout and stderr were, in criu's words. One that is not a pipe is restored as the images have it.
    pub streams: Vec<String>,
}
