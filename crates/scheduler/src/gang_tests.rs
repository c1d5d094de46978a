//! Pods of a gang against the model of the API server: bound when enough of them have a node, or not at all.

use super::*;

/// So many pods each gang needs.
const MIN_COUNT: u32 = 3;

/// One node, and a Workload with the gangs `a` and `b`.
fn world() -> Shared {
    let mut world = World::default();
    world.add_node("n");
    let group = |name: &str| json!({"name": name, "policy": {"gang": {"minCount": MIN_COUNT}}});
    let spec = json!({"podGroups": [group("a"), group("b"), {"name": "free", "policy": {"basic": {}}}]});
    world.workloads.push(json!({"metadata": {"name": "w", "namespace": "d"}, "spec": spec}));
    Arc::new(Mutex::new((world, StdRng::seed_from_u64(1))))
}

fn add(world: &Shared, names: &[&str], group: &str, cpu: u64) {
    for name in names {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu.to_string()}}}]);
        let reference = json!({"name": "w", "podGroup": group});
        let spec = json!({"schedulerName": "default-scheduler", "containers": containers, "workloadRef": reference});
        world.lock().0.add_pod_with(name, spec);
    }
}

/// Lets everything happen that can without time passing; returns who is bound.
async fn bound(world: &Shared, instance: &mut Instance) -> Vec<String> {
    for _ in 0..50 {
        instance.hear_some(world, usize::MAX);
        instance.scheduler.step(&mut instance.cycles);
        let_run(20).await;
    }
    let guard = world.lock();
    guard.0.pods.iter().filter(|(_, pod)| pod["spec"]["nodeName"].is_string()).map(|(name, _)| name.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_gang_waits_until_it_is_complete() {
    let world = world();
    let mut instance = Instance::start(&world);
    add(&world, &["a1", "a2"], "a", 1);
    add(&world, &["f1"], "free", 1);
    assert_eq!(bound(&world, &mut instance).await, ["f1"]);
    assert_eq!(instance.scheduler.state.lock().queue.counts()["gated"], 2);
    add(&world, &["a3"], "a", 1);
    assert_eq!(bound(&world, &mut instance).await, ["a1", "a2", "a3", "f1"]);
    add(&world, &["a4"], "a", 1);
    assert_eq!(bound(&world, &mut instance).await.len(), 5, "with the others bound, one more is no less than enough");
}

#[tokio::test(start_paused = true)]
async fn a_gang_without_room_for_enough_is_sent_back() {
    let world = world();
    add(&world, &["a1", "a2", "a3"], "a", 2);
    let mut instance = Instance::start(&world);
    assert_eq!(bound(&world, &mut instance).await.len(), 3);
    // A fourth and a fifth pod have room on the node, a sixth has not.
    add(&world, &["b1", "b2", "b3"], "b", 1);
    assert_eq!(bound(&world, &mut instance).await.len(), 3);
    let assumed = |instance: &Instance| instance.scheduler.state.lock().queue.counts();
    assert_eq!(assumed(&instance)["unschedulable"], 1, "two hold what they have been given");
    tokio::time::advance(Duration::from_secs(301)).await;
    let_run(50).await;
    assert_eq!(instance.scheduler.tasks.len(), 0, "they have given it back");
    assert_eq!(bound(&world, &mut instance).await.len(), 3);
    world.lock().0.delete_pod("a1");
    assert_eq!(bound(&world, &mut instance).await, ["a2", "a3", "b1", "b2", "b3"], "there is room for all of them");
}
