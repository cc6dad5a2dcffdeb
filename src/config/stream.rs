//! `[stream]`: the server that exec, attach and port forwarding go over.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[stream]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Address to listen on. Whoever comes needs a one-time token, but what then goes over the wire is not encrypted without
    /// a certificate.
    pub address: IpAddr,
    /// Port to listen on; 0 takes a free one at each start.
    pub port: u16,
    /// Seconds without a byte in either direction after which a session is closed; 0 never closes one.
    pub idle_timeout_secs: u64,
    /// Seconds a client may take to open the streams it was given an address for.
    pub creation_timeout_secs: u64,
    /// Certificate of the server and those that signed it (PEM), read at start; empty for no encryption.
    pub tls_cert: PathBuf,
    /// Its key (PEM).
    pub tls_key: PathBuf,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            idle_timeout_secs: 4 * 60 * 60,
            creation_timeout_secs: 30,
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}
