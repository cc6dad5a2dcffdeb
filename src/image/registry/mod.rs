//! The registry client: everything between a reference and verified bytes.
//!
//! [`session::Registries`] is what all pulls share; a [`session::Session`] is one pull's view of one registry. Inwards:
//!
//! ```text
//! fetch, layer   what is asked for, and the check of what came
//!   tries        which host next, and when again
//!     endpoint   one host: scheme, login, redirects          token, auth, hosts
//!       client   one exchange, with a clock against silence
//!         connect   name, TCP, proxy, TLS                    tls
//! ```
//!
//! Nothing here knows where content is stored.

mod auth;
mod client;
mod connect;
mod endpoint;
mod failure;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
pub mod hosts;
mod hosts_file;
mod layer;
mod session;
mod tls;
mod token;
mod tries;

pub use auth::Auth;
pub(crate) use fetch::Content;
pub(crate) use session::{Registries, Session};
