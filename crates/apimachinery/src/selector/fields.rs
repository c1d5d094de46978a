//! Field selectors: a conjunction of equalities on named fields. Which fields exist is the resource's business.

use std::fmt;

use super::SelectorError;

/// How a field requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldOperator {
    /// `=` or `==`
    Equals,
    /// `!=`
    NotEquals,
}

/// A requirement on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// The field's path, for example `metadata.name`.
    pub field: String,
    /// The comparison.
    pub operator: FieldOperator,
    /// What it compares with.
    pub value: String,
}

/// A conjunction of field requirements; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Matches everything.
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// From requirements; all must hold.
    pub fn new(requirements: Vec<FieldRequirement>) -> FieldSelector {
        FieldSelector { requirements }
    }

    /// One field that must have one value.
    pub fn equals(field: &str, value: &str) -> FieldSelector {
        FieldSelector::new(vec![FieldRequirement { field: field.into(), operator: FieldOperator::Equals, value: value.into() }])
    }

    /// Parses the syntax of the `fieldSelector` parameter: `a=b,c!=d`, with `\` before `,`, `=` and `\` in values.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let Some((field, operator, value)) = split_term(term) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            requirements.push(FieldRequirement { field: field.into(), operator, value: unescape(value)? });
        }
        Ok(FieldSelector { requirements })
    }

    /// The requirements.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether fields, looked up by path (empty when they are not there), satisfy it.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|r| (lookup(&r.field) == r.value) == (r.operator == FieldOperator::Equals))
    }

    /// The one value that the field must have, if the selector says so.
    pub fn exact_match(&self, field: &str) -> Option<&str> {
        let equal = |r: &&FieldRequirement| r.field == field && r.operator == FieldOperator::Equals;
        self.requirements.iter().find(equal).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.operator == FieldOperator::Equals { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape_field_value(&r.value))?;
        }
        Ok(())
    }
}

/// Escapes a text for use as a value in a field selector.
pub fn escape_field_value(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(SelectorError(format!("invalid field selector: invalid escape sequence: \\{c}"))),
                None => return Err(SelectorError("invalid field selector: invalid escape sequence: \\".into())),
            },
            // Upstream prints the character's number.
            ',' | '=' => {
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {}", c as u32)));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, FieldOperator, &str)> {
    let at = term.find(['=', '!']).filter(|at| term[*at..].starts_with('=') || term[*at..].starts_with("!="));
    let at = at.or_else(|| term.find("!=").into_iter().chain(term.find('=')).min())?;
    let rest = &term[at..];
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((&term[..at], FieldOperator::NotEquals, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((&term[..at], FieldOperator::Equals, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_print() {
        let cases = [
            ("", ""),
            ("metadata.name=a", "metadata.name=a"),
            ("b!=2,a==1", "a=1,b!=2"),
            (r"a=x\,y\=z\\", r"a=x\,y\=z\\"),
            ("a=,b!=", "a=,b!="),
            ("a!b=c", "a!b=c"),
            // In the order in which terms are written, which is not always that in which they are printed.
            ("b=>,b==x", "b=x,b=>"),
            ("b=x,b=>", "b=>,b=x"),
        ];
        for (text, printed) in cases {
            assert_eq!(FieldSelector::parse(text).expect(text).to_string(), printed);
        }
        let errors = [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ];
        for (text, message) in errors {
            assert_eq!(FieldSelector::parse(text).expect_err(text).to_string(), message);
        }
    }

    #[test]
    fn matching() {
        let selector = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").expect("valid");
        assert!(selector.matches_with(|f| if f == "spec.nodeName" { "n1" } else { "" }));
        assert!(!selector.matches_with(|_| "Failed"));
        assert_eq!(selector.exact_match("spec.nodeName"), Some("n1"));
        assert_eq!(selector.exact_match("status.phase"), None);
    }
}
