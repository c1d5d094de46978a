//! Managed fields: a set that parses is written as one that parses to the same; two lines are two objects to compare.
#![no_main]

use apimachinery::managed_fields::{Comparison, Node, Set};
use apimachinery::{GroupVersionKind, Value, schema};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(set) = Value::from_slice(text.as_bytes()).map_err(drop).and_then(|fields| Set::parse(&fields).map_err(drop)) {
        assert_eq!(Set::parse(&set.to_value()).ok(), Some(set));
    }
    let Some((left, right)) = text.split_once('\n') else { return };
    let (Ok(left), Ok(right)) = (Value::from_slice(left.as_bytes()), Value::from_slice(right.as_bytes())) else { return };
    let info = schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("known");
    for node in [Node::Kind(info), Node::Deduced] {
        let same = Comparison::of(&left, &left, node);
        assert!(same.added.is_empty() && same.removed.is_empty() && same.modified.is_empty());
        let _ = Comparison::of(&left, &right, node);
    }
});
