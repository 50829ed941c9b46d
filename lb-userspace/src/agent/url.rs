//! Where an agent is.

use std::{fmt, str::FromStr};

use http::Uri;
use rustls::pki_types::ServerName;

use super::DEFAULT_PORT;

/// Where an agent is: `https://host[:port]`; or `http://` for a server that speaks ORCA in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUrl {
    pub(super) uri: Uri,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// Why a text is no agent's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL at all.
    #[error("{0}")]
    Invalid(String),
    /// Another scheme, or none.
    #[error("it begins with neither https:// nor http://")]
    Scheme,
    /// More than host and port.
    #[error("it holds more than host and port")]
    Path,
}

impl FromStr for AgentUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let uri: Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| UrlError::Invalid(error.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Scheme),
        };
        let authority = uri.authority().ok_or(UrlError::Scheme)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if ServerName::try_from(host.as_str()).is_err() {
            return Err(UrlError::Invalid("it names no host".to_owned()));
        }
        if authority.as_str().contains('@') || uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(UrlError::Path);
        }
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self { host, port, tls, uri })
    }
}

impl fmt::Display for AgentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri.to_string().trim_end_matches('/'))
    }
}

impl AgentUrl {
    /// Host and port, as something to connect to.
    pub fn host_and_port(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether certificates are needed.
    pub fn is_tls(&self) -> bool {
        self.tls
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentUrl, DEFAULT_PORT};

    #[test]
    fn a_url_gives_host_port_and_whether_there_is_tls() {
        for (url, host, port, tls, shown) in [
            ("https://10.0.0.21:9900", "10.0.0.21", 9900, true, "https://10.0.0.21:9900"),
            ("https://gpu-1/", "gpu-1", DEFAULT_PORT, true, "https://gpu-1"),
            ("http://[fd00::1]:50051", "fd00::1", 50051, false, "http://[fd00::1]:50051"),
        ] {
            let parsed: AgentUrl = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((parsed.host.as_str(), parsed.port, parsed.tls), (host, port, tls), "{url}");
            assert_eq!(parsed.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_agents_url_is_refused_with_the_reason() {
        for (url, reason) in [
            ("grpc://gpu-1", "neither https:// nor http://"),
            ("gpu-1:9900", "neither https:// nor http://"),
            ("gpu-1", "neither https:// nor http://"),
            ("https://gpu-1/metrics", "more than host and port"),
            ("https://me:pw@gpu-1/", "more than host and port"),
            ("https://gpu 1", "invalid"),
            ("https://", "empty"),
            ("https://-/", "no host"),
        ] {
            match url.parse::<AgentUrl>() {
                Err(error) => assert!(error.to_string().contains(reason), "{url}: {error}"),
                Ok(parsed) => panic!("{url} was accepted as {parsed:?}"),
            }
        }
    }
}
