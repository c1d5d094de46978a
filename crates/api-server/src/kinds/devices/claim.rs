//! ResourceClaims, their status, and ResourceClaimTemplates.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};

use super::super::at::{At, IMMUTABLE};
use super::super::go_text::{self, Shown};
use super::super::meta_checks::template_metadata;
use super::super::{pod_spec, volume_sources};
use super::{EFFECTS, LIST_MAX, configuration, fits, name_of, pool_name, qualified_name, selectors, text_of, unique};

const FIRST_AVAILABLE_MAX: usize = 8;
const RESERVED_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
const DATA_BYTES_MAX: usize = 10 << 10;

pub(super) fn create(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    claim(&root.get("spec"), e);
}

pub(super) fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    immutable_spec(object, old, "resource.v1.ResourceClaimSpec", e);
}

pub(super) fn template(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    template_metadata(&spec.get("metadata"), e);
    claim(&spec.get("spec"), e);
}

pub(super) fn template_update(object: &Value, old: &Value, e: &mut ErrorList) {
    template(object, e);
    immutable_spec(object, old, "resource.v1.ResourceClaimTemplateSpec", e);
}

fn immutable_spec(object: &Value, old: &Value, type_name: &str, e: &mut ErrorList) {
    if object["spec"] != old["spec"] {
        let root = At::root(object);
        let spec = root.get("spec");
        e.push(Error::invalid(&spec.path(), spec.value.clone(), IMMUTABLE).shown_as(go_text::internal(spec.value, type_name)));
    }
}

/// The names that requests go by: `NAME` and `NAME/SUBREQUEST`.
fn request_names(devices: &Value) -> Vec<String> {
    let mut names = Vec::new();
    for request in devices.array_at(&["requests"]) {
        names.push(name_of(request).to_owned());
        let parts = request.array_at(&["firstAvailable"]);
        names.extend(parts.iter().map(|part| format!("{}/{}", name_of(request), name_of(part))));
    }
    names
}

fn claim(spec: &At, e: &mut ErrorList) {
    let devices = spec.get("devices");
    let names = request_names(devices.value);
    let requests = devices.get("requests");
    if fits(&requests, LIST_MAX, e) {
        requests.items().for_each(|at| request(&at, e));
        unique(&requests, name_of, e);
    }
    let constraints = devices.get("constraints");
    if fits(&constraints, LIST_MAX, e) {
        constraints.items().for_each(|at| constraint(&at, &names, e));
    }
    let config = devices.get("config");
    if fits(&config, LIST_MAX, e) {
        for at in config.items() {
            references(&at.get("requests"), &names, e);
            configuration(&at, e);
        }
    }
}

fn request(at: &At, e: &mut ErrorList) {
    at.get("name").check(e, validation::is_dns1123_label);
    let (exactly, first) = (at.get("exactly"), at.get("firstAvailable"));
    match (exactly.is_set(), first.len() > 0) {
        (false, false) => at.require(e, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, true) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            e.push(Error::invalid(&at.path(), Value::Null, why));
        }
        (true, false) => device_request(&exactly, e),
        (false, true) => {
            if fits(&first, FIRST_AVAILABLE_MAX, e) {
                for part in first.items() {
                    part.get("name").check(e, validation::is_dns1123_label);
                    device_request(&part, e);
                }
                unique(&first, name_of, e);
            }
        }
    }
}

fn device_request(at: &At, e: &mut ErrorList) {
    at.get("deviceClassName").required_name(e, validation::is_dns1123_subdomain);
    selectors(&at.get("selectors"), e);
    let (mode, count) = (at.get("allocationMode"), at.get("count"));
    match mode.text() {
        "All" if count.int() != 0 => count.invalid(e, "must not be specified when allocationMode is 'All'"),
        "All" => {}
        "ExactCount" if count.int() <= 0 => count.invalid_int(e, "must be greater than zero"),
        "ExactCount" => {}
        _ => mode.one_of(e, &["All", "ExactCount"]),
    }
    at.get("tolerations").items().for_each(|toleration| tolerates(&toleration, e));
}

