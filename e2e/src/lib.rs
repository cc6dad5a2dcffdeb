//! A harness that drives a real husk from outside, the way kubelet does: over its socket, against a real registry,
//! with a client generated from an older revision of the contract by people who never saw husk.
//!
//! Every test gets a daemon of its own, in directories, a cgroup and a bridge of its own. When the test is over,
//! [`run`] removes what the test left through the CRI, stops the daemon and fails the test if anything is left: each
//! test is a test for leaks too.

pub mod api;
pub mod clean;
pub mod client;
pub mod config;
pub mod cri;
pub mod fake;
pub mod fuse;
pub mod http;
pub mod husk;
pub mod image;
pub mod late;
pub mod logs;
pub mod mounted;
pub mod network;
pub mod nri;
pub mod options;
pub mod own;
pub mod process;
pub mod registry;
pub mod runtimes;
pub mod sessions;
pub mod spdy;
pub mod streams;
pub mod websocket;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use cri::{Cri, CriExt, Pod};
pub use husk::{Husk, Options, run, run_on_executor, run_with};
pub use k8s_cri::v1;

/// How long anything may take before a test calls it stuck. Far above what anything takes: no test measures time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The directory cargo builds into.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    )
}

/// Where tests keep their files: below `HUSK_E2E_DIR` if that is set.
pub fn base_dir() -> PathBuf {
    std::env::var_os("HUSK_E2E_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Asks again and again until `probe` gives a value.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe().await.with_context(|| what.to_owned())? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
