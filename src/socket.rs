//! Unix sockets at a path, for clients and plugins on the node.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use crate::types::error::{Context, Error, Result};

/// Listens at `path`, with the permission bits `mode`. What a daemon that was killed left there goes; directories that are
/// missing are made, and closed to others if the socket is.
///
/// # Errors
/// `FailedPrecondition` if somebody serves that socket; whatever keeps it from being made.
pub async fn listen(path: &Path, mode: u32) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(if mode & 0o077 == 0 { 0o700 } else { 0o755 })
            .create(dir)
            .with_context(|| format!("create directory {}", dir.display()))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::precondition(format!(
            "socket {}: somebody else is serving it; stop them, or give husk another path",
            path.display()
        )));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::internal(format!(
                "remove old socket {}: {e}",
                path.display()
            )));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set mode of {}", path.display()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("made/for/it/husk.sock");
        let first = listen(&path, 0o600).await.unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let taken = listen(&path, 0o600).await.unwrap_err();
        assert!(
            taken.message().contains("somebody else") && taken.message().contains("husk.sock"),
            "{taken}"
        );
        drop(first);
        let second = listen(&path, 0o660).await.unwrap();
        assert_eq!(mode(&path), 0o660);
        // It is there for clients, under that path.
        let client = UnixStream::connect(&path).await.unwrap();
        second.accept().await.unwrap();
        drop(client);
        // What is no socket and cannot be taken away is told by its path.
        let directory = root.path().join("directory");
        std::fs::create_dir(&directory).unwrap();
        let error = listen(&directory, 0o600).await.unwrap_err();
        assert!(error.message().contains("remove old socket"), "{error}");
    }
}
