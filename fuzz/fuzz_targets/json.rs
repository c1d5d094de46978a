//! JSON: what parses is written as what parses to the same.
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
    assert_eq!(Value::from_slice(&value.to_vec()), Ok(value));
});
