//! Requests: from a path and headers to a session.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, StatusCode, Uri};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, warn};

use super::activity::Activity;
use super::negotiate::{ACCEPTED_PROTOCOLS, Agreement, Refusal, Transport, negotiate};
use super::port_forward::{self, MAX_PORTS};
use super::remote::Remote;
use super::socket::Socket;
use super::websocket::Channels;
use super::{Request, Shared, session, spdy, tunnel};
use crate::pod::interactive::Streams;
use crate::types::error::{Error, Result};

type Answer = Response<Full<Bytes>>;

/// Answers a request, and starts the session it becomes.
pub async fn answer(
    shared: Arc<Shared>,
    mut request: hyper::Request<Incoming>,
) -> std::result::Result<Answer, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Ok(refuse(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST"));
    }
    let path = request.uri().path().to_owned();
    let Some((kind, token)) = path.trim_start_matches('/').split_once('/') else {
        return Ok(unknown());
    };
    // The token is used up only by a request that can become a session.
    match shared.tokens.look(token, |known| known.path() == kind) {
        Some(true) => {}
        _ => return Ok(unknown()),
    }
    let agreement = match negotiate(request.headers(), kind == "portforward") {
        Ok(agreement) => agreement,
        Err(refusal) => return Ok(refuse_protocol(&refusal)),
    };
    let asked = match ports_of(request.uri()) {
        Ok(asked) => asked,
        Err(error) => return Ok(refuse(StatusCode::BAD_REQUEST, error.message())),
    };
    if let Transport::Channels(_) = agreement.transport {
        let named = shared.tokens.look(token, |known| match known {
            Request::PortForward { ports, .. } if ports.is_empty() => asked.len(),
            Request::PortForward { ports, .. } => ports.len(),
            // Nobody names any.
            Request::Exec { .. } | Request::Attach { .. } => 1,
        });
        if named.is_some_and(|named| !(1..=MAX_PORTS).contains(&named)) {
            let message = format!("name 1 to {MAX_PORTS} ports in the query, as in ?port=80");
            return Ok(refuse(StatusCode::BAD_REQUEST, &message));
        }
    }
    let Ok(permit) = Arc::clone(&shared.sessions).try_acquire_owned() else {
        warn!("a streaming request was refused: as many sessions as there may be are open");
        let mut busy = refuse(StatusCode::SERVICE_UNAVAILABLE, "too many sessions are open");
        busy.headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return Ok(busy);
    };
    let Some(mut what) = shared.tokens.take(token) else {
        return Ok(unknown());
    };
    if let Request::PortForward { ports, .. } = &mut what
        && ports.is_empty()
    {
        *ports = asked;
    }
    let answer = switch(&agreement);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return debug!(%error, "a streaming request was not upgraded"),
        };
        match Socket::from_upgraded(upgraded) {
            Ok(socket) => run(shared, what, agreement, socket, permit).await,
            Err(error) => warn!(%error, "a streaming session could not start"),
        }
    });
    Ok(answer)
}

/// Runs a session to its end, or until nothing has happened for too long.
async fn run(
    shared: Arc<Shared>,
    what: Request,
    agreement: Agreement,
    socket: Socket,
    permit: OwnedSemaphorePermit,
) {
    let activity = Activity::start();
    let limit = shared.idle_timeout;
    let session = session(&shared, what, &agreement, socket, Arc::clone(&activity));
    let idle = async {
        if limit.is_zero() {
            std::future::pending::<()>().await;
        }
        activity.idle(limit).await;
    };
    tokio::select! {
        outcome = session => if let Err(error) = outcome {
            debug!(%error, "a streaming session did not start");
        },
        () = idle => debug!("a streaming session was idle for {} s and is closed", limit.as_secs()),
    }
    drop(permit);
}

