//! What is different between two answers to the same request.
//!
//! Left out of account: identity, time and what a server allocates (uid, resourceVersion, addresses, node ports, random suffixes), and the order in
//! which Go walks its maps (the causes of an error).

use apimachinery::{GroupVersionKind, Value, protobuf};

use super::request::State;

/// An answer.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: Value,
    /// What was not JSON.
    pub(super) text: String,
    /// The texts of the Warning headers.
    pub(super) warnings: Vec<String>,
}

/// What happened to a request.
pub(super) enum Outcome {
    Answer(Box<Answer>),
    /// The server closed the connection without an answer.
    Dropped,
}

/// The day of the run and its neighbours, as timestamps begin: what is from then was made up by the server.
pub(super) struct Days(pub(super) Vec<String>);

/// A body as a tree where it is one (JSON, a stream of JSON, protobuf), as text otherwise.
pub(super) fn decoded(bytes: &[u8]) -> (Value, String) {
    if let Ok(value) = Value::from_slice(bytes) {
        return (value, String::new());
    }
    if let Ok(value) = protobuf::decode(bytes, &GroupVersionKind::new("", "v1", "Status")) {
        return (value, String::new());
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    let lines: Result<Vec<Value>, _> = text.lines().map(|line| Value::from_slice(line.as_bytes())).collect();
    match lines {
        Ok(lines) if !lines.is_empty() => (lines.into(), String::new()),
        _ => (Value::Null, text),
    }
}

/// The answer without what may differ. `request` is what was sent: what it says itself is kept.
pub(super) fn normalized(answer: &Answer, state: &State, request: &str, days: &Days) -> Answer {
    let context = Context { state, request, days };
    let mut answer = answer.clone();
    context.walk(&mut answer.body, &mut Vec::new());
    let mut columns = Vec::new();
    context.table(&mut answer.body, &mut columns);
    // Of a watch's events, which may be one, only the first has columns.
    match &mut answer.body {
        Value::Array(_) => answer.body.as_array_mut().into_iter().flatten().for_each(|event| context.event(event, &mut columns)),
        event => context.event(event, &mut columns),
    }
    context.generated_name(&mut answer.body);
    without_patched_object(&mut answer.body);
    answer.warnings.iter_mut().for_each(|warning| *warning = context.text(warning));
    answer.warnings.sort();
    answer.text = context.text(&answer.text);
    answer
}

/// An error about a patch shows the patched object as text, with its members in the order of Go's maps: the text is left out.
fn without_patched_object(status: &mut Value) {
    let causes = status.array_at(&["details", "causes"]);
    let [cause] = causes else { return };
    let Some(message) = cause["message"].as_str().filter(|_| cause["field"] == "patch") else { return };
    let start = message.starts_with("Invalid value: \"{");
    let end = message.rfind("}\": ").filter(|_| start);
    let Some(end) = end else { return };
    let text = format!("Invalid value: <patched>{}", &message[end + 2..]);
    status.set_path(&["message"], text.as_str());
    if let Some(cause) = status.get_path_mut(&["details", "causes"]).and_then(Value::as_array_mut).and_then(|all| all.first_mut())
    {
        cause.insert("message", text);
    }
}

struct Context<'a> {
    state: &'a State,
    request: &'a str,
    days: &'a Days,
}

/// Members that hold what a server allocates.
const ALLOCATED: [&str; 5] = ["clusterIP", "clusterIPs", "nodePort", "healthCheckNodePort", "continue"];

