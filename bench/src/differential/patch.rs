//! Patches of each type that say the same as an edit, and some that are wrong in themselves.

use apimachinery::{Value, value};

use super::edit::{self, Action, Edit, Step};
use super::random::Random;

pub(super) const JSON_PATCH: &str = "application/json-patch+json";
pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(super) const APPLY: &str = "application/apply-patch+yaml";

const ODD_JSON: &[&str] = &[
    "[]",
    "{}",
    "null",
    "no json",
    r#"[{"op":"nope","path":"/metadata/labels/a","value":"b"}]"#,
    r#"[{"op":"add","path":"metadata/labels/a","value":"b"}]"#,
    r#"[{"op":"test","path":"/metadata/name","value":"other"}]"#,
    r#"[{"op":"remove","path":"/nope"}]"#,
    r#"[{"op":"replace","path":"/nope/deep","value":1}]"#,
    r#"[{"op":"move","from":"/metadata/labels/scenario","path":"/metadata/labels/moved"}]"#,
    r#"[{"op":"copy","from":"/metadata/labels/scenario","path":"/metadata/labels/copied"}]"#,
    r#"[{"op":"add","path":"/metadata/finalizers","value":["example.com/a"]}]"#,
    r#"[{"op":"add","path":"/metadata/finalizers/-","value":"example.com/a"}]"#,
    r#"[{"op":"add","path":"/metadata/labels/a~1b","value":"c"}]"#,
    r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"test","path":"/metadata/labels/a","value":"b"}]"#,
    r#"[{"op":"replace","path":"/metadata/uid","value":"11111111-2222-3333-4444-555555555555"}]"#,
    r#"[{"op":"replace","path":"/metadata/name","value":"other"}]"#,
    r#"[{"op":"replace","path":"","value":{}}]"#,
    r#"[{"path":"/metadata/labels/a","value":"b"}]"#,
    r#"[{"op":"add","path":"/metadata/labels/a"}]"#,
    r#"[{"op":"replace","path":"/metadata/resourceVersion","value":"1"}]"#,
];

const ODD_MERGE: &[&str] = &[
    "{}",
    "[]",
    "null",
    "1",
    "no json",
    r#"{"metadata":null}"#,
    r#"{"metadata":{"labels":null}}"#,
    r#"{"metadata":{"labels":{"a":1}}}"#,
    r#"{"metadata":{"labels":{"a":"b","a":"c"}}}"#,
    r#"{"metadata":{"annotations":{"a":"b","c":null}}}"#,
    r#"{"metadata":{"name":"other"}}"#,
    r#"{"metadata":{"uid":"11111111-2222-3333-4444-555555555555"}}"#,
    r#"{"metadata":{"resourceVersion":"1"}}"#,
    r#"{"metadata":{"resourceVersion":"$rv","labels":{"a":"b"}}}"#,
    r#"{"kind":"Nope"}"#,
    r#"{"apiVersion":"nope/v1"}"#,
    r#"{"spec":null}"#,
    r#"{"spec":[]}"#,
    r#"{"unknownField":1}"#,
    r#"{"metadata":{"finalizers":["example.com/a"]}}"#,
    r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"a","uid":"x"}]}}"#,
];

const ODD_STRATEGIC: &[&str] = &[
    r#"{"$patch":"replace","metadata":{"labels":{"a":"b"}}}"#,
    r#"{"$patch":"delete"}"#,
    r#"{"$patch":"nope"}"#,
    r#"{"metadata":{"$patch":"delete"}}"#,
    r#"{"metadata":{"labels":{"$patch":"replace","a":"b"}}}"#,
    r#"{"metadata":{"labels":{"$patch":"delete"}}}"#,
    r#"{"metadata":{"$retainKeys":["name"],"labels":{"a":"b"}}}"#,
    r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["example.com/a"]}}"#,
    r#"{"metadata":{"$setElementOrder/finalizers":["example.com/b","example.com/a"],"finalizers":["example.com/a","example.com/b"]}}"#,
    r#"{"metadata":{"ownerReferences":[{"uid":"x","$patch":"delete"}]}}"#,
    r#"{"metadata":{"ownerReferences":[{"name":"x"}]}}"#,
    r#"{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"example.com/web:2"}]}}}}"#,
    r#"{"spec":{"template":{"spec":{"containers":[{"image":"example.com/web:2"}]}}}}"#,
    r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"main"}],"containers":[{"name":"b","image":"b"}]}}}}"#,
    r#"{"spec":{"ports":[{"port":80,"$patch":"delete"}]}}"#,
    r#"{"spec":{"ports":[{"port":81,"name":"more"}]}}"#,
];

/// A JSON patch.
pub(super) fn json(object: &Value, edit: &Edit, random: &mut Random) -> String {
    if random.percent(25) {
        return (*random.pick(ODD_JSON)).to_owned();
    }
    let mut pointer = String::new();
    for step in &edit.path {
        match step {
            Step::Member(name) => pointer.push_str(&format!("/{}", name.replace('~', "~0").replace('/', "~1"))),
            Step::Element(index) => pointer.push_str(&format!("/{index}")),
        }
    }
    let operation = match &edit.action {
        Action::Remove => value!({"op": "remove", "path": pointer}),
        Action::Set(value) | Action::Twice(value) => {
            value!({"op": if random.percent(50) { "add" } else { "replace" }, "path": pointer, "value": value})
        }
        Action::Repeat => {
            let first = at(object, &edit.path)[0].clone();
            value!({"op": "add", "path": format!("{pointer}/-"), "value": first})
        }
    };
    value!([operation]).to_json()
}

fn at<'v>(object: &'v Value, path: &[Step]) -> &'v Value {
    path.iter().fold(object, |value, step| match step {
        Step::Member(name) => &value[name.as_str()],
        Step::Element(index) => &value[*index],
    })
}

/// A merge patch, or a strategic one: the member that is changed, lists whole.
pub(super) fn merge(object: &Value, edit: &Edit, strategic: bool, random: &mut Random) -> String {
    if random.percent(25) {
        let odd = if strategic && random.percent(60) { ODD_STRATEGIC } else { ODD_MERGE };
        return (*random.pick(odd)).to_owned();
    }
    let members: Vec<&str> = edit
        .path
        .iter()
        .map_while(|step| match step {
            Step::Member(name) => Some(name.as_str()),
            Step::Element(_) => None,
        })
        .collect();
    let mut edited = object.clone();
    edit.apply(&mut edited);
    let mut patch = value!({});
    patch.set_path(&members, edited.get_path(&members).cloned().unwrap_or_default());
    if strategic && random.percent(10) && members.len() > 1 {
        let directive = *random.pick(&["replace", "delete", "merge", "nope"]);
        let at = patch.path_mut(&members[..members.len() - 1]);
        at.insert("$patch", directive);
    }
    edit::to_text(&patch)
}

/// What an applier sends: all of the object, or the part below `root`.
pub(super) fn apply(object: &Value, edit: &Edit, root: Option<&str>, random: &mut Random) -> String {
    let mut edited = object.clone();
    if random.percent(85) {
        edit.apply(&mut edited);
    }
    match root {
        Some(root) => {
            let members = ["apiVersion", "kind", "metadata", root];
            let names: Vec<String> = edited.as_object().into_iter().flatten().map(|(key, _)| key.as_str().to_owned()).collect();
            names.iter().filter(|name| !members.contains(&name.as_str())).for_each(|name| drop(edited.remove(name)));
        }
        None if random.percent(80) => drop(edited.remove("status")),
        None => {}
    }
    edit::to_text(&edited)
}
