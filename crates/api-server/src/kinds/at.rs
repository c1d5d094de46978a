//! A value together with its place in the object: what validation walks over.
//!
//! The place is a chain of borrowed steps; its text is made only when something is wrong, so that a valid object costs no allocation.
//! The messages are upstream's (`apimachinery/pkg/api/validation`, `pkg/apis/core/validation`): clients match them.

use apimachinery::decode::EmptyMember;
use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Quantity, Value, validation};

use super::go_text::{self, Shown};
use crate::gates::{Feature, FeatureGates};
use crate::registry::OperationContext;

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const POSITIVE: &str = "must be greater than 0";
pub(super) const IMMUTABLE: &str = "field is immutable";

/// What the cluster lets objects be: upstream's `pkg/capabilities`, and its feature gates; and what the object does not say of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy<'v> {
    /// Containers may be privileged.
    pub(super) privileged: bool,
    /// Which features are on.
    pub(super) gates: FeatureGates,
    /// The lists and maps that the client said are empty.
    pub(super) empty: &'v [EmptyMember],
}

impl<'v> Policy<'v> {
    /// Everything is allowed.
    pub(super) const OPEN: Policy<'static> = Policy { privileged: true, gates: FeatureGates::DEFAULT, empty: &[] };

    /// That of the server, for one write.
    pub(super) fn of(context: &'v OperationContext) -> Policy<'v> {
        Policy { privileged: context.allow_privileged, gates: context.gates, empty: &context.empty }
    }

    /// The same for an update of a pod: search paths that only relaxed validation takes may stay.
    pub(super) fn keeping_searches(self, old: &Value) -> Policy<'v> {
        let mut searches = old.array_at(&["dnsConfig", "searches"]).iter().filter_map(Value::as_str);
        let relaxed = searches.any(|search| search == "." || search.contains('_'));
        let gates =
            self.gates.with(Feature::RelaxedDnsSearchValidation, relaxed || self.has(Feature::RelaxedDnsSearchValidation));
        Policy { gates, ..self }
    }

    /// Whether a feature is on.
    pub(super) fn has(&self, feature: Feature) -> bool {
        self.gates.has(feature)
    }
}

