//! Tables for the plan of a node.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::{Value, json};

use super::plan::{Attachment, Force, Plan, UNMOUNT_MAX, World, plan};
use super::volumes::{Needed, Volume};

const NAME: &str = "kubernetes.io/csi/d^h";

fn volume(shared: bool) -> Volume {
    Volume {
        unique_name: NAME.to_owned(),
        persistent_volume: "pv".to_owned(),
        driver: "d".to_owned(),
        handle: "h".to_owned(),
        shared,
    }
}

/// What a case sets; the rest is a healthy node without anything.
#[derive(Clone, Default)]
struct Case {
    needed: bool,
    shared: bool,
    /// The attachment's object.
    attachment: Option<Value>,
    going: bool,
    unneeded_for: Duration,
    in_use: bool,
    reported: bool,
    not_ready: bool,
    out_of_service: bool,
    gone: bool,
    /// Its last words are not known.
    forgotten: bool,
    elsewhere: bool,
    asked: bool,
    never_force: bool,
}

fn attached() -> Option<Value> {
    Some(json!({"status": {"attached": true}}))
}

fn node(case: &Case) -> Node {
    let ready = if case.not_ready { "Unknown" } else { "True" };
    let taints = if case.out_of_service {
        json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}])
    } else {
        json!([])
    };
    let reported = if case.reported { json!([{"name": NAME, "devicePath": ""}]) } else { json!([]) };
    let in_use = if case.in_use { json!([NAME]) } else { json!([]) };
    let value = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {
        "conditions": [{"type": "Ready", "status": ready}], "volumesAttached": reported, "volumesInUse": in_use}});
    serde_json::from_value(value).expect("is a node")
}

fn planned(case: &Case) -> Plan {
    let node = node(case);
    let object: Option<VolumeAttachment> = case.attachment.clone().map(|more| {
        let mut value = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}});
        for (key, part) in more.as_object().expect("is an object") {
            let place = value.as_object_mut().expect("is an object").entry(key.clone()).or_insert_with(|| json!({}));
            place.as_object_mut().expect("is an object").extend(part.as_object().expect("is an object").clone());
        }
        serde_json::from_value(value).expect("is an attachment")
    });
    let unneeded_for = (!case.needed).then_some(case.unneeded_for);
    let attachments: Vec<Attachment<'_>> =
        object.iter().map(|object| Attachment { object, volume: volume(case.shared), going: case.going, unneeded_for }).collect();
    let needed = Needed { volume: volume(case.shared), pods: Vec::new() };
    let needed: BTreeMap<_, _> = case.needed.then(|| (NAME.to_owned(), needed)).into_iter().collect();
    let others = if case.elsewhere { vec!["other".to_owned()] } else { Vec::new() };
    let last_in_use = node.status.as_ref().and_then(|status| status.volumes_in_use.clone()).unwrap_or_default();
    let last_in_use = last_in_use.into_iter().collect();
    plan(&World {
        node: (!case.gone).then_some(&node),
        last_in_use: (case.gone && !case.forgotten).then_some(&last_in_use),
        needed: &needed,
        attachments: &attachments,
        elsewhere: &BTreeMap::from([("pv".to_owned(), others)]),
        asked: &if case.asked { vec![NAME.to_owned()] } else { Vec::new() },
        never_force: case.never_force,
    })
}

/// attach, blocked, told as attached, report (`None`: no write), detach by force or not.
type Expected = (bool, bool, bool, Option<bool>, Option<Option<Force>>);

fn check(name: &str, case: &Case, expected: Expected) {
    let plan = planned(case);
    let report = plan.report.map(|entries| entries.iter().any(|entry| entry.name == NAME));
    let detach = plan.detach.first().map(|detach| detach.force);
    let found = (!plan.attach.is_empty(), !plan.blocked.is_empty(), !plan.attached.is_empty(), report, detach);
    assert_eq!(found, expected, "{name}");
}

#[test]
fn attaching() {
    let needed = Case { needed: true, ..Case::default() };
    check("nothing", &Case::default(), (false, false, false, None, None));
    check("asked for", &needed, (true, false, false, None, None));
    check("on its way", &Case { asked: true, ..needed.clone() }, (false, false, false, None, None));
    let waits = Case { attachment: Some(json!({"status": {"attached": false}})), ..needed.clone() };
    check("not attached yet", &waits, (false, false, false, None, None));
    let ready = Case { attachment: attached(), ..needed.clone() };
    check("attached", &ready, (false, false, true, Some(true), None));
    check("and told", &Case { reported: true, ..ready.clone() }, (false, false, false, None, None));
    check("elsewhere", &Case { elsewhere: true, ..needed.clone() }, (false, true, false, None, None));
    check("elsewhere and shared", &Case { elsewhere: true, shared: true, ..needed.clone() }, (true, false, false, None, None));
    check("being detached", &Case { attachment: attached(), going: true, ..needed }, (false, false, false, None, None));
}

#[test]
fn detaching() {
    let unneeded = Case { attachment: attached(), reported: true, ..Case::default() };
    check("free", &unneeded, (false, false, false, Some(false), Some(None)));
    let mounted = Case { in_use: true, ..unneeded.clone() };
    check("mounted", &mounted, (false, false, false, None, None));
    let (soon, late) = (UNMOUNT_MAX, UNMOUNT_MAX + Duration::from_secs(1));
    let silent = Case { not_ready: true, unneeded_for: soon, ..mounted.clone() };
    check("six minutes are not over", &silent, (false, false, false, None, None));
    assert_eq!(planned(&silent).look_again, Some(Duration::from_millis(1)));
    let silent = Case { unneeded_for: late, ..silent };
    check("six minutes are over", &silent, (false, false, false, Some(false), Some(Some(Force::Timeout))));
    check("never by force", &Case { never_force: true, ..silent.clone() }, (false, false, false, None, None));
    check("but the node is healthy", &Case { not_ready: false, ..silent.clone() }, (false, false, false, None, None));
    let out = Case { out_of_service: true, ..mounted.clone() };
    check("out of service", &out, (false, false, false, Some(false), Some(Some(Force::OutOfService))));
    let unused = Case { gone: true, ..unneeded.clone() };
    check("the node is gone, and did not use it", &unused, (false, false, false, None, Some(None)));
    for gone in [Case { gone: true, ..mounted.clone() }, Case { forgotten: true, ..unused }] {
        check("the node is gone, and may still use it", &gone, (false, false, false, None, None));
        assert_eq!(planned(&gone).look_again, Some(UNMOUNT_MAX + Duration::from_millis(1)));
        let gone = Case { unneeded_for: late, ..gone };
        check("the node is long gone", &gone, (false, false, false, None, Some(Some(Force::Timeout))));
        check("gone and never by force", &Case { never_force: true, ..gone }, (false, false, false, None, None));
    }
    check("once is enough", &Case { going: true, ..unneeded }, (false, false, false, Some(false), None));
}

#[test]
fn what_drivers_say_is_passed_on() {
    let failed = json!({"status": {"attached": false, "attachError": {"message": "no such disk"}}});
    let plan = planned(&Case { needed: true, attachment: Some(failed), ..Case::default() });
    assert_eq!(plan.failed[0].1, "no such disk");
}
