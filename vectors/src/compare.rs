//! Two documents, leaf by leaf.

use std::collections::BTreeSet;

use apimachinery::Value;

/// A place where two documents differ.
#[derive(Debug)]
pub(crate) struct Difference<'a> {
    /// The keys from the root to it.
    pub(crate) path: Vec<&'a str>,
    /// Upstream's; `None` when it is not there.
    pub(crate) upstream: Option<&'a Value>,
    /// Ours; `None` when it is not there.
    pub(crate) ours: Option<&'a Value>,
}

impl std::fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.join(" > ");
        match (self.upstream, self.ours) {
            (Some(_), None) => write!(f, "{path}: missing"),
            (None, Some(_)) => write!(f, "{path}: not upstream's"),
            (Some(upstream), Some(ours)) => write!(f, "{path}: upstream {upstream}, ours {ours}"),
            (None, None) => f.write_str(&path),
        }
    }
}

/// All differences, in order of the keys.
pub(crate) fn differences<'a>(upstream: &'a Value, ours: &'a Value) -> Vec<Difference<'a>> {
    let mut found = Vec::new();
    walk(upstream, ours, &mut Vec::new(), &mut found);
    found
}

fn walk<'a>(upstream: &'a Value, ours: &'a Value, path: &mut Vec<&'a str>, found: &mut Vec<Difference<'a>>) {
    match (upstream, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&str> = a.keys().chain(b.keys()).map(|key| key.as_str()).collect();
            for key in keys {
                path.push(key);
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => walk(x, y, path, found),
                    (upstream, ours) => found.push(Difference { path: path.clone(), upstream, ours }),
                }
                path.pop();
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.iter().any(|item| item.as_object().is_some()) => {
            for (x, y) in a.iter().zip(b.iter()) {
                path.push(x["name"].as_str().unwrap_or("[]"));
                walk(x, y, path, found);
                path.pop();
            }
        }
        _ if upstream != ours => found.push(Difference { path: path.clone(), upstream: Some(upstream), ours: Some(ours) }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn finds_what_differs() {
        let (a, b) =
            (value!({"a": 1, "b": [{"name": "x", "c": 1}], "d": 1}), value!({"a": 1, "b": [{"name": "x", "c": 2}], "e": 1}));
        let found: Vec<String> = differences(&a, &b).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["b > x > c: upstream 1, ours 2", "d: missing", "e: not upstream's"]);
        assert!(differences(&a, &a).is_empty());
    }
}
