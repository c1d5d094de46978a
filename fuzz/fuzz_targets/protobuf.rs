//! Protobuf: what is read is written as what is read, and is then written the same.
#![no_main]

use apimachinery::protobuf::{decode, decode_message, encode_message, open};
use apimachinery::{GroupVersionKind, schema};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = open(bytes);
    let _ = decode(bytes, &GroupVersionKind::new("", "v1", "Pod"));
    let Some((choice, message)) = bytes.split_first_chunk::<2>() else { return };
    let types = schema::types();
    let info = &types[usize::from(u16::from_le_bytes(*choice)) % types.len()];
    let Ok(object) = decode_message(message, info) else { return };
    let written = encode_message(&object, info);
    let again = decode_message(&written, info).unwrap_or_else(|error| panic!("{}: {error}", info.name));
    assert_eq!(encode_message(&again, info), written, "{}", info.name);
});
