//! `guidevane agent enroll`: a certificate authority, and certificates for agents and balancers.
//!
//! Everything lies in one directory, readable by its owner alone. The authority is made once and never replaced:
//! with a new one, no certificate made before would be worth anything.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::tls::backend_uri;

/// Files are for their owner's eyes.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long the authority is good: longer than the machines.
const AUTHORITY_DAYS: u32 = 3650;

/// Certificates are good from so long ago on: clocks differ.
const LENIENCE: Duration = DAY;

/// File names without their endings.
const AUTHORITY: &str = "ca";
const BALANCER: &str = "balancer";

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A certificate for a host's agent.
    Agent {
        /// Addresses or DNS names by which balancers reach the host; at least one. The first names the files.
        hosts: Vec<String>,
        /// The backends it speaks for; at least one.
        backends: Vec<String>,
    },
    /// The certificate that balancers show to agents.
    Balancer,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The certificate's file, PEM.
    pub cert: PathBuf,
    /// The key's file, PEM.
    pub key: PathBuf,
    /// When the certificate ends.
    pub until: SystemTime,
}

/// What an enrolment has led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The authority's key.
    pub ca_key: PathBuf,
    /// Whether the authority was made just now.
    pub new_authority: bool,
    /// The new certificate.
    pub made: Made,
}

/// Why nothing was enrolled. Nothing that was there before has changed then.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It would overwrite something.
    #[error("{path} is there already; --force makes a new one in its place", path = .0.display())]
    Exists(PathBuf),
    /// Half of the authority is gone.
    #[error("{missing} is missing beside {present}; put it back, or enrol everything anew in another directory",
        missing = .missing.display(), present = .present.display())]
    HalfAuthority {
        /// What is there.
        present: PathBuf,
        /// What is not.
        missing: PathBuf,
    },
    /// A name can stand in no certificate.
    #[error("\"{0}\" is neither an address nor a DNS name")]
    Host(String),
    /// Another name as a host's files would be named.
    #[error("a host named \"{0}\" would overwrite other files here; give its address first")]
    ReservedHost(String),
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A certificate cannot be made, or the authority's files hold none.
    #[error("{what}: {source}")]
    Certificate {
        /// What was tried.
        what: &'static str,
        /// What is wrong.
        source: rcgen::Error,
    },
}

/// Makes what `subject` says in `directory`, and the authority there if there is none, good for `days` from now.
/// With `force`, a certificate that is there is replaced.
///
/// # Errors
///
/// When files are in the way, cannot be written, or hold no authority.
pub fn enroll(directory: &Path, subject: &Subject, days: u32, force: bool) -> Result<Enrolled, EnrolError> {
    let (stem, mut params) = match subject {
        Subject::Agent { hosts, backends } => agent(hosts, backends)?,
        Subject::Balancer => (BALANCER, balancer()),
    };
    let file = |stem: &str, ending| directory.join(format!("{stem}.{ending}"));
    let (cert, key) = (file(stem, "pem"), file(stem, "key"));
    if let Some(there) = [&cert, &key].into_iter().find(|path| !force && path.exists()) {
        return Err(EnrolError::Exists(there.clone()));
    }
    let make_directory = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
    make_directory.map_err(|source| EnrolError::File { path: directory.to_owned(), source })?;
    let (ca, ca_key) = (file(AUTHORITY, "pem"), file(AUTHORITY, "key"));
    let (issuer, new_authority) = authority(&ca, &ca_key)?;

    let until = valid(&mut params, days);
    params.use_authority_key_identifier_extension = true;
    let pair = key_pair()?;
    let certificate = params.signed_by(&pair, &issuer);
    let certificate = certificate.map_err(failed("sign the certificate"))?;
    write(&key, &pair.serialize_pem(), force)?;
    write(&cert, &certificate.pem(), force)?;
    Ok(Enrolled { ca, ca_key, new_authority, made: Made { cert, key, until } })
}

