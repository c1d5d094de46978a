//! ResourceSlices: what drivers publish. Policies of capacity requests are behind a gate that is off by default, and dropped.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};

use super::super::at::{At, IMMUTABLE, subdomain};
use super::super::go_text::Shown;
use super::super::{pod_spec, volume_sources};
use super::{EFFECTS, binding_conditions, fits, name_of, pool_name, qualified_name, unique};

const DEVICES_MAX: usize = 128;
const DEVICES_WITH_MORE_MAX: usize = 64;
const ATTRIBUTES_MAX: usize = 32;
/// Of a key that errors show: domain, slash and name.
const KEY_BYTES_SHOWN_MAX: usize = 63 + 1 + 32;
const ATTRIBUTE_BYTES_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMPTIONS_MAX: usize = 2;

pub(super) fn create(object: &Value, e: &mut ErrorList) {
    slice(object, None, e);
}

pub(super) fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    slice(object, Some(old), e);
}

fn slice(object: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let (driver, pool) = (spec.get("driver"), spec.get("pool"));
    volume_sources::csi_driver_name(&driver, e);
    pool_name(&pool.get("name"), e);
    if pool.get("resourceSliceCount").int() <= 0 {
        pool.get("resourceSliceCount").invalid_int(e, "must be greater than zero");
    }
    if pool.get("generation").int() < 0 {
        pool.get("generation").invalid(e, "must be greater than or equal to zero");
    }
    if let Some(old) = old.map(|old| &old["spec"]) {
        let mut fixed = |at: At, old: &Value| {
            if at.value != old {
                at.invalid(e, IMMUTABLE);
            }
        };
        fixed(pool.get("name"), &old["pool"]["name"]);
        fixed(spec.get("driver"), &old["driver"]);
        fixed(spec.get("nodeName"), &old["nodeName"]);
    }
    where_it_is(&spec, e);
    let (devices, counters) = (spec.get("devices"), spec.get("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        e.push(Error::invalid(&spec.path(), "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let more = devices.items().any(|device| device.get("taints").len() + device.get("consumesCounters").len() > 0);
    if fits(&devices, if more { DEVICES_WITH_MORE_MAX } else { DEVICES_MAX }, e) {
        let before = old.map_or(&[][..], |old| old.array_at(&["spec", "devices"]));
        for at in devices.items() {
            let before = before.iter().find(|before| before["name"] == at.value["name"]);
            device(&at, before, spec.get("perDeviceNodeSelection").is_true(), e);
        }
        unique(&devices, name_of, e);
    }
    if fits(&counters, COUNTER_SETS_MAX, e) {
        for set in counters.items() {
            set.get("name").required_name(e, validation::is_dns1123_label);
            counter_map(&set.get("counters"), e);
        }
        unique(&counters, name_of, e);
    }
}

/// The ways to say on which nodes; in upstream's order.
fn where_it_is(spec: &At, e: &mut ErrorList) {
    let mut found: Vec<&str> = Vec::new();
    if let Some(name) = spec.set("nodeName") {
        match name.text().is_empty() {
            true => name.invalid(e, "must be either unset or set to a non-empty string"),
            false => {
                found.push("`nodeName`");
                name.check(e, subdomain);
            }
        }
    }
    if let Some(selector) = spec.set("nodeSelector") {
        found.push("`nodeSelector`");
        pod_spec::node_selector(&selector, e);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            terms.invalid_list(e, "core.v1.NodeSelectorTerm", "must have exactly one node selector term");
        }
    }
    for (member, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match spec.set(member) {
            Some(flag) if flag.is_true() => found.push(shown),
            Some(flag) => flag.invalid(e, "must be either unset or set to true"),
            None => {}
        }
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match found.len() {
        0 => spec.require(e, why),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", found.join(", "));
            e.push(Error::invalid(&spec.path(), shown, format!("{why}, but multiple fields are set")));
        }
    }
}

/// Errors show the middle of a long key as dots.
fn shorten_key(key: &str, errors: &mut [Error]) {
    if key.len() <= KEY_BYTES_SHOWN_MAX {
        return;
    }
    let kept = KEY_BYTES_SHOWN_MAX - "...".len();
    let (head, tail) = (&key.as_bytes()[..kept.div_ceil(2)], &key.as_bytes()[key.len() - kept / 2..]);
    let short = format!("[{}...{}]", String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
    let long = format!("[{key}]");
    errors.iter_mut().for_each(|error| error.field = error.field.replace(&long, &short));
}

fn device(at: &At, before: Option<&Value>, per_device: bool, e: &mut ErrorList) {
    at.get("name").check(e, validation::is_dns1123_label);
    let (attributes, capacity) = (at.get("attributes"), at.get("capacity"));
    let count = attributes.len() + capacity.len();
    if count > ATTRIBUTES_MAX {
        let why = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        e.push(Error::invalid(&at.path(), count, why));
    }
    for (name, attribute) in attributes.entries() {
        let first = e.len();
        qualified_name(&attribute, name, e);
        attribute_value(&attribute, e);
        shorten_key(name, &mut e[first..]);
    }
    for (name, entry) in capacity.entries() {
        let first = e.len();
        qualified_name(&entry, name, e);
        shorten_key(name, &mut e[first..]);
    }
    let taints = at.get("taints");
    if before.is_none_or(|before| before["taints"] != *taints.value) && fits(&taints, TAINTS_MAX, e) {
        for taint in taints.items() {
            taint.get("key").label_name(e);
            taint.get("value").check_set(e, validation::is_label_value);
            taint.get("effect").required_one_of(e, &EFFECTS);
        }
    }
    let consumed = at.get("consumesCounters");
    if fits(&consumed, CONSUMPTIONS_MAX, e) {
        for consumption in consumed.items() {
            consumption.get("counterSet").required_name(e, validation::is_dns1123_label);
            counter_map(&consumption.get("counters"), e);
        }
        unique(&consumed, |value| value["counterSet"].as_str().unwrap_or_default(), e);
    }
    where_the_device_is(at, per_device, e);
    binding_conditions(at, e);
}

fn where_the_device_is(at: &At, per_device: bool, e: &mut ErrorList) {
    let members = ["nodeName", "nodeSelector", "allNodes"];
    let only = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the \
                ResourceSlice spec";
    if !per_device {
        if members.iter().any(|member| at.set(member).is_some()) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the \
                       ResourceSlice spec";
            e.push(Error::invalid(&at.path(), Value::Null, why));
        }
        return;
    }
    let mut found: Vec<&str> = Vec::new();
    if let Some(name) = at.set("nodeName") {
        match name.text().is_empty() {
            true => name.invalid(e, "must not be empty"),
            false => {
                found.push("`nodeName`");
                name.check(e, subdomain);
            }
        }
    }
    if let Some(selector) = at.set("nodeSelector") {
        found.push("`nodeSelector`");
        pod_spec::node_selector(&selector, e);
    }
    match at.set("allNodes") {
        Some(flag) if flag.is_true() => found.push("`allNodes`"),
        Some(flag) => flag.invalid(e, "must be either unset or set to true"),
        None => {}
    }
    match found.len() {
        0 => at.require(e, only),
        1 => {}
        _ => e.push(Error::invalid(&at.path(), format!("{{{}}}", found.join(", ")), only)),
    }
}

fn attribute_value(at: &At, e: &mut ErrorList) {
    let (text, version) = (at.get("string"), at.get("version"));
    if text.text().len() > ATTRIBUTE_BYTES_MAX {
        text.too_long(e, ATTRIBUTE_BYTES_MAX);
    }
    if version.is_set() {
        if !is_semver(version.text()) {
            version.invalid(e, "must be a string compatible with semver.org spec 2.0.0");
        }
        if version.text().len() > ATTRIBUTE_BYTES_MAX {
            version.too_long(e, ATTRIBUTE_BYTES_MAX);
        }
    }
    let found = ["bool", "int", "string", "version"].iter().filter(|member| at.set(member).is_some()).count();
    match found {
        1 => {}
        0 => e.push(Error::invalid(&at.path(), "", "exactly one value must be specified")),
        _ => {
            let shown = |name| at.set(name).map_or_else(|| "null".to_owned(), |member| member.value.to_json());
            let (int, bool, string, version) = (shown("int"), shown("bool"), shown("string"), shown("version"));
            let text = format!(r#"{{"IntValue":{int},"BoolValue":{bool},"StringValue":{string},"VersionValue":{version}}}"#);
            e.push(Error::invalid(&at.path(), Value::Null, "exactly one value must be specified").shown_as(text));
        }
    }
}

fn is_semver(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let number =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let pre_part = |part: &str| word(part) && (!part.bytes().all(|b| b.is_ascii_digit()) || number(part));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(pre_part))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn counter_map(at: &At, e: &mut ErrorList) {
    if at.len() == 0 {
        return at.require(e, "");
    }
    if fits(at, COUNTERS_MAX, e) {
        for (name, entry) in at.entries() {
            let why = validation::is_dns1123_label(name);
            e.extend(why.into_iter().map(|why| Error::invalid(&entry.path(), name, why)));
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::super::table::tests::{assert_create, assert_update};
    use super::super::GROUP;
    use super::*;

    fn valid() -> Value {
        value!({"spec": {"driver": "d", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1, "generation": 0}}})
    }

    #[test]
    fn new_slices() {
        let devices = &["spec", "devices"];
        assert_create(
            GROUP,
            "resourceslices",
            &valid(),
            &[
                (
                    &["spec", "pool", "resourceSliceCount"],
                    value!(0),
                    &["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"],
                ),
                (
                    &["spec", "nodeName"],
                    Value::Null,
                    &[
                        "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
                    ],
                ),
                (
                    &["spec", "allNodes"],
                    value!(true),
                    &[
                        "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                    ],
                ),
                (devices, value!([{"name": "a"}, {"name": "a"}]), &[r#"spec.devices[1]: Duplicate value: "a""#]),
                (
                    devices,
                    value!([{"name": "a", "attributes": {"x": {}, "a/": {"int": 1}}}]),
                    &[
                        r#"spec.devices[0].attributes[a/]: Invalid value: "": the name must not be empty"#,
                        r#"spec.devices[0].attributes[x]: Invalid value: "": exactly one value must be specified"#,
                    ],
                ),
                (
                    devices,
                    value!([{"name": "a", "taints": [{"key": "k"}]}]),
                    &["spec.devices[0].taints[0].effect: Required value"],
                ),
                (
                    devices,
                    value!([{"name": "a", "bindingConditions": ["c"]}]),
                    &[
                        "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
                    ],
                ),
            ],
        );
        assert_update(
            GROUP,
            "resourceslices",
            &valid(),
            &[(&["spec", "driver"], value!("e"), &[r#"spec.driver: Invalid value: "e": field is immutable"#])],
        );
    }

    #[test]
    fn versions() {
        for (text, valid) in
            [("1.2.3", true), ("1.2.3-a.1+b", true), ("1.2", false), ("01.2.3", false), ("1.2.3-01", false), ("1.2.3-", false)]
        {
            assert_eq!(is_semver(text), valid, "{text}");
        }
    }
}
