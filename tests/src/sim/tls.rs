//! TLS of simulated servers: a certificate from files, or one made up on the spot.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
        pem::{self, PemObject as _},
    },
};

/// Why a server cannot have TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key file cannot be used.
    #[error("cannot read PEM from {path}: {source}")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
    /// Certificate and key do not make a server.
    #[error("cannot serve TLS with this certificate and key: {0}")]
    Config(#[from] rustls::Error),
}

/// The configuration of a server with the certificate chain and key of two PEM files.
///
/// # Errors
/// [`TlsError`] names the file at fault.
pub fn from_files(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |path: &Path, source| TlsError::Pem { path: path.display().to_string(), source };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| pem(certificate, source))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| pem(key, source))?;
    Ok(server_config(chain, key)?)
}

/// The configuration of a server with a new self-signed certificate for `names`, and the certificate in PEM.
///
/// # Errors
/// [`TlsError`] when a name cannot stand in a certificate.
pub fn self_signed(names: &[String]) -> Result<(Arc<ServerConfig>, String), TlsError> {
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    Ok((server_config(vec![made.cert.der().clone()], key)?, made.cert.pem()))
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
