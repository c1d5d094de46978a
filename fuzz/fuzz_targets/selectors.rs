//! Selectors: what parses prints as what parses to the same.
#![no_main]

use apimachinery::selector::{FieldSelector, LabelSelector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let again = FieldSelector::parse(&selector.to_string()).expect("what is printed parses");
        assert_eq!(requirements(&again), requirements(&selector));
    }
});

/// In any order: terms are sorted as they are written, and `==` is printed as `=`.
fn requirements(selector: &FieldSelector) -> Vec<String> {
    let mut all: Vec<String> = selector.requirements().iter().map(|requirement| format!("{requirement:?}")).collect();
    all.sort();
    all
}
