//! `spec.successPolicy` (KEP-3998): when an Indexed Job has succeeded although not all of its indexes have. Pure.

use k8s_openapi::api::batch::v1::Job;

use super::intervals::Indexes;
use super::spec::{index_count, spec};

/// The message of the condition, if a rule is met.
pub(super) fn met(job: &Job, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let rules = &spec(job).success_policy.as_ref()?.rules;
    let index = rules.iter().position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(text), count) => {
            let wanted = Indexes::parse(text, index_count(job));
            let reached = wanted.overlap(succeeded);
            !wanted.is_empty() && (reached == wanted.count() || count.is_some_and(|count| reached >= count))
        }
        (None, Some(count)) => succeeded.count() >= count,
        (None, None) => false,
    })?;
    Some(format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::job;
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn rules() {
        let rule = |indexes: Option<&str>, count: Option<i32>| json!({"succeededIndexes": indexes, "succeededCount": count});
        for (rules, succeeded, expected) in [
            (json!([rule(Some("0"), None)]), "", None),
            (json!([rule(Some("0"), None)]), "0", Some(0)),
            (json!([rule(Some("0"), None)]), "1-5", None),
            (json!([rule(Some("0,2-4"), None)]), "0,2,3", None),
            (json!([rule(Some("0,2-4"), None)]), "0-5", Some(0)),
            (json!([rule(Some("0,2-4"), Some(2))]), "0,3", Some(0)),
            (json!([rule(Some("0,2-4"), Some(2))]), "0,1,7", None),
            (json!([rule(None, Some(3))]), "1,5", None),
            (json!([rule(None, Some(3))]), "1,5,7", Some(0)),
            (json!([rule(Some("9"), None), rule(None, Some(1))]), "3", Some(1)),
            // Neither unreadable nor beyond the Job's indexes can be met.
            (json!([rule(Some("x"), None)]), "0-9", None),
            (json!([rule(Some("10-12"), None)]), "0-9", None),
            (json!([rule(None, None)]), "0-9", None),
            (Value::Null, "0-9", None),
        ] {
            let policy = if rules.is_null() { Value::Null } else { json!({"rules": rules}) };
            let job = job(json!({"completionMode": "Indexed", "completions": 10, "successPolicy": policy}));
            let expected = expected.map(|index: i32| format!("Matched rules at index {index}"));
            assert_eq!(met(&job, &Indexes::parse(succeeded, 10)), expected, "{rules} with {succeeded}");
        }
    }
}
