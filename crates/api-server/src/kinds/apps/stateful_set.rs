//! Which StatefulSets are valid.

use apimachinery::field::{Error, ErrorList};
use apimachinery::selector::LabelSelector;
use apimachinery::{Value, validation, value};

use super::App;
use super::validate::{always, at_most_all, int_or_percent, is_zero, labels_fit, non_negative, selector};
use crate::kinds::at::At;
use crate::kinds::go_text::{self, Shown};
use crate::kinds::{collect, pod_spec, storage};

pub(super) fn check(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    let policy = spec.get("podManagementPolicy");
    match policy.text() {
        "" => policy.require(e, ""),
        "OrderedReady" | "Parallel" => {}
        _ => policy.invalid(e, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(&spec.get("updateStrategy"), e);
    if let Some(retention) = spec.set("persistentVolumeClaimRetentionPolicy") {
        for member in ["whenDeleted", "whenScaled"] {
            retention.get(member).one_of(e, &["Retain", "Delete"]);
        }
    }
    if old.is_none() {
        for claim in spec.get("volumeClaimTemplates").items() {
            storage::claim_spec(&claim.get("spec"), e);
        }
    }
    non_negative(spec, &["replicas", "minReadySeconds"], e);
    let ordinals = spec.get("ordinals");
    ordinals.get("start").non_negative(e);
    if old.is_none() {
        spec.get("serviceName").check_set(e, validation::is_dns1123_label);
    }
    selector(spec, "statefulset", "", e);
    if LabelSelector::from_value(spec.get("selector").value).is_ok() || !spec.get("selector").is_set() {
        let at = spec.get("template");
        let adjusted = adjusted_template(spec);
        labels_fit(spec, &at, false, e);
        let was_invalid = old.is_some_and(|old| {
            let old = At::root_under(old, spec.policy());
            !collect(|e| check(&old.get("spec"), None, e)).is_empty()
        });
        if !was_invalid {
            pod_spec::template(&at.with(&adjusted), e);
        }
        // Upstream checks these once more.
        pod_spec::template_meta(&at, e);
    }
    always(App::StatefulSet, &spec.get("template"), e);
}

/// The template as pods get it: the controller sets the names and the volumes of the claims.
fn adjusted_template(spec: &At) -> Value {
    let mut template = spec.get("template").value.clone();
    for member in ["subdomain", "hostname"] {
        template.remove_path(&["spec", member]);
    }
    let claims = spec.get("volumeClaimTemplates");
    let mut names: Vec<&str> = Vec::new();
    for claim in claims.items() {
        // Upstream keeps the claims by name.
        let name = claim.value.str_at(&["metadata", "name"]).unwrap_or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if !names.is_empty() {
        let own = names.iter().map(|name| value!({"name": *name, "persistentVolumeClaim": {"claimName": *name}}));
        let others = spec.value.array_at(&["template", "spec", "volumes"]).iter();
        let others = others.filter(|volume| !names.iter().any(|name| volume["name"] == *name)).cloned();
        template.set_path(&["spec", "volumes"], own.chain(others).collect::<Value>());
    }
    template
}

fn strategy(at: &At, e: &mut ErrorList) {
    let (kind, rolling) = (at.get("type"), at.get("rollingUpdate"));
    match kind.text() {
        "" => at.require(e, ""),
        "OnDelete" if rolling.is_set() => {
            let shown = go_text::internal(rolling.value, "apps.v1.RollingUpdateStatefulSetStrategy");
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            e.push(Error::invalid(&rolling.path(), rolling.value.clone(), why).shown_as(shown));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").non_negative(e);
            if let Some(unavailable) = rolling.set("maxUnavailable") {
                int_or_percent(&unavailable, e);
                if is_zero(unavailable.value) {
                    unavailable.invalid(e, "cannot be 0");
                }
                at_most_all(&unavailable, e);
            }
        }
        _ => {
            let shown = go_text::internal(at.value, "apps.v1.StatefulSetUpdateStrategy");
            e.push(Error::invalid(&at.path(), at.value.clone(), "must be 'RollingUpdate' or 'OnDelete'").shown_as(shown));
        }
    }
}

/// What of a StatefulSet's spec may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    let mut same = object["spec"].clone();
    for member in CHANGEABLE {
        match old["spec"].get(member) {
            Some(value) => drop(same.insert(member, value.clone())),
            None => drop(same.remove(member)),
        }
    }
    if same != old["spec"] {
        At::root(object).get("spec").forbid(
            e,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