async fn session(
    shared: &Shared,
    what: Request,
    agreement: &Agreement,
    socket: Socket,
    activity: Arc<Activity>,
) -> Result<()> {
    let runtime = Arc::clone(&shared.runtime);
    match what {
        Request::Exec { container, cmd, want } => {
            let remote = remote(shared, want, agreement, socket, activity).await?;
            session::exec(runtime, container, cmd, want, remote).await;
        }
        Request::Attach { container, want } => {
            let remote = remote(shared, want, agreement, socket, activity).await?;
            session::attach(runtime, container, want, remote).await;
        }
        Request::PortForward { pod, ports } => match agreement.transport {
            Transport::Channels(codec) => {
                let readable = port_forward::readable(ports.len());
                let channels = Channels::start(socket, codec, &readable, activity).await;
                port_forward::over_websocket(runtime, pod, ports, channels).await;
            }
            Transport::Spdy | Transport::Tunnel => {
                let connection = over_spdy(agreement, socket, activity).await?;
                port_forward::over_spdy(runtime, pod, connection, shared.creation_timeout).await;
            }
        },
    }
    Ok(())
}

async fn remote(
    shared: &Shared,
    want: Streams,
    agreement: &Agreement,
    socket: Socket,
    activity: Arc<Activity>,
) -> Result<Remote> {
    let version = agreement.version;
    if let Transport::Channels(codec) = agreement.transport {
        let channels = Channels::start(socket, codec, &Remote::readable(want), activity).await;
        return Ok(Remote::over_websocket(channels, want, version).await);
    }
    let connection = over_spdy(agreement, socket, activity).await?;
    Remote::over_spdy(connection, want, version, shared.creation_timeout).await
}

async fn over_spdy(
    agreement: &Agreement,
    socket: Socket,
    activity: Arc<Activity>,
) -> Result<spdy::Connection> {
    let hung_up = socket.hung_up();
    let connection = match agreement.transport {
        Transport::Tunnel => spdy::Connection::start(tunnel::open(socket).await, hung_up, activity),
        _ => spdy::Connection::start(socket, hung_up, activity),
    };
    connection.map_err(|e| Error::internal(e.to_string()))
}

/// Ports named in the query, as in `?port=80&port=443,8080`.
fn ports_of(uri: &Uri) -> Result<Vec<u16>> {
    let values = uri.query().unwrap_or_default().split('&');
    values
        .filter_map(|pair| pair.strip_prefix("port="))
        // A comma may come encoded.
        .flat_map(|value| {
            value
                .split([','])
                .flat_map(|v| v.split("%2C"))
                .collect::<Vec<_>>()
        })
        .map(|port| match port.parse() {
            Ok(port @ 1..) => Ok(port),
            _ => Err(Error::invalid(format!("{port:?} is no port"))),
        })
        .collect()
}

fn switch(agreement: &Agreement) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in &agreement.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().append(*name, value);
        }
    }
    answer
}

fn unknown() -> Answer {
    refuse(
        StatusCode::NOT_FOUND,
        "there is no such address: each is good for one use within a minute",
    )
}

fn refuse_protocol(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::NoUpgrade(why) => refuse(
            StatusCode::BAD_REQUEST,
            &format!("the request cannot be upgraded: {why}"),
        ),
        Refusal::Versions(known) => {
            let message = format!(
                "none of the protocols asked for is known here, but {}",
                known.join(", ")
            );
            let mut answer = refuse(StatusCode::FORBIDDEN, &message);
            for name in known {
                answer
                    .headers_mut()
                    .append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
            }
            answer
        }
    }
}

/// A refusal ends the connection: its client has nothing else to ask.
fn refuse(status: StatusCode, message: &str) -> Answer {
    let mut answer = Response::new(Full::from(format!("{message}\n")));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ports_come_one_by_one_or_in_lists() {
        let ports = |query: &str| ports_of(&format!("/portforward/x{query}").parse().unwrap());
        assert!(ports("").unwrap().is_empty());
        assert_eq!(ports("?port=80&other=1&port=443,8080").unwrap(), [80, 443, 8080]);
        assert_eq!(ports("?port=80%2C443").unwrap(), [80, 443]);
        for bad in ["?port=", "?port=0", "?port=65536", "?port=80,", "?port=x"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
