//! Changes of an object: where and what. An edit is made for the valid object and can be applied to any state of it, so that both
//! servers get the same change whatever they stored.

use apimachinery::schema::{Shape, TypeInfo, TypeKind};
use apimachinery::{Key, Value};

use super::random::Random;
use super::values;

/// A member that is written twice has its second value under a name with this before it; [`to_text`] takes it off.
const TWICE: &str = "\u{1}twice:";

/// A step into an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Member(String),
    Element(usize),
}

/// What happens there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Remove,
    Set(Value),
    /// The same member once more, with this value.
    Twice(Value),
    /// An element of the list, once more at its end.
    Repeat,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edit {
    pub(super) path: Vec<Step>,
    pub(super) action: Action,
}

/// A place in an object that can be changed.
struct Site {
    path: Vec<Step>,
    shape: &'static Shape,
    present: bool,
}

/// A change of the object; below `root` only, if there is one (`status`).
pub(super) fn random(object: &Value, info: &'static TypeInfo, root: Option<&str>, random: &mut Random) -> Edit {
    let mut sites = Vec::new();
    walk_struct(object, info, &mut Vec::new(), &mut sites);
    let is = |site: &Site, name: &str| matches!(site.path.first(), Some(Step::Member(member)) if member == name);
    match root {
        Some(root) => sites.retain(|site| is(site, root)),
        None => {
            let metadata = random.percent(12);
            sites.retain(|site| is(site, "metadata") == metadata && !is(site, "status"));
        }
    }
    let present = random.percent(70);
    let chosen: Vec<&Site> = sites.iter().filter(|site| site.present == present).collect();
    let Some(site) = (!chosen.is_empty()).then(|| *random.pick(&chosen)).or(sites.first()) else {
        return Edit { path: vec![Step::Member("unknown".to_owned())], action: Action::Set(1.into()) };
    };
    let action = action(site, random);
    let mut path = site.path.clone();
    if random.percent(4) {
        path.pop();
        path.push(Step::Member("unknownField".to_owned()));
    }
    Edit { path, action }
}

fn action(site: &Site, random: &mut Random) -> Action {
    if !site.present {
        return Action::Set(values::any(site.shape, 0, random));
    }
    match random.below(100) {
        0..20 => Action::Remove,
        20..26 => Action::Set(Value::Null),
        26..34 => Action::Set(values::wrong_type(site.shape, random)),
        34..38 if matches!(site.path.last(), Some(Step::Member(_))) => Action::Twice(values::any(site.shape, 0, random)),
        38..46 if matches!(site.shape, Shape::List(_)) => Action::Repeat,
        _ => Action::Set(values::any(site.shape, 0, random)),
    }
}

fn walk_struct(value: &Value, info: &'static TypeInfo, path: &mut Vec<Step>, sites: &mut Vec<Site>) {
    for field in &info.fields {
        // The server's own.
        if path.len() == 1 && matches!(field.name, "managedFields" | "uid" | "resourceVersion" | "selfLink") {
            continue;
        }
        path.push(Step::Member(field.name.to_owned()));
        let member = value.get(field.name);
        let present = member.is_some();
        if path.len() > 1 || !matches!(field.name, "apiVersion" | "kind" | "metadata") {
            sites.push(Site { path: path.clone(), shape: field.shape, present });
        }
        if let Some(member) = member {
            walk(member, field.shape, path, sites);
        }
        path.pop();
    }
}

fn walk(value: &Value, shape: &'static Shape, path: &mut Vec<Step>, sites: &mut Vec<Site>) {
    match shape {
        Shape::Type(id) if id.info().kind == TypeKind::Struct => walk_struct(value, id.info(), path, sites),
        Shape::List(of) => {
            for (index, element) in value.as_array().unwrap_or_default().iter().enumerate() {
                path.push(Step::Element(index));
                sites.push(Site { path: path.clone(), shape: of, present: true });
                walk(element, of, path, sites);
                path.pop();
            }
        }
        Shape::Map(of) => {
            for (key, element) in value.as_object().into_iter().flatten() {
                path.push(Step::Member(key.as_str().to_owned()));
                sites.push(Site { path: path.clone(), shape: of, present: true });
                walk(element, of, path, sites);
                path.pop();
            }
        }
        _ => {}
    }
}

