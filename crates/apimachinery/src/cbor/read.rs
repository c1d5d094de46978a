//! Reading, with upstream's limits.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::CborError;
use crate::{Key, Map, Value, time};

/// Items may lie so deep in each other.
const DEPTH_MAX: usize = 64;
/// Elements of one array, and pairs of one map.
const ELEMENTS_MAX: usize = 1024;
const NOT_JSON_NUMBER: CborError = CborError::Unsupported("NaN and infinite numbers are not allowed");
const NOT_JSON_SIMPLE: CborError = CborError::Unsupported("simple values other than false, true and null are not allowed");

/// The one item that the bytes are.
pub fn decode(bytes: &[u8]) -> Result<Value, CborError> {
    let (value, end) = decode_first(bytes)?;
    match bytes.len() - end {
        0 => Ok(value),
        rest => Err(CborError::Trailing(rest, end)),
    }
}

/// The first item, and where it ends. [`CborError::Truncated`] says that more bytes are needed.
pub fn decode_first(bytes: &[u8]) -> Result<(Value, usize), CborError> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.item(0)?;
    Ok((value, reader.at))
}

/// The first byte of an item, taken apart.
struct Head {
    major: u8,
    /// `None`: as many parts as come until the "break".
    number: Option<u64>,
    /// How many bytes the number has after the first; 0 if it is in the first.
    width: usize,
}

