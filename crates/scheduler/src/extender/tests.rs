//! Extenders on the wire, and in cycles.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::cycle::{Course, Settings, Surroundings, schedule};
use crate::plugins::default_profile;
use crate::snapshot::Snapshot;

fn pod() -> Pod {
    let resources = json!({"requests": {"cpu": "1", "example.com/gpu": "1"}});
    let spec = json!({"containers": [{"name": "c", "resources": resources}]});
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
}

fn node(name: &str) -> Arc<NodeInfo> {
    let allocatable = json!({"cpu": "4", "memory": "4Gi", "pods": "9", "example.com/gpu": "4"});
    let object = json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}});
    Arc::new(NodeInfo::new(Arc::new(serde_json::from_value(object).unwrap())))
}

fn settings(url: &str, more: Value) -> ExtenderFile {
    let mut file = json!({"urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "prioritize", "weight": 2, "bindVerb": "bind", "preemptVerb": "preempt"});
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(file).unwrap()
}

/// Reads one request: its first line and its body.
async fn request(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head.lines().next().unwrap_or_default().to_owned(), serde_json::from_str(body).unwrap());
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request ended early");
    }
}

/// Asks an extender that gives one answer; returns what it was asked, and what was understood.
async fn ask<R: Send + 'static>(
    (code, answer): (u16, Value),
    more: Value,
    question: impl FnOnce(HttpExtender) -> R + Send + 'static,
) -> (String, Value, R) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/prefix/", listener.local_addr().unwrap());
    let asked = tokio::task::spawn_blocking(move || question(HttpExtender::new(&settings(&url, more)).unwrap()));
    let (mut stream, _) = listener.accept().await.unwrap();
    let (line, body) = request(&mut stream).await;
    let answer = answer.to_string();
    let response = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    stream.write_all(response.as_bytes()).await.unwrap();
    (line, body, asked.await.unwrap())
}

#[tokio::test]
async fn filters_get_nodes_or_names() {
    let question = |extender: HttpExtender| extender.filter(&pod(), &[node("a"), node("b")]);
    let answer = json!({"NodeNames": ["b"], "FailedNodes": {"a": "too old"}, "Error": ""});
    let (line, body, result) = ask((200, answer), json!({"nodeCacheCapable": true}), question).await;
    assert_eq!(line, "POST /prefix/filter HTTP/1.1");
    assert_eq!((&body["NodeNames"], &body["Nodes"]), (&json!(["a", "b"]), &Value::Null));
    assert_eq!(body["Pod"]["metadata"]["name"], "p");
    let filtered = result.unwrap();
    assert_eq!((filtered.feasible.len(), filtered.failed["a"].as_str()), (1, "too old"));
    // Go reads keys in any case.
    let answer = json!({"nodes": {"items": [{"metadata": {"name": "a"}}]}, "failedAndUnresolvableNodes": {"b": "never"}});
    let (_, body, result) = ask((200, answer), json!({}), question).await;
    assert_eq!(body["Nodes"]["items"][1]["metadata"]["name"], "b");
    let filtered = result.unwrap();
    assert!(filtered.feasible.contains("a") && filtered.unresolvable["b"] == "never");
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    let question = |extender: HttpExtender| extender.filter(&pod(), &[node("a")]);
    let (_, _, result) = ask((500, json!({})), json!({}), question).await;
    assert!(result.unwrap_err().contains("failed filter with extender at URL"));
    let (_, _, result) = ask((200, json!({"Error": "no"})), json!({}), question).await;
    assert_eq!(result.unwrap_err(), "no");
    let (_, _, result) = ask((200, json!({"NodeNames": ["x"]})), json!({"nodeCacheCapable": true}), question).await;
    assert!(result.unwrap_err().contains("claims a filtered node \"x\" which is not found in the input node list"));
}

#[tokio::test]
async fn scores_are_weighted_and_scaled() {
    let question = |extender: HttpExtender| extender.prioritize(&pod(), &[node("a")]);
    let (line, _, result) = ask((200, json!([{"Host": "a", "Score": 7}])), json!({}), question).await;
    assert_eq!((line.as_str(), result.unwrap()["a"]), ("POST /prefix/prioritize HTTP/1.1", 7 * 2 * 10));
}

