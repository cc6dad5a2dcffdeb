//! `[stream]`: the server that exec, attach and port forwarding go over.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// `[stream]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Address to listen on. Whoever comes needs a one-time token, but what then goes over the wire is not encrypted.
    pub address: IpAddr,
    /// Port to listen on; 0 takes a free one at each start.
    pub port: u16,
    /// Seconds without a byte in either direction after which a session is closed; 0 never closes one.
    pub idle_timeout_secs: u64,
    /// Seconds a client may take to open the streams it was given an address for.
    pub creation_timeout_secs: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            idle_timeout_secs: 4 * 60 * 60,
            creation_timeout_secs: 30,
        }
    }
}
