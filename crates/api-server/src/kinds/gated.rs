//! Members of kinds with a module that stand behind a feature gate: while it is off they are dropped, unless the object has them already
//! (upstream's `dropDisabledFields`).

use apimachinery::Value;

use super::apps::App;
use crate::gates::FeatureGates;

const MAX_UNAVAILABLE: [&str; 4] = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];

/// A workload as a client sent it, and as it was.
pub(super) fn app(app: App, gates: FeatureGates, object: &mut Value, old: &Value) {
    let used = old.get_path(&MAX_UNAVAILABLE).is_some_and(|value| !value.is_null());
    if app == App::StatefulSet && !gates.max_unavailable_stateful_set && !used {
        object.remove_path(&MAX_UNAVAILABLE);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_is_dropped() {
        let with = || value!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2, "partition": 1}}}});
        let without = || value!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}});
        for (kind, gate, old, kept) in [
            (App::StatefulSet, false, Value::Null, false),
            (App::StatefulSet, false, without(), false),
            (App::StatefulSet, false, with(), true),
            (App::StatefulSet, true, Value::Null, true),
            (App::DaemonSet, false, Value::Null, true),
        ] {
            let gates = FeatureGates { max_unavailable_stateful_set: gate, ..FeatureGates::default() };
            let mut object = with();
            app(kind, gates, &mut object, &old);
            assert_eq!(object, if kept { with() } else { without() }, "{kind:?} {gate} {old}");
        }
    }
}
