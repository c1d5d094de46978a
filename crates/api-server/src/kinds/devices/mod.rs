//! The kinds of resource.k8s.io (upstream's `pkg/apis/resource/validation`): claims and their templates, classes, slices.
//!
//! Selectors are compiled when an object is written, and refused if evaluating them could cost too much.

pub(super) mod admin;
mod claim;
mod slice;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{GroupResource, Value, validation};
use cel::device;

use super::at::At;
use super::table::{Checks, any};
use crate::registry::OperationContext;

pub(super) const GROUP: &str = "resource.k8s.io";

pub(super) const CHECKS: &[Checks] = &[
    Checks { group: GROUP, resource: "resourceclaims", create: claim::create, update: claim::update, status: claim::status },
    Checks {
        group: GROUP,
        resource: "resourceclaimtemplates",
        create: claim::template,
        update: claim::template_update,
        status: any,
    },
    Checks { group: GROUP, resource: "deviceclasses", create: class, update: |object, _, e| class(object, e), status: any },
    Checks { group: GROUP, resource: "resourceslices", create: slice::create, update: slice::update, status: any },
];

/// A template's metadata may not even say that these are empty.
pub(super) fn empty_template_metadata(resource: &GroupResource, context: &OperationContext, e: &mut ErrorList) {
    if resource.group != GROUP || resource.resource != "resourceclaimtemplates" {
        return;
    }
    let path = Path::new("spec").child("metadata");
    for member in ["ownerReferences", "finalizers", "managedFields"] {
        let path = path.child(member);
        if context.empty.iter().any(|empty| empty.path == path.as_str()) {
            e.push(Error::forbidden(&path, "cannot be set"));
        }
    }
}

/// Upstream's limits.
const LIST_MAX: usize = 32;
const PARAMETERS_BYTES_MAX: usize = 10 << 10;
const POOL_BYTES_MAX: usize = 253;
const ID_BYTES_MAX: usize = 32;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Whether the list may be looked at; a list that is too long is not.
fn fits(list: &At, most: usize, e: &mut ErrorList) -> bool {
    if list.len() > most {
        e.push(Error::too_many(&list.path(), list.len(), most));
    }
    list.len() <= most
}

/// That the elements differ in this.
fn unique(list: &At, key: impl Fn(&Value) -> &str, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for item in list.items() {
        let key = key(item.value);
        if seen.contains(&key) {
            e.push(Error::duplicate(&item.path(), key));
        }
        seen.push(key);
    }
}

fn name_of(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn pool_name(at: &At, e: &mut ErrorList) {
    if !at.required(e) {
        return;
    }
    if at.text().len() > POOL_BYTES_MAX {
        at.too_long(e, POOL_BYTES_MAX);
    }
    for part in at.text().split('/') {
        let why = validation::is_dns1123_subdomain(part);
        e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), part, why)));
    }
}

fn selectors(at: &At, e: &mut ErrorList) {
    if !fits(at, LIST_MAX, e) {
        return;
    }
    for selector in at.items() {
        let cel = selector.get("cel");
        if !cel.is_set() {
            cel.require(e, "");
            continue;
        }
        let expression = cel.get("expression");
        if expression.text().len() > device::EXPRESSION_BYTES_MAX {
            expression.too_long(e, device::EXPRESSION_BYTES_MAX);
            continue;
        }
        match device::compile(expression.text()) {
            Err(why) => expression.invalid_text(e, why),
            Ok(selector) if selector.cost_max() > device::COST_MAX => {
                expression.forbid(e, "too complex, exceeds cost limit");
            }
            Ok(_) => {}
        }
    }
}

fn configuration(at: &At, e: &mut ErrorList) {
    let opaque = at.get("opaque");
    if !opaque.is_set() {
        return opaque.require(e, "");
    }
    super::volume_sources::csi_driver_name(&opaque.get("driver"), e);
    let parameters = opaque.get("parameters");
    match parameters.value {
        Value::Null => parameters.require(e, ""),
        value if value.to_json().len() > PARAMETERS_BYTES_MAX => parameters.too_long(e, PARAMETERS_BYTES_MAX),
        Value::Object(_) => {}
        _ => e.push(Error::invalid(&parameters.path(), "<value omitted>", "must be a valid JSON object")),
    }
}

/// `ID` or `DOMAIN/ID`.
fn qualified_name(at: &At, name: &str, e: &mut ErrorList) {
    let identifier = |id: &str, e: &mut ErrorList| {
        if id.len() > ID_BYTES_MAX {
            at.too_long(e, ID_BYTES_MAX);
        }
        let why = validation::is_c_identifier(id);
        e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), id, why)));
    };
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(id, e),
        [domain, id] => {
            let domain_value = Value::from(*domain);
            match domain.is_empty() {
                true => e.push(Error::invalid(&at.path(), "", "the domain must not be empty")),
                false => super::volume_sources::csi_driver_name(&at.with(&domain_value), e),
            }
            match id.is_empty() {
                true => e.push(Error::invalid(&at.path(), "", "the name must not be empty")),
                false => identifier(id, e),
            }
        }
        // Upstream lets these pass.
        _ => {}
    }
}

fn class(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    selectors(&spec.get("selectors"), e);
    let config = spec.get("config");
    if fits(&config, LIST_MAX, e) {
        config.items().for_each(|at| configuration(&at, e));
    }
    if let Some(name) = spec.set("extendedResourceName")
        && !super::resources::is_extended(name.text())
    {
        name.invalid(e, "must be a valid extended resource name");
    }
}

/// Conditions that binding waits for, and those that end it.
fn binding_conditions(at: &At, e: &mut ErrorList) {
    let (good, bad) = (at.get("bindingConditions"), at.get("bindingFailureConditions"));
    for list in [&good, &bad] {
        if fits(list, 4, e) {
            list.items().for_each(|item| item.label_name(e));
        }
    }
    unique(&good, text_of, e);
    let mut seen: Vec<&str> = Vec::new();
    for item in bad.items() {
        if seen.contains(&item.text()) {
            item.duplicate(e);
        }
        seen.push(item.text());
        if good.items().any(|other| other.text() == item.text()) {
            item.invalid(e, "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
    if good.len() == 0 && bad.len() > 0 {
        good.invalid(e, "bindingConditions are required to use bindingFailureConditions");
    }
    if bad.len() == 0 && good.len() > 0 {
        bad.invalid(e, "bindingFailureConditions are required to use bindingConditions");
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::assert_create;
    use super::*;

    #[test]
    fn classes() {
        let valid = value!({"spec": {"extendedResourceName": "example.com/gpu"}});
        assert_create(
            GROUP,
            "deviceclasses",
            &valid,
            &[
                (
                    &["spec", "extendedResourceName"],
                    value!("cpu"),
                    &[r#"spec.extendedResourceName: Invalid value: "cpu": must be a valid extended resource name"#],
                ),
                (&["spec", "selectors"], value!([{}]), &["spec.selectors[0].cel: Required value"]),
                (
                    &["spec", "config"],
                    value!([{"opaque": {"driver": "", "parameters": 1}}]),
                    &[
                        "spec.config[0].opaque.driver: Required value",
                        r#"spec.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object"#,
                    ],
                ),
            ],
        );
    }
}