impl Context<'_> {
    fn walk(&self, value: &mut Value, path: &mut Vec<String>) {
        if let Some(text) = value.as_str() {
            *value = self.leaf(text, path).into();
        } else if let Some(list) = value.as_array_mut() {
            list.iter_mut().for_each(|element| self.walk(element, path));
        } else if value.as_object().is_some() {
            let keys: Vec<String> = value.as_object().into_iter().flatten().map(|(key, _)| key.as_str().to_owned()).collect();
            for key in keys {
                let Some(member) = value.get_mut(&key) else { continue };
                // What the request says itself is compared, unless it says back what the server had chosen.
                let chosen = || !self.request.contains(&member.to_json()) || self.state.chosen.contains(member);
                if ALLOCATED.contains(&key.as_str()) && !member.is_zero() && *member != "None" && chosen() {
                    *member = "(allocated)".into();
                    continue;
                }
                path.push(key);
                self.walk(member, path);
                path.pop();
            }
        }
    }

    /// Addresses and ports that the server chose, in texts: cells of tables, messages.
    fn without_allocated(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.state.chosen {
            if let Some(address) = value.as_str().filter(|address| address.len() > 3) {
                text = text.replace(address, "(allocated)");
            } else if let Some(port) = value.as_i64() {
                text = text.replace(&format!(":{port}/"), ":(allocated)/");
            }
        }
        text
    }

    fn leaf(&self, text: &str, path: &[String]) -> String {
        match path.last().map(String::as_str) {
            Some("resourceVersion") if !text.is_empty() && path.iter().any(|step| step == "metadata") => "<rv>".to_owned(),
            Some("token") if text.split('.').count() == 3 && path.iter().any(|step| step == "status") => "<token>".to_owned(),
            Some("expirationTimestamp") => "<time>".to_owned(),
            Some("name") if text.starts_with("kube-api-access-") => "kube-api-access-<random>".to_owned(),
            _ => self.text(text),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = self.without_allocated(&self.without_uids(text));
        for day in &self.days.0 {
            while let Some(at) = text.find(day.as_str()) {
                let end = text[at..].find(['Z', '"', ' ']).map_or(text.len(), |end| at + end + 1);
                text.replace_range(at..end.min(text.len()), "<time>");
            }
        }
        let version = self.state.resource_version();
        if version.len() > 1 && text.contains("ersion") {
            text = without_number(&text, version);
        }
        REVISIONS_FOLLOW.iter().fold(text, |text, before| numbers_after(&text, before))
    }

    /// UUIDs that the request did not name.
    fn without_uids(&self, text: &str) -> String {
        let bytes = text.as_bytes();
        // What the request says itself is compared, unless it is the server's own.
        let named = |uid: &str| self.request.contains(uid) && uid != self.state.uid();
        let is_uid = |at: usize| {
            bytes.get(at..at + 36).is_some_and(|part| {
                part.iter()
                    .enumerate()
                    .all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { *b == b'-' } else { b.is_ascii_hexdigit() })
            })
        };
        let mut out = String::new();
        let mut rest = 0;
        let mut at = 0;
        while at + 36 <= bytes.len() {
            if is_uid(at) && !named(&text[at..at + 36]) {
                out.push_str(&text[rest..at]);
                out.push_str("<uid>");
                at += 36;
                rest = at;
            } else {
                at += 1;
            }
        }
        out.push_str(&text[rest..]);
        out
    }

    fn event(&self, event: &mut Value, columns: &mut Vec<Value>) {
        if let Some(object) = event.get_mut("object") {
            self.table(object, columns);
        }
    }

    /// A table without ages and prose. `columns` are those of the table before, if it has none.
    fn table(&self, table: &mut Value, columns: &mut Vec<Value>) {
        if table["kind"] != "Table" {
            return;
        }
        if let Some(own) = table["columnDefinitions"].as_array().filter(|own| !own.is_empty()) {
            *columns = own.to_vec();
        }
        Self::ages(table, columns);
        // Prose of upstream's documentation.
        let columns = table.get_mut("columnDefinitions").and_then(Value::as_array_mut);
        columns.into_iter().flatten().for_each(|column| drop(column.remove("description")));
    }

    /// Cells that say how long ago.
    fn ages(table: &mut Value, columns: &[Value]) {
        let Some(rows) = table.get_mut("rows").and_then(Value::as_array_mut) else { return };
        for cells in rows.iter_mut().filter_map(|row| row.get_mut("cells").and_then(Value::as_array_mut)) {
            for (cell, column) in cells.iter_mut().zip(columns) {
                let age =
                    cell.as_str().is_some_and(|text| text.ends_with('s') && text.trim_end_matches('s').parse::<u64>().is_ok());
                if age && column["name"].as_str().is_some_and(|name| name == "Age" || name == "Last Seen" || name == "First Seen")
                {
                    *cell = "<age>".into();
                }
            }
        }
    }

    fn generated_name(&self, object: &mut Value) {
        let prefix = object.str_at(&["metadata", "generateName"]).unwrap_or_default().to_owned();
        let name = object.str_at(&["metadata", "name"]).unwrap_or_default();
        if !prefix.is_empty() && name.starts_with(&prefix) && !self.request.contains(name) {
            object.set_path(&["metadata", "name"], format!("{prefix}<random>"));
        }
    }
}

