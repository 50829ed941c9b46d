//! A prefix of addresses, as `10.0.0.0/8`.

use std::{fmt, net::IpAddr, str::FromStr};

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    network: IpAddr,
    bits: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not an address, or an address and a length.
    #[error("not a prefix: write `10.0.0.0/8`, `2001:db8::/32` or one address")]
    Form,
    /// The length is more than an address has bits.
    #[error("a prefix of this family has at most {0} bits")]
    Length(u8),
    /// Bits behind the prefix are set, so it may be a mistake.
    #[error("{0} has bits set behind its length: write `{1}`")]
    HostBits(String, Prefix),
}

impl Prefix {
    /// Every address of both families.
    pub const ANY: [Self; 2] = [
        Self { network: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), bits: 0 },
        Self { network: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), bits: 0 },
    ];

    /// The first address.
    pub const fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits addresses share.
    pub const fn bits(&self) -> u8 {
        self.bits
    }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn network(address: IpAddr, bits: u8) -> IpAddr {
    let host_bits = u32::from(width(address) - bits);
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)).into()),
    }
}

impl FromStr for Prefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().or(Err(ParseError::Form))?;
        let bits = match bits {
            Some(bits) => bits.parse().or(Err(ParseError::Form))?,
            None => width(address),
        };
        if bits > width(address) {
            return Err(ParseError::Length(width(address)));
        }
        let prefix = Self { network: network(address, bits), bits };
        if prefix.network != address {
            return Err(ParseError::HostBits(text.to_owned(), prefix));
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::{ParseError, Prefix};

    #[test]
    fn prefixes_and_single_addresses_are_read() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            let prefix: Prefix = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(prefix.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_the_way_out() {
        for text in ["", "10.0.0.0/", "10.0.0.0/x", "10.0.0/8", "/8", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Prefix>(), Err(ParseError::Form), "{text}");
        }
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(ParseError::Length(32)));
        assert_eq!("::/129".parse::<Prefix>(), Err(ParseError::Length(128)));
        let error = "10.1.2.3/8".parse::<Prefix>().expect_err("bits are set behind the length");
        assert_eq!(error.to_string(), "10.1.2.3/8 has bits set behind its length: write `10.0.0.0/8`");
    }
}
