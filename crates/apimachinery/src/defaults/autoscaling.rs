//! Defaults of the autoscaling group.

use super::{Rule, absent, is_absent};
use crate::{Value, value};

pub(super) const RULES: &[(&str, Rule)] =
    &[("autoscaling.v1.HorizontalPodAutoscaler", autoscaler_v1), ("autoscaling.v2.HorizontalPodAutoscaler", autoscaler)];

/// The target of an autoscaler that names none, in percent of the requested CPU.
const CPU_UTILIZATION_PERCENT: i32 = 80;

fn autoscaler_v1(autoscaler: &mut Value) {
    let other_metrics = autoscaler.meta().annotation("autoscaling.alpha.kubernetes.io/metrics").is_some();
    let spec = autoscaler.path_mut(&["spec"]);
    absent(spec, "minReplicas", 1);
    if !other_metrics {
        absent(spec, "targetCPUUtilizationPercentage", CPU_UTILIZATION_PERCENT);
    }
}

fn autoscaler(autoscaler: &mut Value) {
    let spec = autoscaler.path_mut(&["spec"]);
    absent(spec, "minReplicas", 1);
    if spec.array_at(&["metrics"]).is_empty() {
        let target = value!({"type": "Utilization", "averageUtilization": CPU_UTILIZATION_PERCENT});
        spec.insert("metrics", value!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    if is_absent(spec, "behavior") {
        return;
    }
    let percent = value!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let up = spec.path_mut(&["behavior", "scaleUp"]);
    absent(up, "stabilizationWindowSeconds", 0);
    absent(up, "selectPolicy", "Max");
    // No policies are something else than none said.
    if up["policies"].is_null() {
        up.insert("policies", value!([{"type": "Pods", "value": 4, "periodSeconds": 15}, (percent.clone())]));
    }
    let down = spec.path_mut(&["behavior", "scaleDown"]);
    absent(down, "selectPolicy", "Max");
    if down["policies"].is_null() {
        down.insert("policies", vec![percent]);
    }
}
