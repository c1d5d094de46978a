//! Errors show an empty list or map as the client sent it, which the object that is validated does not have any more: there, as in upstream's
//! store, empty is none.

use apimachinery::decode::EmptyMember;
use apimachinery::{Reason, Status};

/// The error with the empty values that the client sent where it says `null`.
pub(crate) fn shown_as_sent(mut status: Status, empty: &[EmptyMember]) -> Status {
    if empty.is_empty() || status.reason != Reason::Invalid || !status.message.contains("null") {
        return status;
    }
    for cause in status.details.iter_mut().flat_map(|details| &mut details.causes) {
        let before = format!("{}: {}", cause.field, cause.message);
        for member in empty {
            let Some(rest) = member.path.strip_prefix(cause.field.as_str()) else { continue };
            if let Some(message) = with_value(&cause.message, rest, member.json) {
                cause.message = message;
            }
        }
        status.message = status.message.replace(&before, &format!("{}: {}", cause.field, cause.message));
    }
    status
}

/// The message of a cause with a value where the one that it shows has `null`, at a place inside of it: `.spec.ports[0].x`, or nothing for the
/// value itself. `None` where there is no such place.
fn with_value(message: &str, place: &str, value: &str) -> Option<String> {
    const SHOWN: &str = "Invalid value: ";
    let start = message.find(SHOWN)? + SHOWN.len();
    let bytes = message.as_bytes();
    let at = steps(place)?.into_iter().try_fold(start, |at, step| enter(bytes, at, step))?;
    message[at..].starts_with("null").then(|| format!("{}{value}{}", &message[..at], &message[at + "null".len()..]))
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

/// Where a member or an element of the JSON at a place begins. Names are those of upstream's internal types, in another case.
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
            if key.eq_ignore_ascii_case(name) {
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
    use apimachinery::{GroupKind, Value, field};

    use super::*;

    #[test]
    fn inside_of_what_is_shown() {
        let message = r#"Invalid value: {"Rules":[{"Name":"a\"]","Values":null}],"Other":null}: why"#;
        let check = |place: &str, expected: Option<&str>| {
            assert_eq!(with_value(message, place, "[]").as_deref(), expected, "{place}");
        };
        check(".rules[0].values", Some(r#"Invalid value: {"Rules":[{"Name":"a\"]","Values":[]}],"Other":null}: why"#));
        check(".other", Some(r#"Invalid value: {"Rules":[{"Name":"a\"]","Values":null}],"Other":[]}: why"#));
        check(".rules[1].values", None);
        check(".nothing", None);
        check("", None);
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
            let errors = [field::Error::invalid(&path(), Value::Null, "why"), field::Error::required(&path(), "")];
            let status = shown_as_sent(Status::invalid(&GroupKind::new("", "X"), "a", &errors), &empty);
            let expected = format!("X \"a\" is invalid: [spec.cidrs: Invalid value: {shown}: why, spec.cidrs: Required value]");
            assert_eq!(status.message, expected);
            assert_eq!(status.details.expect("details").causes[0].message, format!("Invalid value: {shown}: why"));
        }
    }
}