#[tokio::test]
async fn bindings_and_preemption() {
    let (line, body, result) = ask((200, json!({})), json!({}), |extender| extender.bind(&pod(), "n")).await;
    assert_eq!(line, "POST /prefix/bind HTTP/1.1");
    assert_eq!(body, json!({"PodName": "p", "PodNamespace": "d", "PodUID": "u", "Node": "n"}));
    result.unwrap();
    let question = |extender: HttpExtender| {
        let mut there = NodeInfo::clone(&node("a"));
        there.add_pod(&Arc::new(PodInfo::new(Arc::new(pod()))));
        let victims = Victims { pods: there.pods().to_vec(), violations: 1 };
        let there = Arc::new(there);
        extender.preempt(&pod(), &BTreeMap::from([("a".to_owned(), victims)]), &|_| Some(Arc::clone(&there)))
    };
    let answer = json!({"NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "u"}], "NumPDBViolations": 2}}});
    let (_, body, result) = ask((200, answer), json!({"nodeCacheCapable": true}), question).await;
    assert_eq!(body["NodeNameToMetaVictims"]["a"], json!({"Pods": [{"UID": "u"}], "NumPDBViolations": 1}));
    let left = result.unwrap();
    assert_eq!((left["a"].pods[0].uid.as_str(), left["a"].violations), ("u", 2));
}

#[test]
fn resources_decide_who_is_asked() {
    let check = |managed: Value, expected: bool| {
        let extender = HttpExtender::new(&settings("http://127.0.0.1:1", json!({"managedResources": managed}))).unwrap();
        assert_eq!(extender.is_interested(&pod()), expected);
    };
    check(json!([]), true);
    check(json!([{"name": "example.com/gpu"}]), true);
    check(json!([{"name": "example.com/fpga"}]), false);
}

/// Takes one node away and prefers another.
struct Opinionated {
    refuses: &'static str,
    prefers: &'static str,
    fails: bool,
    ignorable: bool,
}

impl Extender for Opinionated {
    fn name(&self) -> &str {
        "opinionated"
    }
    fn is_ignorable(&self) -> bool {
        self.ignorable
    }
    fn is_interested(&self, _pod: &Pod) -> bool {
        true
    }
    fn is_filter(&self) -> bool {
        true
    }
    fn is_prioritizer(&self) -> bool {
        true
    }
    fn is_binder(&self) -> bool {
        false
    }
    fn is_preemptor(&self) -> bool {
        false
    }
    fn filter(&self, _pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<Filtered, String> {
        if self.fails {
            return Err("down".to_owned());
        }
        let names = nodes.iter().map(|node| node.name().to_owned());
        let feasible = names.filter(|name| name != self.refuses).collect();
        Ok(Filtered {
            feasible,
            failed: BTreeMap::from([(self.refuses.to_owned(), "not this one".to_owned())]),
            ..Filtered::default()
        })
    }
    fn prioritize(&self, _pod: &Pod, _nodes: &[Arc<NodeInfo>]) -> Result<BTreeMap<String, i64>, String> {
        Ok(BTreeMap::from([(self.prefers.to_owned(), 1000)]))
    }
    fn preempt(
        &self,
        _pod: &Pod,
        candidates: &BTreeMap<String, Victims>,
        _node: &dyn Fn(&str) -> Option<Arc<NodeInfo>>,
    ) -> Result<BTreeMap<String, Victims>, String> {
        Ok(candidates.clone())
    }
    fn bind(&self, _pod: &Pod, _node: &str) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn cycles_respect_extenders() {
    let place = |nodes: &[&str], extender: Opinionated| {
        let snapshot = Snapshot::of(nodes.iter().map(|name| node(name)));
        let extenders: [Arc<dyn Extender>; 1] = [Arc::new(extender)];
        let around = Surroundings { snapshot: &snapshot, settings: Settings::default(), extenders: &extenders };
        let profile = default_profile("s", &Arc::default());
        schedule(&profile, &Arc::new(PodInfo::new(Arc::new(pod()))), around, &mut Course::default()).map(|placed| placed.node)
    };
    let opinion = |refuses, prefers| Opinionated { refuses, prefers, fails: false, ignorable: false };
    assert_eq!(place(&["a", "b", "c"], opinion("a", "c")).ok().as_deref(), Some("c"));
    assert_eq!(place(&["a", "b"], opinion("b", "b")).ok().as_deref(), Some("a"));
    let rejection = place(&["a"], opinion("a", "a")).unwrap_err();
    assert!(rejection.message.starts_with("0/1 nodes are available: 1 not this one."), "{}", rejection.message);
    assert!(rejection.by.rejected.contains(crate::framework::EXTENDER) && !rejection.is_failure);
    let down = |ignorable| Opinionated { fails: true, ignorable, ..opinion("a", "a") };
    assert!(place(&["a"], down(false)).unwrap_err().is_failure);
    assert_eq!(place(&["a"], down(true)).ok().as_deref(), Some("a"));
}
