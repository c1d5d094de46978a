//! What pods share a cycle's results, when they are dropped, and that no pod goes by them where its filters would not let it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::*;
use crate::cache::Cache;
use crate::config::Config;
use crate::cycle::{Course, Settings, Surroundings, schedule};
use crate::framework::Handle;

/// A profile whose pods have no constraints by default: with them no pod has a signature.
const LIST: &str = "{name: PodTopologySpread, args: {defaultingType: List}}";

fn profile_with(plugin_config: &str) -> Arc<Profile> {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    let config = Config::parse(&format!("{head}profiles: [{{pluginConfig: [{plugin_config}]}}]")).expect("a configuration");
    let handle = Handle { random: Mutex::new(StdRng::seed_from_u64(3)), ..Handle::default() };
    let profiles = config.make_profiles(&Arc::new(handle)).expect("profiles");
    Arc::clone(profiles.values().next().expect("one"))
}

fn pod(object: Value) -> Arc<PodInfo> {
    let pod: Pod = serde_json::from_value(object).expect("a pod");
    Arc::new(PodInfo::new(Arc::new(pod)))
}

/// A pod of which a node of [`node`] takes one, or as many as it is told to.
fn asks(uid: &str, cpu: &str) -> Arc<PodInfo> {
    let containers = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]);
    pod(json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": {"containers": containers}}))
}

fn node(name: &str, cpu: &str) -> Arc<Node> {
    let allocatable = json!({"cpu": cpu, "memory": "1Gi", "pods": "10"});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}})).expect("a node"))
}

#[test]
fn pods_are_equal_by_what_plugins_look_at() {
    let base = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "a"}}, "spec": {
        "schedulerName": "default-scheduler",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}, {"key": "l", "operator": "Exists"}]},
        ]}}},
        "volumes": [{"name": "v", "configMap": {"name": "settings"}}, {"name": "w", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 80}], "resources": {"requests": {"cpu": "1"}}}],
    }});
    let profile = profile_with(LIST);
    let changed = |path: &str, value: Value| {
        let mut object = base.clone();
        *object.pointer_mut(path).expect("it is there") = value;
        profile.sign(&pod(object)).expect("a signature")
    };
    let own = profile.sign(&pod(base.clone())).expect("a signature");
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let equal = [
        ("/metadata/name", json!("other")),
        ("/metadata/uid", json!("other")),
        ("/spec/tolerations", json!([{"key": "b", "operator": "Exists"}, {"key": "a", "operator": "Exists"}])),
        ("/spec/volumes/0/configMap/name", json!("other")),
        ("/spec/volumes/1/name", json!("other")),
        ("/spec/containers/0/name", json!("other")),
        ("/spec/containers/0/image", json!("i:latest")),
        (
            terms,
            json!([{"matchExpressions": [{"key": "l", "operator": "Exists"}, {"key": "k", "operator": "In", "values": ["y", "x"]}]}]),
        ),
    ];
    for (path, value) in equal {
        assert_eq!(changed(path, value), own, "{path}");
    }
    let different = [
        ("/metadata/namespace", json!("other")),
        ("/metadata/labels", json!({"app": "b"})),
        ("/spec/nodeSelector", json!({"disk": "hdd"})),
        ("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}])),
        ("/spec/volumes/1", json!({"name": "w", "persistentVolumeClaim": {"claimName": "c"}})),
        ("/spec/containers/0/image", json!("j")),
        ("/spec/containers/0/ports/0/hostPort", json!(81)),
        ("/spec/containers/0/resources/requests/cpu", json!("2")),
        (
            terms,
            json!([{"matchExpressions": [{"key": "k", "operator": "In", "values": ["x"]}, {"key": "l", "operator": "Exists"}]}]),
        ),
    ];
    for (path, value) in different {
        assert_ne!(changed(path, value), own, "{path}");
    }
}