fn tolerates(at: &At, e: &mut ErrorList) {
    let (key, operator, value, effect) = (at.get("key"), at.get("operator"), at.get("value"), at.get("effect"));
    if !key.text().is_empty() {
        key.label_name(e);
    }
    match operator.text() {
        "Exists" if !value.text().is_empty() => value.invalid(e, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => value.check(e, validation::is_label_value),
        "" => operator.require(e, ""),
        _ => operator.one_of(e, &["Equal", "Exists"]),
    }
    if !effect.text().is_empty() {
        effect.one_of(e, &EFFECTS);
    }
}

fn references(at: &At, names: &[String], e: &mut ErrorList) {
    if fits(at, LIST_MAX, e) {
        at.items().for_each(|name| reference(&name, names, e));
        unique(at, text_of, e);
    }
}

fn reference(at: &At, names: &[String], e: &mut ErrorList) {
    let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = at.text().split('/').collect();
    if parts.len() > 2 {
        return at.invalid(e, why);
    }
    for part in parts {
        let why = validation::is_dns1123_label(part);
        e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), part, why)));
    }
    if !names.iter().any(|name| name == at.text()) {
        at.invalid_text(e, why);
    }
}

fn constraint(at: &At, names: &[String], e: &mut ErrorList) {
    references(&at.get("requests"), names, e);
    match at.set("matchAttribute") {
        None => at.get("matchAttribute").require(e, ""),
        Some(attribute) => {
            qualified_name(&attribute, attribute.text(), e);
            if !attribute.text().contains('/') {
                attribute.invalid_text(e, "a fully qualified name must be a domain and a name separated by a slash");
            }
        }
    }
}

/// Which device of which pool.
fn device_key(value: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|member| value[member].as_str().unwrap_or_default())
}

pub(super) fn status(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let (status, spec) = (root.get("status"), &object["spec"]["devices"]);
    let (reserved, allocation) = (status.get("reservedFor"), status.get("allocation"));
    if fits(&reserved, RESERVED_MAX, e) {
        for user in reserved.items() {
            for member in ["resource", "name", "uid"] {
                user.get(member).required(e);
            }
        }
        unique(&reserved, |user| user["uid"].as_str().unwrap_or_default(), e);
    }
    let allocated: Vec<[&str; 4]> = allocation.value.array_at(&["devices", "results"]).iter().map(device_key).collect();
    status.get("devices").items().for_each(|device| device_status(&device, &allocated, e));
    if reserved.len() > 0 {
        if !allocation.is_set() {
            reserved.forbid(e, "may not be specified when `allocated` is not set");
        } else if object.meta().deletion_timestamp().is_some() {
            let before = old.array_at(&["status", "reservedFor"]);
            if reserved.items().any(|user| !before.contains(user.value)) {
                let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
                reserved.forbid(e, why);
            }
        }
    }
    let before = &old["status"]["allocation"];
    if allocation.is_set() && !before.is_null() {
        if allocation.value != before {
            let shown = go_text::internal(allocation.value, "resource.v1.AllocationResult");
            e.push(Error::invalid(&allocation.path(), allocation.value.clone(), IMMUTABLE).shown_as(shown));
        }
    } else if allocation.is_set() {
        new_allocation(&allocation, &request_names(spec), e);
    }
}

