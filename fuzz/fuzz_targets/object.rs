//! Objects in JSON: what conforms to its type stays as it is, and goes through protobuf and back.
#![no_main]

use apimachinery::decode::{Format, decode};
use apimachinery::{protobuf, schema};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, json)) = bytes.split_first() else { return };
    let resources = schema::resources();
    let Some(info) = schema::lookup(&resources[usize::from(*choice) % resources.len()].gvk()) else { return };
    let Ok(decoded) = decode(json, Format::Json, info) else { return };
    let again = decode(&decoded.object.to_vec(), Format::Json, info).expect("conforms already");
    assert_eq!(again.object, decoded.object);
    assert!(again.strict.is_empty(), "{:?}", again.strict);
    let message = protobuf::encode_message(&decoded.object, info);
    let back = protobuf::decode_message(&message, info).expect("what is written reads");
    assert_eq!(protobuf::encode_message(&back, info), message);
});
