//! Errors show an empty list or map as the client sent it, which the object that is validated does not have any more: there, as in upstream's
//! store, empty is none.

use apimachinery::Value;
use apimachinery::decode::EmptyMember;
use apimachinery::field::{Error, ErrorType};

use crate::kinds;

/// So many values are looked for; whoever sends more empty ones that are wrong sees `null` in the rest.
const LOOKED_FOR_MAX: usize = 100;

/// Puts the empty values that the client sent where errors would say `null`.
pub(crate) fn show_as_sent(errors: &mut [Error], empty: &[EmptyMember]) {
    if empty.is_empty() {
        return;
    }
    let mut sorted: Vec<&EmptyMember> = Vec::new();
    let mut left = LOOKED_FOR_MAX;
    for error in errors.iter_mut().filter(|error| error.change.is_some() || shows_value(error.error_type)) {
        let Some(shown) = shown_null(error) else { continue };
        if sorted.is_empty() {
            sorted = empty.iter().collect();
            sorted.sort_unstable_by_key(|member| member.path.as_str());
        }
        let unsent = error.change.as_ref().map_or(&[][..], |change| change.unsent);
        let place = error.place.as_deref().unwrap_or(&error.field);
        if let Some(shown) = filled(shown, place, unsent, &sorted, &mut left) {
            show(error, shown);
        }
        if left == 0 {
            return;
        }
    }
}

/// A text of the value at a place, with what was sent there; `None` where that is nothing.
fn filled(text: String, place: &str, unsent: &[&str], sorted: &[&EmptyMember], left: &mut usize) -> Option<String> {
    let first = sorted.partition_point(|member| member.path.as_str() < place);
    let mut shown: Option<String> = None;
    for member in &sorted[first..] {
        let Some(rest) = member.path.strip_prefix(place).filter(|_| *left > 0) else { break };
        *left -= 1;
        if unsent.contains(&rest) {
            continue;
        }
        if let Some(filled) = with_value(shown.as_ref().unwrap_or(&text), rest, member.json) {
            shown = Some(filled);
        }
    }
    shown
}

fn shows_value(kind: ErrorType) -> bool {
    use ErrorType::{Duplicate, Invalid, NotFound, NotSupported, TypeInvalid};
    matches!(kind, Invalid | TypeInvalid | NotSupported | NotFound | Duplicate)
}

/// What an error shows of a value, if there is a `null` in it.
fn shown_null(error: &Error) -> Option<String> {
    let shown = match &error.bad_value {
        _ if error.change.is_some() => error.change.as_ref().map(|change| change.after.clone()).unwrap_or_default(),
        Some(Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Float(_)) => return None,
        Some(value) => value.to_json(),
        // The text is that of Go's structs, and comes with the detail.
        None => error.detail.clone(),
    };
    shown.contains("null").then_some(shown)
}

/// Shows this text instead.
fn show(error: &mut Error, shown: String) {
    if let Some(change) = &mut error.change {
        let known = kinds::difference(&change.before, &change.after);
        let difference = kinds::difference(&change.before, &shown);
        if let Some(why) = error.detail.strip_suffix(&known) {
            error.detail = format!("{why}{difference}");
        }
        change.after = shown;
        return;
    }
    error.detail = match (error.bad_value.take(), error.detail.as_str()) {
        (Some(_), "") | (None, _) => shown,
        (Some(_), detail) => format!("{shown}: {detail}"),
    };
}

/// The JSON text with a value where it has `null`, at a place inside of it: `.spec.ports[0].x`, or nothing for the value itself. `None` where
/// there is no such place.
fn with_value(text: &str, place: &str, value: &str) -> Option<String> {
    let at = steps(place)?.into_iter().try_fold(0, |at, step| enter(text.as_bytes(), at, step))?;
    text[at..].starts_with("null").then(|| format!("{}{value}{}", &text[..at], &text[at + "null".len()..]))
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Member(&'a str),
    Element(usize),
}

fn steps(place: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut rest = place;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (key, after) = inside.split_once(']')?;
            steps.push(key.parse().map_or(Step::Member(key), Step::Element));
            rest = after;
        } else {
            let name = rest.strip_prefix('.')?;
            let end = name.find(['.', '[']).unwrap_or(name.len());
            steps.push(Step::Member(&name[..end]));
            rest = &name[end..];
        }
    }
    Some(steps)
}

/// Where a member or an element of the JSON at a place begins. Names may be those of upstream's internal types.
fn enter(json: &[u8], at: usize, step: Step<'_>) -> Option<usize> {
    let mut at = at + 1;
    match (json.get(at - 1)?, step) {
        (b'[', Step::Element(index)) => {
            for _ in 0..index {
                at = skip(json, at)?;
                at = (*json.get(at)? == b',').then_some(at + 1)?;
            }
            Some(at)
        }
        (b'{', Step::Member(name)) => loop {
            let end = skip(json, at)?;
            let key = std::str::from_utf8(json.get(at + 1..end.checked_sub(1)?)?).ok()?;
            if kinds::is_field(key, name) {
                return Some(end + 1);
            }
            at = skip(json, end + 1)?;
            at = (*json.get(at)? == b',').then_some(at + 1)?;
        },
        _ => None,
    }
}

