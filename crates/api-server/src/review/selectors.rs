//! Selectors in a question about access: which are well formed (upstream's `validateResourceAttributes`), and which parts of them an authorizer
//! cannot use.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::{Value, validation};

const BOTH: &str = "may not specified at the same time as requirements";
const VALUES: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const NO_VALUES: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";

/// What is wrong with the selectors of `spec.resourceAttributes`.
pub(super) fn check(attributes: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let place = Path::new("spec").child("resourceAttributes");
    for (member, is_label) in [("fieldSelector", false), ("labelSelector", true)] {
        let selector = &attributes[member];
        if !selector.is_null() {
            check_one(selector, is_label, &place.child(member), &mut errors);
        }
    }
    errors
}

fn check_one(selector: &Value, is_label: bool, place: &Path, errors: &mut ErrorList) {
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    let requirements = selector.array_at(&["requirements"]);
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => errors.push(Error::invalid(&place.child("rawSelector"), raw, BOTH)),
        (true, true) => {
            let why = format!("when {place} is specified, requirements or rawSelector is required");
            errors.push(Error::required(&place.child("requirements"), why));
        }
        _ => {}
    }
    for (at, requirement) in requirements.iter().enumerate() {
        let place = place.child("requirements").index(at);
        let values = requirement.array_at(&["values"]);
        let key = requirement["key"].as_str().unwrap_or_default();
        if !is_label && key.is_empty() {
            errors.push(Error::required(&place.child("key"), "must be specified"));
        }
        match requirement["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if values.is_empty() => errors.push(Error::required(&place.child("values"), VALUES)),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(Error::forbidden(&place.child("values"), NO_VALUES)),
            // What newer servers know is for them to say.
            _ => {}
        }
        if is_label {
            let invalid = |why: String| Error::invalid(&place.child("key"), key, why);
            errors.extend(validation::is_qualified_name(key).into_iter().map(invalid));
            for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
                let invalid = |why: String| Error::invalid(&place.child("values").index(at), value, why);
                errors.extend(validation::is_label_value(value).into_iter().map(invalid));
            }
        }
    }
}

/// What the answer says of selectors that could not be read.
pub(super) fn evaluation_error(attributes: &Value) -> Option<String> {
    let mut said = Vec::new();
    for (member, is_label) in [("fieldSelector", false), ("labelSelector", true)] {
        let selector = &attributes[member];
        let raw = selector["rawSelector"].as_str().unwrap_or_default();
        let requirements = selector.array_at(&["requirements"]);
        let understood = requirements.iter().filter(|requirement| is_understood(requirement, is_label)).count();
        let readable = match is_label {
            true => raw.is_empty() || LabelSelector::parse(raw).is_ok(),
            false => raw.is_empty() || FieldSelector::parse(raw).is_ok(),
        };
        if !readable || (understood == 0 && !requirements.is_empty()) {
            said.push(format!("spec.resourceAttributes.{member} ignored due to parse error"));
        } else if understood < requirements.len() {
            said.push(format!("spec.resourceAttributes.{member} partially ignored due to parse error"));
        }
    }
    (!said.is_empty()).then(|| said.join("; "))
}

fn is_understood(requirement: &Value, is_label: bool) -> bool {
    let values = requirement.array_at(&["values"]).len();
    match (requirement["operator"].as_str().unwrap_or_default(), is_label) {
        ("In" | "NotIn", true) => values > 0,
        ("Exists" | "DoesNotExist", true) => values == 0,
        ("In" | "NotIn", false) => values == 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn selectors_are_one_or_the_other() {
        let texts = |attributes: Value| check(&attributes).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(value!({"fieldSelector": {"rawSelector": "a=b"}})), Vec::<String>::new());
        assert_eq!(
            texts(value!({"fieldSelector": {}})),
            [
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is \
              specified, requirements or rawSelector is required"
            ]
        );
        let both = value!({"labelSelector": {"rawSelector": "a", "requirements": [{"key": "a", "operator": "Exists"}]}});
        assert_eq!(texts(both), [format!("spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": {BOTH}")]);
    }

    #[test]
    fn what_is_ignored_is_said() {
        let unknown = value!({"labelSelector": {"requirements": [{"key": "a", "operator": "Nothing"}]}});
        assert_eq!(
            evaluation_error(&unknown).as_deref(),
            Some("spec.resourceAttributes.labelSelector ignored due to parse error")
        );
        let some = value!({"fieldSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}, {"key": "a", "operator": "Exists"}]}});
        assert_eq!(
            evaluation_error(&some).as_deref(),
            Some("spec.resourceAttributes.fieldSelector partially ignored due to parse error")
        );
        assert_eq!(evaluation_error(&value!({"verb": "get"})), None);
    }
}
