//! Values of set keys and map data: one field, or several side by side ("concatenated", `ip daddr . tcp dport`).
//!
//! In the kernel a concatenation is its fields, each padded with zeros to a multiple of four bytes.

use std::net::IpAddr;

/// The type of one field of a key. The numbers are those that the `nft` program prints by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyField {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A layer 4 protocol number (one byte).
    Protocol,
    /// A port (two bytes, big endian).
    Port,
    /// A 32-bit number in the machine's byte order, as `numgen` and `jhash` produce it.
    Number,
    /// An interface name, 16 bytes padded with zeros.
    InterfaceName,
}

impl KeyField {
    /// Bytes without padding.
    pub const fn len(self) -> usize {
        match self {
            Self::Ipv4 | Self::Number => 4,
            Self::Ipv6 | Self::InterfaceName => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// Always false; a field has at least one byte.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// `enum nft_datatypes` of the nft program.
    const fn datatype(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19, // mark: 32 bits in host order
            Self::InterfaceName => 41,
        }
    }
}

/// Type number of a concatenation: six bits a field, the first field highest.
pub(crate) fn datatype(fields: &[KeyField]) -> u32 {
    fields.iter().fold(0, |all, field| (all << 6) | field.datatype())
}

/// Length in bytes of a key of these fields.
pub(crate) fn length(fields: &[KeyField]) -> u32 {
    match fields {
        [one] => one.len() as u32,
        many => many.iter().map(|field| field.len().next_multiple_of(4) as u32).sum(),
    }
}

/// A key (or map value) as bytes, built field by field in the order of the set's declaration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    bytes: Vec<u8>,
    /// Length without the last field's padding: a key of one field is not padded.
    fields: u8,
    last_len: u8,
}

impl Key {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an address, 4 or 16 bytes.
    pub fn ip(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.raw(&v4.octets()),
            IpAddr::V6(v6) => self.raw(&v6.octets()),
        }
    }

    /// Appends a protocol number (`libc::IPPROTO_TCP` is 6).
    pub fn protocol(self, protocol: u8) -> Self {
        self.raw(&[protocol])
    }

    /// Appends a port.
    pub fn port(self, port: u16) -> Self {
        self.raw(&port.to_be_bytes())
    }

    /// Appends a number in host order.
    pub fn number(self, number: u32) -> Self {
        self.raw(&number.to_ne_bytes())
    }

    /// Appends an interface name (at most 15 bytes; more is cut).
    pub fn interface(self, name: &str) -> Self {
        let mut bytes = [0u8; 16];
        let len = name.len().min(15);
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        self.raw(&bytes)
    }

    fn raw(mut self, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.fields += 1;
        self.last_len = value.len() as u8;
        self
    }

    /// The bytes as the kernel wants them.
    pub fn as_bytes(&self) -> &[u8] {
        if self.fields == 1 { &self.bytes[..usize::from(self.last_len)] } else { &self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_padded_only_in_concatenations() {
        let address: IpAddr = "10.43.0.1".parse().unwrap();
        assert_eq!(Key::new().port(80).as_bytes(), [0, 80]);
        assert_eq!(Key::new().protocol(6).as_bytes(), [6]);
        let key = Key::new().ip(address).protocol(6).port(443);
        assert_eq!(key.as_bytes(), [10, 43, 0, 1, 6, 0, 0, 0, 1, 187, 0, 0]);
        let fields = [KeyField::Ipv4, KeyField::Protocol, KeyField::Port];
        assert_eq!(length(&fields) as usize, key.as_bytes().len());
        assert_eq!(length(&fields[2..]), 2);
        assert_eq!(datatype(&fields), (7 << 12) | (12 << 6) | 13);
    }
}
