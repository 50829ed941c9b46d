//! From keys to meaning: `[vip.quic]` and the server IDs of backends.

use toml::Spanned;

use super::check::integer;
use super::error::Source;
use super::raw::RawQuic;
use super::{ConfigError, ForwardMode, Problem, Protocol, QUIC_CONFIG, Quic, SERVER_ID_LENGTH, Vip};

/// The form of a VIP's connection IDs.
pub(super) fn form(
    source: &Source<'_>,
    raw: &Spanned<RawQuic>,
    vip: &str,
    protocol: Protocol,
    mode: ForwardMode,
) -> Result<Quic, ConfigError> {
    if protocol != Protocol::Udp {
        return Err(source.invalid(raw, Problem::QuicNotUdp { vip: vip.to_owned() }));
    }
    if matches!(mode, ForwardMode::Nat { .. }) {
        return Err(source.invalid(raw, Problem::QuicNat { vip: vip.to_owned() }));
    }
    let RawQuic { config_id, server_id_length } = raw.get_ref();
    Ok(Quic {
        config_id: integer(source, "config_id", config_id, QUIC_CONFIG)?,
        server_id_length: integer(source, "server_id_length", server_id_length, SERVER_ID_LENGTH)?,
    })
}

/// A backend's server ID: two hexadecimal digits for each byte.
pub(super) fn server_id(
    source: &Source<'_>,
    raw: &Spanned<String>,
    backend: &str,
    vip: &Vip,
) -> Result<u64, ConfigError> {
    let Some(Quic { server_id_length: length, .. }) = vip.quic else {
        let (name, vip) = (backend.to_owned(), vip.name.clone());
        return Err(source.invalid(raw, Problem::ServerIdWithoutQuic { name, vip }));
    };
    let text = raw.get_ref();
    let digits = text.len() == 2 * usize::from(length) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = if digits { u64::from_str_radix(text, 16).ok() } else { None };
    let id = id.ok_or_else(|| source.invalid(raw, Problem::ServerId { value: text.clone(), length }))?;
    // Kept for backends without one.
    if id == u64::MAX {
        return Err(source.invalid(raw, Problem::ServerIdAllOnes { value: text.clone() }));
    }
    Ok(id)
}
