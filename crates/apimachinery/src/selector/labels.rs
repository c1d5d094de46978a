//! Label selectors: a conjunction of requirements on labels.

use std::fmt;

use super::SelectorError;
use crate::field::{self, Path};
use crate::validation::{is_label_value, is_qualified_name};
use crate::{Value, go_quote};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// `in`
    In,
    /// `notin`
    NotIn,
    /// the key alone
    Exists,
    /// `!` and the key
    DoesNotExist,
    /// `>`
    GreaterThan,
    /// `<`
    LessThan,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// A conjunction of requirements, or the selector that matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// `None` matches nothing.
    requirements: Option<Vec<Requirement>>,
}

impl Requirement {
    /// Checks and builds a requirement; upstream's messages.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, SelectorError> {
        let root = Path::root();
        let mut errors: field::ErrorList = check_key(key, &root.child("key")).into_iter().collect();
        let values_path = root.child("values");
        let complaint = match operator {
            Operator::In | Operator::NotIn => {
                values.is_empty().then_some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals => {
                (values.len() != 1).then_some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist => {
                (!values.is_empty()).then_some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan => {
                (values.len() != 1).then_some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
        };
        if let Some(complaint) = complaint {
            errors.push(field::Error::invalid(&values_path, values.iter().collect::<Value>(), complaint));
        }
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (i, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(field::Error::invalid(&values_path.index(i), value, detail));
            }
        }
        for (i, value) in values.iter().enumerate() {
            let messages = is_label_value(value);
            if !messages.is_empty() {
                errors.push(field::Error::invalid(&values_path.index(i).key(key), value, messages.join("; ")));
            }
        }
        match field::aggregate(&errors) {
            None => Ok(Requirement { key: key.into(), operator, values }),
            Some(text) => Err(SelectorError(text)),
        }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The comparison.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether the label's value (`None`: not there) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let numbers =
                    value.and_then(|v| v.parse::<i64>().ok()).zip(self.values.first().and_then(|v| v.parse::<i64>().ok()));
                numbers.is_some_and(|(have, want)| if self.operator == Operator::GreaterThan { have > want } else { have < want })
            }
        }
    }
}

/// The error for a key that is no label key, as upstream words it.
pub(super) fn check_key(key: &str, path: &Path) -> Option<field::Error> {
    let messages = is_qualified_name(key);
    (!messages.is_empty()).then(|| field::Error::invalid(path, key, messages.join("; ")))
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort_unstable();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> LabelSelector {
        LabelSelector { requirements: Some(Vec::new()) }
    }

    /// Matches nothing.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: None }
    }

    /// From requirements; all must hold.
    pub fn new(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements: Some(requirements) }
    }

    /// Parses the syntax of `kubectl -l` and of the `labelSelector` parameter. Empty matches everything.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        super::parser::parse(text).map(LabelSelector::new)
    }

    /// From labels that must all be there; not validated.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> LabelSelector {
        let requirement =
            |(key, value): (&str, &str)| Requirement { key: key.into(), operator: Operator::Equals, values: vec![value.into()] };
        LabelSelector::new(labels.into_iter().map(requirement).collect())
    }

    /// From a metav1.LabelSelector: `null` (or absent) matches nothing, an empty one everything.
    pub fn from_value(selector: &Value) -> Result<LabelSelector, SelectorError> {
        if selector.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.into()])?);
        }
        for expression in selector.array_at(&["matchExpressions"]) {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{} is not a valid label selector operator", go_quote(other)))),
            };
            let values = expression.array_at(&["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(expression["key"].as_str().unwrap_or_default(), operator, values)?);
        }
        Ok(LabelSelector::new(requirements))
    }

    /// The requirements; empty also for the selector that matches nothing.
    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether it is the selector that matches nothing.
    pub fn is_nothing(&self) -> bool {
        self.requirements.is_none()
    }

    /// Whether labels, looked up by key, satisfy it.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|r| r.matches(lookup(&r.key))))
    }

    /// Whether an object's labels satisfy it.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.get_path(&["metadata", "labels"]);
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// The one value that the label must have, if the selector says so.
    pub fn exact_match(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements().iter().find(|r| r.key == key)?;
        let exact = matches!(requirement.operator, Operator::Equals | Operator::DoubleEquals | Operator::In);
        match requirement.values.as_slice() {
            [only] if exact => Some(only),
            _ => None,
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.requirements().iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn from_api_objects() {
        let selector =
            value!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["y", "x"]}]});
        let selector = LabelSelector::from_value(&selector).expect("valid");
        assert_eq!(selector.to_string(), "a=b,c notin (x,y)");
        assert_eq!(selector.exact_match("a"), Some("b"));
        assert!(selector.matches(&value!({"metadata": {"labels": {"a": "b"}}})));
        assert!(!selector.matches(&value!({"metadata": {"labels": {"a": "b", "c": "x"}}})));
        assert!(LabelSelector::from_value(&value!({})).expect("empty").matches(&value!({})));
        assert!(!LabelSelector::from_value(&Value::Null).expect("null").matches(&value!({})));
        let bad = value!({"matchExpressions": [{"key": "c", "operator": "="}]});
        assert_eq!(
            LabelSelector::from_value(&bad).expect_err("operator").to_string(),
            "\"=\" is not a valid label selector operator"
        );
    }

    #[test]
    fn requirements_match() {
        let cases = [
            ("a", None, false),
            ("a", Some(""), true),
            ("!a", None, true),
            ("a=b", Some("b"), true),
            ("a!=b", None, true),
            ("a in (b,c)", Some("c"), true),
            ("a notin (b,c)", Some("c"), false),
            ("a>3", Some("4"), true),
            ("a>3", Some("x"), false),
            ("a<3", Some("2"), true),
            ("a<3", None, false),
            ("a=", Some(""), true),
        ];
        for (selector, label, expected) in cases {
            let parsed = LabelSelector::parse(selector).expect(selector);
            assert_eq!(parsed.matches_with(|_| label), expected, "{selector} on {label:?}");
        }
    }
}
