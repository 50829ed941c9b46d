//! From keys to meaning: how the neighbours learn of an address.

use toml::Spanned;

use super::error::Source;
use super::raw::RawAnnounce;
use super::{Announce, ConfigError, Interface, Problem};

pub(super) fn announce(
    source: &Source<'_>,
    manner: Option<&Spanned<RawAnnounce>>,
    on: Option<&Spanned<String>>,
    interfaces: &[Interface],
    owner: impl FnOnce() -> String,
) -> Result<Announce, ConfigError> {
    let all = || interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(on) = on
        && !interfaces.iter().any(|interface| interface.name == *on.get_ref())
    {
        let problem = Problem::AnnounceOnUnknown { name: on.get_ref().clone(), interfaces: all() };
        return Err(source.invalid(on, problem));
    }
    let Some(manner) = manner.filter(|manner| *manner.get_ref() != RawAnnounce::None) else {
        return match on {
            Some(on) => Err(source.invalid(on, Problem::AnnounceOnWithoutAnnounce)),
            None => Ok(Announce::None),
        };
    };
    let interface = match (on, interfaces) {
        (Some(on), _) => on.get_ref().clone(),
        (None, [only]) => only.name.clone(),
        (None, _) => {
            let problem = Problem::AnnounceWhere { owner: owner(), interfaces: all() };
            return Err(source.invalid(manner, problem));
        }
    };
    Ok(match manner.get_ref() {
        RawAnnounce::Address => Announce::Address { interface },
        RawAnnounce::Arp => Announce::Arp { interface },
        RawAnnounce::None => Announce::None,
    })
}