#[test]
fn pods_that_depend_on_others_have_no_signature() {
    let check = |plugin_config: &str, spec: Value, expected: bool| {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
        object["spec"].as_object_mut().expect("a spec").extend(spec.as_object().expect("fields").clone());
        assert_eq!(profile_with(plugin_config).sign(&pod(object)).is_some(), expected, "{plugin_config} {spec}");
    };
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]});
    let listed = "{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway}]}}";
    check(LIST, json!({}), true);
    check("", json!({}), false);
    check(listed, json!({}), false);
    check(LIST, spread, false);
    check(LIST, json!({"affinity": {"podAffinity": {}}}), false);
    check(LIST, json!({"affinity": {"podAntiAffinity": {}}}), false);
    check(LIST, json!({"affinity": {"nodeAffinity": {}}}), true);
    check(LIST, json!({"resourceClaims": [{"name": "c"}]}), false);
}

#[test]
fn labels_count_unless_nobodys_preferences_do() {
    let labelled = |value: &str| pod(json!({"metadata": {"labels": {"app": value}}, "spec": {"containers": []}}));
    let equal = |profile: &Profile| profile.sign(&labelled("a")) == profile.sign(&labelled("b"));
    assert!(!equal(&profile_with(LIST)));
    let ignoring = "{name: InterPodAffinity, args: {ignorePreferredTermsOfExistingPods: true}}";
    assert!(equal(&profile_with(&format!("{LIST}, {ignoring}"))));
}

/// What happens between two pods.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    Nothing,
    /// A pod of another profile, or one that fits nowhere.
    Cycle,
    NodeGone,
    RoomMade,
    Time(u64),
}

/// Places a pod that leaves other nodes over, then asks what a second one may do with them. `None` if nothing was left over.
fn second(nodes: usize, first: &str, second: &Arc<PodInfo>, between: Between) -> Result<(), Option<Flush>> {
    let profile = profile_with(LIST);
    let mut cache = Cache::default();
    (0..nodes).for_each(|name| cache.set_node(node(&format!("n{name}"), "2")));
    let (mut snapshot, mut course) = (Snapshot::default(), Course::default());
    cache.refresh(&mut snapshot);
    let settings = Settings { batching: true, ..Settings::default() };
    let around = Surroundings { settings, ..Surroundings::of(&snapshot) };
    course.batches.begin_cycle();
    let (one, now) = (asks("one", first), Instant::now());
    let placed = schedule(&profile, &one, around, &mut course).map_err(|rejection| rejection.message).expect("there is room");
    cache.place(&placed.node, &one);
    course.batches.begin_cycle();
    let mut later = Duration::ZERO;
    match between {
        Between::Nothing => {}
        Between::Cycle => course.batches.begin_cycle(),
        Between::NodeGone => cache.remove_node(&placed.node),
        Between::RoomMade => cache.remove_pod("one"),
        Between::Time(ms) => later = Duration::from_millis(ms),
    }
    cache.refresh(&mut snapshot);
    let mut state = CycleState::new(Arc::clone(second));
    let pre_filtered = profile.pre_filter(&mut state, &second.pod, &snapshot).map_err(|status| status.message());
    assert!(pre_filtered.expect("no failure").status.is_success());
    let candidate = Candidate { profile: &profile, state: &state, pod: second, snapshot: &snapshot };
    let signature = profile.sign(second);
    let cycle = course.batches.cycle;
    match course.batches.by_profile.get(profile.name()) {
        Some(batch) => batch.check(candidate, signature.as_ref(), cycle, now + later),
        None => Err(None),
    }
}

