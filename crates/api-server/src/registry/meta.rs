//! The parts of `metadata` that belong to the system, not to clients.

use apimachinery::{Status, Value, time};
use rand::Rng;

/// Letters of made-up names: no vowels and nothing that looks alike, as upstream's `rand.String`.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
/// Upstream's `MaxGeneratedNameLength`: a label has at most 63 bytes.
const BASE_LEN_MAX: usize = 63 - SUFFIX_LEN;

/// A name for an object with this `generateName`.
pub(crate) fn generated_name(base: &str) -> String {
    let mut end = base.len().min(BASE_LEN_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut rng = rand::rng();
    let suffix = (0..SUFFIX_LEN).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    base[..end].chars().chain(suffix).collect()
}

/// Gives a new object its uid and time, and takes away what only the server may set.
pub(crate) fn fill_system_fields(object: &mut Value) {
    let mut meta = object.meta_mut();
    meta.set_uid(&uuid::Uuid::new_v4().to_string());
    meta.set_creation_timestamp(&now());
    for member in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        meta.remove(member);
    }
}

/// The time now, as `metadata` has it.
pub(crate) fn now() -> String {
    time::format_time(jiff::Timestamp::now())
}

/// Keeps what no update may change (upstream's `rest.BeforeUpdate`).
pub(crate) fn keep_system_fields(object: &mut Value, old: &Value) {
    let uid_missing = object.meta().uid().is_empty();
    let old_meta = old.meta();
    let mut meta = object.meta_mut();
    if uid_missing {
        meta.set_uid(old_meta.uid());
    }
    if let Some(time) = old_meta.creation_timestamp() {
        meta.set_creation_timestamp(time);
    }
    if let Some(time) = old_meta.deletion_timestamp() {
        meta.set_deletion_timestamp(Some(time));
    }
    match old_meta.deletion_grace_period_seconds() {
        Some(seconds) if meta.read().deletion_grace_period_seconds().is_none() => {
            meta.set_deletion_grace_period_seconds(Some(seconds));
        }
        // What a client says else, validation refuses.
        _ => {}
    }
    meta.remove("selfLink");
}

/// Upstream's words for an object of another namespace than the URL's.
pub(crate) const NAMESPACE_MISMATCH: &str =
    "the namespace of the provided object does not match the namespace sent on the request";

/// Takes away what a client may not say of a new object (upstream's `WipeObjectMetaSystemFields`).
pub(crate) fn wipe_system_fields(object: &mut Value) {
    let mut meta = object.meta_mut();
    for member in ["uid", "selfLink", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        meta.remove(member);
    }
}

/// The object's namespace is the request's; empty ones are filled in.
pub(crate) fn check_namespace(object: &mut Value, namespaced: bool, request: &str) -> Result<(), Status> {
    let given = object.meta().namespace().to_owned();
    if !namespaced {
        return match given.is_empty() {
            true => Ok(()),
            false => {
                object.meta_mut().remove("namespace");
                Ok(())
            }
        };
    }
    match given.as_str() {
        "" => {
            object.meta_mut().set_namespace(request);
            Ok(())
        }
        given if given == request => Ok(()),
        _ => Err(Status::bad_request(NAMESPACE_MISMATCH)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generated_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generated_name(&"a".repeat(100)).len(), 63);
        assert_eq!(generated_name(&"ä".repeat(50)).chars().count(), 34);
    }
}
