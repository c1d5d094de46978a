//! JSON: what parses is written as what parses to the same, but that a float without a fraction is written, as Go does, as an integer.
#![no_main]

use apimachinery::Value;
use apimachinery::decode::{Format, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let plain = Value::from_slice(bytes);
    let Ok((value, _)) = parse(bytes, Format::Json) else {
        assert!(plain.is_err(), "the two parsers agree");
        return;
    };
    assert_eq!(plain, Ok(value.clone()), "the two parsers agree");
    let again = Value::from_slice(&value.to_vec()).expect("what is written parses");
    assert!(is_same(&value, &again), "{value:?} {again:?}");
});

fn is_same(value: &Value, again: &Value) -> bool {
    match (value, again) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| is_same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|((a, x), (b, y))| a == b && is_same(x, y))
        }
        (Value::Float(a), Value::Int(b)) => *a == *b as f64,
        _ => value == again,
    }
}
