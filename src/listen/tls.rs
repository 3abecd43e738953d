//! Server TLS from PEM files.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why TLS cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The certificate chain cannot be read.
    #[error("tls.cert: {0}")]
    Certificate(String),
    /// The private key cannot be read.
    #[error("tls.key: {0}")]
    Key(String),
    /// The authorities for client certificates cannot be read.
    #[error("tls.client_ca: {0}")]
    ClientCa(String),
    /// Certificate and key do not fit, or the library refuses them.
    #[error("tls: {0}")]
    Setup(String),
}

/// An acceptor for the PEM texts of a certificate chain, its key, and the authorities whose client certificates are required.
///
/// # Errors
///
/// [`Error`] names the setting at fault. No text of a key is in it.
pub fn acceptor(cert: &str, key: &str, client_ca: Option<&str>) -> Result<TlsAcceptor, Error> {
    let chain = certificates(cert).map_err(Error::Certificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|it| Error::Key(it.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|it| Error::Setup(it.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(pem).map_err(Error::ClientCa)? {
                roots.add(certificate).map_err(|it| Error::ClientCa(it.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|it| Error::ClientCa(it.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|it| Error::Setup(it.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|it| it.to_string())?;
    if found.is_empty() { Err("no PEM certificate found".to_owned()) } else { Ok(found) }
}