impl Edit {
    /// Applies it where its place is there.
    pub(super) fn apply(&self, object: &mut Value) {
        let Some((last, parents)) = self.path.split_last() else { return };
        let mut at = object;
        for step in parents {
            at = match step {
                Step::Member(name) => {
                    if at.get(name).is_none_or(Value::is_null) {
                        if at.as_object().is_none() {
                            return;
                        }
                        at.insert(name.as_str(), Value::object());
                    }
                    let Some(next) = at.get_mut(name) else { return };
                    next
                }
                Step::Element(index) => match at.as_array_mut().and_then(|list| list.get_mut(*index)) {
                    Some(next) => next,
                    None => return,
                },
            };
        }
        self.act(at, last);
    }

    fn act(&self, at: &mut Value, last: &Step) {
        match (&self.action, last) {
            (Action::Remove, Step::Member(name)) => drop(at.remove(name)),
            (Action::Set(value), Step::Member(name)) if at.as_object().is_some() => drop(at.insert(name.as_str(), value.clone())),
            (Action::Twice(value), Step::Member(name)) if at.get(name).is_some() => {
                at.insert(Key::from(format!("{TWICE}{name}")), value.clone());
            }
            (Action::Repeat, Step::Member(name)) => {
                if let Some(list) = at.get_mut(name).and_then(Value::as_array_mut)
                    && let Some(first) = list.first().cloned()
                {
                    list.push(first);
                }
            }
            (action, Step::Element(index)) => {
                let Some(list) = at.as_array_mut().filter(|list| *index < list.len()) else { return };
                match action {
                    Action::Remove => drop(list.remove(*index)),
                    Action::Set(value) | Action::Twice(value) => list[*index] = value.clone(),
                    Action::Repeat => list.push(list[*index].clone()),
                }
            }
            _ => {}
        }
    }
}

/// As JSON, doubled members included.
pub(super) fn to_text(object: &Value) -> String {
    object.to_json().replace("\\u0001twice:", "")
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::data;
    use super::*;

    #[test]
    fn edits_apply() {
        let member = |name: &str| Step::Member(name.to_owned());
        let cases = [
            (vec![member("a")], Action::Remove, r#"{"l":[1,2]}"#),
            (vec![member("a")], Action::Set(3.into()), r#"{"a":3,"l":[1,2]}"#),
            (vec![member("l")], Action::Repeat, r#"{"a":{"b":1},"l":[1,2,1]}"#),
            (vec![member("l"), Step::Element(1)], Action::Remove, r#"{"a":{"b":1},"l":[1]}"#),
            (vec![member("l"), Step::Element(5)], Action::Remove, r#"{"a":{"b":1},"l":[1,2]}"#),
            (vec![member("n"), member("m")], Action::Set(1.into()), r#"{"a":{"b":1},"l":[1,2],"n":{"m":1}}"#),
            (vec![member("a"), member("b")], Action::Twice(2.into()), r#"{"a":{"b":2,"b":1},"l":[1,2]}"#),
        ];
        for (path, action, expected) in cases {
            let mut object = value!({"a": {"b": 1}, "l": [1, 2]});
            Edit { path, action }.apply(&mut object);
            assert_eq!(to_text(&object), expected);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_edits() {
        for base in data::load(Some("apps/")).expect("readable") {
            let edits = |seed| {
                let mut numbers = Random::of(seed, 1);
                (0..20).map(|_| random(&base.object(1), base.info, None, &mut numbers)).collect::<Vec<_>>()
            };
            assert_eq!(edits(1), edits(1));
            assert_ne!(edits(1), edits(2));
        }
    }
}
