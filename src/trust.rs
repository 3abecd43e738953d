//! Whom TLS clients trust: the authorities built in and the system's, read once for the whole process.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

/// What every client trusts. Reading the system's store takes milliseconds, so it happens once, at first use.
pub fn roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        // A certificate of the system's that does not parse is the system's matter, not ours.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    })
}

/// A client's TLS that trusts `roots`.
///
/// # Errors
///
/// What the TLS library says against its own defaults.
pub fn client(roots: Arc<RootCertStore>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
