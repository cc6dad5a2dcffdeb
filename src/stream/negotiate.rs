//! What a request wants to become: which protocol, in which version.
//!
//! Pure: from headers and what its address allows to an answer.

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::remote::Version;
use super::status::Format;
use super::websocket::Codec;

/// Header of SPDY requests that names versions.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// Header of the answer to a request of versions that are not spoken here.
pub const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";
/// The port forwarding protocol.
const PORT_FORWARD: &str = "portforward.k8s.io";
/// The same, within SPDY within a WebSocket.
const PORT_FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Exec and attach over SPDY, best first.
const REMOTE_SPDY: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// Exec and attach over a WebSocket.
const REMOTE_WEBSOCKET: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// Port forwarding over a WebSocket.
const PORTS_WEBSOCKET: [&str; 3] = [
    PORT_FORWARD_TUNNEL,
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
];

/// What carries the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// SPDY/3.1 over the connection.
    Spdy,
    /// Channels over a WebSocket.
    Channels(Codec),
    /// SPDY/3.1 over the messages of a WebSocket.
    Tunnel,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// What carries the streams.
    pub transport: Transport,
    /// How exec and attach speak.
    pub version: Version,
    /// Headers of the answer.
    pub headers: Vec<(&'static str, String)>,
}

/// Why a request cannot become a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It does not ask to be upgraded, or in no way we know.
    NoUpgrade(String),
    /// It speaks other versions only than these.
    Versions(Vec<&'static str>),
}

/// Agrees on a protocol for exec and attach, or with `ports` for port forwarding.
///
/// # Errors
/// See [`Refusal`].
pub fn negotiate(headers: &HeaderMap, ports: bool) -> Result<Agreement, Refusal> {
    if !names(headers, CONNECTION.as_str(), "upgrade") {
        return Err(no_upgrade("it must ask for a connection upgrade"));
    }
    if names(headers, UPGRADE.as_str(), "websocket") {
        websocket(headers, ports)
    } else if names(headers, UPGRADE.as_str(), "SPDY/3.1") {
        spdy(headers, ports)
    } else {
        Err(no_upgrade("it must ask for an upgrade to SPDY/3.1 or websocket"))
    }
}

fn spdy(headers: &HeaderMap, ports: bool) -> Result<Agreement, Refusal> {
    let known: &[&str] = if ports { &[PORT_FORWARD] } else { &REMOTE_SPDY };
    let asked = list(headers, STREAM_PROTOCOL);
    let mut answer = vec![
        ("connection", "Upgrade".to_owned()),
        ("upgrade", "SPDY/3.1".to_owned()),
    ];
    // Clients of Kubernetes 1.0 do not ask, and speak the first version.
    let name = if asked.is_empty() {
        "channel.k8s.io"
    } else {
        let name = choose(&asked, known)?;
        answer.push((STREAM_PROTOCOL, name.to_owned()));
        name
    };
    Ok(Agreement {
        transport: Transport::Spdy,
        version: version(name),
        headers: answer,
    })
}

fn websocket(headers: &HeaderMap, ports: bool) -> Result<Agreement, Refusal> {
    if headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
        return Err(no_upgrade("it must speak version 13 of the WebSocket protocol"));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or_else(|| no_upgrade("it has no Sec-WebSocket-Key"))?;
    let known: &[&str] = if ports {
        &PORTS_WEBSOCKET
    } else {
        &REMOTE_WEBSOCKET
    };
    let mut answer = vec![
        ("connection", "Upgrade".to_owned()),
        ("upgrade", "websocket".to_owned()),
        ("sec-websocket-accept", derive_accept_key(key.as_bytes())),
    ];
    let asked = list(headers, SEC_WEBSOCKET_PROTOCOL.as_str());
    let name = if asked.is_empty() {
        "channel.k8s.io"
    } else {
        let name = choose(&asked, known)?;
        answer.push(("sec-websocket-protocol", name.to_owned()));
        name
    };
    let transport = if name == PORT_FORWARD_TUNNEL {
        Transport::Tunnel
    } else {
        Transport::Channels(Codec {
            base64: name.contains("base64."),
            closes: name.starts_with("v5."),
        })
    };
    Ok(Agreement {
        transport,
        version: version(name),
        headers: answer,
    })
}

fn version(name: &str) -> Version {
    let json = name.starts_with("v4.") || name.starts_with("v5.");
    Version {
        format: if json { Format::Json } else { Format::Text },
        resizes: json || name.starts_with("v3."),
    }
}

fn no_upgrade(why: &str) -> Refusal {
    Refusal::NoUpgrade(why.to_owned())
}

