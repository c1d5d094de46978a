//! Kubernetes' CBOR form of objects (RFC 8949, KEP-4222): the JSON tree in binary.
//!
//! Written in the core deterministic encoding: keys in bytewise order, floats in their shortest form, strings as byte strings (as
//! upstream does, so that nothing needs to be valid UTF-8), the whole within the self-described tag. Read with upstream's limits:
//! repeated keys, numbers and simple values that JSON does not have, and depth beyond 64 are errors. Binary data is text in the tree
//! (base64), as in JSON; a byte string in a tag that expects a later encoding is read as that encoding.
//!
//! Not here: `cbor-seq` has no framing of its own, items follow each other; [`decode_first`] finds where one ends.

mod read;
mod write;

pub use read::{decode, decode_first};
pub use write::{encode, encode_to};

/// The media type of one object.
pub const MEDIA_TYPE: &str = "application/cbor";

/// The media type of a stream of objects (RFC 8742).
pub const SEQUENCE_MEDIA_TYPE: &str = "application/cbor-seq";

/// The head of tag 55799, which every object begins with.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

/// Why bytes are not an object in CBOR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// The bytes end in the middle of an item.
    #[error("unexpected EOF")]
    Truncated,
    /// Not well-formed.
    #[error("cbor: {0}")]
    Malformed(&'static str),
    /// Well-formed, but nothing that JSON could say.
    #[error("cbor: {0}")]
    Unsupported(&'static str),
    /// A map names a key twice.
    #[error("cbor: found duplicate map key {0:?}")]
    DuplicateKey(String),
    /// Larger than upstream takes.
    #[error("cbor: exceeded max {what} {max}")]
    Limit {
        /// Of what there is too much.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Bytes after the item.
    #[error("cbor: {0} bytes of extraneous data starting at index {1}")]
    Trailing(usize, usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Value, value};

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    /// RFC 8949, appendix A, as far as JSON has such values.
    #[test]
    fn examples_of_the_rfc() {
        for (bytes, expected) in [
            ("00", value!(0)),
            ("17", value!(23)),
            ("1818", value!(24)),
            ("1903e8", value!(1000)),
            ("1a000f4240", value!(1_000_000)),
            ("1b000000e8d4a51000", value!(1_000_000_000_000_i64)),
            ("20", value!(-1)),
            ("3903e7", value!(-1000)),
            ("3b7fffffffffffffff", value!(i64::MIN)),
            ("f93c00", Value::Float(1.0)),
            ("f93e00", value!(1.5)),
            ("f97bff", Value::Float(65504.0)),
            ("fa47c35000", Value::Float(100_000.0)),
            ("fb3ff199999999999a", value!(1.1)),
            ("f90001", Value::Float(5.960_464_477_539_063e-8)),
            ("f4", value!(false)),
            ("f6", Value::Null),
            ("c074323031332d30332d32315432303a30343a30305a", value!("2013-03-21T20:04:00Z")),
            ("c11a514b67b0", value!("2013-03-21T20:04:00Z")),
            ("d74401020304", value!("01020304")),
            ("d64401020304", value!("AQIDBA==")),
            ("d544ffffffff", value!("_____w==")),
            ("6449455446", value!("IETF")),
            ("4449455446", value!("IETF")),
            ("83010203", value!([1, 2, 3])),
            ("a26161016162820203", value!({"a": 1, "b": [2, 3]})),
            ("7f657374726561646d696e67ff", value!("streaming")),
            ("9f018202039f0405ffff", value!([1, [2, 3], [4, 5]])),
            ("bf61610161629f0203ffff", value!({"a": 1, "b": [2, 3]})),
        ] {
            assert_eq!(decode(&hex(bytes)).as_ref(), Ok(&expected), "{bytes}");
            assert_eq!(decode(&encode(&expected)).as_ref(), Ok(&expected), "{bytes}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let deep = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
        assert!(decode(&deep(64)).is_ok());
        for (bytes, error) in [
            (hex("1bffffffffffffffff"), CborError::Unsupported("an integer does not fit into 64 bits with sign")),
            (hex("c249010000000000000000"), CborError::Unsupported("numbers of any size are not allowed")),
            (hex("f97e00"), CborError::Unsupported("NaN and infinite numbers are not allowed")),
            (hex("f97c00"), CborError::Unsupported("NaN and infinite numbers are not allowed")),
            (hex("f7"), CborError::Unsupported("simple values other than false, true and null are not allowed")),
            (hex("f0"), CborError::Unsupported("simple values other than false, true and null are not allowed")),
            (hex("a20101"), CborError::Unsupported("keys of maps must be strings")),
            (hex("a2616101616102"), CborError::DuplicateKey("a".to_owned())),
            (hex("62ff"), CborError::Truncated),
            (hex("61ff"), CborError::Malformed("invalid UTF-8 string")),
            (hex("8201"), CborError::Truncated),
            (hex("ff"), CborError::Malformed("unexpected \"break\" code")),
            (hex("1c"), CborError::Malformed("invalid additional information")),
            (hex("0000"), CborError::Trailing(1, 1)),
            (deep(65), CborError::Limit { what: "nested level", max: 64 }),
            (hex("9a00010000"), CborError::Limit { what: "number of elements for CBOR array", max: 1024 }),
            (hex("ba00010000"), CborError::Limit { what: "number of key-value pairs for CBOR map", max: 1024 }),
        ] {
            assert_eq!(decode(&bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn writes_what_upstream_writes() {
        let object = value!({"kind": "K", "apiVersion": "v1", "n": [24, -1, 1.5, true, null], "aa": {}});
        // Keys are in the order of their encodings: shorter ones first.
        let expected = "d9d9f7a4416e85181820f93e00f5f6426161a0446b696e64414b4a61706956657273696f6e427631";
        let text = encode(&object).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(text, expected);
    }

    #[test]
    fn items_of_a_sequence() {
        let mut bytes = encode(&value!({"a": 1}));
        let first = bytes.len();
        encode_to(&value!("x"), &mut bytes);
        assert_eq!(decode_first(&bytes), Ok((value!({"a": 1}), first)));
        assert_eq!(decode_first(&bytes[..first - 1]), Err(CborError::Truncated));
    }
}
