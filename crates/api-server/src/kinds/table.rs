//! Which kinds have rules that are checks of a tree, and nothing else: one row each, beside the checks themselves.

use apimachinery::field::ErrorList;
use apimachinery::{GroupResource, Value};

use super::{
    access, admission_registration, autoscaling, devices, flowcontrol, networking, node, quota, runtime_class, storage,
    storage_api, trust_bundles, workload,
};

/// Checks a new object.
pub(super) type Check = fn(&Value, &mut ErrorList);
/// Checks a new state of an object against the old one.
pub(super) type Change = fn(&Value, &Value, &mut ErrorList);

/// The checks of one resource.
pub(super) struct Checks {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) create: Check,
    pub(super) update: Change,
    pub(super) status: Change,
}

/// No rule.
pub(super) fn any(_: &Value, _: &Value, _: &mut ErrorList) {}

/// The checks of this resource.
pub(super) fn checks(resource: &GroupResource) -> Option<&'static Checks> {
    let tables: [&'static [Checks]; 13] = [
        node::CHECKS,
        storage::CHECKS,
        networking::CHECKS,
        access::CHECKS,
        quota::CHECKS,
        storage_api::CHECKS,
        autoscaling::CHECKS,
        flowcontrol::CHECKS,
        runtime_class::CHECKS,
        admission_registration::CHECKS,
        devices::CHECKS,
        trust_bundles::CHECKS,
        workload::CHECKS,
    ];
    tables.into_iter().flatten().find(|row| row.group == resource.group && row.resource == resource.resource)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A member, what it is set to (null removes it), and the errors that follow.
    pub(in crate::kinds) type Case<'a> = (&'a [&'a str], Value, &'a [&'a str]);

    fn changed(object: &Value, (path, value, _): &Case) -> Value {
        let mut object = object.clone();
        match value.is_null() {
            true => drop(object.remove_path(path)),
            false => object.set_path(path, value.clone()),
        }
        object
    }

    fn row(group: &str, resource: &str) -> &'static Checks {
        checks(&GroupResource::new(group, resource)).expect("the kind has rules")
    }

    fn texts(e: &ErrorList) -> Vec<String> {
        e.iter().map(ToString::to_string).collect()
    }

    /// The object is valid, and each change of it is wrong in this way.
    pub(in crate::kinds) fn assert_create(group: &str, resource: &str, object: &Value, cases: &[Case]) {
        let row = row(group, resource);
        for (object, expected) in
            [(object.clone(), &[][..])].into_iter().chain(cases.iter().map(|case| (changed(object, case), case.2)))
        {
            let mut e = ErrorList::new();
            (row.create)(&object, &mut e);
            assert_eq!(texts(&e), expected, "{resource}: {object}");
        }
    }

    /// The object may stay as it is, and each change of it comes to this.
    pub(in crate::kinds) fn assert_update(group: &str, resource: &str, object: &Value, cases: &[Case]) {
        let row = row(group, resource);
        for (new, expected) in
            [(object.clone(), &[][..])].into_iter().chain(cases.iter().map(|case| (changed(object, case), case.2)))
        {
            let mut e = ErrorList::new();
            (row.update)(&new, object, &mut e);
            assert_eq!(texts(&e), expected, "{resource}: {new}");
        }
    }

    /// As [`assert_update`], through the status.
    pub(in crate::kinds) fn assert_status(group: &str, resource: &str, object: &Value, cases: &[Case]) {
        let row = row(group, resource);
        for (new, expected) in
            [(object.clone(), &[][..])].into_iter().chain(cases.iter().map(|case| (changed(object, case), case.2)))
        {
            let mut e = ErrorList::new();
            (row.status)(&new, object, &mut e);
            assert_eq!(texts(&e), expected, "{resource}: {new}");
        }
    }
}
