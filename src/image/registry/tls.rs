//! TLS settings for a host: the system's authorities, the configured ones, client certificates.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::hosts::TlsOptions;

/// The system's certificate authorities, read when first needed and kept while any pull uses them. So a change on the
/// node is seen by the next pull, and an idle daemon does not hold them.
#[derive(Debug, Default)]
pub(super) struct SystemRoots(Mutex<Weak<RootCertStore>>);

impl SystemRoots {
    fn load(&self) -> Arc<RootCertStore> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = held.upgrade() {
            return roots;
        }
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "a system certificate could not be read");
        }
        roots.add_parsable_certificates(found.certs);
        let roots = Arc::new(roots);
        *held = Arc::downgrade(&roots);
        roots
    }
}

/// A TLS configuration that follows `options`. Reads files: call it where blocking is allowed.
pub(super) fn config(options: &TlsOptions, system: &SystemRoots) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if options.skip_verify == Some(true) {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        let mut roots = system.load();
        for path in &options.ca {
            add_authorities(Arc::make_mut(&mut roots), path)?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|e| format!("no usable certificate authorities on this node: {e}"))?;
        builder.with_webpki_verifier(verifier)
    };
    let mut config = match client_certificate(options)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| e.to_string())?,
        None => builder.with_no_client_auth(),
    };
    // One connection per layer: HTTP/2 would put them all onto one.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let unusable =
        |why: &dyn std::fmt::Display| format!("certificate authority file {}: {why}", path.display());
    let mut found = false;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unusable(&e))? {
        roots
            .add(certificate.map_err(|e| unusable(&e))?)
            .map_err(|e| unusable(&e))?;
        found = true;
    }
    if found {
        Ok(())
    } else {
        Err(unusable(&"no certificate in it"))
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The first client certificate; rustls presents one.
fn client_certificate(options: &TlsOptions) -> Result<Option<Identity>, String> {
    let Some(pair) = options.client.first() else {
        return Ok(None);
    };
    let key_file = pair.key.as_deref().unwrap_or(&pair.certificate);
    let chain = CertificateDer::pem_file_iter(&pair.certificate)
        .and_then(Iterator::collect)
        .map_err(|e| format!("client certificate {}: {e}", pair.certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|e| format!("key of the client certificate {}: {e}", key_file.display()))?;
    Ok(Some((chain, key)))
}

/// For `skip_verify`: any certificate will do, signatures are still checked.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
