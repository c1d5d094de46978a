//! YAML text to [`Value`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle};

use super::scalar::resolve;
use crate::value::{DEPTH_MAX, REPEATED_MAX};
use crate::{Key, Map, Value};

/// The most nodes that a document may have once its aliases are expanded.
const NODES_MAX: usize = 1_000_000;

/// Why a text is not YAML, or not YAML that has a JSON form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("yaml: {0}")]
pub struct YamlError(String);

/// A parsed document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// One message for each key that occurs twice in its mapping (the last one counts); of so many more than a person reads, nobody is told.
    pub duplicates: Vec<String>,
}

/// Parses the first document; what follows it is ignored, as upstream does. An empty text is `null`.
pub fn parse_one(text: &[u8]) -> Result<Document, YamlError> {
    let null = Document { value: Value::Null, duplicates: Vec::new() };
    Ok(documents(text, 1)?.into_iter().next().unwrap_or(null))
}

/// The first document as JSON, for what is read into a Rust type: a key that occurs twice is an error, as in upstream's strict decoders.
/// Kubeconfigs and answers of credential plugins are read so too, where upstream takes the last one. Nothing at all is `null`.
pub fn strict_json(text: &[u8]) -> Result<String, YamlError> {
    let document = parse_one(text)?;
    match document.duplicates.is_empty() {
        true => Ok(document.value.to_json()),
        false => Err(YamlError(document.duplicates.join(", "))),
    }
}

/// Parses all documents; empty ones are left out.
pub fn parse_all(text: &[u8]) -> Result<Vec<Document>, YamlError> {
    let all = documents(text, usize::MAX)?;
    Ok(all.into_iter().filter(|d| !d.value.is_null()).collect())
}

/// A value with the number of nodes that it stands for.
#[derive(Clone)]
struct Node {
    value: Value,
    size: usize,
    /// A plain `<<`, which as a key merges.
    merge: bool,
    /// Where it starts; of a collection, where it ends.
    line: usize,
}

enum Frame {
    Sequence { items: Vec<Value>, size: usize, anchor: usize },
    Mapping { members: Vec<(Key, Value, usize)>, merged: Vec<Value>, key: Option<Node>, size: usize, anchor: usize },
}

#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    duplicates: Vec<String>,
    line: usize,
}

fn documents(text: &[u8], count_max: usize) -> Result<Vec<Document>, YamlError> {
    let text: Cow<'_, str> = String::from_utf8_lossy(text);
    let mut builder = Builder::default();
    let mut found = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(&text) {
        let (event, span) = event.map_err(|e| YamlError(e.to_string()))?;
        builder.line = span.start.line();
        match event {
            Event::DocumentEnd => {
                found.push(Document {
                    value: root.take().unwrap_or_default(),
                    duplicates: std::mem::take(&mut builder.duplicates),
                });
                builder.anchors.clear();
                if found.len() == count_max {
                    break;
                }
            }
            event => {
                if let Some(value) = builder.event(event)? {
                    root = Some(value);
                }
            }
        }
    }
    Ok(found)
}

