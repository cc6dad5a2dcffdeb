//! TLS for the streaming server: a certificate and its key, read once at start.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config;
use crate::types::error::{Context as _, Error, Result};

/// What turns connections into encrypted ones; `None` if no certificate is configured.
///
/// # Errors
/// A file that cannot be read or used, by name; never what is in it.
pub(super) fn acceptor(config: &config::Stream) -> Result<Option<TlsAcceptor>> {
    if config.tls_cert.as_os_str().is_empty() {
        return Ok(None);
    }
    let chain = certificates(&config.tls_cert)?;
    let key = PrivateKeyDer::from_pem_file(&config.tls_key).map_err(|e| {
        Error::invalid(format!(
            "stream.tls_key {}: {}",
            config.tls_key.display(),
            described(&e, "private key")
        ))
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("set up TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| {
            Error::invalid(format!(
                "stream.tls_cert {} with stream.tls_key {}: {e}",
                config.tls_cert.display(),
                config.tls_key.display()
            ))
        })?;
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |why: String| Error::invalid(format!("stream.tls_cert {}: {why}", path.display()));
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| unusable(described(&e, "certificate")))?;
    if chain.is_empty() {
        return Err(unusable("there is no certificate in it".to_owned()));
    }
    Ok(chain)
}

/// Without the lines that the library quotes: they may be of a key.
fn described(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("there is no {what} in it"),
        _ => "it is not valid PEM".to_owned(),
    }
}
