//! Members that a document says more than once in one object.

use std::collections::HashMap;

use super::parse::Frame;
use super::{Key, Value};

/// Of more repeated members than these nobody is told, as upstream's decoder for JSON has it; they cost what other members cost.
pub(crate) const REPEATED_MAX: usize = 100;

/// A member that another one of the same name follows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Repeated {
    /// The way to it.
    pub(crate) path: Vec<Place>,
    /// What it held.
    pub(crate) value: Value,
}

/// A step on the way to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A member of an object.
    Member(Key),
    /// An element of a list.
    Element(usize),
}

/// What a parser notes of them.
pub(super) struct Duplicates {
    /// The path of each, once.
    pub(super) paths: Vec<String>,
    /// The members that others follow, in the order in which their objects end; collected only on request.
    pub(super) earlier: Option<Vec<Repeated>>,
}

impl Duplicates {
    pub(super) fn new(with_values: bool) -> Self {
        Self { paths: Vec::new(), earlier: with_values.then(Vec::new) }
    }

    /// An object has ended below what is on the stack.
    pub(super) fn note(&mut self, stack: &[Frame], members: &[(Key, Value)]) {
        let mut last: HashMap<&str, usize> = HashMap::with_capacity(members.len());
        for (at, (key, _)) in members.iter().enumerate() {
            let Some(earlier) = last.insert(key.as_str(), at) else { continue };
            if self.paths.len() < REPEATED_MAX {
                let path = path_to(stack, key);
                if !self.paths.contains(&path) {
                    self.paths.push(path);
                }
            }
            if let Some(list) = self.earlier.as_mut().filter(|list| list.len() <= REPEATED_MAX) {
                list.push(Repeated { path: places(stack, key), value: members[earlier].1.clone() });
            }
        }
    }

    /// The members that others follow; none if there are too many.
    pub(super) fn into_earlier(self) -> Vec<Repeated> {
        self.earlier.filter(|list| list.len() <= REPEATED_MAX).unwrap_or_default()
    }
}

fn places(stack: &[Frame], key: &Key) -> Vec<Place> {
    let above = stack.iter().map(|frame| match frame {
        Frame::Array(items) => Place::Element(items.len()),
        Frame::Object { key, .. } => Place::Member(key.clone()),
    });
    above.chain([Place::Member(key.clone())]).collect()
}

fn path_to(stack: &[Frame], key: &Key) -> String {
    let mut path = String::new();
    for frame in stack {
        match frame {
            Frame::Array(items) => path.push_str(&format!("[{}]", items.len())),
            Frame::Object { key, .. } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
        }
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
    path
}

#[cfg(test)]
mod tests {
    use super::super::parse::{parse, parse_with_repeated};
    use super::*;

    #[test]
    fn duplicates_have_their_path() {
        let json = br#"{"spec":{"list":[{"x":1},{"x":1,"y":{"z":1,"z":2,"z":3}}],"list":[]},"a":1,"a":2}"#;
        assert_eq!(parse(json, true).expect("valid").1, ["spec.list[1].y.z", "spec.list", "a"]);
        let values: Vec<String> = parse_with_repeated(json).expect("valid").iter().map(|one| one.value.to_json()).collect();
        assert_eq!(values, ["1", "2", r#"[{"x":1},{"x":1,"y":{"z":3}}]"#, "1"]);
    }

    #[test]
    fn of_very_many_only_some_are_told() {
        let member = |number: usize| format!("\"k{number}\":1");
        let members: Vec<String> = (0..100_000).chain(0..100_000).map(member).collect();
        let json = format!("{{{}}}", members.join(","));
        assert_eq!(parse(json.as_bytes(), true).expect("valid").1.len(), REPEATED_MAX);
        assert_eq!(parse_with_repeated(json.as_bytes()).expect("valid"), []);
    }
}
