//! A layer around the gRPC server that answers a call when its client's deadline has passed.
//!
//! tonic does so by itself, but with the code CANCELLED: a client that hears that before its own clock strikes takes it
//! for something else. What the call has begun goes on (see `pod`), whatever the client hears.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tower_layer::Layer;
use tower_service::Service;

/// The layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deadlines;

impl<S> Layer<S> for Deadlines {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner }
    }
}

/// A service whose calls end at their clients' deadlines.
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for Limited<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Default + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let limit = limit(request.headers());
        // tonic sets its own clock after this call, so this one strikes first.
        let clock = limit.map(tokio::time::sleep);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (Some(limit), Some(clock)) = (limit, clock) else {
                return answer.await;
            };
            tokio::select! {
                biased;
                answer = answer => answer,
                () = clock => {
                    let message = format!("the client's deadline of {limit:?} has passed; what was begun goes on");
                    Ok(Status::deadline_exceeded(message).into_http())
                }
            }
        })
    }
}

/// The time that a client leaves: `grpc-timeout`, at most eight digits and a unit. What makes no sense is no limit.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use super::*;

    fn headers(timeout: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", timeout.parse().unwrap());
        headers
    }

    #[test]
    fn limits_are_read() {
        for (text, expected) in [
            ("1m", Some(Duration::from_millis(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0n", Some(Duration::ZERO)),
            ("2M", Some(Duration::from_secs(120))),
            ("15S", Some(Duration::from_secs(15))),
            ("7u", Some(Duration::from_micros(7))),
            ("m", None),
            ("", None),
            ("1", None),
            ("1x", None),
            ("-1S", None),
            ("999999999S", None),
            ("1 S", None),
        ] {
            assert_eq!(limit(&headers(text)), expected, "{text:?}");
        }
        assert_eq!(limit(&HeaderMap::new()), None);
    }

    /// Never answers, or at once.
    struct Inner(bool);

    impl Service<Request<()>> for Inner {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            let answers = self.0;
            Box::pin(async move {
                match answers {
                    true => Ok(Response::new("done".to_owned())),
                    false => std::future::pending().await,
                }
            })
        }
    }

    async fn answer(answers: bool, timeout: &str) -> Response<String> {
        let mut request = Request::new(());
        *request.headers_mut() = headers(timeout);
        Deadlines.layer(Inner(answers)).call(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_deadline_that_passes_is_told_as_one() {
        let late = answer(false, "1m").await;
        assert_eq!(late.headers().get("grpc-status").unwrap(), "4");
        let in_time = answer(true, "0n").await;
        assert_eq!(in_time.body(), "done");
    }
}
