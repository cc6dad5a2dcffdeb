//! The state database: what husk must know again after a restart.
//!
//! One SQLite file, six tables of named values. This module owns the file, its schema and its durability; it does not
//! know what the values mean: whoever owns a table encodes and decodes them.
//!
//! Durability has two levels. [`Db::apply`] returns when the transaction is in the write-ahead log: it survives any
//! end of the process, and a power cut at worst loses the last of such transactions, never half of one.
//! [`Db::apply_durable`] returns when the log is on disk too. The lock that orders writers is never held while the
//! disk is waited for: syncing happens after the commit, and checkpoints run on a thread of their own.

mod checkpoint;
mod schema;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::types::{Error, Result};
use checkpoint::Checkpointer;

/// The tables. Each maps a key to one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// Images by id.
    Images,
    /// Unpacked layers by directory name.
    Layers,
    /// Pods by id.
    Pods,
    /// Containers by id.
    Containers,
    /// Network attachments by pod id.
    Networks,
    /// Everything there is one of, such as the boot id.
    Meta,
}

impl Table {
    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Layers => "layers",
            Self::Pods => "pods",
            Self::Containers => "containers",
            Self::Networks => "networks",
            Self::Meta => "meta",
        }
    }
}

/// One change; a list of them is applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the value of a key.
    Put(Table, String, Vec<u8>),
    /// Removes a key. A key that is not there is fine.
    Delete(Table, String),
}

/// A handle on the open database. Clones share it. All calls block, for tens of microseconds as a rule.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// The write-ahead log, for syncing it without the connection's lock.
    log: File,
    checkpointer: Checkpointer,
    /// Held for as long as the database is open, so that no second daemon uses the same files.
    _lock: File,
}

impl Db {
    /// Opens the database at `path`, creating it and bringing its schema up to date as needed.
    ///
    /// # Errors
    /// [`crate::types::Kind::FailedPrecondition`] when the file is foreign, corrupt, written by a newer husk, or in use by another
    /// process; [`crate::types::Kind::Internal`] when the directory or file cannot be made.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = schema::lock(path)?;
        let connection = schema::open(path)?;
        let log = schema::open_log(path)?;
        let checkpointer = Checkpointer::start(path)?;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            connection: Mutex::new(connection),
            log,
            checkpointer,
            _lock: lock,
        })))
    }

    /// Sets one value.
    ///
    /// # Errors
    /// As [`Db::apply`].
    pub fn put(&self, table: Table, key: &str, value: &[u8]) -> Result<()> {
        self.transact(value.len(), |t| put(t, table, key, value))
    }

    /// Removes one key; a key that is not there is fine.
    ///
    /// # Errors
    /// As [`Db::apply`].
    pub fn delete(&self, table: Table, key: &str) -> Result<()> {
        self.transact(0, |t| delete(t, table, key))
    }

    /// Applies all of `ops` in order, or none of them. They survive a SIGKILL of this process.
    ///
    /// # Errors
    /// [`crate::types::Kind::ResourceExhausted`] when the disk is full, else [`crate::types::Kind::Internal`].
    pub fn apply(&self, ops: &[Op]) -> Result<()> {
        let size = ops
            .iter()
            .map(|op| if let Op::Put(_, _, v) = op { v.len() } else { 0 })
            .sum();
        self.transact(size, |t| {
            ops.iter().try_for_each(|op| match op {
                Op::Put(table, key, value) => put(t, *table, key, value),
                Op::Delete(table, key) => delete(t, *table, key),
            })
        })
    }

    /// As [`Db::apply`], and returns only when the changes, and all that came before them, survive a power cut.
    /// Waits for the disk: do not call it from an async task.
    ///
    /// # Errors
    /// As [`Db::apply`]. When the sync fails the changes are visible but perhaps not durable.
    pub fn apply_durable(&self, ops: &[Op]) -> Result<()> {
        self.apply(ops)?;
        self.sync()
    }

    /// Returns when all that was applied before survives a power cut. Waits for the disk.
    ///
    /// # Errors
    /// [`crate::types::Kind::Internal`] when the disk reports an error.
    pub fn sync(&self) -> Result<()> {
        self.0.log.sync_data().map_err(|e| {
            Error::internal(format!(
                "sync the log of the state database {}: {e}",
                self.0.path.display()
            ))
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`crate::types::Kind::Internal`] when the database cannot be read.
    pub fn get(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>> {
        let connection = self.connection();
        let read = || {
            connection
                .prepare_cached(&format!("SELECT value FROM {} WHERE key = ?1", table.name()))?
                .query_row(params![key], |row| row.get(0))
                .optional()
        };
        read().map_err(|e| self.failed("read", table.name(), &e))
    }

    /// All keys and values of a table, by key.
    ///
    /// # Errors
    /// [`crate::types::Kind::Internal`] when the database cannot be read.
    pub fn all(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>> {
        let connection = self.connection();
        let read = || {
            connection
                .prepare_cached(&format!("SELECT key, value FROM {} ORDER BY key", table.name()))?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()
        };
        read().map_err(|e| self.failed("read", table.name(), &e))
    }

    fn transact(
        &self,
        size: usize,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let mut connection = self.connection();
        let run = || {
            let transaction = connection.transaction()?;
            work(&transaction)?;
            transaction.commit()
        };
        let outcome = run();
        drop(connection);
        self.0.checkpointer.written(size);
        outcome.map_err(|e| self.failed("write", "a transaction", &e))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere rolled its transaction back; the connection itself stays usable.
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, verb: &str, what: &str, error: &rusqlite::Error) -> Error {
        schema::explain(&self.0.path, &format!("{verb} {what}"), error)
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.0.path).finish()
    }
}

fn put(t: &Transaction<'_>, table: Table, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    let name = table.name();
    t.prepare_cached(&format!(
        "INSERT INTO {name} (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    ))?
    .execute(params![key, value])
    .map(drop)
}

fn delete(t: &Transaction<'_>, table: Table, key: &str) -> rusqlite::Result<()> {
    t.prepare_cached(&format!("DELETE FROM {} WHERE key = ?1", table.name()))?
        .execute(params![key])
        .map(drop)
}
