//! A layer around the gRPC server that counts, times and traces every call, whatever service it belongs to.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument;

use super::operations::{self, Kind, OK};
use super::traces;

/// The layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calls;

impl<S> Layer<S> for Calls {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner }
    }
}

/// A service whose calls are observed.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for Observed<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let name = request.uri().path().trim_start_matches('/');
        let running = operations::begin(Kind::Call, name);
        let span = traces::span(name, request.headers());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match &span {
                Some(span) => answer.instrument(span.clone()).await,
                None => answer.await,
            };
            let code = answer.as_ref().map_or("UNKNOWN", outcome);
            if let Some(span) = span {
                traces::outcome(&span, code, code == OK);
            }
            running.end(code);
            answer
        })
    }
}

/// An answer that is an error has its code in the headers. Streams that fail later have begun well.
fn outcome<B>(response: &Response<B>) -> &'static str {
    let code = response.headers().get("grpc-status").map(|v| v.as_bytes());
    match code {
        None | Some(b"0") => OK,
        Some(code) => name(code),
    }
}

/// gRPC's names of its codes.
fn name(code: &[u8]) -> &'static str {
    const NAMES: [&str; 17] = [
        OK,
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    std::str::from_utf8(code)
        .ok()
        .and_then(|code| code.parse::<usize>().ok())
        .and_then(|code| NAMES.get(code))
        .copied()
        .unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_names() {
        assert_eq!(
            (name(b"5"), name(b"16"), name(b"17"), name(b"x")),
            ("NOT_FOUND", "UNAUTHENTICATED", "UNKNOWN", "UNKNOWN")
        );
        assert_eq!(outcome(&Response::new(())), OK);
        let mut failed = Response::new(());
        failed
            .headers_mut()
            .insert("grpc-status", http::HeaderValue::from_static("12"));
        assert_eq!(outcome(&failed), "UNIMPLEMENTED");
    }
}
