//! Writing: the core deterministic encoding of RFC 8949, section 4.2.1.

use super::SELF_DESCRIBED;
use crate::{Map, Value};

/// Major types, where the first byte has them.
const UNSIGNED: u8 = 0x00;
const NEGATIVE: u8 = 0x20;
const BYTES: u8 = 0x40;
const ARRAY: u8 = 0x80;
const MAP: u8 = 0xa0;

/// An object, within the self-described tag.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    encode_to(value, &mut out);
    out
}

/// Appends an object, within the self-described tag.
pub fn encode_to(value: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(&SELF_DESCRIBED);
    item(value, out);
}

fn item(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(false) => out.push(0xf4),
        Value::Bool(true) => out.push(0xf5),
        Value::Int(i) => match u64::try_from(*i) {
            Ok(unsigned) => head(UNSIGNED, unsigned, out),
            // The encoding of a negative integer is that of -1 - n, which is its bits turned over.
            Err(_) => head(NEGATIVE, !i.cast_unsigned(), out),
        },
        Value::Float(f) => float(*f, out),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            head(ARRAY, items.len() as u64, out);
            for value in items.iter() {
                item(value, out);
            }
        }
        Value::Object(members) => map(members, out),
    }
}

/// Keys are in the order of their encodings: by length (it comes first), then by bytes.
fn map(members: &Map, out: &mut Vec<u8>) {
    head(MAP, members.len() as u64, out);
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
    for (key, value) in members {
        string(key, out);
        item(value, out);
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    head(BYTES, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// The shortest float that has the value.
fn float(value: f64, out: &mut Vec<u8>) {
    let single = value as f32;
    if f64::from(single) != value {
        out.push(0xfb);
        out.extend_from_slice(&value.to_be_bytes());
        return;
    }
    match half(single) {
        Some(bits) => {
            out.push(0xf9);
            out.extend_from_slice(&bits.to_be_bytes());
        }
        None => {
            out.push(0xfa);
            out.extend_from_slice(&single.to_be_bytes());
        }
    }
}

/// The bits of a 16-bit float (IEEE 754: 5 bits of exponent, 10 of mantissa), if it can have the value.
fn half(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = u16::from(value.is_sign_negative()) << 15;
    let exponent = i32::from(((bits >> 23) & 0xff) as u8) - 127;
    let mantissa = bits & 0x7f_ffff;
    if value == 0.0 {
        return Some(sign);
    }
    match exponent {
        -14..=15 if mantissa.trailing_zeros() >= 13 => Some(sign | (((exponent + 15) as u16) << 10) | (mantissa >> 13) as u16),
        // Subnormal: the leading one is written out, and everything moves right.
        -24..=-15 => {
            let whole = mantissa | 0x80_0000;
            let shift = (-1 - exponent).cast_unsigned();
            (whole.trailing_zeros() >= shift).then(|| sign | (whole >> shift) as u16)
        }
        _ => None,
    }
}

/// The first byte of an item, and the number that belongs to it.
fn head(major: u8, number: u64, out: &mut Vec<u8>) {
    match number {
        0..=23 => out.push(major | number as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, number as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}
