//! YAML: what parses is written as what parses, and is then written the same.
#![no_main]

use apimachinery::yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = yaml::parse_all(bytes);
    let Ok(document) = yaml::parse_one(bytes) else { return };
    let text = yaml::to_yaml(&document.value);
    let again = yaml::parse_one(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(yaml::to_yaml(&again.value), text);
});