#[test]
fn leftovers_are_dropped_when_they_may_be_wrong() {
    let equal = asks("two", "2");
    let mut apart = Pod::clone(&equal.pod);
    apart.spec.as_mut().expect("a spec").affinity = Some(serde_json::from_value(json!({"podAntiAffinity": {}})).expect("none"));
    let unsigned = Arc::new(PodInfo::new(Arc::new(apart)));
    let cases = [
        (3, "2", &equal, Between::Nothing, Ok(())),
        (3, "2", &equal, Between::Time(400), Ok(())),
        (3, "2", &equal, Between::Time(2000), Err(Some(Flush::Expired))),
        (3, "2", &equal, Between::Cycle, Err(Some(Flush::PodSkipped))),
        (3, "2", &equal, Between::NodeGone, Err(Some(Flush::NodeMissing))),
        (3, "2", &equal, Between::RoomMade, Err(Some(Flush::NodeNotFull))),
        (3, "2", &asks("two", "1500m"), Between::Nothing, Err(Some(Flush::PodIncompatible))),
        (3, "2", &unsigned, Between::Nothing, Err(Some(Flush::PodIncompatible))),
        // Two pods fit on a node: the first one's may be the best again.
        (3, "1", &asks("two", "1"), Between::Nothing, Err(Some(Flush::NodeNotFull))),
        // The only node leaves nothing over.
        (1, "2", &equal, Between::Nothing, Err(None)),
    ];
    for (nodes, first, pod, between, expected) in cases {
        assert_eq!(second(nodes, first, pod, between), expected, "{nodes} nodes, {first}, {between:?}");
    }
}

#[test]
fn a_profile_uses_only_its_own() {
    let (own, other) = (profile_with(LIST), Profile::new("other", Vec::new(), Arc::default()));
    let (mut batches, info) = (Batches::default(), asks("one", "2"));
    let nodes = ["a", "b", "c"].map(|name| Arc::new(NodeInfo::new(node(name, "2"))));
    let ranking = || Ranking::new(&nodes, &[1, 3, 2], &mut StdRng::seed_from_u64(1));
    let mut full = NodeInfo::new(node("b", "2"));
    full.add_pod(&asks("zero", "2"));
    let snapshot = Snapshot::of([Arc::clone(&nodes[0]), Arc::new(full), Arc::clone(&nodes[2])]);
    let mut state = CycleState::new(Arc::clone(&info));
    assert!(own.pre_filter(&mut state, &info.pod, &snapshot).is_ok());
    let hint = |batches: &mut Batches, profile: &Profile| {
        let candidate = Candidate { profile, state: &state, pod: &info, snapshot: &snapshot };
        batches.hint(candidate, || own.sign(&info), Instant::now())
    };
    let mut left = ranking();
    assert_eq!(left.pop().as_deref(), Some("b"), "the best comes first");
    batches.begin_cycle();
    let hinted = hint(&mut batches, &own);
    assert_eq!(hinted.node, None);
    batches.store(own.name(), hinted, "b", Some(left), Instant::now());
    batches.begin_cycle();
    assert_eq!(hint(&mut batches, &other).node, None, "another profile's");
    let hinted = hint(&mut batches, &own);
    assert_eq!(hinted.node.as_deref(), Some("c"), "the next best");
    // It is used: what is left stays. Had another node been chosen, that cycle's others would take its place.
    batches.store(own.name(), hinted, "c", None, Instant::now());
    assert_eq!(batches.by_profile[own.name()].leftovers.as_ref().map(|left| left.nodes.0.len()), Some(1));
    batches.begin_cycle();
    let unused = Hinted { node: Some("a".to_owned()), signature: own.sign(&info) };
    batches.store(own.name(), unused, "b", None, Instant::now());
    assert!(batches.by_profile[own.name()].leftovers.is_none());
}