fn agent<'a>(hosts: &'a [String], backends: &[String]) -> Result<(&'a str, CertificateParams), EnrolError> {
    let mut params = leaf(ExtendedKeyUsagePurpose::ServerAuth);
    for name in backends {
        let uri = backend_uri(name).try_into().map_err(failed("name a backend"))?;
        params.subject_alt_names.push(SanType::URI(uri));
    }
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(dns_name(host)?),
        });
    }
    let stem = hosts.first().map_or("", String::as_str);
    if stem.is_empty() || [AUTHORITY, BALANCER].contains(&stem) {
        return Err(EnrolError::ReservedHost(stem.to_owned()));
    }
    params.distinguished_name.push(DnType::CommonName, stem);
    Ok((stem, params))
}

fn dns_name(host: &str) -> Result<rcgen::string::Ia5String, EnrolError> {
    let bad = || EnrolError::Host(host.to_owned());
    // rustls checks names by the same rule that it will look them up by.
    rustls::pki_types::DnsName::try_from(host).map_err(|_invalid| bad())?;
    host.try_into().map_err(|_invalid| bad())
}

fn balancer() -> CertificateParams {
    let mut params = leaf(ExtendedKeyUsagePurpose::ClientAuth);
    params.distinguished_name.push(DnType::CommonName, "Guidevane balancer");
    params
}