/// How a byte string is to be read as text.
#[derive(Clone, Copy)]
enum Later {
    Text,
    Base64Url,
    Base64,
    Hex,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CborError> {
        let end = self.at.checked_add(count).ok_or(CborError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(CborError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head, CborError> {
        let first = self.take(1)?[0];
        let major = first >> 5;
        let width = match first & 0x1f {
            small @ 0..=23 => return Ok(Head { major, number: Some(u64::from(small)), width: 0 }),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            31 if matches!(major, 2..=5) => return Ok(Head { major, number: None, width: 0 }),
            31 if major == 7 => return Err(CborError::Malformed("unexpected \"break\" code")),
            _ => return Err(CborError::Malformed("invalid additional information")),
        };
        let number = self.take(width)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Ok(Head { major, number: Some(number), width })
    }

    /// Whether the items of an array or map without a length end here.
    fn is_break(&mut self) -> Result<bool, CborError> {
        let found = *self.bytes.get(self.at).ok_or(CborError::Truncated)? == 0xff;
        self.at += usize::from(found);
        Ok(found)
    }

    fn item(&mut self, depth: usize) -> Result<Value, CborError> {
        self.item_as(depth, Later::Text)
    }

    fn item_as(&mut self, depth: usize, later: Later) -> Result<Value, CborError> {
        let head = self.head()?;
        if matches!(head.major, 4..=6) && depth == DEPTH_MAX {
            return Err(CborError::Limit { what: "nested level", max: DEPTH_MAX });
        }
        let number = head.number.unwrap_or_default();
        let signed = i64::try_from(number).map_err(|_| CborError::Unsupported("an integer does not fit into 64 bits with sign"));
        match head.major {
            0 => signed.map(Value::Int),
            1 => signed.map(|number| Value::Int(-1 - number)),
            2 => Ok(Value::from(text_of(&self.string(&head)?, later)?)),
            3 => utf8(&self.string(&head)?).map(Value::from),
            4 => self.array(head.number, depth),
            5 => self.map(head.number, depth),
            6 => self.tagged(number, depth),
            _ => self.simple(&head),
        }
    }

    /// The bytes of a string, which may come in parts.
    fn string(&mut self, head: &Head) -> Result<Vec<u8>, CborError> {
        let length = |number: u64| usize::try_from(number).map_err(|_| CborError::Truncated);
        if let Some(number) = head.number {
            return self.take(length(number)?).map(<[u8]>::to_vec);
        }
        let mut whole = Vec::new();
        while !self.is_break()? {
            let part = self.head()?;
            match part.number {
                Some(number) if part.major == head.major => whole.extend_from_slice(self.take(length(number)?)?),
                _ => return Err(CborError::Malformed("wrong element type for indefinite-length string")),
            }
        }
        Ok(whole)
    }

    fn array(&mut self, count: Option<u64>, depth: usize) -> Result<Value, CborError> {
        let limit = CborError::Limit { what: "number of elements for CBOR array", max: ELEMENTS_MAX };
        let mut items = Vec::new();
        while self.more(count, items.len(), &limit)? {
            items.push(self.item(depth + 1)?);
        }
        Ok(Value::Array(Arc::new(items)))
    }

    /// Whether another element follows the `done` ones.
    fn more(&mut self, count: Option<u64>, done: usize, limit: &CborError) -> Result<bool, CborError> {
        let more = match count {
            Some(count) if count > ELEMENTS_MAX as u64 => return Err(limit.clone()),
            Some(count) => (done as u64) < count,
            None => !self.is_break()?,
        };
        if more && done == ELEMENTS_MAX { Err(limit.clone()) } else { Ok(more) }
    }

    fn map(&mut self, count: Option<u64>, depth: usize) -> Result<Value, CborError> {
        let limit = CborError::Limit { what: "number of key-value pairs for CBOR map", max: ELEMENTS_MAX };
        let mut members: Vec<(Key, Value)> = Vec::new();
        while self.more(count, members.len(), &limit)? {
            let head = self.head()?;
            if !matches!(head.major, 2 | 3) {
                return Err(CborError::Unsupported("keys of maps must be strings"));
            }
            let key = Key::new(&utf8(&self.string(&head)?)?);
            members.push((key, self.item(depth + 1)?));
        }
        members.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(CborError::DuplicateKey(pair[0].0.as_str().to_owned()));
        }
        Ok(Value::from(Map::from_unsorted(members)))
    }

    fn tagged(&mut self, tag: u64, depth: usize) -> Result<Value, CborError> {
        match tag {
            0 => match self.item(depth + 1)? {
                text @ Value::String(_) if text.as_str().is_some_and(|text| time::parse_time(text).is_ok()) => Ok(text),
                _ => Err(CborError::Unsupported("tag 0 must hold an RFC 3339 time")),
            },
            1 => {
                let seconds = self.item(depth + 1)?.as_f64().map(|seconds| (seconds * 1e9).round() as i128);
                let moment = seconds.and_then(|nanos| jiff::Timestamp::from_nanosecond(nanos).ok());
                let moment = moment.ok_or(CborError::Unsupported("tag 1 must hold seconds since 1970"))?;
                Ok(Value::from(moment.to_string()))
            }
            2 | 3 => Err(CborError::Unsupported("numbers of any size are not allowed")),
            21 => self.item_as(depth + 1, Later::Base64Url),
            22 => self.item_as(depth + 1, Later::Base64),
            23 => self.item_as(depth + 1, Later::Hex),
            _ => self.item(depth + 1),
        }
    }

    fn simple(&mut self, head: &Head) -> Result<Value, CborError> {
        let number = head.number.unwrap_or_default();
        let float = match head.width {
            0 => {
                return match number {
                    20 => Ok(Value::Bool(false)),
                    21 => Ok(Value::Bool(true)),
                    22 => Ok(Value::Null),
                    _ => Err(NOT_JSON_SIMPLE),
                };
            }
            1 if number < 32 => return Err(CborError::Malformed("invalid simple value")),
            1 => return Err(NOT_JSON_SIMPLE),
            2 => half(number as u16),
            4 => f64::from(f32::from_bits(number as u32)),
            _ => f64::from_bits(number),
        };
        if float.is_finite() { Ok(Value::Float(float)) } else { Err(NOT_JSON_NUMBER) }
    }
}

fn utf8(bytes: &[u8]) -> Result<String, CborError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CborError::Malformed("invalid UTF-8 string"))
}

fn text_of(bytes: &[u8], later: Later) -> Result<String, CborError> {
    Ok(match later {
        Later::Text => return utf8(bytes),
        Later::Base64Url => URL_SAFE.encode(bytes),
        Later::Base64 => STANDARD.encode(bytes),
        Later::Hex => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// The value of a 16-bit float.
fn half(bits: u16) -> f64 {
    let exponent = i32::from(bits >> 10 & 0x1f);
    let mantissa = f64::from(bits & 0x3ff);
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}
