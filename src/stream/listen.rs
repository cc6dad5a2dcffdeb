//! The accept loop: connections before anybody knows what they want.
//!
//! A connection that has not sent its request yet is worth little, and there is a bound on how many there are and how
//! long each may take; those that became a session are counted apart ([`super::http`]).

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::socket::{Tcp, Wire};
use super::{Shared, http};

/// Most connections without a session at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a handshake may take, and a request's head to arrive, and how long a connection without a request is kept.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Pause after an accept that failed for want of something, such as descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Idle seconds after which the kernel asks whether a client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Accepts for ever.
pub async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    serve(tcp, shared).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "a streaming connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves until the connection is closed, or taken over by a session.
async fn serve(tcp: TcpStream, shared: Arc<Shared>) {
    if let Err(error) = set_options(&tcp) {
        debug!(%error, "set options of a streaming connection");
    }
    let tcp = Tcp::new(tcp);
    let wire = match &shared.tls {
        None => Wire::Plain(tcp),
        Some(tls) => match tokio::time::timeout(HEAD_LIMIT, tls.accept(tcp)).await {
            Ok(Ok(tls)) => Wire::Tls(Box::new(tls)),
            Ok(Err(error)) => return debug!(%error, "a streaming connection did not become an encrypted one"),
            Err(_) => return debug!("a streaming connection did not become an encrypted one in time"),
        },
    };
    let service = service_fn(move |request| http::answer(Arc::clone(&shared), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(%error, "a streaming connection ended");
    }
}

fn set_options(tcp: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    // Keystrokes and their echo must not wait for more.
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE / 4)?;
    Ok(())
}