#[derive(Clone, Copy)]
enum Step<'v> {
    Root(Policy<'v>),
    Field(&'v str),
    Index(usize),
    Key(&'v str),
}

/// A value and where it is.
#[derive(Clone, Copy)]
pub(super) struct At<'p, 'v> {
    pub(super) value: &'v Value,
    up: Option<&'p At<'p, 'v>>,
    step: Step<'v>,
}

static NULL: Value = Value::Null;

impl<'v> At<'_, 'v> {
    /// The object itself.
    pub(super) fn root(value: &'v Value) -> At<'v, 'v> {
        At::root_under(value, Policy::OPEN)
    }

    /// The object itself, in a cluster with a policy.
    pub(super) fn root_under(value: &'v Value, policy: Policy<'v>) -> At<'v, 'v> {
        At { value, up: None, step: Step::Root(policy) }
    }

    /// What the cluster allows.
    pub(super) fn policy(&self) -> Policy<'v> {
        match (self.step, self.up) {
            (Step::Root(policy), _) => policy,
            (_, Some(up)) => up.policy(),
            (_, None) => Policy::OPEN,
        }
    }

    pub(super) fn path(&self) -> Path {
        let above = self.up.map_or_else(Path::root, At::path);
        match self.step {
            Step::Root(_) => above,
            Step::Field(name) => above.child(name),
            Step::Index(index) => above.index(index),
            Step::Key(key) => above.key(key),
        }
    }

    /// A member; null where there is none.
    pub(super) fn get<'a>(&'a self, name: &'v str) -> At<'a, 'v> {
        At { value: self.value.get(name).unwrap_or(&NULL), up: Some(self), step: Step::Field(name) }
    }

    /// A member of a map, by key.
    pub(super) fn key<'a>(&'a self, key: &'v str) -> At<'a, 'v> {
        At { value: self.value.get(key).unwrap_or(&NULL), up: Some(self), step: Step::Key(key) }
    }

    /// The same place, looked at as another value (an older state, a part of an address).
    pub(super) fn with(&self, value: &'v Value) -> Self {
        At { value, ..*self }
    }

    /// The elements of a list.
    pub(super) fn items<'a>(&'a self) -> impl Iterator<Item = At<'a, 'v>> {
        let items = self.value.as_array().unwrap_or_default();
        items.iter().enumerate().map(move |(i, value)| At { value, up: Some(self), step: Step::Index(i) })
    }

    /// The entries of a map.
    pub(super) fn entries<'a>(&'a self) -> impl Iterator<Item = (&'v str, At<'a, 'v>)> {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| (key.as_str(), At { value, up: Some(self), step: Step::Key(key.as_str()) }))
    }

    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether the client sent an empty list or map here, or below: to upstream's variables that is not nothing.
    pub(super) fn was_sent_empty(&self) -> bool {
        let empty = self.policy().empty;
        let path = if empty.is_empty() { Path::root() } else { self.path() };
        let here = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        empty.iter().any(|member| member.path.strip_prefix(path.as_str()).is_some_and(here))
    }

    /// The member, if it is there.
    pub(super) fn set<'a>(&'a self, name: &'v str) -> Option<At<'a, 'v>> {
        Some(self.get(name)).filter(At::is_set)
    }

    pub(super) fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    pub(super) fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or_default()
    }

    pub(super) fn is_true(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    pub(super) fn len(&self) -> usize {
        self.value.as_array().map_or_else(|| self.value.as_object().map_or(0, apimachinery::Map::len), <[Value]>::len)
    }

    pub(super) fn quantity(&self) -> Option<Quantity> {
        if self.is_set() { Quantity::from_value(self.value).ok() } else { None }
    }

    // What can be wrong.

    pub(super) fn invalid(&self, e: &mut ErrorList, why: impl Into<String>) {
        e.push(Error::invalid(&self.path(), self.value.clone(), why));
    }

    /// The value as its type's zero where it is not there (Go prints it so).
    pub(super) fn invalid_text(&self, e: &mut ErrorList, why: impl Into<String>) {
        e.push(Error::invalid(&self.path(), self.text(), why));
    }

    /// Where the value is a struct of upstream's internal type that corresponds to the published one of this name.
    pub(super) fn invalid_internal(&self, e: &mut ErrorList, type_name: &str, why: &str) {
        let shown = go_text::internal(self.value, type_name);
        e.push(Error::invalid(&self.path(), self.value.clone(), why).shown_as(shown));
    }

    /// Where the value is a label selector: a struct of apimachinery, shown with its members in the order of declaration.
    pub(super) fn invalid_selector(&self, e: &mut ErrorList, why: &str) {
        let shown = go_text::tagged(self.value, "meta.v1.LabelSelector");
        e.push(Error::invalid(&self.path(), self.value.clone(), why).shown_as(shown));
    }

    /// As [`At::invalid_internal`], for a list of such structs.
    pub(super) fn invalid_list(&self, e: &mut ErrorList, type_name: &str, why: &str) {
        let shown = go_text::internal_list(self.value, type_name);
        e.push(Error::invalid(&self.path(), self.value.clone(), why).shown_as(shown));
    }

    pub(super) fn invalid_int(&self, e: &mut ErrorList, why: impl Into<String>) {
        e.push(Error::invalid(&self.path(), self.int(), why));
    }

    pub(super) fn require(&self, e: &mut ErrorList, why: &str) {
        e.push(Error::required(&self.path(), why));
    }

    pub(super) fn forbid(&self, e: &mut ErrorList, why: impl Into<String>) {
        e.push(Error::forbidden(&self.path(), why));
    }

    pub(super) fn duplicate(&self, e: &mut ErrorList) {
        e.push(Error::duplicate(&self.path(), self.value.clone()));
    }

    pub(super) fn too_long(&self, e: &mut ErrorList, bytes_max: usize) {
        e.push(Error::too_long(&self.path(), bytes_max));
    }

    // Rules.

    /// Says so if the text is empty; whether it is there.
    pub(super) fn required(&self, e: &mut ErrorList) -> bool {
        if self.value.is_empty() {
            self.require(e, "");
        }
        !self.value.is_empty()
    }

    /// Every complaint of a check about the text.
    pub(super) fn check(&self, e: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        e.extend(rule(self.text()).into_iter().map(|why| Error::invalid(&self.path(), self.text(), why)));
    }

    pub(super) fn check_int(&self, e: &mut ErrorList, rule: fn(i64) -> Vec<String>) {
        e.extend(rule(self.int()).into_iter().map(|why| Error::invalid(&self.path(), self.int(), why)));
    }

    /// As [`At::check`], where there is a text.
    pub(super) fn check_set(&self, e: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        if !self.text().is_empty() {
            self.check(e, rule);
        }
    }

    /// Required, and a name of this shape.
    pub(super) fn required_name(&self, e: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        if self.required(e) {
            self.check(e, rule);
        }
    }

    /// One of these texts; the empty text too only if it is among them.
    pub(super) fn one_of(&self, e: &mut ErrorList, known: &[&str]) {
        if !known.contains(&self.text()) {
            e.push(Error::not_supported(&self.path(), self.text(), known));
        }
    }

    /// Required, and one of these texts.
    pub(super) fn required_one_of(&self, e: &mut ErrorList, known: &[&str]) {
        if self.text().is_empty() {
            self.require(e, "");
        } else {
            self.one_of(e, known);
        }
    }

    pub(super) fn non_negative(&self, e: &mut ErrorList) {
        if self.int() < 0 {
            self.invalid(e, NOT_NEGATIVE);
        }
    }

    pub(super) fn positive(&self, e: &mut ErrorList) {
        if self.int() <= 0 {
            self.invalid_int(e, POSITIVE);
        }
    }

    pub(super) fn range(&self, e: &mut ErrorList, low: i64, high: i64) {
        if !(low..=high).contains(&self.int()) {
            self.invalid_int(e, validation::inclusive_range_error(low, high));
        }
    }

    pub(super) fn labels(&self, e: &mut ErrorList) {
        let labels = self.value.as_object().into_iter().flatten();
        e.extend(validation::validate_labels(labels.filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))), &self.path()));
    }

    pub(super) fn annotations(&self, e: &mut ErrorList) {
        let entries = self.value.as_object().into_iter().flatten();
        e.extend(validation::validate_annotations(entries.filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))), &self.path()));
    }

    pub(super) fn label_name(&self, e: &mut ErrorList) {
        e.extend(validation::validate_label_name(self.text(), &self.path()));
    }

    pub(super) fn label_selector(&self, e: &mut ErrorList) {
        if self.is_set() {
            e.extend(validation::validate_label_selector(self.value, &self.path()));
        }
    }

    /// Must be as it was.
    pub(super) fn immutable(&self, e: &mut ErrorList, old: &Value) {
        if self.value != old {
            self.invalid(e, IMMUTABLE);
        }
    }

    /// As [`At::immutable`], where the value is shown in another way than as JSON.
    pub(super) fn immutable_as(&self, e: &mut ErrorList, old: &Value, shown: impl Fn(&Value) -> String) {
        if self.value != old {
            e.push(Error::invalid(&self.path(), self.value.clone(), IMMUTABLE).shown_as(shown(self.value)));
        }
    }

    /// An address as upstream's older fields take it.
    pub(super) fn ip(&self, e: &mut ErrorList) {
        if legacy_ip(self.text()).is_none() {
            self.invalid_text(e, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }

    pub(super) fn cidr(&self, e: &mut ErrorList) {
        if !is_cidr(self.text()) {
            self.invalid_text(e, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }

    /// A port's number or name.
    pub(super) fn port(&self, e: &mut ErrorList) {
        match self.value {
            Value::String(_) => self.check(e, validation::is_port_name),
            _ => self.check_int(e, validation::is_port_number),
        }
    }

    /// A relative path that stays below its start.
    pub(super) fn local_path(&self, e: &mut ErrorList) {
        if self.text().starts_with('/') {
            self.invalid(e, "must be a relative path");
        }
        self.no_backsteps(e);
    }

    pub(super) fn no_backsteps(&self, e: &mut ErrorList) {
        if self.text().split('/').any(|part| part == "..") {
            self.invalid(e, "must not contain '..'");
        }
    }
}

pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    match (legacy_ip(address), bits.parse::<u32>()) {
        (Some(ip), Ok(bits)) => digits && bits <= if ip.is_ipv4() && !address.contains(':') { 32 } else { 128 },
        _ => false,
    }
}

/// An address as upstream's older fields take it: zeros may lead the numbers of an IPv4 address (Go's `ParseIPSloppy`).
pub(super) fn legacy_ip(text: &str) -> Option<std::net::IpAddr> {
    let (head, dotted) = text.rsplit_once(':').map_or(("", text), |(head, tail)| (head, tail));
    if !dotted.contains('.') {
        return text.parse().ok();
    }
    fn number(part: &str) -> Option<&str> {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let short = part.trim_start_matches('0');
        digits.then_some(if short.is_empty() { "0" } else { short })
    }
    let dotted = dotted.split('.').map(number).collect::<Option<Vec<_>>>()?.join(".");
    match text.contains(':') {
        true => format!("{head}:{dotted}").parse().ok(),
        false => dotted.parse().ok(),
    }
}

/// A name of this shape where it ends in a label.
pub(super) fn subdomain(name: &str) -> Vec<String> {
    validation::name_is_dns_subdomain(name, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn places() {
        let object = value!({"spec": {"list": [{"a": "X"}], "map": {"k": -1}}});
        let mut e = ErrorList::new();
        let root = At::root(&object);
        let spec = root.get("spec");
        for item in spec.get("list").items() {
            item.get("a").check(&mut e, validation::is_dns1123_label);
            item.get("b").required(&mut e);
        }
        for (_, entry) in spec.get("map").entries() {
            entry.non_negative(&mut e);
        }
        let paths: Vec<&str> = e.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(paths, ["spec.list[0].a", "spec.list[0].b", "spec.map[k]"]);
    }

    #[test]
    fn what_was_sent_empty() {
        let object = value!({"spec": {"resources": {}}});
        let sent = |path: &str| EmptyMember { path: path.to_owned(), json: "[]" };
        let empty = [sent("spec.ports"), sent("spec.resources.claims"), sent("spec.portsToo")];
        let root = At::root_under(&object, Policy { empty: &empty, ..Policy::OPEN });
        let spec = root.get("spec");
        let found = ["ports", "resources", "port"].map(|member| spec.get(member).was_sent_empty());
        assert_eq!(found, [true, true, false]);
        assert!(!At::root(&object).get("spec").get("ports").was_sent_empty());
    }

    #[test]
    fn cidrs() {
        for (text, valid) in [
            ("10.0.0.0/8", true),
            ("fd00::/108", true),
            ("10.0.0.0/33", false),
            ("010.0.0.0/08", true),
            ("10.0.0.0", false),
            ("x/1", false),
        ] {
            assert_eq!(is_cidr(text), valid, "{text}");
        }
    }
}
