//! SPDY/3.1, the server's half of what Kubernetes' clients speak.
//!
//! [`frame`] and [`header`] turn bytes into frames and headers and know nothing of I/O. [`connection`] reads and writes
//! them over any pair of byte streams; [`stream`] is what one stream looks like from inside. Must not know what the
//! streams are for.
//!
//! Two things differ from the letter of the specification, since all Kubernetes' clients share one library that does:
//!
//! - It never announces that it has consumed what it was sent. So windows bind us from the moment that a peer sends a
//!   WINDOW_UPDATE or a SETTINGS frame with a window; until then the connection's own flow control has to do.
//! - It sends without regard to our windows. So data beyond a window is no error: we stop reading the connection until
//!   there is room. Whoever does regard them is told what was consumed.

pub mod connection;
mod dictionary;
pub mod frame;
pub mod header;
pub mod stream;
#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use header::Headers;
pub use stream::{Closed, Stream};