/// What a revision of the server's own is written after, in messages and in YAML.
const REVISIONS_FOLLOW: [&str; 4] = [
    "ResourceVersion in object meta: ",
    "ResourceVersion in record (",
    "resource version: 999999999, current: ",
    "resourceVersion: \"",
];

/// The text without a number, where that is not a part of another one.
fn without_number(text: &str, number: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(number) {
        let (before, after) = (&rest[..at], &rest[at + number.len()..]);
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        let inside = is_digit(before.as_bytes().last()) || is_digit(after.as_bytes().first());
        out.push_str(before);
        out.push_str(if inside { number } else { "<rv>" });
        rest = after;
    }
    out.push_str(rest);
    out
}

fn numbers_after(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(before);
        if rest.len() < part.len() {
            out.push_str("<rv>");
        }
        out.push_str(rest);
    }
    out
}

/// Everything that is different between normalized answers, `theirs` being upstream's; nothing where they are the same.
pub(super) fn differences(theirs: &Answer, ours: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if theirs.code != ours.code {
        found.push(format!("code {} is {}: {}", theirs.code, ours.code, first_line(theirs, ours)));
        return found;
    }
    if theirs.body["kind"] == "Status" && ours.body["kind"] == "Status" {
        statuses(&theirs.body, &ours.body, &mut found);
    } else {
        values(&theirs.body, &ours.body, "", &mut found);
    }
    if theirs.text != ours.text {
        found.push(format!("text {:?} is {:?}", theirs.text, ours.text));
    }
    missing(&theirs.warnings, &ours.warnings, "warning", &mut found);
    found
}

fn first_line(theirs: &Answer, ours: &Answer) -> String {
    let of = |answer: &Answer| match answer.body["kind"] == "Status" {
        true => match causes(&answer.body).first() {
            Some(cause) => cause.clone(),
            None => answer.body["message"].as_str().unwrap_or_default().to_owned(),
        },
        false => String::new(),
    };
    match (of(theirs), of(ours)) {
        (theirs, ours) if ours.is_empty() => theirs,
        (theirs, ours) if theirs.is_empty() => format!("(ours) {ours}"),
        (theirs, ours) => format!("{theirs} (ours) {ours}"),
    }
}

fn causes(status: &Value) -> Vec<String> {
    let of = |cause: &Value| {
        let text = |name: &str| cause[name].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", generalized(&text("field")), text("reason"), text("message"))
    };
    status.array_at(&["details", "causes"]).iter().map(of).collect()
}

/// A place without the numbers of elements.
fn generalized(path: &str) -> String {
    let mut out = String::new();
    let mut digits = false;
    for c in path.chars() {
        match c {
            '[' => digits = true,
            '0'..='9' if digits => continue,
            _ => digits = false,
        }
        out.push(c);
    }
    out
}

fn statuses(theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    let (their_causes, our_causes) = (causes(theirs), causes(ours));
    missing(&their_causes, &our_causes, "cause", found);
    if found.is_empty() {
        let plain = |status: &Value| {
            let mut status = status.clone();
            if their_causes.len() > 1 {
                // The same causes in another order, in the message too.
                status.remove("message");
                if let Some(details) = status.get_mut("details") {
                    details.remove("causes");
                }
            }
            status
        };
        values(&plain(theirs), &plain(ours), "", found);
    }
}

fn missing(theirs: &[String], ours: &[String], what: &str, found: &mut Vec<String>) {
    let mut left: Vec<&String> = ours.iter().collect();
    for text in theirs {
        match left.iter().position(|have| *have == text) {
            Some(at) => drop(left.remove(at)),
            None => found.push(format!("{what} missing: {text}")),
        }
    }
    found.extend(left.into_iter().map(|text| format!("{what} too many: {text}")));
}