impl Builder {
    /// Takes one event; gives the document's value once it is complete.
    fn event(&mut self, event: Event<'_>) -> Result<Option<Value>, YamlError> {
        let tagged = |tag: &Option<Cow<'_, granit_parser::Tag>>, suffix: &str| {
            tag.as_ref().is_some_and(|t| t.to_string().ends_with(suffix))
        };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !tagged(&tag, "!!str") && !tagged(&tag, ":str");
                let value = if plain { resolve(&text) } else { Value::from(&*text) };
                self.complete(Node { value, size: 1, merge: plain && text == "<<", line: self.line }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.push(Frame::Sequence { items: Vec::new(), size: 1, anchor }),
            Event::MappingStart(_, anchor, _) => {
                self.push(Frame::Mapping { members: Vec::new(), merged: Vec::new(), key: None, size: 1, anchor })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::Sequence { items, size, anchor }) => {
                    self.complete(Node { value: Value::Array(Arc::new(items)), size, merge: false, line: self.line }, anchor)
                }
                Some(Frame::Mapping { members, merged, size, anchor, .. }) => {
                    let value = self.mapping(members, merged)?;
                    self.complete(Node { value, size, merge: false, line: self.line }, anchor)
                }
                None => Err(YamlError("unbalanced collection".into())),
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| YamlError(format!("line {}: anchor contains itself", self.line)))?;
                self.complete(node, 0)
            }
            _ => Ok(None),
        }
    }

    fn push(&mut self, frame: Frame) -> Result<Option<Value>, YamlError> {
        if self.stack.len() == DEPTH_MAX {
            return Err(YamlError("exceeded max depth".into()));
        }
        self.stack.push(frame);
        Ok(None)
    }

    /// Hands a complete node to the collection around it.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<Option<Value>, YamlError> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let size = match self.stack.last_mut() {
            None => return Ok(Some(node.value)),
            Some(Frame::Sequence { items, size, .. }) => {
                items.push(node.value);
                *size += node.size;
                *size
            }
            Some(Frame::Mapping { members, merged, key, size, .. }) => {
                *size += node.size;
                match key.take() {
                    None => *key = Some(node),
                    Some(key) if key.merge => merged.push(node.value),
                    Some(key) => members.push((key_text(&key.value)?, node.value, key.line)),
                }
                *size
            }
        };
        if size > NODES_MAX {
            return Err(YamlError("document contains excessive aliasing".into()));
        }
        Ok(None)
    }

    fn mapping(&mut self, members: Vec<(Key, Value, usize)>, merged: Vec<Value>) -> Result<Value, YamlError> {
        let mut seen = std::collections::HashSet::with_capacity(members.len());
        for (key, _, line) in &members {
            if !seen.insert(key.clone()) && self.duplicates.len() < REPEATED_MAX {
                self.duplicates.push(format!("line {line}: key {} already set in map", crate::go_quote(key)));
            }
        }
        let mut members: Vec<(Key, Value)> = members.into_iter().map(|(key, value, _)| (key, value)).collect();
        for source in merged {
            let maps = match &source {
                Value::Array(items) => items.to_vec(),
                _ => vec![source],
            };
            for map in maps {
                let Value::Object(map) = map else {
                    return Err(YamlError("map merge requires map or sequence of maps as the value".into()));
                };
                for (key, value) in map.iter().filter(|(key, _)| !seen.contains(*key)) {
                    members.push((key.clone(), value.clone()));
                }
                seen.extend(map.keys().cloned());
            }
        }
        Ok(Value::from(Map::from_unsorted(members)))
    }
}

/// JSON's keys are strings: scalars become their text.
fn key_text(key: &Value) -> Result<Key, YamlError> {
    match key {
        Value::String(s) => Ok(Key::new(s)),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => Ok(Key::from(key.to_json())),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(YamlError(format!("unsupported map key of type: {}", key.type_name())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_become_json() {
        let cases = [
            (
                "a: 1\nb: [x, 'yes', yes]\nc:\n  - d: |\n      line\n    e: \"q\"\n",
                r#"{"a":1,"b":["x","yes",true],"c":[{"d":"line\n","e":"q"}]}"#,
            ),
            ("x: &a {k: v}\nw: *a\nz:\n  <<: *a\n  m: 1\n", r#"{"w":{"k":"v"},"x":{"k":"v"},"z":{"k":"v","m":1}}"#),
            ("80: a\ntrue: b\n", r#"{"80":"a","true":"b"}"#),
            ("", "null"),
            ("# only a comment\n", "null"),
            ("{\"json\": [1, 2.5, null]}", r#"{"json":[1,2.5,null]}"#),
            ("a: !!str 1\n", r#"{"a":"1"}"#),
            ("a:\n", r#"{"a":null}"#),
        ];
        for (text, json) in cases {
            assert_eq!(parse_one(text.as_bytes()).expect(text).value.to_json(), json, "{text}");
        }
        let all = parse_all(b"---\na: 1\n---\n---\nb: 2\n...\n").expect("three documents");
        assert_eq!(all.iter().map(|d| d.value.to_json()).collect::<Vec<_>>(), [r#"{"a":1}"#, r#"{"b":2}"#]);
        let often = parse_one("a: 1\n".repeat(10 * REPEATED_MAX).as_bytes()).expect("valid");
        assert_eq!(often.duplicates.len(), REPEATED_MAX);
        let twice = parse_one(b"a: 1\na: 2\n").expect("valid");
        assert_eq!(twice.value["a"], Value::Int(2));
        assert!(twice.duplicates[0].ends_with("key \"a\" already set in map"), "{:?}", twice.duplicates);
    }

    #[test]
    fn hostile_documents_are_errors() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let previous = format!("*a{}", i - 1);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![previous; 10].join(",")));
        }
        assert_eq!(parse_one(bomb.as_bytes()).expect_err("bomb").to_string(), "yaml: document contains excessive aliasing");
        for deep in ["[".repeat(5_000), "{a: ".repeat(5_000), "- ".repeat(5_000)] {
            assert!(parse_one(deep.as_bytes()).is_err());
        }
        for text in ["a: [", "a: b: c", "a: *nope", "? [1]\n: 2", "a: &x [*x]"] {
            assert!(parse_one(text.as_bytes()).is_err(), "{text}");
        }
    }
}
