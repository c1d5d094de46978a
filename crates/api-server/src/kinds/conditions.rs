//! metav1.Conditions (upstream's `apis/meta/v1/validation`).

use apimachinery::field::ErrorList;

use super::at::At;

const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters \
    or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  \
    or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// A list of conditions, of which each type occurs once.
pub(super) fn conditions(list: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in list.items() {
        let kind = condition.get("type");
        if seen.contains(&kind.text()) {
            kind.duplicate(e);
        }
        seen.push(kind.text());
        kind.label_name(e);
        condition.get("status").one_of(e, &["False", "True", "Unknown"]);
        let generation = condition.get("observedGeneration");
        if generation.int() < 0 {
            generation.invalid(e, "must be greater than or equal to zero");
        }
        if !condition.get("lastTransitionTime").is_set() {
            condition.get("lastTransitionTime").require(e, "");
        }
        let reason = condition.get("reason");
        if reason.required(e) {
            if !is_reason(reason.text()) {
                reason.invalid(e, REASON);
            }
            if reason.text().len() > REASON_BYTES_MAX {
                reason.too_long(e, REASON_BYTES_MAX);
            }
        }
        if condition.get("message").text().len() > MESSAGE_BYTES_MAX {
            condition.get("message").too_long(e, MESSAGE_BYTES_MAX);
        }
    }
}

fn is_reason(text: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use apimachinery::{Value, value};

    use super::*;

    #[test]
    fn rules() {
        let valid = || value!({"type": "Ready", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2020-01-02T03:04:05Z"});
        let cases: &[(&str, Value, &str)] = &[
            ("type", value!("Ready"), ""),
            ("type", value!(""), "[0].type: Invalid value: \"\": name part must be non-empty"),
            ("status", value!("x"), "[0].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\""),
            (
                "observedGeneration",
                value!(-1),
                "[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
            ),
            ("lastTransitionTime", Value::Null, "[0].lastTransitionTime: Required value"),
            ("reason", value!(""), "[0].reason: Required value"),
            ("reason", value!("1"), "[0].reason: Invalid value: \"1\": a condition reason must start"),
            ("reason", value!("A".repeat(1025)), "[0].reason: Too long: may not be more than 1024 bytes"),
            ("message", value!("a".repeat(32769)), "[0].message: Too long: may not be more than 32768 bytes"),
        ];
        for (member, value, expected) in cases {
            let mut condition = valid();
            condition.insert(*member, value.clone());
            let mut errors = ErrorList::new();
            conditions(&At::root(&value!([condition])), &mut errors);
            let text = errors.first().map(ToString::to_string).unwrap_or_default();
            assert!(text.starts_with(expected) && (expected.is_empty() == text.is_empty()), "{member}: {text}");
        }
        let mut errors = ErrorList::new();
        conditions(&At::root(&value!([valid(), valid()])), &mut errors);
        assert_eq!(errors[0].to_string(), "[1].type: Duplicate value: \"Ready\"");
    }
}
