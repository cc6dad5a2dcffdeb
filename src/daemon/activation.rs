//! The socket that a service manager opened for husk and keeps open while husk is restarted: whoever connects meanwhile
//! waits in its queue instead of being refused. It is not husk's to bind, to chmod or to remove.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::{AddressFamily, SocketType, sockopt};
use tracing::warn;

use crate::sys::activation::Passed;
use crate::types::error::{Context as _, Error, Result};

/// A socket to serve on.
#[derive(Debug)]
pub(super) struct Activated {
    /// It listens and does not block.
    pub(super) listener: UnixListener,
    /// Where, for people.
    pub(super) address: String,
}

/// The first of the descriptors passed that can be served on; the others are closed. `None` if none was passed.
///
/// # Errors
/// If some were passed and none can be: who made a socket for husk would wonder at another.
pub(super) fn socket(passed: Vec<Passed>, configured: &Path) -> Result<Option<Activated>> {
    let mut unfit = Vec::new();
    let mut chosen: Option<Activated> = None;
    for Passed { name, fd } in passed {
        if let Some(problem) = problem(fd.as_fd()) {
            unfit.push(format!("{name} {problem}"));
            continue;
        }
        if chosen.is_some() {
            unfit.push(format!("{name} is one too many"));
            continue;
        }
        let listener = UnixListener::from(fd);
        listener
            .set_nonblocking(true)
            .with_context(|| format!("make the socket {name} not block"))?;
        let address = address(&listener);
        chosen = Some(Activated { listener, address });
    }
    match &chosen {
        None if unfit.is_empty() => {}
        None => {
            return Err(Error::invalid(format!(
                "none of the descriptors that the service manager passed (LISTEN_FDS) is a Unix stream socket that \
                 listens: {}; see ListenStream= in husk.socket",
                unfit.join(", ")
            )));
        }
        Some(chosen) => {
            for what in unfit {
                warn!("a descriptor that the service manager passed is of no use and was closed: {what}");
            }
            if Path::new(&chosen.address) != configured {
                warn!(
                    passed = chosen.address, configured = %configured.display(),
                    "husk serves on the socket that the service manager passed, not on the configured one"
                );
            }
        }
    }
    Ok(chosen)
}

fn address(listener: &UnixListener) -> String {
    match listener.local_addr() {
        Ok(address) => address
            .as_pathname()
            .map_or_else(|| format!("{address:?}"), |path| path.display().to_string()),
        Err(e) => format!("an unknown address: {e}"),
    }
}

/// Why a descriptor cannot be served on, if so.
fn problem(fd: std::os::fd::BorrowedFd<'_>) -> Option<&'static str> {
    let family = match sockopt::socket_domain(fd) {
        Ok(family) => family,
        Err(_) => return Some("is no socket"),
    };
    if family != AddressFamily::UNIX {
        Some("is a socket of another family than Unix")
    } else if sockopt::socket_type(fd) != Ok(SocketType::STREAM) {
        Some("is a Unix socket, but not of the stream type")
    } else if sockopt::socket_acceptconn(fd) != Ok(true) {
        Some("is a Unix stream socket, but does not listen")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn passed(name: &str, fd: impl Into<OwnedFd>) -> Passed {
        Passed {
            name: name.into(),
            fd: fd.into(),
        }
    }

    fn listening(dir: &tempfile::TempDir, name: &str) -> (std::path::PathBuf, UnixListener) {
        let path = dir.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        (path, listener)
    }

    #[test]
    fn the_first_socket_that_fits_is_served_on() {
        let dir = tempfile::tempdir().unwrap();
        let (first, one) = listening(&dir, "one");
        let (_, two) = listening(&dir, "two");
        let all = vec![
            passed("file", std::fs::File::open("/dev/null").unwrap()),
            passed("one", one),
            passed("two", two),
        ];
        let activated = socket(all, &first).unwrap().unwrap();
        assert_eq!(activated.address, first.display().to_string());
        let _client = UnixStream::connect(&first).unwrap();
        activated.listener.accept().unwrap();
        // Nobody else waits, and this does not either.
        let error = activated.listener.accept().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        UnixStream::connect(dir.path().join("two")).unwrap_err();
    }

    #[test]
    fn without_descriptors_there_is_no_socket() {
        assert!(socket(Vec::new(), Path::new("/run/x")).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_served_on_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let all = vec![
            passed("file", std::fs::File::open("/dev/null").unwrap()),
            passed("tcp", std::net::TcpListener::bind("127.0.0.1:0").unwrap()),
            passed("datagram", UnixDatagram::bind(dir.path().join("d")).unwrap()),
            passed("connected", UnixStream::pair().unwrap().0),
        ];
        let error = socket(all, Path::new("/run/x")).unwrap_err().to_string();
        for words in [
            "file is no socket",
            "tcp is a socket of another family",
            "datagram is a Unix socket, but not",
            "connected is a Unix stream socket, but does not listen",
            "husk.socket",
        ] {
            assert!(error.contains(words), "{error}");
        }
    }
}
