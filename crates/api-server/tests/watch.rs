//! Watches: order, selectors, resuming, bookmarks, streaming lists, expiry.

mod harness;

use std::time::Duration;

use api_server::{Body, ServerConfig};
use harness::Api;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use storage::{Revision, Store};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// No wait in these tests takes longer unless something is broken.
const DEADLINE: Duration = Duration::from_secs(60);

fn config_map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"v": value}}, "data": {"k": value}})
}

/// The frames of a watch, one at a time.
struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    async fn start(api: &Api, path: &str) -> Watch {
        Watch::start_as(api, path, "application/json").await
    }

    async fn start_as(api: &Api, path: &str, accept: &str) -> Watch {
        let response = api.request(Method::GET, path, &[("accept", accept)], None).await;
        assert_eq!(response.status(), 200, "{path}");
        Watch { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next frame; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).expect("a frame is JSON"));
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("a frame in time")?;
            let data = frame.expect("no error in the body").into_data().expect("data");
            self.buffer.extend_from_slice(&data);
        }
    }

    /// Type and name of the next frames.
    async fn expect(&mut self, expected: &[(&str, &str)]) {
        for (kind, name) in expected {
            let frame = self.next().await.expect("another frame");
            assert_eq!(
                (frame["type"].as_str(), frame["object"]["metadata"]["name"].as_str()),
                (Some(*kind), Some(*name)),
                "{frame}"
            );
        }
    }
}

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a resourceVersion").to_owned()
}

#[tokio::test]
async fn events_come_in_order_and_resume() {
    let api = Api::new().await;
    let first = api.post(MAPS, &config_map("a", "1")).await.expect(201);
    let mut watch = Watch::start(&api, &format!("{MAPS}?watch=1&resourceVersion={}", revision(&first))).await;
    api.post(MAPS, &config_map("b", "1")).await.expect(201);
    let second = api.put(&format!("{MAPS}/a"), &config_map("a", "2")).await.expect(200);
    api.delete(&format!("{MAPS}/b")).await.expect(200);
    watch.expect(&[("ADDED", "b"), ("MODIFIED", "a")]).await;
    let deleted = watch.next().await.expect("the deletion");
    assert_eq!((&deleted["type"], &deleted["object"]["kind"]), (&json!("DELETED"), &json!("ConfigMap")));
    // The object has the revision of its deletion, so that a client can resume from it.
    assert!(revision(&deleted["object"]).parse::<i64>().expect("a number") > revision(&second).parse::<i64>().expect("a number"));
    let mut resumed = Watch::start(&api, &format!("{MAPS}?watch=1&resourceVersion={}", revision(&second))).await;
    resumed.expect(&[("DELETED", "b")]).await;
    // Without a revision: the state first.
    let mut fresh = Watch::start(&api, &format!("{MAPS}?watch=1")).await;
    fresh.expect(&[("ADDED", "a")]).await;
}

#[tokio::test]
async fn selectors_turn_changes_into_arrivals_and_departures() {
    let api = Api::new().await;
    let one = api.post(MAPS, &config_map("a", "1")).await.expect(201);
    let path = format!("{MAPS}?watch=1&labelSelector=v%3D2&resourceVersion={}", revision(&one));
    let mut watch = Watch::start(&api, &path).await;
    let named = format!("/api/v1/configmaps?watch=1&fieldSelector=metadata.name%3Db&resourceVersion={}", revision(&one));
    let mut named = Watch::start(&api, &named).await;
    api.put(&format!("{MAPS}/a"), &config_map("a", "2")).await.expect(200);
    api.post(MAPS, &config_map("b", "1")).await.expect(201);
    api.put(&format!("{MAPS}/a"), &config_map("a", "3")).await.expect(200);
    watch.expect(&[("ADDED", "a")]).await;
    let departed = watch.next().await.expect("the departure");
    assert_eq!((&departed["type"], &departed["object"]["data"]["k"]), (&json!("DELETED"), &json!("2")));
    named.expect(&[("ADDED", "b")]).await;
}