/// The end of the compact JSON value at a place.
fn skip(json: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut depth) = (at, 0_usize);
    loop {
        match json.get(at)? {
            b'"' => {
                at += 1;
                while *json.get(at)? != b'"' {
                    at += 1 + usize::from(json[at] == b'\\');
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => depth -= 1,
            b'}' | b']' | b',' | b':' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{GroupKind, Status, field, value};

    use super::*;
    use crate::kinds::Shown;

    #[test]
    fn inside_of_what_is_shown() {
        let text = r#"{"Rules":[{"Name":"a\"]","Values":null}],"Other":null}: why"#;
        let check = |place: &str, expected: Option<&str>| {
            assert_eq!(with_value(text, place, "[]").as_deref(), expected, "{place}");
        };
        check(".rules[0].values", Some(r#"{"Rules":[{"Name":"a\"]","Values":[]}],"Other":null}: why"#));
        check(".other", Some(r#"{"Rules":[{"Name":"a\"]","Values":null}],"Other":[]}: why"#));
        check(".rules[1].values", None);
        // Of the two that have such a member one calls it so.
        assert_eq!(with_value(r#"{"CephMonitors":null}"#, ".monitors", "[]").as_deref(), Some(r#"{"CephMonitors":[]}"#));
        assert_eq!(with_value(r#"{"Monitors":null}"#, ".monitors", "[]").as_deref(), Some(r#"{"Monitors":[]}"#));
        check(".nothing", None);
        check("", None);
    }

    fn message(errors: &[Error]) -> String {
        Status::invalid(&GroupKind::new("", "X"), "a", errors).message
    }

    #[test]
    fn empty_is_shown_as_it_came() {
        let path = || field::Path::new("spec").child("cidrs");
        let sent = |path: &str, json| vec![EmptyMember { path: path.to_owned(), json }];
        let cases = [
            (sent("spec.cidrs", "[]"), "[]"),
            (sent("spec.cidrs", "{}"), "{}"),
            (sent("spec.other", "[]"), "null"),
            (Vec::new(), "null"),
        ];
        for (empty, shown) in cases {
            let mut errors = [Error::invalid(&path(), Value::Null, "why"), Error::required(&path(), "null")];
            show_as_sent(&mut errors, &empty);
            let expected =
                format!("X \"a\" is invalid: [spec.cidrs: Invalid value: {shown}: why, spec.cidrs: Required value: null]");
            assert_eq!(message(&errors), expected);
        }
    }

    #[test]
    fn inside_of_values_and_of_texts_of_structs() {
        let whole = value!({"cidrs": null, "nodeSelector": {"a": null}});
        let text = r#"{"CIDRs":null,"NodeSelector":{"A":null}}"#;
        let empty: Vec<EmptyMember> = ["spec.other", "spec.cidrs", "spec.nodeSelector.a", "spec"]
            .map(|path| EmptyMember { path: path.to_owned(), json: "[]" })
            .into();
        let path = field::Path::new("spec");
        let mut errors =
            [Error::invalid(&path, whole, "why"), Error::invalid(&path, Value::Null, "why").shown_as(text.to_owned())];
        show_as_sent(&mut errors, &empty);
        assert_eq!(errors[0].body(), r#"Invalid value: {"cidrs":[],"nodeSelector":{"a":[]}}: why"#);
        assert_eq!(errors[1].body(), r#"Invalid value: {"CIDRs":[],"NodeSelector":{"A":[]}}: why"#);
    }

    #[test]
    fn other_places_and_changes() {
        let sent = |path: &str| EmptyMember { path: path.to_owned(), json: "[]" };
        let at = field::Path::new("spec").child("drivers");
        let error = Error::invalid(&at, value!({"keys": null}), "why").of_place(&at.index(1));
        let change =
            field::Change { before: r#"{"A":1,"B":null}"#.into(), after: r#"{"A":null,"B":null}"#.into(), unsent: &[".b"] };
        let detail = format!("why\n{}", kinds::difference(&change.before, &change.after));
        let changed = Error { change: Some(Box::new(change)), ..Error::forbidden(&field::Path::new("spec"), detail) };
        let mut errors = [error, changed];
        show_as_sent(&mut errors, &[sent("spec.drivers[1].keys"), sent("spec.a"), sent("spec.b")]);
        assert_eq!(errors[0].body(), r#"Invalid value: {"keys":[]}: why"#);
        assert_eq!(errors[1].body(), "Forbidden: why\n@@ -1,4 +1,4 @@\n {\n- \"A\": 1,\n+ \"A\": [],\n  \"B\": null\n }\n");
    }

    #[test]
    fn no_more_than_so_many_are_looked_for() {
        let place = |at: usize| field::Path::new("spec").child("rules").index(at);
        let empty: Vec<EmptyMember> = (0..500).map(|at| EmptyMember { path: place(at).to_string(), json: "[]" }).collect();
        let mut errors: Vec<Error> = (100..400).map(|at| Error::invalid(&place(at), Value::Null, "why")).collect();
        show_as_sent(&mut errors, &empty);
        assert_eq!(message(&errors).matches("Invalid value: []").count(), LOOKED_FOR_MAX);
        assert_eq!(message(&errors).matches("Invalid value: null").count(), 300 - LOOKED_FOR_MAX);
    }
}
