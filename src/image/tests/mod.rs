//! The image store as a whole, against registries that work and registries that do not.
#![allow(clippy::unwrap_used)]

mod access;
mod debian;
mod fake;
mod faults;
mod mirrors;
mod pulls;
mod restarts;
mod sample;
mod sharing;
mod verification;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Auth, Image, ImageConfig, ImageStore};
use crate::state::Db;
use crate::types::{Error, Result};

/// A store in a directory of its own.
struct Node {
    dir: tempfile::TempDir,
    store: Arc<ImageStore>,
}

impl Node {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ImageConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        let db = Db::open(&dir.path().join("state.db")).unwrap();
        let store = ImageStore::open(config, db).unwrap();
        store.collect();
        Self { dir, store }
    }

    /// As after a restart of the daemon, before anything was collected.
    fn reopen(self) -> Self {
        let Self { dir, store } = self;
        store.settle();
        drop(store);
        let store = ImageStore::open(config(dir.path()), open_db(dir.path())).unwrap();
        store.settle();
        Self { dir, store }
    }

    async fn pull(&self, reference: impl AsRef<str>) -> Result<Arc<Image>> {
        self.store.pull(reference.as_ref(), None, None).await
    }

    async fn pull_as(&self, reference: impl AsRef<str>, auth: Auth) -> Result<Arc<Image>> {
        self.store.pull(reference.as_ref(), Some(auth), None).await
    }

    async fn refusal(&self, reference: impl AsRef<str>) -> Error {
        let reference = reference.as_ref();
        let error = self.pull(reference).await.expect_err(reference);
        self.assert_clean().await;
        error
    }

    /// Nothing is listed, and nothing half-made is left once the threads that were stopped have ended.
    async fn assert_clean(&self) {
        assert_eq!(self.store.list(), []);
        while !self.dirs("staging").is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn dirs(&self, name: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("images").join(name)).unwrap();
        entries.map(|e| e.unwrap().path()).collect()
    }

    /// Puts a `hosts.toml` in place.
    fn configure(&self, registry: &str, text: &str) {
        let name = match registry.rsplit_once(':') {
            Some((host, port)) => format!("{host}_{port}_"),
            None => registry.to_owned(),
        };
        let dir = self.dir.path().join("certs.d").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }
}

/// Opens the database as soon as threads of a store that was just dropped have let go of it.
fn open_db(dir: &Path) -> Db {
    loop {
        match Db::open(&dir.join("state.db")) {
            Err(error) if error.message().contains("another husk") => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other.unwrap(),
        }
    }
}

fn config(dir: &Path) -> ImageConfig {
    let mut config = ImageConfig::new(dir.join("images"));
    config.hosts_dirs = vec![dir.join("certs.d")];
    config.stall_timeout = Duration::from_secs(20);
    config.retry_backoff = Duration::from_millis(10);
    config
}

fn basic(user: &str, password: &str) -> Auth {
    Auth {
        username: user.into(),
        password: password.into(),
        ..Auth::default()
    }
}