#[tokio::test]
async fn pods_are_watched_by_node() {
    let api = Api::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut watch = Watch::start(&api, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1").await;
    for name in ["a", "b"] {
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        api.post(pods, &pod).await.expect(201);
        let node = if name == "a" { "n2" } else { "n1" };
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        api.post(&format!("{pods}/{name}/binding"), &binding).await.expect(201);
    }
    watch.expect(&[("ADDED", "b")]).await;
    api.delete(&format!("{pods}/b?gracePeriodSeconds=0")).await.expect(200);
    watch.expect(&[("MODIFIED", "b"), ("DELETED", "b")]).await;
}

/// Somebody who deletes what he sees going (as the garbage collector of pods does) takes nothing away from who has asked first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_somebody_else_takes_away_is_deleted_all_the_same() {
    let api = Api::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut watch = Watch::start(&api, &format!("{pods}?watch=1")).await;
    let eager = tokio::spawn({
        let api = api.clone();
        async move {
            while let Some(event) = watch.next().await {
                let name = event["object"]["metadata"]["name"].as_str().expect("a name").to_owned();
                match event["type"].as_str() {
                    Some("MODIFIED") => drop(api.delete(&format!("{pods}/{name}?gracePeriodSeconds=0")).await),
                    Some("DELETED") if name == "p59" => return,
                    _ => {}
                }
            }
        }
    });
    for number in 0..60 {
        let pod = json!({"metadata": {"name": format!("p{number}")}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        api.post(pods, &pod).await.expect(201);
        api.delete(&format!("{pods}/p{number}")).await.expect(200);
    }
    eager.await.expect("it saw the last one go");
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a", "1")).await.expect(201);
    let last = api.post(MAPS, &config_map("b", "1")).await.expect(201);
    let options = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Watch::start(&api, &format!("{MAPS}?{options}")).await;
    watch.expect(&[("ADDED", "a"), ("ADDED", "b")]).await;
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(revision(&bookmark["object"]), revision(&last));
    api.delete(&format!("{MAPS}/a")).await.expect(200);
    watch.expect(&[("DELETED", "a")]).await;
    let refused = api.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.expect(422);
    assert_eq!(refused["reason"], "Invalid");
}

#[tokio::test]
async fn a_bookmark_comes_before_the_end() {
    let api = Api::new().await;
    let last = api.post(MAPS, &config_map("a", "1")).await.expect(201);
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={}", revision(&last));
    let mut watch = Watch::start(&api, &path).await;
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!((&bookmark["type"], revision(&bookmark["object"])), (&json!("BOOKMARK"), revision(&last)));
    assert!(watch.next().await.is_none(), "the watch ends at its timeout");
}

#[tokio::test]
async fn what_is_still_to_come_is_no_event() {
    let api = Api::new().await;
    let last = api.post(MAPS, &config_map("a", "1")).await.expect(201);
    let ahead = revision(&last).parse::<i64>().expect("a number") + 1;
    let options = "watch=1&allowWatchBookmarks=true&timeoutSeconds=3";
    let mut beyond = Watch::start(&api, &format!("{MAPS}?{options}&resourceVersion={}", ahead + 1000)).await;
    let mut watch = Watch::start(&api, &format!("{MAPS}?watch=1&resourceVersion={ahead}")).await;
    let reached = api.post(MAPS, &config_map("b", "1")).await.expect(201);
    assert_eq!(revision(&reached), ahead.to_string(), "nobody else writes");
    api.post(MAPS, &config_map("c", "1")).await.expect(201);
    watch.expect(&[("ADDED", "c")]).await;
    assert!(beyond.next().await.is_none(), "neither an event nor a bookmark before it has begun");
}

#[tokio::test]
async fn a_state_that_is_still_to_come_is_not_sent() {
    let api = Api::new().await;
    let last = api.post(MAPS, &config_map("a", "1")).await.expect(201);
    let ahead = revision(&last).parse::<i64>().expect("a number") + 1000;
    let options = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Watch::start(&api, &format!("{MAPS}?{options}&resourceVersion={ahead}")).await;
    let error = watch.next().await.expect("an error");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(504)), "{error}");
    assert_eq!(error["object"]["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn tables_are_watched_too() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a", "1")).await.expect(201);
    api.post(MAPS, &config_map("b", "1")).await.expect(201);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = Watch::start_as(&api, &format!("{MAPS}?watch=1"), accept).await;
    let first = watch.next().await.expect("a table");
    assert_eq!((&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert!(first["object"]["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty()));
    let second = watch.next().await.expect("another table");
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    assert!(second["object"].get("columnDefinitions").is_some());
}

/// The end of a pod's grace is seen, though it has none.
#[tokio::test]
async fn a_pod_that_goes_at_once_is_marked_first() {
    let api = Api::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = api.post(pods, &pod).await.expect(201);
    let version = pod["metadata"]["resourceVersion"].as_str().expect("a version");
    let mut watch = Watch::start(&api, &format!("{pods}?watch=1&resourceVersion={version}")).await;
    api.delete(&format!("{pods}/p")).await.expect(200);
    for kind in ["MODIFIED", "DELETED"] {
        let event = watch.next().await.expect("an event");
        let metadata = &event["object"]["metadata"];
        assert_eq!((event["type"].as_str(), &metadata["deletionGracePeriodSeconds"]), (Some(kind), &json!(0)));
        assert!(metadata["deletionTimestamp"].is_string(), "{event}");
    }
    api.get(&format!("{pods}/p")).await.expect(404);
}

#[tokio::test]
async fn what_is_too_old_has_expired() {
    let api = Api::new().await;
    let old = api.post(MAPS, &config_map("a", "1")).await.expect(201);
    for at in 0..5 {
        api.put(&format!("{MAPS}/a"), &config_map("a", &at.to_string())).await.expect(200);
    }
    let now = api.store.current_revision().await.expect("a revision");
    api.store.compact(now).await.expect("compacted");
    // A server that starts now knows nothing of before.
    let server = api_server::ApiServer::builder(ServerConfig::default(), api.store.clone()).build();
    let restarted = Api { server, ..api.clone() };
    let mut watch = Watch::start(&restarted, &format!("{MAPS}?watch=1&resourceVersion={}", revision(&old))).await;
    let error = watch.next().await.expect("an error");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
    let list = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={}", revision(&old));
    restarted.get(&list).await.expect(410);
    let ahead = Revision(now.0 + 1000);
    let late = restarted.get(&format!("{MAPS}?resourceVersion={ahead}&resourceVersionMatch=NotOlderThan")).await.expect(504);
    assert_eq!(late["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn a_watch_goes_on_where_the_cache_does_not_remember() {
    let api = Api::new().await;
    let first = api.post(MAPS, &config_map("a", "1")).await.expect(201);
    api.put(&format!("{MAPS}/a"), &config_map("a", "2")).await.expect(200);
    api.post(MAPS, &config_map("b", "1")).await.expect(201);
    api.delete(&format!("{MAPS}/b")).await.expect(200);
    // A server that starts now remembers nothing, but its store does.
    let server = api_server::ApiServer::builder(ServerConfig::default(), api.store.clone()).build();
    let restarted = Api { server, ..api.clone() };
    let query = format!("watch=1&fieldSelector=metadata.namespace=default&resourceVersion={}", revision(&first));
    let mut watch = Watch::start(&restarted, &format!("{MAPS}?{query}")).await;
    restarted.post(MAPS, &config_map("c", "1")).await.expect(201);
    for expected in [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "b"), ("ADDED", "c")] {
        let event = watch.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        assert_eq!((event["type"].as_str().unwrap_or_default(), name), expected);
    }
}

#[tokio::test]
async fn a_page_after_compaction_goes_on_inconsistently() {
    let interval = Duration::from_millis(20);
    let api = Api::with(ServerConfig { compaction_interval: interval, ..ServerConfig::default() }).await;
    for name in ["a", "b", "c"] {
        api.post(MAPS, &config_map(name, "1")).await.expect(201);
    }
    let first = api.get(&format!("{MAPS}?limit=1")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    let stop = tokio_util::sync::CancellationToken::new();
    let background = tokio::spawn({
        let (server, stop) = (api.server.clone(), stop.clone());
        async move { server.run_background(stop).await }
    });
    let expired = tokio::time::timeout(DEADLINE, async {
        for round in 0.. {
            // Only what has changed is compacted away.
            api.put(&format!("{MAPS}/c"), &config_map("c", &round.to_string())).await.expect(200);
            let answer = api.get(&format!("{MAPS}?limit=1&continue={token}")).await;
            if answer.code != 200 {
                return answer.expect(410);
            }
            tokio::task::yield_now().await;
        }
        unreachable!("the loop has no end")
    });
    let expired = expired.await.expect("the token expires");
    assert_eq!(expired["reason"], "Expired");
    let newest = expired["metadata"]["continue"].as_str().expect("a token to go on with");
    api.delete(&format!("{MAPS}/b")).await.expect(200);
    let rest = api.get(&format!("{MAPS}?continue={newest}")).await.expect(200);
    let names: Vec<_> = rest["items"].as_array().expect("items").iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["c"], "the newest state, after what the first page had");
    stop.cancel();
    background.await.expect("no panic");
}

/// Reads a protobuf watch stream: type and object of the next event.
async fn protobuf_event(body: &mut Body, buffer: &mut Vec<u8>) -> (String, apimachinery::Value) {
    loop {
        if let Some((length, rest)) = buffer.split_at_checked(4) {
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            if rest.len() >= length {
                let event: Vec<u8> = buffer.drain(..4 + length).skip(4).collect();
                // A WatchEvent: the type's length and text, then the object within two lengths, which end where the event does.
                let kind_end = 2 + usize::from(event[1]);
                let at = event.windows(4).position(|bytes| bytes == b"k8s\0").expect("an object with its envelope");
                let kind = String::from_utf8(event[2..kind_end].to_vec()).expect("text");
                let any = apimachinery::GroupVersionKind::new("", "v1", "ConfigMap");
                return (kind, apimachinery::protobuf::decode(&event[at..], &any).expect("protobuf"));
            }
        }
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.expect("in time").expect("more").expect("no error");
        buffer.extend_from_slice(&frame.into_data().expect("data"));
    }
}

#[tokio::test]
async fn a_watch_in_protobuf_has_the_same_events() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a", "1")).await.expect(201);
    let path = format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let response = api.request(Method::GET, &path, &[("accept", "application/vnd.kubernetes.protobuf")], None).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let (mut body, mut buffer) = (response.into_body(), Vec::new());
    let (kind, object) = protobuf_event(&mut body, &mut buffer).await;
    assert_eq!((kind.as_str(), object.str_at(&["data", "k"])), ("ADDED", Some("1")));
    let (kind, object) = protobuf_event(&mut body, &mut buffer).await;
    assert_eq!(
        (kind.as_str(), object.str_at(&["metadata", "annotations", "k8s.io/initial-events-end"])),
        ("BOOKMARK", Some("true"))
    );
    api.put(&format!("{MAPS}/a"), &config_map("a", "2")).await.expect(200);
    let (kind, object) = protobuf_event(&mut body, &mut buffer).await;
    assert_eq!((kind.as_str(), object.str_at(&["data", "k"])), ("MODIFIED", Some("2")));
    let modified = object.meta().resource_version().to_owned();
    api.delete(&format!("{MAPS}/a")).await.expect(200);
    let (kind, object) = protobuf_event(&mut body, &mut buffer).await;
    assert_eq!((kind.as_str(), object.meta().name()), ("DELETED", "a"));
    assert_ne!(object.meta().resource_version(), modified, "a deletion has its own revision");
}
