//! Netlink messages and attributes: writing into one growing buffer, reading from a slice.
//!
//! Every length is patched in when its message or nest ends, so nothing is built twice. Netfilter's integers are big endian
//! (unlike rtnetlink's).

use crate::error::Error;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `struct nlmsghdr` and `struct nfgenmsg`.
pub(crate) const NLMSG_HEADER: usize = 16;
pub(crate) const NFGEN_HEADER: usize = 4;

/// Where an open nest began.
#[must_use]
pub(crate) struct Nest(usize);

/// Appends netlink messages to a buffer.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writer {
    pub(crate) buf: Vec<u8>,
}

impl Writer {
    /// Starts a netfilter message; returns its offset for [`Writer::end_message`].
    pub(crate) fn begin_message(&mut self, kind: u16, flags: u16, seq: u32, family: u8, res_id: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&flags.to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.push(family);
        self.buf.push(0); // NFNETLINK_V0
        self.buf.extend_from_slice(&res_id.to_be_bytes());
        start
    }

    pub(crate) fn end_message(&mut self, start: usize) {
        let len = (self.buf.len() - start) as u32;
        self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let len = 4 + value.len();
        debug_assert!(len <= usize::from(u16::MAX), "an attribute holds at most 65,531 bytes");
        self.buf.extend_from_slice(&(len as u16).to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn begin_nest(&mut self, kind: u16) -> Nest {
        let start = self.buf.len();
        self.buf.extend_from_slice(&0u16.to_ne_bytes());
        self.buf.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        Nest(start)
    }

    pub(crate) fn nest_len(&self, nest: &Nest) -> usize {
        self.buf.len() - nest.0
    }

    pub(crate) fn end_nest(&mut self, nest: Nest) {
        let len = self.nest_len(&nest);
        debug_assert!(len <= usize::from(u16::MAX), "a nest holds at most 65,531 bytes");
        self.buf[nest.0..nest.0 + 2].copy_from_slice(&(len as u16).to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.buf.len().is_multiple_of(4) {
            self.buf.push(0);
        }
    }
}

/// One netlink message in a received datagram.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// What follows `struct nlmsghdr`.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after `struct nfgenmsg`.
    pub(crate) fn attrs(&self) -> Attrs<'a> {
        Attrs(self.body.get(NFGEN_HEADER..).unwrap_or_default())
    }
}

/// Splits a datagram into messages.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        if bytes.len() < NLMSG_HEADER {
            return Some(Err(Error::Malformed("header cut short")));
        }
        let len = u32_at(bytes, 0) as usize;
        if len < NLMSG_HEADER || len > bytes.len() {
            return Some(Err(Error::Malformed("length out of bounds")));
        }
        self.0 = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16_at(bytes, 4),
            flags: u16_at(bytes, 6),
            seq: u32_at(bytes, 8),
            body: &bytes[NLMSG_HEADER..len],
        }))
    }
}

/// A run of attributes; iterates as (type, value), stopping at the first malformed one.
#[derive(Clone, Copy)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(crate) fn nested(&self, kind: u16) -> Option<Attrs<'a>> {
        self.get(kind).map(Attrs)
    }

    pub(crate) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    pub(crate) fn be32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn be64(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.len() < 4 {
            return None;
        }
        let len = usize::from(u16_at(self.0, 0));
        let kind = u16_at(self.0, 2) & NLA_TYPE_MASK;
        if len < 4 || len > self.0.len() {
            self.0 = &[];
            return None;
        }
        let value = &self.0[4..len];
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A C string or the start of one.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        let message = writer.begin_message(0x0a06, 5, 7, 2, 0);
        writer.string(1, "odd");
        let nest = writer.begin_nest(4);
        writer.be32(2, 0xdead_beef);
        writer.bytes(3, &[1]);
        writer.end_nest(nest);
        writer.be64(5, 1);
        writer.end_message(message);

        let mut messages = Messages(&writer.buf);
        let read = messages.next().unwrap().unwrap();
        assert!(messages.next().is_none());
        assert_eq!((read.kind, read.flags, read.seq), (0x0a06, 5, 7));
        let attrs = read.attrs();
        assert_eq!(attrs.text(1).as_deref(), Some("odd"));
        let nested = attrs.nested(4).unwrap();
        assert_eq!(nested.be32(2), Some(0xdead_beef));
        assert_eq!(nested.get(3), Some(&[1u8][..]));
        assert_eq!(attrs.be64(5), Some(1));
        assert_eq!(attrs.get(9), None);
    }

    #[test]
    fn damaged_input_is_an_error_and_never_a_panic() {
        let mut writer = Writer::default();
        let message = writer.begin_message(1, 0, 1, 0, 0);
        writer.string(1, "name");
        writer.end_message(message);
        for cut in 1..writer.buf.len() {
            let first = Messages(&writer.buf[..cut]).next().unwrap();
            assert!(first.is_err(), "a message cut at {cut} was accepted");
        }
        for length in [0u16, 3, 200] {
            let mut attrs = length.to_ne_bytes().to_vec();
            attrs.extend_from_slice(&[0; 6]);
            assert_eq!(Attrs(&attrs).count(), 0);
        }
    }
}
