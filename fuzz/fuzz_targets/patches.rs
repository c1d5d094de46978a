//! Patches of all kinds on any document: two lines, the document and the patch.
#![no_main]

use apimachinery::patch::{JsonPatch, merge_patch, strategic_merge_patch};
use apimachinery::{GroupVersionKind, Value, schema};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some((document, patch)) = text.split_once('\n') else { return };
    let (Ok(document), Ok(patch)) = (Value::from_slice(document.as_bytes()), Value::from_slice(patch.as_bytes())) else { return };
    if let Ok(operations) = JsonPatch::parse(&patch) {
        let _ = operations.apply(&document);
    }
    let mut once = document.clone();
    merge_patch(&mut once, &patch);
    let mut twice = once.clone();
    merge_patch(&mut twice, &patch);
    assert_eq!(once, twice, "a merge patch applied twice is one applied once");
    let info = schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("known");
    let _ = strategic_merge_patch(&document, &patch, Some(info));
    let _ = strategic_merge_patch(&document, &patch, None);
});