/// A cluster that changes between the cycles of pods of a few kinds.
struct World {
    random: StdRng,
    profile: Arc<Profile>,
    cache: Cache,
    snapshot: Snapshot,
    course: Course,
    placed: BTreeMap<String, Arc<PodInfo>>,
    /// Nothing but the placements of one kind of pods has changed the nodes since a whole cycle.
    undisturbed: bool,
    hints_used: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            profile: profile_with(LIST),
            cache: Cache::default(),
            snapshot: Snapshot::default(),
            course: Course::default(),
            placed: BTreeMap::new(),
            undisturbed: false,
            hints_used: 0,
        };
        (0..12).for_each(|_| world.change_node());
        world
    }

    fn change_node(&mut self) {
        let name = format!("n{}", self.random.random_range(0..20));
        let mut changed = Node::clone(&node(&name, ["2", "3", "4"][self.random.random_range(0..3)]));
        if self.random.random_bool(0.2) {
            changed.spec.get_or_insert_default().unschedulable = Some(true);
        }
        self.cache.set_node(Arc::new(changed));
        self.undisturbed = false;
    }

    /// Anything but a cycle.
    fn disturb(&mut self) {
        match self.random.random_range(0..4) {
            0 => self.change_node(),
            1 => {
                let name = format!("n{}", self.random.random_range(0..20));
                self.cache.remove_node(&name);
                self.undisturbed = false;
            }
            _ => {
                let uids: Vec<String> = self.placed.keys().cloned().collect();
                if !uids.is_empty() {
                    let uid = &uids[self.random.random_range(0..uids.len())];
                    self.placed.remove(uid);
                    self.cache.remove_pod(uid);
                    self.undisturbed = false;
                }
            }
        }
    }

    /// One pod's cycle with batching, compared with what a cycle without makes of the same moment.
    fn cycle(&mut self, pod: &Arc<PodInfo>) {
        self.cache.refresh(&mut self.snapshot);
        self.course.batches.begin_cycle();
        let settings = Settings { percentage_of_nodes_to_score: 100, batching: true };
        let around = Surroundings { settings, ..Surroundings::of(&self.snapshot) };
        let since =
            self.course.batches.by_profile.get(self.profile.name()).and_then(|batch| Some(batch.leftovers.as_ref()?.since));
        let batched = schedule(&self.profile, pod, around, &mut self.course).map(|placement| placement.node);
        let scores = feasible_scores(&self.profile, pod, &self.snapshot);
        let Ok(chosen) = batched else {
            assert!(scores.is_empty(), "{} fits on {scores:?}", pod.uid);
            return;
        };
        assert!(scores.contains_key(&chosen), "{} does not fit on {chosen}", pod.uid);
        let left = self.course.batches.by_profile[self.profile.name()].leftovers.as_ref().map(|left| left.since);
        // What was left over stays only if it was used.
        let hinted = since.is_some() && left == since;
        if hinted && self.undisturbed {
            assert_eq!(scores.get(&chosen), scores.values().max(), "{chosen} is not the best for {}", pod.uid);
        }
        self.hints_used += usize::from(hinted);
        self.undisturbed |= !hinted;
        self.cache.place(&chosen, pod);
        self.placed.insert(pod.uid.clone(), Arc::clone(pod));
    }
}

/// The nodes on which a pod passes all filters, with their scores: a cycle that knows of no other.
fn feasible_scores(profile: &Profile, pod: &Arc<PodInfo>, snapshot: &Snapshot) -> BTreeMap<String, i64> {
    let mut state = CycleState::new(Arc::clone(pod));
    let pre_filtered = profile.pre_filter(&mut state, &pod.pod, snapshot).map_err(|status| status.message()).expect("no failure");
    if !pre_filtered.status.is_success() {
        return BTreeMap::new();
    }
    let all = profile.filter(&state, &pod.pod, snapshot.nodes(), 0, usize::MAX).map_err(|status| status.message());
    let nodes = all.expect("no failure").feasible;
    profile.pre_score(&mut state, &pod.pod, &nodes, snapshot).map_err(|status| status.message()).expect("no failure");
    let scores = profile.score(&state, &pod.pod, &nodes).map_err(|status| status.message()).expect("no failure");
    nodes.iter().map(|node| node.name().to_owned()).zip(scores).collect()
}

#[test]
fn batching_obeys_the_filters() {
    let mut hints_used = 0;
    for seed in 0..60 {
        let (mut world, mut number) = (World::new(seed), 0);
        while number < 150 {
            let cpu = ["500m", "1", "2", "3"][world.random.random_range(0..4)];
            for _ in 0..world.random.random_range(1..6) {
                number += 1;
                if world.random.random_bool(0.3) {
                    world.disturb();
                }
                world.cycle(&asks(&format!("p{number}"), cpu));
            }
        }
        hints_used += world.hints_used;
    }
    assert!(hints_used > 100, "only {hints_used} pods went by a hint");
}
