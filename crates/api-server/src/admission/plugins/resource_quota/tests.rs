use serde_json::json;

use super::*;
use crate::admission::plugins::testing::create;

/// Quotas in memory, with resourceVersions.
#[derive(Default)]
struct Memory {
    quotas: Mutex<Vec<Value>>,
    writes: Mutex<usize>,
    /// So many writes fail because someone else was faster.
    conflicts: Mutex<usize>,
}

impl Memory {
    fn put(&self, quota: serde_json::Value) {
        let mut quota = Value::from_slice(quota.to_string().as_bytes()).expect("JSON");
        quota.meta_mut().set_resource_version("1");
        self.quotas.lock().push(quota);
    }

    fn used(&self, index: usize) -> String {
        apimachinery::quota::print(&apimachinery::quota::amounts_at(&self.quotas.lock()[index], &["status", "used"]))
    }
}

#[async_trait]
impl QuotaAccess for Memory {
    async fn list(&self, _namespace: &str, _fresh: bool) -> Result<Vec<Value>, Status> {
        Ok(self.quotas.lock().clone())
    }

    async fn update_status(&self, mut quota: Value) -> Result<Value, Status> {
        // As a real write would: others come in meanwhile.
        tokio::task::yield_now().await;
        let resource = GroupResource::new("", "resourcequotas");
        let mut quotas = self.quotas.lock();
        let stored = quotas.iter_mut().find(|q| q.meta().name() == quota.meta().name()).expect("is there");
        let revision: u64 = stored.meta().resource_version().parse().expect("a number");
        let mut conflicts = self.conflicts.lock();
        if *conflicts > 0 {
            *conflicts -= 1;
            stored.meta_mut().set_resource_version(&(revision + 1).to_string());
            return Err(Status::modified_conflict(&resource, quota.meta().name()));
        }
        if quota.meta().resource_version() != stored.meta().resource_version() {
            return Err(Status::modified_conflict(&resource, quota.meta().name()));
        }
        *self.writes.lock() += 1;
        quota.meta_mut().set_resource_version(&(revision + 1).to_string());
        *stored = quota.clone();
        Ok(quota)
    }
}

fn plugin(quotas: &[serde_json::Value]) -> (Arc<Memory>, ResourceQuota) {
    let memory = Arc::new(Memory::default());
    quotas.iter().for_each(|quota| memory.put(quota.clone()));
    (memory.clone(), ResourceQuota::new(memory, QuotaConfig::default()))
}

fn quota(name: &str, hard: serde_json::Value, used: serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
}

fn pod(cpu: Option<&str>) -> Attributes {
    let resources = cpu.map_or(json!({}), |cpu| json!({"requests": {"cpu": cpu}}));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
    create("", "pods", "Pod", &pod)
}

fn update(resource: &str, kind: &str, old: serde_json::Value, new: serde_json::Value) -> Attributes {
    let mut attributes = create("", resource, kind, &new);
    attributes.operation = Operation::Update;
    let mut old = Value::from_slice(old.to_string().as_bytes()).expect("JSON");
    old.meta_mut().set_resource_version("7");
    attributes.old_object = Some(old);
    attributes
}

async fn refusal(plugin: &ResourceQuota, attributes: &Attributes) -> String {
    plugin.validate(attributes).await.expect_err("is refused").message
}

#[tokio::test]
async fn what_fits_is_charged() {
    let (memory, plugin) = plugin(&[quota("q", json!({"pods": "2", "cpu": "3"}), json!({"pods": "1", "cpu": "1"}))]);
    plugin.validate(&pod(Some("500m"))).await.expect("fits");
    assert_eq!(memory.used(0), "cpu=1500m,pods=2");
    let expected = "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2";
    assert_eq!(refusal(&plugin, &pod(Some("500m"))).await, expected);
    let expected =
        "pods \"p\" is forbidden: exceeded quota: q, requested: cpu=2,pods=1, used: cpu=1500m,pods=2, limited: cpu=3,pods=2";
    assert_eq!(refusal(&plugin, &pod(Some("2"))).await, expected);
    assert_eq!(refusal(&plugin, &pod(None)).await, "pods \"p\" is forbidden: failed quota: q: must specify cpu for: c");
    assert_eq!(memory.used(0), "cpu=1500m,pods=2");
}

#[tokio::test]
async fn a_quota_without_usage_refuses() {
    let (_, plugin) = plugin(&[quota("q", json!({"pods": "2", "secrets": "1"}), json!({}))]);
    let expected = "pods \"p\" is forbidden: status unknown for quota: q, resources: pods";
    assert_eq!(refusal(&plugin, &pod(None)).await, expected);
    let map = create("", "configmaps", "ConfigMap", &json!({"metadata": {"name": "c"}}));
    plugin.validate(&map).await.expect("is not limited");
}

#[tokio::test]
async fn dry_runs_and_subresources_cost_nothing() {
    let (memory, plugin) = plugin(&[quota("q", json!({"pods": "2"}), json!({"pods": "0"}))]);
    let mut dry = pod(None);
    dry.dry_run = true;
    plugin.validate(&dry).await.expect("fits");
    let mut binding = pod(None);
    binding.subresource = "binding".to_owned();
    plugin.validate(&binding).await.expect("is not charged");
    assert_eq!((memory.used(0).as_str(), *memory.writes.lock()), ("pods=0", 0));
}

