use serde_json::{Value, json};

use crate::daemonset::backoff::FailedPods;
use crate::daemonset::plan::tests::{plan_of, rolling, words};

fn check(surge: Value, unavailable: Value, cases: &[(&str, &str, &str)]) {
    let set = rolling(surge.clone(), unavailable.clone());
    for (nodes, pods, expected) in cases {
        let plan = plan_of(&set, nodes, pods, &mut FailedPods::default());
        assert_eq!(words(&plan), *expected, "surge {surge}, unavailable {unavailable}: {nodes:?} {pods:?}");
    }
}

#[test]
fn without_surge_pods_are_replaced_as_availability_allows() {
    check(
        json!(0),
        json!(1),
        &[
            ("n1 n2 n3", "x@n1:ar y@n2:ar z@n3:ar", "-x"),
            ("n1 n2 n3", "x@n1:at y@n2:ar z@n3:ar", ""),
            ("n1 n2 n3", "x@n1:bs y@n2:ar z@n3:ar", ""),
            ("n1 n2 n3", "x@n1:bj y@n2:ar z@n3:ar", ""),
            ("n1 n2 n3", "x@n1:br y@n2:ar z@n3:ar", "-y"),
            ("n1 n2 n3", "x@n1:br y@n2:br z@n3:br", ""),
            // What is not available any more loses nothing.
            ("n1 n2 n3", "x@n1:as y@n2:ar z@n3:ar", "-x"),
            ("n1 n2 n3", "x@n1:as y@n2:as z@n3:ar", "-x -y"),
            ("n1 n2 n3", "x@n1:bs y@n2:as z@n3:ar", "-y"),
        ],
    );
    check(
        json!(0),
        json!("50%"),
        &[
            ("n1 n2 n3 n4", "w@n1:ar x@n2:ar y@n3:ar z@n4:ar", "-w -x"),
            ("n1 n2 n3 n4", "w@n1:bs x@n2:ar y@n3:ar z@n4:ar", "-x"),
            ("n1 n2 n3", "w@n1:ar x@n2:ar y@n3:ar", "-w -x"),
        ],
    );
    // Neither makes no sense; one at a time then.
    check(json!(0), json!(0), &[("n1 n2", "x@n1:ar y@n2:ar", "-x")]);
    check(json!(0), json!(3), &[("n1 n2", "x@n1:ar y@n2:ar", "-x -y")]);
}

#[test]
fn without_surge_a_missing_pod_is_made_before_another_goes() {
    check(json!(0), json!(2), &[("n1 n2 n3", "x@n1:ar y@n2:ar", "+n3")]);
}

#[test]
fn with_surge_the_new_pod_comes_first() {
    check(
        json!(1),
        json!(0),
        &[
            ("n1 n2", "x@n1:ar y@n2:ar", "+n1"),
            ("n1 n2", "x@n1:ar x2@n1:bs y@n2:ar", ""),
            ("n1 n2", "x@n1:ar x2@n1:bj y@n2:ar", ""),
            // The core loop deletes the old pod; the next surge follows.
            ("n1 n2", "x@n1:ar x2@n1:br y@n2:ar", "-x"),
            ("n1 n2", "x@n1:at x2@n1:br y@n2:ar", "+n2"),
            // A node whose old pod is not available loses nothing by a new one, and does not count.
            ("n1 n2 n3", "x@n1:as y@n2:ar z@n3:ar", "+n1 +n2"),
            ("n1 n2", "x@n1:br y@n2:br", ""),
        ],
    );
    check(json!("100%"), json!(0), &[("n1 n2 n3", "x@n1:ar y@n2:ar z@n3:ar", "+n1 +n2 +n3")]);
    check(json!("34%"), json!(0), &[("n1 n2 n3", "x@n1:ar y@n2:ar z@n3:ar", "+n1 +n2")]);
}

#[test]
fn with_surge_a_pod_on_a_node_that_is_left_goes_when_others_are_there() {
    check(
        json!(1),
        json!(0),
        &[
            // The taint lets it stay, and so long as the wanted node has no available pod it is kept.
            ("n1! n2", "x@n1:ar y@n2:bs", ""),
            ("n1! n2", "x@n1:ar y@n2:br", "-x"),
            ("n1! n2", "x@n1:as y@n2:bs", "-x"),
            // Its node is gone: pod GC's.
            ("n2", "x@n1:ar y@n2:br", ""),
        ],
    );
}
