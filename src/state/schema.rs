//! The file itself: whose it is, which version it has, how it is opened and what its errors mean.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};
use rustix::fs::FlockOperation;

use crate::types::error::{Context as _, Error, Kind, Result};

/// Marks a SQLite file as husk's: `husk` in ASCII.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"husk");

/// What takes the schema from version *n* to *n + 1*, by *n*. Never change an entry that was released: append.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE images     (key TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE layers     (key TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE pods       (key TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE containers (key TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE networks   (key TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE meta       (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"];
/// The version this husk writes.
const VERSION: i64 = MIGRATIONS.len() as i64;

/// Takes the lock that keeps a second daemon out.
pub(super) fn lock(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .with_context(|| format!("create the directory of the state database {}", parent.display()))?;
    }
    let name = sibling(path, "-lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .with_context(|| format!("create the lock of the state database {}", name.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
        Error::precondition(format!(
            "lock the state database {}: {e}; another husk runs on this root: stop it or use another --root",
            path.display()
        ))
    })?;
    Ok(file)
}

/// Opens the database, checks that it is ours and whole, and migrates it.
pub(super) fn open(path: &Path) -> Result<Connection> {
    // SQLite would create the file with the umask's mode, and its companions with the mode of the file.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create the state database {}", path.display()))?;
    let mut connection = connect(path).map_err(|e| explain(path, "open", &e))?;
    check_owner(path, &connection)?;
    check_whole(path, &connection)?;
    migrate(path, &mut connection)?;
    Ok(connection)
}

/// A connection with the settings that both the writer and the checkpointer need.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Left to the checkpointer: SQLite would do it inside somebody's commit, waiting for the disk.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(connection)
}

/// The write-ahead log as a file of its own. SQLite keeps no POSIX locks on it, so closing this is harmless.
pub(super) fn open_log(path: &Path) -> Result<File> {
    let name = sibling(path, "-wal");
    let log = File::open(&name)
        .with_context(|| format!("open the log of the state database {}", name.display()))?;
    // Once: the names of database and log must be on disk for any later sync of the log to mean something.
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|d| d.sync_all())
        .with_context(|| format!("sync the directory {}", parent.display()))?;
    Ok(log)
}

fn check_owner(path: &Path, connection: &Connection) -> Result<()> {
    let read = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(|e| explain(path, "read", &e))
    };
    let (id, version) = (read("application_id")?, read("user_version")?);
    if id != i64::from(APPLICATION_ID) && !is_empty(path, connection)? {
        return Err(Error::precondition(format!(
            "{} is the database of another program (application id {id:#x}); move it away or use another --root",
            path.display()
        )));
    }
    if version > VERSION {
        return Err(Error::precondition(format!(
            "the state database {} has schema {version}, written by a newer husk; this one knows up to \
             {VERSION}: run the newer husk, or move the file away and lose what it knows of pods and images",
            path.display()
        )));
    }
    Ok(())
}

fn is_empty(path: &Path, connection: &Connection) -> Result<bool> {
    connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })
        .map(|n| n == 0)
        .map_err(|e| explain(path, "read", &e))
}

fn check_whole(path: &Path, connection: &Connection) -> Result<()> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| explain(path, "check", &e))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(damaged(path, &verdict))
    }
}

fn migrate(path: &Path, connection: &mut Connection) -> Result<()> {
    let mut run = || {
        let transaction = connection.transaction()?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for step in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(step)?;
        }
        if version < VERSION {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()
    };
    run().map_err(|e| explain(path, "bring the schema up to date of", &e))
}

/// Turns a database error into one that says what to do.
pub(super) fn explain(path: &Path, action: &str, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::precondition(format!(
            "{action} the state database {}: it is not a SQLite database; move it away or use another --root",
            path.display()
        )),
        Some(ErrorCode::DatabaseCorrupt) => damaged(path, &format!("{action}: {error}")),
        Some(ErrorCode::DiskFull) => Error::new(
            Kind::ResourceExhausted,
            format!(
                "{action} in the state database {}: the disk is full",
                path.display()
            ),
        ),
        _ => Error::internal(format!(
            "{action} in the state database {}: {error}",
            path.display()
        )),
    }
}

fn damaged(path: &Path, detail: &str) -> Error {
    Error::precondition(format!(
        "the state database {} is damaged ({detail}); move it and its -wal file away and start again: pods that run \
         are then unknown to husk, and images must be pulled again",
        path.display()
    ))
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
