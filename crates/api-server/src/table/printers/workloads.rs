//! Controllers of pods and what goes with them.

use apimachinery::{GroupVersion, GroupVersionKind, Value};

use super::format::{age, any, between, containers, is_true, labels, name, number, selector, selector_text, since, text};
use super::{Registration, printer};
use crate::registry::convert;

const REPLICAS: &[&str] = &["Name", "#Desired", "#Current", "#Ready", "Age", "+Containers", "+Images", "+Selector"];

pub(super) const PRINTERS: &[Registration] = &[
    printer("replicationcontrollers", "", REPLICAS, replication_controller),
    printer("replicasets", "apps", REPLICAS, replica_set),
    printer(
        "deployments",
        "apps",
        &["Name", "Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector"],
        deployment,
    ),
    printer("statefulsets", "apps", &["Name", "Ready", "Age", "+Containers", "+Images"], stateful_set),
    printer(
        "daemonsets",
        "apps",
        &[
            "Name",
            "#Desired",
            "#Current",
            "#Ready",
            "#Up-to-date",
            "#Available",
            "Node Selector",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        daemon_set,
    ),
    printer("controllerrevisions", "apps", &["Name", "Controller", "Revision", "Age"], controller_revision),
    printer("jobs", "batch", &["Name", "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"], job),
    printer(
        "cronjobs",
        "batch",
        &["Name", "Schedule", "Timezone", "?Suspend", "#Active", "Last Schedule", "Age", "+Containers", "+Images", "+Selector"],
        cron_job,
    ),
    printer(
        "poddisruptionbudgets",
        "policy",
        &["Name", "Min Available", "Max Unavailable", "#Allowed Disruptions", "Age"],
        disruption_budget,
    ),
    printer(
        "horizontalpodautoscalers",
        "autoscaling",
        &["Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"],
        autoscaler,
    ),
];

const TEMPLATE: &[&str] = &["spec", "template", "spec"];

fn status(object: &Value, field: &str) -> Value {
    number(object, &["status", field]).into()
}

fn replicas(object: &Value, selector: String) -> Vec<Value> {
    let [names, images] = containers(object.get_path(TEMPLATE));
    let desired = number(object, &["spec", "replicas"]).into();
    vec![
        name(object),
        desired,
        status(object, "replicas"),
        status(object, "readyReplicas"),
        age(object),
        names,
        images,
        selector.into(),
    ]
}

fn replication_controller(object: &Value) -> Vec<Value> {
    replicas(object, labels(object.get_path(&["spec", "selector"])))
}

fn replica_set(object: &Value) -> Vec<Value> {
    replicas(object, selector(object.get_path(&["spec", "selector"])))
}

fn ready(object: &Value) -> Value {
    format!("{}/{}", number(object, &["status", "readyReplicas"]), number(object, &["spec", "replicas"])).into()
}

fn deployment(object: &Value) -> Vec<Value> {
    let [names, images] = containers(object.get_path(TEMPLATE));
    vec![
        name(object),
        ready(object),
        status(object, "updatedReplicas"),
        status(object, "availableReplicas"),
        age(object),
        names,
        images,
        selector_text(object.get_path(&["spec", "selector"])).into(),
    ]
}

fn stateful_set(object: &Value) -> Vec<Value> {
    let [names, images] = containers(object.get_path(TEMPLATE));
    vec![name(object), ready(object), age(object), names, images]
}

fn daemon_set(object: &Value) -> Vec<Value> {
    let [names, images] = containers(object.get_path(TEMPLATE));
    let counts = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"];
    let mut cells = vec![name(object)];
    cells.extend(counts.map(|field| status(object, field)));
    cells.push(labels(object.get_path(&["spec", "template", "spec", "nodeSelector"])).into());
    cells.extend([age(object), names, images, selector(object.get_path(&["spec", "selector"])).into()]);
    cells
}

/// Of a Scale, whatever it scales.
pub(super) const SCALES: Registration = printer("scale", "", &["-Name", "#Desired", "#Available", "Age"], scale);

fn scale(object: &Value) -> Vec<Value> {
    let replicas = |part: &str| number(object, &[part, "replicas"]).into();
    vec![name(object), replicas("spec"), replicas("status"), age(object)]
}

fn controller_revision(object: &Value) -> Vec<Value> {
    let controller = object.meta().controller().map(|owner| {
        let group = owner.api_version.parse::<GroupVersion>().map(|version| version.group.to_string()).unwrap_or_default();
        let kind = owner.kind.to_ascii_lowercase();
        if group.is_empty() { format!("{kind}/{}", owner.name) } else { format!("{kind}.{group}/{}", owner.name) }
    });
    vec![
        name(object),
        controller.unwrap_or_else(|| "<none>".to_owned()).into(),
        number(object, &["revision"]).into(),
        age(object),
    ]
}

fn job(object: &Value) -> Vec<Value> {
    let succeeded = number(object, &["status", "succeeded"]);
    let completions = match (object.i64_at(&["spec", "completions"]), number(object, &["spec", "parallelism"])) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let start = object.str_at(&["status", "startTime"]);
    let duration = match object.str_at(&["status", "completionTime"]) {
        Some(end) => between(start, Some(end)),
        None => start.map(|start| since(Some(start))).unwrap_or_default(),
    };
    let deleted = object.meta().deletion_timestamp().is_some();
    let state = if is_true(object, "Complete") {
        "Complete"
    } else if is_true(object, "Failed") {
        "Failed"
    } else if deleted {
        "Terminating"
    } else {
        let next = ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| is_true(object, kind));
        next.unwrap_or("Running")
    };
    let [names, images] = containers(object.get_path(TEMPLATE));
    let selector = selector(object.get_path(&["spec", "selector"]));
    vec![name(object), state.into(), completions.into(), duration.into(), age(object), names, images, selector.into()]
}

