//! RuntimeClasses (upstream's `pkg/apis/node/validation`).

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, value};

use super::at::{At, IMMUTABLE};
use super::go_text::Shown;
use super::table::{Checks, any};
use super::{go_text, pod_spec, resources};

pub(super) const CHECKS: &[Checks] =
    &[Checks { group: "node.k8s.io", resource: "runtimeclasses", create: class, update, status: any }];

fn class(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    root.get("handler").check(e, apimachinery::validation::is_dns1123_label);
    if let Some(overhead) = root.set("overhead") {
        // Upstream checks it as the limits of a container, with `overhead` for the container.
        let limits = value!({"limits": overhead.value["podFixed"].clone()});
        resources::requirements(&overhead.with(&limits), resources::Of::Container, &[], e);
    }
    let scheduling = root.get("scheduling");
    scheduling.get("nodeSelector").labels(e);
    let tolerations = scheduling.get("tolerations");
    pod_spec::tolerations(&tolerations, e);
    let mut seen: Vec<[&str; 4]> = Vec::new();
    for toleration in tolerations.items() {
        let key = ["key", "operator", "value", "effect"].map(|member| toleration.value[member].as_str().unwrap_or_default());
        if seen.contains(&key) {
            let shown = go_text::internal(toleration.value, "core.v1.Toleration");
            e.push(Error::duplicate(&toleration.path(), toleration.value.clone()).shown_as(shown));
        }
        seen.push(key);
    }
}

fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    class(object, e);
    if object["handler"] != old["handler"] {
        At::root(object).get("handler").invalid_text(e, IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{assert_create, assert_update};
    use super::*;

    #[test]
    fn rules() {
        let valid = value!({"handler": "runc"});
        assert_create(
            "node.k8s.io",
            "runtimeclasses",
            &valid,
            &[
                (
                    &["overhead"],
                    value!({"podFixed": {"cpu": "-1"}}),
                    &[r#"overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#],
                ),
                (
                    &["scheduling"],
                    value!({"tolerations": [{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "Exists", "effect": ""}]}),
                    &[
                        r#"scheduling.tolerations[1]: Duplicate value: {"Key":"a","Operator":"Exists","Value":"","Effect":"","TolerationSeconds":null}"#,
                    ],
                ),
            ],
        );
        let changed: (&[&str], Value, &[&str]) =
            (&["handler"], value!("kata"), &[r#"handler: Invalid value: "kata": field is immutable"#]);
        assert_update("node.k8s.io", "runtimeclasses", &valid, &[changed]);
    }
}