/// Good for one side of a connection alone: an agent's certificate opens no other agent.
fn leaf(usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

/// The authority in these files, which are made if there are none; and whether they were.
fn authority(ca: &Path, ca_key: &Path) -> Result<(Issuer<'static, KeyPair>, bool), EnrolError> {
    let half = |present: &Path, missing: &Path| EnrolError::HalfAuthority {
        present: present.to_owned(),
        missing: missing.to_owned(),
    };
    match (ca.exists(), ca_key.exists()) {
        (true, true) => {
            let pair = KeyPair::from_pem(&read(ca_key)?).map_err(failed("read the authority's key"))?;
            let issuer = Issuer::from_ca_cert_pem(&read(ca)?, pair);
            Ok((issuer.map_err(failed("read the authority's certificate"))?, false))
        }
        (true, false) => Err(half(ca, ca_key)),
        (false, true) => Err(half(ca_key, ca)),
        (false, false) => {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            // A name of its own: two authorities of one name cannot be told apart when one is missing.
            let number: u32 = rand::random();
            params.distinguished_name.push(DnType::CommonName, format!("Guidevane agents {number:08x}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            valid(&mut params, AUTHORITY_DAYS);
            let pair = key_pair()?;
            let certificate =
                params.self_signed(&pair).map_err(failed("sign the authority's certificate"))?;
            write(ca_key, &pair.serialize_pem(), false)?;
            write(ca, &certificate.pem(), false)?;
            Ok((Issuer::new(params, pair), true))
        }
    }
}

/// Makes a certificate good for so many days from now; says when it ends.
fn valid(params: &mut CertificateParams, days: u32) -> SystemTime {
    let now = SystemTime::now();
    let until = now + DAY * days;
    params.not_before = (now - LENIENCE).into();
    params.not_after = until.into();
    until
}

fn key_pair() -> Result<KeyPair, EnrolError> {
    KeyPair::generate().map_err(failed("make a key"))
}

fn failed(what: &'static str) -> impl Fn(rcgen::Error) -> EnrolError {
    move |source| EnrolError::Certificate { what, source }
}

fn read(path: &Path) -> Result<String, EnrolError> {
    fs::read_to_string(path).map_err(|source| EnrolError::File { path: path.to_owned(), source })
}

/// Writes a new file, or with `force` a whole one in the place of another: nobody sees half of it.
fn write(path: &Path, text: &str, force: bool) -> Result<(), EnrolError> {
    let into = if force { path.with_added_extension("new") } else { path.to_owned() };
    if force {
        // Left by one that was interrupted.
        let _ = fs::remove_file(&into);
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&into)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| if force { fs::rename(&into, path) } else { Ok(()) });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => EnrolError::Exists(path.to_owned()),
        _ => EnrolError::File { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    use super::{EnrolError, Subject, enroll};
    use crate::agent::tls;

    fn agent(hosts: &[&str], backends: &[&str]) -> Subject {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Subject::Agent { hosts: owned(hosts), backends: owned(backends) }
    }

    fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let mut contents: Vec<_> = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        contents.sort();
        contents
    }

    #[test]
    fn everything_lies_in_one_directory_for_its_owner_alone() {
        let room = tempfile::tempdir().unwrap();
        let directory = room.path().join("pki");
        let first = enroll(&directory, &agent(&["10.0.0.21", "gpu-host"], &["gpu-0", "gpu-1"]), 30, false);
        let first = first.unwrap();
        assert!(first.new_authority);
        let second = enroll(&directory, &Subject::Balancer, 30, false).unwrap();
        assert!(!second.new_authority);
        let names: Vec<String> = contents(&directory).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["10.0.0.21.key", "10.0.0.21.pem", "balancer.key", "balancer.pem", "ca.key", "ca.pem"]
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&directory), 0o700);
        for name in names {
            assert_eq!(mode(&directory.join(&name)), 0o600, "{name}");
        }
        let certificate = CertificateDer::from_pem_file(&first.made.cert).unwrap();
        assert_eq!(tls::backends_of(&certificate), ["gpu-0", "gpu-1"]);
        let certificate = CertificateDer::from_pem_file(&second.made.cert).unwrap();
        assert!(tls::backends_of(&certificate).is_empty());
    }

    #[test]
    fn nothing_is_overwritten_unless_forced_and_the_authority_never_is() {
        let room = tempfile::tempdir().unwrap();
        let subject = agent(&["gpu-host"], &["gpu-0"]);
        enroll(room.path(), &subject, 30, false).unwrap();
        let before = contents(room.path());
        let refused = enroll(room.path(), &subject, 30, false).unwrap_err().to_string();
        assert!(refused.contains("gpu-host.pem is there already; --force"), "{refused}");
        assert_eq!(contents(room.path()), before);
        enroll(room.path(), &subject, 30, true).unwrap();
        let after = contents(room.path());
        for ((name, old), (same, new)) in before.iter().zip(&after) {
            assert_eq!(name, same, "no other file appears");
            assert_eq!(old == new, name.starts_with("ca."), "{name}");
        }
    }

    #[test]
    fn an_authority_that_cannot_be_used_is_never_replaced() {
        let room = tempfile::tempdir().unwrap();
        let subject = agent(&["gpu-host"], &["gpu-0"]);
        enroll(room.path(), &subject, 30, false).unwrap();
        let key = fs::read(room.path().join("ca.key")).unwrap();
        fs::remove_file(room.path().join("ca.key")).unwrap();
        let half = enroll(room.path(), &subject, 30, true).unwrap_err();
        assert!(matches!(half, EnrolError::HalfAuthority { .. }), "{half}");
        fs::write(room.path().join("ca.key"), key).unwrap();
        fs::write(room.path().join("ca.pem"), "nonsense").unwrap();
        let broken = enroll(room.path(), &subject, 30, true).unwrap_err().to_string();
        assert!(broken.starts_with("read the authority's certificate"), "{broken}");
        assert_eq!(fs::read(room.path().join("ca.pem")).unwrap(), b"nonsense");
    }

    #[test]
    fn names_that_no_certificate_can_hold_are_refused_before_anything_is_written() {
        let room = tempfile::tempdir().unwrap();
        for (host, words) in [
            ("gpu host", "neither an address nor a DNS name"),
            ("../ca", "neither an address nor a DNS name"),
            ("", "neither an address nor a DNS name"),
            ("ca", "would overwrite"),
            ("balancer", "would overwrite"),
        ] {
            let refused = enroll(room.path(), &agent(&[host], &["gpu-0"]), 30, true).unwrap_err();
            assert!(refused.to_string().contains(words), "{host}: {refused}");
        }
        assert!(contents(room.path()).is_empty());
    }
}
