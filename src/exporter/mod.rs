//! The Prometheus endpoint: `GET /metrics` on an address or a unix socket of its own.
//!
//! Plain HTTP and nothing else; whoever can reach the address can read the names of all pods, so it is off unless
//! configured. A page is made as the client takes it, one family after the other. Bounded: connections, header size and
//! time, and how long a client may leave a piece of the page untaken.

mod aliases;
mod listen;
mod operations;
mod page;
mod process;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

use crate::stats::Stats;
use crate::stats::metrics::text::CONTENT_TYPE;
use crate::types::error::Result;

pub use listen::Address;
use listen::{Listener, Stream};

/// Connections at once.
const CONNECTIONS: usize = 16;
/// How long a client may take to send a request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long it may leave a piece of the page untaken.
const STALLED: Duration = Duration::from_secs(10);
/// Bytes of a request's headers.
const HEADERS: usize = 16 << 10;
/// Pieces of a page made ahead of the client.
const AHEAD: usize = 2;

type Body = BoxBody<Bytes, Infallible>;

/// The endpoint. Dropped, it is gone.
pub struct Exporter {
    task: tokio::task::JoinHandle<()>,
    address: Address,
}

impl Exporter {
    /// Listens, and answers from then on.
    ///
    /// # Errors
    /// The address is none or is taken.
    pub async fn start(address: &str, stats: Arc<Stats>) -> Result<Self> {
        let address = Address::parse(address)?;
        let listener = Listener::bind(&address).await?;
        Ok(Self {
            task: tokio::spawn(accept(listener, stats)),
            address,
        })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
        self.address.remove();
    }
}

async fn accept(listener: Listener, stats: Arc<Stats>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: nothing gets better by asking again at once.
                warn!(%error, "metrics: a connection could not be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            debug!("metrics: too many connections; one was refused");
            continue;
        };
        let stats = Arc::clone(&stats);
        tokio::spawn(async move {
            let _place = place;
            serve(stream, stats).await;
        });
    }
}

async fn serve(stream: Stream, stats: Arc<Stats>) {
    let service = service_fn(move |request| {
        let stats = Arc::clone(&stats);
        async move { Ok::<_, Infallible>(answer(&request, stats).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "metrics: a connection ended early");
    }
}

async fn answer(request: &Request<Incoming>, stats: Arc<Stats>) -> Response<Body> {
    if request.uri().path() != "/metrics" {
        return plain(
            StatusCode::NOT_FOUND,
            "this server has /metrics and nothing else\n",
        );
    }
    if *request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(page::write(stats, Pieces(sender)));
    let frames = ReceiverStream::new(receiver).map(|piece| Ok(Frame::data(piece)));
    let mut response = Response::new(StreamBody::new(frames).boxed());
    let kind = header::HeaderValue::from_static(CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *response.status_mut() = status;
    response
}

/// Takes the page piece by piece.
struct Pieces(mpsc::Sender<Bytes>);

impl Pieces {
    /// Hands over what is in `text` and empties it. False if the client has gone or takes nothing.
    async fn send(&self, text: &mut String) -> bool {
        if text.is_empty() {
            return true;
        }
        let piece = Bytes::from(std::mem::take(text));
        matches!(
            tokio::time::timeout(STALLED, self.0.send(piece)).await,
            Ok(Ok(()))
        )
    }
}