fn cron_job(object: &Value) -> Vec<Value> {
    let template = &["spec", "jobTemplate", "spec", "template", "spec"];
    let [names, images] = containers(object.get_path(template));
    let suspend = match object.bool_at(&["spec", "suspend"]) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = object.str_at(&["status", "lastScheduleTime"]).map_or_else(|| "<none>".to_owned(), |last| since(Some(last)));
    let active = i64::try_from(object.array_at(&["status", "active"]).len()).unwrap_or(i64::MAX);
    vec![
        name(object),
        text(object, &["spec", "schedule"], ""),
        text(object, &["spec", "timeZone"], "<none>"),
        suspend.into(),
        active.into(),
        last.into(),
        age(object),
        names,
        images,
        selector(object.get_path(&["spec", "jobTemplate", "spec", "selector"])).into(),
    ]
}

fn disruption_budget(object: &Value) -> Vec<Value> {
    vec![
        name(object),
        any(object, &["spec", "minAvailable"], "N/A"),
        any(object, &["spec", "maxUnavailable"], "N/A"),
        status(object, "disruptionsAllowed"),
        age(object),
    ]
}

fn autoscaler(object: &Value) -> Vec<Value> {
    // Metrics of the first version are in other fields and an annotation.
    let second = GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler");
    let object = &if object.api_version() == "autoscaling/v1" { convert(object.clone(), &second) } else { object.clone() };
    let target = |field| object.str_at(&["spec", "scaleTargetRef", field]).unwrap_or_default();
    vec![
        name(object),
        format!("{}/{}", target("kind"), target("name")).into(),
        metrics(object).into(),
        any(object, &["spec", "minReplicas"], "<unset>"),
        number(object, &["spec", "maxReplicas"]).into(),
        status(object, "currentReplicas"),
        age(object),
    ]
}

/// Current and wanted value of the first two metrics.
fn metrics(object: &Value) -> String {
    let current = object.array_at(&["status", "currentMetrics"]);
    let all: Vec<String> =
        object.array_at(&["spec", "metrics"]).iter().enumerate().map(|(index, spec)| metric(spec, current.get(index))).collect();
    match all.len() {
        0 => "<none>".to_owned(),
        1 | 2 => all.join(", "),
        count => format!("{} + {} more...", all[..2].join(", "), count - 2),
    }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let (source, named) = match spec.str_at(&["type"]).unwrap_or_default() {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = |field: &str| spec.str_at(&[source, "target", field]);
    let current =
        |field: &str| status.and_then(|status| status.str_at(&[source, "current", field])).unwrap_or("<unknown>").to_owned();
    let label = if named { format!("{}: ", spec.str_at(&[source, "name"]).unwrap_or_default()) } else { String::new() };
    match (wanted("averageValue"), named) {
        (Some(value), true) => format!("{label}{}/{value}", current("averageValue")),
        (Some(value), false) if source == "pods" => format!("{}/{value}", current("averageValue")),
        (Some(value), false) => format!("{}/{value} (avg)", current("averageValue")),
        (None, true) => {
            let percent =
                |number: Option<i64>, otherwise: &str| number.map_or_else(|| otherwise.to_owned(), |number| format!("{number}%"));
            let now = percent(status.and_then(|status| status.i64_at(&[source, "current", "averageUtilization"])), "<unknown>");
            format!("{label}{now}/{}", percent(spec.i64_at(&[source, "target", "averageUtilization"]), "<auto>"))
        }
        (None, false) => format!("{}/{}", current("value"), wanted("value").unwrap_or("0")),
    }
}
