//! Kernel settings under /proc/sys/net.

use std::fs;

use crate::types::Result;
use crate::types::error::Context;

/// Sets `key` (with slashes, below `net/`) to `value` unless it has it already. `true` if it was changed.
///
/// # Errors
/// It cannot be read or written: no such setting, or /proc/sys is read-only.
pub fn set(key: &str, value: &str) -> Result<bool> {
    let path = format!("/proc/sys/net/{key}");
    let now = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    if now.trim() == value {
        return Ok(false);
    }
    fs::write(&path, value).with_context(|| format!("set {path} to {value}"))?;
    Ok(true)
}

/// Lets the node forward packets. It stays so when husk is gone: others may have come to rely on it.
///
/// # Errors
/// As [`set`].
pub fn enable_forwarding(ipv6: bool) -> Result<()> {
    let keys: &[&str] = if ipv6 {
        &["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
    } else {
        &["ipv4/ip_forward"]
    };
    for key in keys {
        if set(key, "1")? {
            tracing::info!("set net/{key} to 1, so that pods are reachable and can reach out");
        }
    }
    Ok(())
}
