//! Requests to the subresources that only some kinds have: what they take is an object of another kind (an Eviction, a Binding, a
//! TokenRequest, a Scale), or a part of the object that its own path does not change (ephemeral containers, approvals, finalizers).

use apimachinery::schema::{self, TypeInfo};
use apimachinery::{GroupVersionKind, Value, value};
use hyper::Method;

use super::data::{Base, NAMESPACE};
use super::edit::{self, Action, Edit, Step};
use super::patch;
use super::random::Random;
use super::request::{Body, JSON, Request};
use super::scenario::{METADATA, TABLE};

/// What one takes.
enum Takes {
    /// A new object of another kind.
    Other(&'static str, Value),
    /// The object, with this change to begin with, and others at the member that it is about.
    Part(&'static str, &'static [&'static str], Value),
    /// The object's `scale`.
    Scale(Value),
}

/// What the subresource takes; `None` for those that are asked elsewhere, and for those that need a kubelet.
fn takes(resource: &str, subresource: &str) -> Option<Takes> {
    Some(match (resource, subresource) {
        ("pods", "eviction") => Takes::Other("policy/v1/Eviction", value!({"deleteOptions": {"gracePeriodSeconds": 0}})),
        ("pods", "binding") => Takes::Other("v1/Binding", value!({"target": {"kind": "Node", "name": "node-1"}})),
        ("serviceaccounts", "token") => Takes::Other(
            "authentication.k8s.io/v1/TokenRequest",
            value!({"spec": {"audiences": ["a"], "expirationSeconds": 3600}}),
        ),
        ("pods", "resize") => {
            let resources = value!({"requests": {"cpu": "200m", "memory": "64Mi", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "1", "memory": "128Mi"}});
            Takes::Part("spec", &["spec", "containers", "0", "resources"], resources)
        }
        ("pods", "ephemeralcontainers") => {
            let debug = value!([{"name": "debug", "image": "example.com/debug:1", "targetContainerName": "main", "command": ["sh"], "tty": true}]);
            Takes::Part("spec", &["spec", "ephemeralContainers"], debug)
        }
        ("certificatesigningrequests", "approval") => {
            let approved = value!([{"type": "Approved", "status": "True", "reason": "Tested", "message": "It was tested."}]);
            Takes::Part("status", &["status", "conditions"], approved)
        }
        ("namespaces", "finalize") => Takes::Part("spec", &["spec", "finalizers"], value!(["kubernetes", "example.com/a"])),
        (_, "scale") => Takes::Scale(value!({"spec": {"replicas": 2}})),
        _ => return None,
    })
}

/// A kind's subresources that this module asks for.
fn known(base: &Base) -> Vec<(&'static str, Takes)> {
    let named = base.resource.subresources.iter().map(|sub| sub.name);
    named.filter_map(|name| Some((name, takes(base.resource.plural, name)?))).collect()
}

/// A request to one of them; `None` if the kind has none. Options of writes are the caller's.
pub(super) fn request(base: &Base, number: u64, random: &mut Random) -> Option<Request> {
    let all = known(base);
    let (name, takes) = (!all.is_empty()).then(|| random.pick(&all))?;
    let path = format!("{}/{}/{name}", base.collection(), base.name(number));
    let made = |verb: &'static str, method: Method, body: Body| Request {
        verb,
        method,
        path: path.clone(),
        query: Vec::new(),
        body,
        accept: JSON,
    };
    if random.percent(10) {
        let accept = random.weighted(&[(50, JSON), (30, TABLE), (20, METADATA)]);
        return Some(Request { accept, ..made("get subresource", Method::GET, Body::None) });
    }
    Some(match takes {
        Takes::Other(kind, object) => {
            let object = of_kind(kind, object, base, number, random);
            made("create subresource", Method::POST, Body::Text(JSON, object))
        }
        Takes::Scale(scale) => {
            let (verb, content_type, text) = scale_patch(scale, base, number, random);
            made(verb, Method::PATCH, Body::Text(content_type, text))
        }
        Takes::Part(root, path, first) => {
            let edits = part_edits(root, path, first, base, number, random);
            match random.percent(60) {
                true => made("update subresource", Method::PUT, Body::Current(edits)),
                false => made("patch subresource", Method::PATCH, part_patch(root, &edits, base, number, random)),
            }
        }
    })
}

/// The kind and the type behind `GROUP/VERSION/KIND`; the core group has no name.
fn kind_of(text: &str) -> (GroupVersionKind, Option<&'static TypeInfo>) {
    let mut parts = text.rsplitn(3, '/');
    let (kind, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let kind = GroupVersionKind::new(parts.next().unwrap_or_default(), version, kind);
    let info = schema::lookup(&kind);
    (kind, info)
}

/// A new object of the kind under the object's name, changed in some place, as JSON.
fn of_kind(kind: &str, object: &Value, base: &Base, number: u64, random: &mut Random) -> String {
    let (kind, info) = kind_of(kind);
    let mut object = object.clone();
    object.set_gvk(&kind);
    object.set_path(&["metadata", "name"], base.name(number));
    object.set_path(&["metadata", "namespace"], NAMESPACE);
    if let Some(info) = info.filter(|_| random.percent(70)) {
        edit::random(&object, info, None, random).apply(&mut object);
    }
    edit::to_text(&object)
}

/// A patch of the scale.
fn scale_patch(scale: &Value, base: &Base, number: u64, random: &mut Random) -> (&'static str, &'static str, String) {
    let (kind, info) = kind_of("autoscaling/v1/Scale");
    let mut object = scale.clone();
    object.set_gvk(&kind);
    object.set_path(&["metadata", "name"], base.name(number));
    let unknown = || Edit { path: vec![Step::Member("unknownField".to_owned())], action: Action::Set(1.into()) };
    let edit = info.map_or_else(unknown, |info| edit::random(&object, info, None, random));
    match random.below(4) {
        0 => ("patch scale json", patch::JSON_PATCH, patch::json(&object, &edit, random)),
        1 => ("patch scale merge", patch::MERGE, patch::merge(&object, &edit, false, random)),
        2 => ("patch scale strategic", patch::STRATEGIC, patch::merge(&object, &edit, true, random)),
        _ => ("apply scale", patch::APPLY, patch::apply(&object, &edit, None, random)),
    }
}

/// The change that the subresource is for, and others in the same member.
fn part_edits(root: &str, path: &[&str], first: &Value, base: &Base, number: u64, random: &mut Random) -> Vec<Edit> {
    let step = |text: &&str| text.parse().map_or_else(|_| Step::Member((*text).to_owned()), Step::Element);
    let first = Edit { path: path.iter().map(step).collect(), action: Action::Set(first.clone()) };
    let mut object = base.object(number);
    first.apply(&mut object);
    let mut edits = vec![first];
    if random.percent(50) {
        edits.push(edit::random(&object, base.info, Some(root), random));
    }
    if random.percent(10) {
        edits.push(edit::random(&object, base.info, None, random));
    }
    edits
}

/// The same as a patch of the object as it was made.
fn part_patch(root: &str, edits: &[Edit], base: &Base, number: u64, random: &mut Random) -> Body {
    let mut object = base.object(number);
    let (last, before) = edits.split_last().map_or((None, edits), |(last, before)| (Some(last), before));
    before.iter().for_each(|edit| edit.apply(&mut object));
    let Some(last) = last else { return Body::Text(patch::MERGE, "{}".to_owned()) };
    match random.below(4) {
        0 => Body::Text(patch::JSON_PATCH, patch::json(&object, last, random)),
        1 => Body::Text(patch::MERGE, patch::merge(&object, last, false, random)),
        2 => Body::Text(patch::STRATEGIC, patch::merge(&object, last, true, random)),
        _ => Body::Text(patch::APPLY, patch::apply(&object, last, Some(root), random)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::data;

    #[test]
    fn every_write_of_a_subresource_is_asked() {
        // What is asked elsewhere, and what needs a kubelet or a server behind it.
        let elsewhere = ["status", "log", "exec", "attach", "portforward", "proxy"];
        let mut asked = Vec::new();
        for base in data::load(None).expect("readable") {
            for sub in base.resource.subresources.iter().filter(|sub| !elsewhere.contains(&sub.name)) {
                assert!(takes(base.resource.plural, sub.name).is_some(), "{} {}", base.title(), sub.name);
                asked.push(sub.name);
            }
            let request = request(&base, 7, &mut Random::of(1, 2));
            assert_eq!(request.is_some(), !known(&base).is_empty(), "{}", base.title());
        }
        for name in ["approval", "binding", "ephemeralcontainers", "eviction", "finalize", "resize", "scale", "token"] {
            assert!(asked.contains(&name), "{name}");
        }
    }

    #[test]
    fn other_kinds_have_types() {
        for kind in ["policy/v1/Eviction", "v1/Binding", "authentication.k8s.io/v1/TokenRequest", "autoscaling/v1/Scale"] {
            assert!(kind_of(kind).1.is_some(), "{kind}");
        }
    }
}