/// The first of the client's that is known: it puts the one it likes best first.
fn choose(asked: &[&str], known: &[&'static str]) -> Result<&'static str, Refusal> {
    asked
        .iter()
        .find_map(|asked| known.iter().find(|known| known == &asked).copied())
        .ok_or_else(|| Refusal::Versions(known.to_vec()))
}

/// All members of a header that may come several times, each a list.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .collect()
}

fn names(headers: &HeaderMap, name: &str, member: &str) -> bool {
    list(headers, name).iter().any(|m| m.eq_ignore_ascii_case(member))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ask(headers: &[(&'static str, &str)], ports: bool) -> Result<Agreement, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        negotiate(&map, ports)
    }

    fn spdy_asking(protocols: &[&str], ports: bool) -> Result<Agreement, Refusal> {
        let mut headers = vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        headers.extend(protocols.iter().map(|p| (STREAM_PROTOCOL, *p)));
        ask(&headers, ports)
    }

    fn websocket_asking(protocols: &str, ports: bool) -> Result<Agreement, Refusal> {
        let mut headers = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            // The example of RFC 6455, section 1.3.
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        if !protocols.is_empty() {
            headers.push(("sec-websocket-protocol", protocols));
        }
        ask(&headers, ports)
    }

    fn answer(agreement: &Agreement, name: &str) -> Option<String> {
        agreement
            .headers
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.clone())
    }

    #[test]
    fn spdy_takes_the_first_version_both_know() {
        let all = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"];
        let agreed = spdy_asking(&all, false).unwrap();
        assert_eq!(agreed.transport, Transport::Spdy);
        assert_eq!(agreed.version, version("v4.channel.k8s.io"));
        assert_eq!(answer(&agreed, STREAM_PROTOCOL).unwrap(), "v4.channel.k8s.io");
        let old = spdy_asking(&[], false).unwrap();
        assert_eq!((old.version.format, old.version.resizes), (Format::Text, false));
        assert_eq!(answer(&old, STREAM_PROTOCOL), None);
        for (name, resizes) in [("v3.channel.k8s.io", true), ("v2.channel.k8s.io", false)] {
            let agreed = spdy_asking(&[name], false).unwrap();
            assert_eq!(
                (agreed.version.format, agreed.version.resizes),
                (Format::Text, resizes)
            );
        }
        let refused = spdy_asking(&["v9.channel.k8s.io"], false).unwrap_err();
        assert_eq!(refused, Refusal::Versions(REMOTE_SPDY.to_vec()));
        assert!(spdy_asking(&[PORT_FORWARD], true).is_ok());
        assert!(spdy_asking(&[PORT_FORWARD], false).is_err());
    }

    #[test]
    fn a_websocket_is_greeted_as_the_standard_says() {
        let agreed = websocket_asking("v9.channel.k8s.io, v5.channel.k8s.io", false).unwrap();
        assert_eq!(
            answer(&agreed, "sec-websocket-accept").unwrap(),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(
            answer(&agreed, "sec-websocket-protocol").unwrap(),
            "v5.channel.k8s.io"
        );
        let codec = |base64, closes| Transport::Channels(Codec { base64, closes });
        assert_eq!(agreed.transport, codec(false, true));
        for (name, transport, format) in [
            ("v4.channel.k8s.io", codec(false, false), Format::Json),
            ("v4.base64.channel.k8s.io", codec(true, false), Format::Json),
            ("channel.k8s.io", codec(false, false), Format::Text),
            ("base64.channel.k8s.io", codec(true, false), Format::Text),
            ("", codec(false, false), Format::Text),
        ] {
            let agreed = websocket_asking(name, false).unwrap();
            assert_eq!(
                (agreed.transport, agreed.version.format),
                (transport, format),
                "{name}"
            );
        }
        assert!(websocket_asking("v3.channel.k8s.io", false).is_err());
        let tunnel = websocket_asking(PORT_FORWARD_TUNNEL, true).unwrap();
        assert_eq!(tunnel.transport, Transport::Tunnel);
        assert!(websocket_asking(PORT_FORWARD_TUNNEL, false).is_err());
        assert!(websocket_asking("v5.channel.k8s.io", true).is_err());
    }

    #[test]
    fn what_asks_for_nothing_gets_nothing() {
        for headers in [
            &[][..],
            &[("upgrade", "SPDY/3.1")],
            &[("connection", "upgrade")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket")],
            &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
            ],
        ] {
            let refused = ask(headers, false).unwrap_err();
            assert!(matches!(refused, Refusal::NoUpgrade(_)), "{headers:?}");
        }
    }
}
