//! Access of administrators to devices that others may use at the same time: only what is in namespaces with a label may ask for it
//! (upstream's `pkg/registry/resource/utils.go`). A spec never changes, so that only new ones are looked at.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{GroupResource, Value};

use super::GROUP;
use crate::registry::OperationContext;

/// Is `true` where it may be asked for.
pub(in crate::kinds) const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The first request for it of a new object.
pub(in crate::kinds) fn requested(resource: &GroupResource, object: &Value) -> Option<Path> {
    let requests = match (resource.group.as_str(), resource.resource.as_str()) {
        (GROUP, "resourceclaims") => object.array_at(&["spec", "devices", "requests"]),
        (GROUP, "resourceclaimtemplates") => object.array_at(&["spec", "spec", "devices", "requests"]),
        _ => return None,
    };
    let at = requests.iter().position(|request| request["exactly"]["adminAccess"] == Value::Bool(true))?;
    // Upstream names this place for templates, too.
    Some(Path::new("spec").child("devices").child("requests").index(at).child("adminAccess"))
}

/// The first device that a new status gives so, if the old one gave none.
pub(in crate::kinds) fn granted(resource: &GroupResource, object: &Value, old: &Value) -> Option<Path> {
    if (resource.group.as_str(), resource.resource.as_str()) != (GROUP, "resourceclaims") {
        return None;
    }
    let results = |object: &Value| {
        let results = object.array_at(&["status", "allocation", "devices", "results"]);
        results.iter().position(|result| result["adminAccess"] == Value::Bool(true))
    };
    let at = results(object).filter(|_| results(old).is_none())?;
    Some(Path::new("status").child("allocation").child("devices").child("results").index(at).child("adminAccess"))
}

/// Refuses what is asked for there unless the namespace has the label.
pub(in crate::kinds) fn check(asked: Option<Path>, context: &OperationContext, e: &mut ErrorList) {
    if let Some(path) = asked.filter(|_| context.namespace_label != "true") {
        let why = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
        e.push(Error::forbidden(&path, why));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn where_it_is_asked_for() {
        let requests = value!([{"name": "a", "exactly": {"adminAccess": false}}, {"name": "b"}, {"name": "c", "exactly": {"adminAccess": true}}]);
        let claim = value!({"spec": {"devices": {"requests": requests.clone()}}});
        let template = value!({"spec": {"spec": {"devices": {"requests": requests}}}});
        let cases = [
            ("resourceclaims", &claim, Some("spec.devices.requests[2].adminAccess")),
            ("resourceclaimtemplates", &template, Some("spec.devices.requests[2].adminAccess")),
            ("resourceclaimtemplates", &claim, None),
            ("deviceclasses", &claim, None),
        ];
        for (plural, object, expected) in cases {
            let found = requested(&GroupResource::new(GROUP, plural), object).map(|path| path.to_string());
            assert_eq!(found.as_deref(), expected, "{plural} {object}");
        }
    }

    #[test]
    fn where_it_is_given() {
        let status = |admin: &[bool]| {
            let results: Value = admin.iter().map(|admin| value!({"adminAccess": *admin})).collect();
            value!({"status": {"allocation": {"devices": {"results": results}}}})
        };
        let claims = GroupResource::new(GROUP, "resourceclaims");
        for (now, old, expected) in [
            (&[false, true][..], &[][..], Some("status.allocation.devices.results[1].adminAccess")),
            (&[false], &[], None),
            (&[true], &[true], None),
        ] {
            let found = granted(&claims, &status(now), &status(old)).map(|path| path.to_string());
            assert_eq!(found.as_deref(), expected, "{now:?} {old:?}");
        }
        assert!(granted(&claims, &status(&[true]), &value!({})).is_some());
        assert!(granted(&GroupResource::new(GROUP, "resourceslices"), &status(&[true]), &value!({})).is_none());
    }
}