fn values(theirs: &Value, ours: &Value, path: &str, found: &mut Vec<String>) {
    match (theirs, ours) {
        _ if theirs == ours => {}
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a.iter() {
                let path = if path.is_empty() { key.as_str().to_owned() } else { format!("{path}.{}", key.as_str()) };
                match b.get(key.as_str()) {
                    Some(other) => values(value, other, &path, found),
                    None => found.push(format!("missing {path}: {}", shown(value))),
                }
            }
            for (key, value) in b.iter().filter(|(key, _)| a.get(key.as_str()).is_none()) {
                found.push(format!("too much {path}.{}: {}", key.as_str(), shown(value)));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b.iter()).for_each(|(a, b)| values(a, b, &format!("{path}[]"), found));
        }
        _ => found.push(format!("{path}: {} is {}", shown(theirs), shown(ours))),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_json();
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn answer(code: u16, body: Value) -> Answer {
        Answer { code, body, text: String::new(), warnings: Vec::new() }
    }

    fn compared(theirs: Answer, ours: Answer, request: &str) -> Vec<String> {
        let days = Days(vec!["2026-11-29".to_owned()]);
        let plain = |answer: &Answer| {
            normalized(answer, &State { object: Some(answer.body.clone()), ..State::default() }, request, &days)
        };
        differences(&plain(&theirs), &plain(&ours))
    }

    #[test]
    fn identity_time_and_allocation_do_not_count() {
        let object = |uid: &str, version: &str, time: &str, ip: &str| value!({"kind": "Service", "metadata": {"uid": uid, "resourceVersion": version, "creationTimestamp": time}, "spec": {"clusterIP": ip}});
        let theirs = object("aaaaaaaa-0000-0000-0000-000000000000", "7", "2026-11-29T01:02:03Z", "10.0.0.1");
        let ours = object("bbbbbbbb-0000-0000-0000-000000000000", "12", "2026-11-29T01:02:04Z", "10.0.0.9");
        assert_eq!(compared(answer(200, theirs.clone()), answer(200, ours.clone()), "{}"), Vec::<String>::new());
        // What the client asked for is no allocation.
        let found = compared(answer(200, theirs), answer(200, ours), r#"{"clusterIP":"10.0.0.1"}"#);
        assert_eq!(found, [r#"spec.clusterIP: "10.0.0.1" is "(allocated)""#]);
        // Nor is it one that the client says what the server chose before.
        let service = value!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"nodePort": 30001}]}});
        let state = State { chosen: super::super::request::chosen(&service, r#"{"spec":{}}"#), ..State::default() };
        let answer = answer(200, value!({"spec": {"clusterIP": "10.0.0.1"}, "cells": ["10.0.0.1", "80:30001/TCP"]}));
        let plain = normalized(&answer, &state, r#"{"clusterIP":"10.0.0.1"}"#, &Days(Vec::new()));
        let expected = value!({"spec": {"clusterIP": "(allocated)"}, "cells": ["(allocated)", "80:(allocated)/TCP"]});
        assert_eq!(plain.body, expected);
    }

    #[test]
    fn revisions_are_whole_numbers() {
        assert_eq!(without_number("200 at 2006-01-02, version 200, 1200", "200"), "<rv> at 2006-01-02, version <rv>, 1200");
    }

    #[test]
    fn what_counts() {
        let cause = |field: &str| value!({"field": field, "reason": "FieldValueRequired", "message": "Required value"});
        let status =
            |causes: Vec<Value>, message: &str| value!({"kind": "Status", "message": message, "details": {"causes": causes}});
        let cases = [
            (answer(201, value!({})), answer(200, value!({})), "code 201 is 200: "),
            (answer(200, value!({"a": {"b": [1]}})), answer(200, value!({"a": {"b": [2]}})), "a.b[]: 1 is 2"),
            (answer(200, value!({"a": {"b": 1}})), answer(200, value!({"a": {}})), "missing a.b: 1"),
            (
                answer(422, status(vec![cause("a[1].b")], "x")),
                answer(422, status(vec![], "y")),
                "cause missing: a[].b FieldValueRequired: Required value",
            ),
            (answer(404, status(vec![], "x")), answer(404, status(vec![], "y")), r#"message: "x" is "y""#),
        ];
        for (theirs, ours, expected) in cases {
            assert_eq!(compared(theirs, ours, "").first().map(String::as_str), Some(expected));
        }
        let (a, b) = (cause("a"), cause("b"));
        let theirs = answer(422, status(vec![a.clone(), b.clone()], "a, b"));
        assert_eq!(compared(theirs, answer(422, status(vec![b, a], "b, a")), ""), Vec::<String>::new());
    }
}