#[tokio::test]
async fn updates_pay_the_difference() {
    let hard = json!({"services.nodeports": "2", "services.loadbalancers": "1", "requests.storage": "10Gi"});
    let used = json!({"services.nodeports": "1", "services.loadbalancers": "0", "requests.storage": "8Gi"});
    let (memory, plugin) = plugin(&[quota("q", hard, used)]);
    let service = |kind: &str| json!({"metadata": {"name": "s"}, "spec": {"type": kind, "ports": [{"port": 1}]}});
    plugin.validate(&update("services", "Service", service("NodePort"), service("LoadBalancer"))).await.expect("fits");
    assert_eq!(memory.used(0), "requests.storage=8Gi,services.loadbalancers=1,services.nodeports=1");
    let again = update("services", "Service", service("ClusterIP"), service("LoadBalancer"));
    let expected = "services \"s\" is forbidden: exceeded quota: q, requested: services.loadbalancers=1, \
                    used: services.loadbalancers=1, limited: services.loadbalancers=1";
    assert_eq!(refusal(&plugin, &again).await, expected);
    let claim = |size: &str| json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": size}}}});
    plugin.validate(&update("persistentvolumeclaims", "PersistentVolumeClaim", claim("1Gi"), claim("3Gi"))).await.expect("fits");
    let grown = update("persistentvolumeclaims", "PersistentVolumeClaim", claim("3Gi"), claim("4Gi"));
    assert!(refusal(&plugin, &grown).await.contains("requested: requests.storage=1Gi, used: requests.storage=10Gi"));
}

#[tokio::test]
async fn scopes_choose_the_quota() {
    let scoped = |name: &str, spec: serde_json::Value| {
        let mut quota = quota(name, json!({"pods": "1"}), json!({"pods": "0"}));
        spec.as_object().into_iter().flatten().for_each(|(member, value)| quota["spec"][member] = value.clone());
        quota
    };
    let class = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
    let (memory, plugin) =
        plugin(&[scoped("best", json!({"scopes": ["BestEffort"]})), scoped("high", json!({ "scopeSelector": class }))]);
    plugin.validate(&pod(Some("1"))).await.expect("is in neither");
    plugin.validate(&pod(None)).await.expect("fits");
    let mut high = pod(Some("1"));
    high.object.as_mut().expect("a pod").set_path(&["spec", "priorityClassName"], "high");
    plugin.validate(&high).await.expect("fits");
    assert_eq!((memory.used(0).as_str(), memory.used(1).as_str()), ("pods=1", "pods=1"));
    assert!(refusal(&plugin, &high).await.contains("exceeded quota: high"));
}

#[tokio::test]
async fn other_writers_are_met_with_another_attempt() {
    let (memory, plugin) = plugin(&[quota("q", json!({"pods": "9"}), json!({"pods": "0"}))]);
    *memory.conflicts.lock() = 3;
    plugin.validate(&pod(None)).await.expect("the fourth attempt succeeds");
    assert_eq!(memory.used(0), "pods=1");
    *memory.conflicts.lock() = 4;
    assert_eq!(plugin.validate(&pod(None)).await.expect_err("gives up").reason, apimachinery::Reason::Conflict);
}

#[tokio::test]
async fn of_many_at_once_only_those_that_fit_get_in() {
    let (memory, plugin) = plugin(&[quota("q", json!({"pods": "5"}), json!({"pods": "0"}))]);
    let requests: Vec<Attributes> = (0..20).map(|_| pod(None)).collect();
    let results = futures::future::join_all(requests.iter().map(|request| plugin.validate(request))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
    assert_eq!(memory.used(0), "pods=5");
    assert!(*memory.writes.lock() < 5, "requests that wait together are charged together");
}

#[tokio::test]
async fn what_must_have_a_quota() {
    let limited = json!([
        {"resource": "pods", "matchContains": ["pods"]},
        {"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]},
    ]);
    let config =
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration", "limitedResources": limited});
    let plugin = |quotas: &[serde_json::Value]| {
        let memory = Arc::new(Memory::default());
        quotas.iter().for_each(|quota| memory.put(quota.clone()));
        ResourceQuota::new(memory, QuotaConfig::read(&config).expect("reads"))
    };
    let refused = plugin(&[]).validate(&pod(None)).await.expect_err("no quota");
    assert_eq!(refused.message, "pods \"p\" is forbidden: insufficient quota to consume: count/pods,pods");
    let both = |hard: u8| json!({"pods": hard, "count/pods": hard});
    let quota = quota("a", both(1), both(0));
    plugin(std::slice::from_ref(&quota)).validate(&pod(None)).await.expect("covered");
    let mut high = pod(None);
    high.object.as_mut().expect("a pod").set_path(&["spec", "priorityClassName"], "high");
    let refused = plugin(std::slice::from_ref(&quota)).validate(&high).await.expect_err("no quota of the class");
    assert_eq!(refused.message, "insufficient quota to match these scopes: [{PriorityClass In [high]}]");
    let mut of_class = quota;
    of_class["spec"]["scopeSelector"] =
        json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
    plugin(&[of_class]).validate(&high).await.expect("covered");
}
