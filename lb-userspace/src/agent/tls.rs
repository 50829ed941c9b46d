//! Who may speak with whom: mutual TLS, and the backends that a certificate names.
//!
//! An agent's certificate names its backends by `guidevane://backend/NAME` among its alternative names, and its
//! host by address or DNS name. Both must fit: the second is TLS's own check, the first is made here.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::WebPkiClientVerifier,
};

use crate::config::Identity;

const BACKEND_URI: &str = "guidevane://backend/";

/// HTTP/2 in the negotiation of protocols (RFC 9113, section 3.2).
const HTTP2: &[u8] = b"h2";

/// Why files do not make an end of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no such thing.
    #[error("cannot read {what} from {path}: {source}", path = .path.display())]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file holds no certificate at all.
    #[error("there is no certificate in {path}", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The authority's certificate is none.
    #[error("{path} holds no certificate authority: {detail}", path = .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Certificate and key do not belong together, or are of no use.
    #[error("{cert} and {key} cannot be used together: {source}", cert = .cert.display(), key = .key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl Identity {
    /// The agent's end: it answers only to those whose certificate the authority signed for clients.
    ///
    /// # Errors
    ///
    /// When a file is missing or wrong.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = provider();
        let roots = Arc::new(self.roots()?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let verifier = verifier
            .map_err(|error| TlsError::Authority { path: self.ca.clone(), detail: error.to_string() })?;
        let (chain, key) = self.pair()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| self.unusable(source))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key);
        let mut config = config.map_err(|source| self.unusable(source))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Arc::new(config))
    }

    /// The balancer's end.
    ///
    /// # Errors
    ///
    /// When a file is missing or wrong.
    pub fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let (chain, key) = self.pair()?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| self.unusable(source))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key);
        let mut config = config.map_err(|source| self.unusable(source))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Authority { path: self.ca.clone(), detail: error.to_string() })?;
        }
        Ok(roots)
    }

    fn pair(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|source| TlsError::Pem {
            what: "a private key",
            path: self.key.clone(),
            source,
        })?;
        Ok((certificates(&self.cert)?, key))
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Pair { cert: self.cert.clone(), key: self.key.clone(), source }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain =
        read.map_err(|source| TlsError::Pem { what: "a certificate", path: path.to_owned(), source })?;
    if chain.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(chain) }
}

/// The alternative name by which a certificate speaks for a backend.
pub fn backend_uri(name: &str) -> String {
    format!("{BACKEND_URI}{name}")
}

/// The backends that a certificate names; the certificate itself must have been verified.
pub fn backends_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    parsed.valid_uri_names().filter_map(|uri| uri.strip_prefix(BACKEND_URI)).map(str::to_owned).collect()
}

/// What to do about a refusal by TLS that lies somewhere below `error`.
pub fn remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let remedy = match refusal(error)? {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "its certificate does not come from the ca of [agents]; enroll it with that one",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired; enroll it again with --force",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another host; enroll it with --host and the one in the url",
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError,
        ) => "it refuses the certificate of [agents]; give it the ca that signed that one, or renew it",
        _ => return None,
    };
    Some(remedy)
}

/// The verdict of TLS somewhere below `error`: errors of streams hide what they hold from [`Error::source`].
fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(within) => Some(within),
            None => error.source(),
        };
    }
    None
}
