use apimachinery::{Value, value};

use super::cron_job;
use super::tests::{set, texts, valid};
use crate::kinds::at::At;
use crate::kinds::collect;

fn cron(changes: &[(&str, Value)]) -> Value {
    let mut spec = valid()["spec"].clone();
    for member in ["selector", "manualSelector"] {
        spec.remove_path(&[member]);
    }
    spec.remove_path(&["template", "metadata"]);
    let mut object = value!({"metadata": {"name": "cron", "namespace": "ns"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": spec}}});
    set(&mut object, changes);
    object
}

#[test]
fn cron_jobs() {
    for (changes, expected) in [
        (vec![], vec![]),
        (vec![("spec.timeZone", value!("Europe/Amsterdam"))], vec![]),
        (vec![("spec.schedule", value!(""))], vec!["spec.schedule: Required value".to_owned()]),
        (
            vec![("spec.schedule", value!("* * * *"))],
            vec!["spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: [* * * *]".to_owned()],
        ),
        (
            vec![("spec.schedule", value!("TZ=UTC * * * * *"))],
            vec![
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
                    .to_owned(),
            ],
        ),
        (
            vec![("spec.timeZone", value!(""))],
            vec!["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string".to_owned()],
        ),
        (
            vec![("spec.timeZone", value!("Mars/Olympus"))],
            vec!["spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus".to_owned()],
        ),
        (
            vec![("spec.timeZone", value!("../x"))],
            vec!["spec.timeZone: Invalid value: \"../x\": unknown time zone ../x".to_owned()],
        ),
        (
            vec![("spec.timeZone", value!("Local"))],
            vec![
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
                    .to_owned(),
            ],
        ),
        (
            vec![("spec.concurrencyPolicy", value!("Never"))],
            vec![
                "spec.concurrencyPolicy: Unsupported value: \"Never\": supported values: \"Allow\", \"Forbid\", \"Replace\"".to_owned(),
            ],
        ),
        (
            vec![("spec.startingDeadlineSeconds", value!(-1))],
            vec!["spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0".to_owned()],
        ),
        (
            vec![("spec.jobTemplate.spec.selector", value!({})), ("spec.jobTemplate.spec.manualSelector", value!(true))],
            vec![
                "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated".to_owned(),
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"".to_owned(),
            ],
        ),
        (
            vec![(
                "spec.jobTemplate.spec.selector",
                value!({"matchExpressions": [{"values": ["v"], "operator": "In", "key": "k"}], "matchLabels": {"a": "b"}}),
            )],
            vec![
                "spec.jobTemplate.spec.selector: Invalid value: \
                 {\"matchLabels\":{\"a\":\"b\"},\"matchExpressions\":[{\"key\":\"k\",\"operator\":\"In\",\"values\":[\"v\"]}]}: \
                 `selector` will be auto-generated"
                    .to_owned(),
            ],
        ),
        (
            vec![("metadata.name", Value::from("n".repeat(53)))],
            vec![format!("metadata.name: Invalid value: \"{}\": must be no more than 52 characters", "n".repeat(53))],
        ),
    ] {
        let object = cron(&changes);
        assert_eq!(texts(&collect(|e| cron_job::create(&At::root(&object), e))), expected, "{changes:?}");
    }
}

#[test]
fn a_zone_in_the_schedule_may_stay() {
    let zoned = cron(&[("spec.schedule", value!("TZ=UTC * * * * *"))]);
    assert_eq!(texts(&collect(|e| cron_job::update(&At::root(&zoned), &zoned, e))), Vec::<String>::new());
    let both = cron(&[("spec.schedule", value!("TZ=UTC * * * * *")), ("spec.timeZone", value!("UTC"))]);
    let why = "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule";
    assert_eq!(texts(&collect(|e| cron_job::update(&At::root(&both), &zoned, e))), [why]);
}