fn device_status(at: &At, allocated: &[[&str; 4]], e: &mut ErrorList) {
    volume_sources::csi_driver_name(&at.get("driver"), e);
    pool_name(&at.get("pool"), e);
    at.get("device").check(e, validation::is_dns1123_label);
    let key = device_key(at.value);
    if !allocated.contains(&key) {
        let [driver, pool, device, share] = key.map(apimachinery::go_quote);
        let shown = format!(r#"{{"Driver":{driver},"Pool":{pool},"Device":{device},"ShareID":{share}}}"#);
        e.push(Error::invalid(&at.path(), Value::Null, "must be an allocated device in the claim").shown_as(shown));
    }
    let conditions = at.get("conditions");
    if conditions.len() > CONDITIONS_MAX {
        e.push(Error::too_many(&conditions.path(), conditions.len(), CONDITIONS_MAX));
    }
    let data = at.get("data");
    match data.value {
        Value::Null | Value::Object(_) if data.value.to_json().len() <= DATA_BYTES_MAX => {}
        Value::Object(_) => data.too_long(e, DATA_BYTES_MAX),
        _ => e.push(Error::invalid(&data.path(), "<value omitted>", "must be a valid JSON object")),
    }
}

fn new_allocation(at: &At, names: &[String], e: &mut ErrorList) {
    let devices = at.get("devices");
    let (results, config) = (devices.get("results"), devices.get("config"));
    if fits(&results, LIST_MAX, e) {
        for result in results.items() {
            reference(&result.get("request"), names, e);
            volume_sources::csi_driver_name(&result.get("driver"), e);
            pool_name(&result.get("pool"), e);
            result.get("device").check(e, validation::is_dns1123_label);
            super::binding_conditions(&result, e);
        }
    }
    if fits(&config, 2 * LIST_MAX, e) {
        for config in config.items() {
            config.get("source").required_one_of(e, &["FromClaim", "FromClass"]);
            references(&config.get("requests"), names, e);
            configuration(&config, e);
        }
    }
    if let Some(selector) = at.set("nodeSelector") {
        pod_spec::node_selector(&selector, e);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::super::table::tests::{assert_create, assert_status, assert_update};
    use super::super::GROUP;
    use super::*;

    fn valid() -> Value {
        let exactly = value!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
        value!({"spec": {"devices": {"requests": [{"name": "a", "exactly": exactly}]}}})
    }

    #[test]
    fn new_claims() {
        let requests = &["spec", "devices", "requests"];
        let exactly = value!({"deviceClassName": "c", "allocationMode": "All"});
        let twice = value!([{"name": "a", "exactly": exactly.clone()}, {"name": "a", "exactly": exactly}]);
        assert_create(
            GROUP,
            "resourceclaims",
            &valid(),
            &[
                (requests, twice, &[r#"spec.devices.requests[1]: Duplicate value: "a""#]),
                (
                    requests,
                    value!([{"name": "a"}]),
                    &["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"],
                ),
                (
                    requests,
                    value!([{"name": "a", "exactly": {"deviceClassName": "", "allocationMode": "All", "count": 1}}]),
                    &[
                        "spec.devices.requests[0].exactly.deviceClassName: Required value",
                        "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
                    ],
                ),
                (
                    &["spec", "devices", "constraints"],
                    value!([{"requests": ["b"], "matchAttribute": "x"}]),
                    &[
                        r#"spec.devices.constraints[0].requests[0]: Invalid value: "b": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#,
                        r#"spec.devices.constraints[0].matchAttribute: Invalid value: "x": a fully qualified name must be a domain and a name separated by a slash"#,
                    ],
                ),
            ],
        );
    }

    #[test]
    fn changes() {
        let mut cases = valid();
        cases.set_path(&["spec", "devices", "config"], value!([]));
        let found: Vec<String> =
            super::super::super::collect(|e| update(&cases, &valid(), e)).iter().map(|error| error.field.clone()).collect();
        assert_eq!(found, ["spec"]);
        assert_update(GROUP, "resourceclaimtemplates", &value!({"spec": {"spec": {}}}), &[]);
    }

    #[test]
    fn statuses() {
        let user = value!({"resource": "pods", "name": "p", "uid": "u"});
        assert_status(
            GROUP,
            "resourceclaims",
            &valid(),
            &[
                (
                    &["status", "reservedFor"],
                    value!([user]),
                    &["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"],
                ),
                (
                    &["status", "devices"],
                    value!([{"driver": "d", "pool": "p", "device": "x"}]),
                    &[
                        r#"status.devices[0]: Invalid value: {"Driver":"d","Pool":"p","Device":"x","ShareID":""}: must be an allocated device in the claim"#,
                    ],
                ),
                (
                    &["status", "allocation"],
                    value!({"devices": {"results": [{"request": "a", "driver": "d", "pool": "", "device": "x"}]}}),
                    &["status.allocation.devices.results[0].pool: Required value"],
                ),
            ],
        );
    }
}
