//! The wire format: varints, tags, lengths (<https://protobuf.dev/programming-guides/encoding/>).

use super::ProtobufError;

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Field<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl Field<'_> {
    pub(super) fn wire_type(self) -> u8 {
        match self {
            Field::Varint(_) => 0,
            Field::Fixed64(_) => 1,
            Field::Bytes(_) => 2,
            Field::Fixed32(_) => 5,
        }
    }
}

pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(number: u16, wire_type: u8, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

pub(crate) fn integer(number: u16, value: i64, out: &mut Vec<u8>) {
    tag(number, 0, out);
    // Negative numbers take ten bytes, also those of 32 bits.
    varint(value as u64, out);
}

pub(crate) fn double(number: u16, value: f64, out: &mut Vec<u8>) {
    tag(number, 1, out);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub(crate) fn bytes(number: u16, value: &[u8], out: &mut Vec<u8>) {
    begin_bytes(number, value.len(), out);
    out.extend_from_slice(value);
}

/// What stands before so many bytes.
pub(super) fn begin_bytes(number: u16, length: usize, out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(length as u64, out);
}

/// How many bytes [`varint`] writes.
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// A nested message; its length goes in front once it is known. Nearly all take one byte for it, which is left free.
pub(crate) fn nested(number: u16, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    tag(number, 2, out);
    let at = out.len();
    out.push(0);
    write(out);
    let (start, end) = (at + 1, out.len());
    let mut length = (end - start) as u64;
    let more = varint_len(length) - 1;
    out.resize(end + more, 0);
    out.copy_within(start..end, start + more);
    for byte in &mut out[at..at + more] {
        *byte = (length as u8) | 0x80;
        length >>= 7;
    }
    out[at + more] = length as u8;
}

/// Reads fields one after the other.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field; `None` at the end. Groups, which nobody writes any more, are an error.
    pub(crate) fn field(&mut self) -> Result<Option<(u16, Field<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u16::try_from(tag >> 3).unwrap_or(u16::MAX);
        let field = match (tag & 7) as u8 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("took eight bytes"))),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("took four bytes"))),
            wire_type => return Err(ProtobufError::WireType { wire_type, field: format!("number {number}") }),
        };
        Ok(Some((number, field)))
    }
}
