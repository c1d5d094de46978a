//! What clients read before they do anything: OpenAPI, discovery, root paths, and the warnings of deprecated APIs.

mod harness;

use api_server::{ApiEnablement, ServerConfig};
use harness::Api;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

const AGGREGATED: &str = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

async fn bytes(api: &Api, path: &str, headers: &[(&str, &str)]) -> (http::response::Parts, Vec<u8>) {
    let (head, body) = api.request(Method::GET, path, headers, None).await.into_parts();
    (head, body.collect().await.expect("a whole body").to_bytes().to_vec())
}

#[tokio::test]
async fn the_second_openapi_document_has_two_forms() {
    let api = Api::new().await;
    let (head, json) = bytes(&api, "/openapi/v2", &[]).await;
    assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (200, &"application/json".parse().expect("a value")));
    let document: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert!(document["paths"].get("/apis/apps/v1/namespaces/{namespace}/deployments").is_some());
    assert!(document["paths"].get("/apis/storage.k8s.io/v1beta1/").is_none(), "beta is off");
    let etag = head.headers["etag"].to_str().expect("text").to_owned();
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (head, protobuf) = bytes(&api, "/openapi/v2", &[("accept", accept)]).await;
    assert_eq!(head.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert!(protobuf.starts_with(b"\x0a\x032.0") && protobuf.len() < json.len());
    let (head, packed) = bytes(&api, "/openapi/v2", &[("accept-encoding", "gzip")]).await;
    assert_eq!(head.headers["content-encoding"], "gzip");
    assert!(packed.len() < json.len() / 4);
    for (headers, code) in
        [(("if-none-match", etag.as_str()), 304), (("if-none-match", "\"other\""), 200), (("accept", "text/html"), 406)]
    {
        assert_eq!(bytes(&api, "/openapi/v2", &[headers]).await.0.status, code, "{headers:?}");
    }
}

#[tokio::test]
async fn documents_of_the_third_are_found_by_their_hash() {
    let api = Api::new().await;
    let index = api.get("/openapi/v3").await.expect(200);
    assert!(index["paths"].get("apis/storage.k8s.io/v1beta1").is_none(), "beta is off");
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("apps/v1 is there").to_owned();
    let (head, _) = bytes(&api, &url, &[]).await;
    assert_eq!((head.status.as_u16(), &head.headers["cache-control"]), (200, &"public, immutable".parse().expect("a value")));
    assert!(head.headers.contains_key("expires"));
    let (head, _) = bytes(&api, "/openapi/v3/apis/apps/v1?hash=OLD", &[]).await;
    assert_eq!((head.status.as_u16(), head.headers["location"].to_str().ok()), (301, Some(url.as_str())));
    assert_eq!(bytes(&api, "/openapi/v3/apis/apps/v9", &[]).await.0.status, 404);
    for path in ["api", "apis", "apis/apps", "version", "openid/v1/jwks", ".well-known/openid-configuration"] {
        assert_eq!(bytes(&api, &format!("/openapi/v3/{path}"), &[]).await.0.status, 200, "{path}");
    }
}

#[tokio::test]
async fn only_stable_versions_are_served_unless_asked_for() {
    let groups = |list: &serde_json::Value| -> Vec<String> {
        let items = list["groups"].as_array().expect("groups").iter();
        items
            .flat_map(|group| group["versions"].as_array().cloned().unwrap_or_default())
            .map(|v| v["groupVersion"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let stable = Api::new().await;
    let served = groups(&stable.get("/apis").await.expect(200));
    assert!(
        served.contains(&"apps/v1".to_owned())
            && served.iter().all(|version| !version.contains("beta") && !version.contains("alpha")),
        "{served:?}"
    );
    stable.get("/apis/internal.apiserver.k8s.io").await.expect(404);
    stable.get("/apis/networking.k8s.io/v1beta1/servicecidrs").await.expect(404);
    let apis = ApiEnablement::parse(&["networking.k8s.io/v1beta1=true".to_owned()]).expect("an API");
    let beta = Api::with(ServerConfig { apis, ..ServerConfig::default() }).await;
    let served = groups(&beta.get("/apis").await.expect(200));
    assert!(
        served.contains(&"networking.k8s.io/v1beta1".to_owned()) && !served.contains(&"resource.k8s.io/v1beta1".to_owned()),
        "{served:?}"
    );
}

#[tokio::test]
async fn deprecated_versions_warn() {
    let api = Api::new().await;
    let warning = async |path: &str| {
        let answer = api.get(path).await;
        answer.headers.get("warning").and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let expected = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!(warning("/api/v1/endpoints").await.as_deref(), Some(expected));
    assert_eq!(warning("/api/v1/namespaces/default/endpoints/x").await.as_deref(), Some(expected));
    assert_eq!(warning("/api/v1/pods").await, None);
}

#[tokio::test]
async fn discovery_in_one_document_comes_in_all_encodings() {
    let api = Api::new().await;
    for (media_type, start) in
        [("application/json", "{"), ("application/yaml", "apiVersion"), ("application/vnd.kubernetes.protobuf", "k8s\0")]
    {
        let (head, body) = bytes(&api, "/apis", &[("accept", &format!("{media_type};{AGGREGATED}"))]).await;
        assert_eq!(
            (head.status.as_u16(), head.headers["content-type"].to_str().ok()),
            (200, Some(format!("{media_type};{AGGREGATED}").as_str()))
        );
        assert!(body.starts_with(start.as_bytes()), "{media_type}");
        let etag = head.headers["etag"].to_str().expect("text").to_owned();
        let again = bytes(&api, "/apis", &[("accept", &format!("{media_type};{AGGREGATED}")), ("if-none-match", &etag)]).await;
        assert_eq!(again.0.status, 304);
    }
    // The beta of it is not served any more: the next best counts.
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(api.get_as("/apis", beta).await.expect(200)["kind"], "APIGroupList");
}

#[tokio::test]
async fn the_root_lists_what_there_is() {
    let api = Api::new().await;
    let paths = api.get("/").await.expect(200)["paths"].as_array().cloned().expect("paths");
    for path in [
        "/api",
        "/apis/apps/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/livez/ping",
        "/readyz/poststarthook/rbac/bootstrap-roles",
        "/version",
    ] {
        assert!(paths.contains(&json!(path)), "{path}");
    }
    // Alpha, off by default, or not this server's.
    for path in ["/logs", "/logs/", "/statusz", "/flagz", "/configz"] {
        assert!(!paths.contains(&json!(path)), "{path}");
        api.get(path).await.expect(404);
    }
    api.get("/livez/nothing").await.expect(404);
    api.get("/livez/ping").await.expect(200);
}

#[tokio::test]
async fn what_cannot_be_written_or_read_is_refused_by_name() {
    let api = Api::new().await;
    let message = |body: serde_json::Value| body["message"].as_str().unwrap_or_default().to_owned();
    let list = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    let known = |media_types: String| format!("406: Not Acceptable\n\nAvailable representations: {media_types}");
    let refused = message(api.get_as("/api/v1/namespaces/default", "application/cbor").await.expect(406));
    assert_eq!(refused, known(list.to_owned()));
    for path in ["/api/v1/pods", "/api/v1/pods?watch=1"] {
        let refused = message(api.get_as(path, "application/cbor").await.expect(406));
        assert_eq!(refused, known(format!("{list}, {streams}")), "{path}");
    }
    // Known, and refused in YAML: it cannot be streamed.
    api.get_as("/api/v1/pods?watch=1", "application/yaml").await.expect(406);
    let sent = api.send(Method::POST, "/api/v1/namespaces", &[("content-type", "application/cbor")], Some(&json!({}))).await;
    let refused = message(sent.expect(415));
    assert_eq!(refused, format!("the body of the request was in an unknown format - accepted media types include: {list}"));
}

/// Upstream's cache hands the error on without a Status: the code is 500, and there is no reason.
#[tokio::test]
async fn an_unreadable_resource_version_of_one_object() {
    let api = Api::new().await;
    let answer = api.get("/api/v1/namespaces/default?resourceVersion=x").await.expect(500);
    let why = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    assert_eq!((answer["message"].as_str(), &answer["reason"]), (Some(why), &serde_json::Value::Null));
    api.get("/api/v1/namespaces/default?resourceVersion=0").await.expect(200);
}

#[tokio::test]
async fn metrics_start_again_each_at_its_path() {
    let api = Api::new().await;
    let has = async |path: &str, metric: &str| {
        let text = api.get(path).await.expect(200);
        text.as_str().expect("text").lines().any(|line| line.starts_with(metric))
    };
    // What it starts with has not run here, which is no less a result.
    api.get("/livez").await.expect(500);
    assert!(has("/metrics/slis", "kubernetes_healthchecks_total{").await);
    api.delete("/metrics").await.expect(200);
    assert!(has("/metrics/slis", "kubernetes_healthchecks_total{").await, "these are another registry's");
    assert_eq!(api.delete("/metrics/slis").await.expect(200), json!("metrics reset\n"));
    assert!(!has("/metrics/slis", "kubernetes_healthchecks_total{").await);
    assert!(has("/metrics/slis", "process_start_time_seconds").await);
}

#[tokio::test]
async fn browsers_are_told_to_use_tls() {
    let directives = "max-age=31536000; includeSubDomains";
    let config =
        ServerConfig { strict_transport_security: Some(directives.parse().expect("a value")), ..ServerConfig::default() };
    let (told, plain) = (Api::with(config).await, Api::new().await);
    for (path, code) in [("/api/v1/pods", 200), ("/api/v1/pods/a/b", 404), ("/healthz", 500)] {
        for (api, expected) in [(&told, Some(directives)), (&plain, None)] {
            let (head, _) = bytes(api, path, &[]).await;
            let found = head.headers.get("strict-transport-security").map(|value| value.to_str().expect("text"));
            assert_eq!((head.status.as_u16(), found), (code, expected), "{path}");
        }
    }
    let nobody = told.as_user(api_server::UserInfo::anonymous());
    assert!(nobody.get("/api/v1/pods").await.headers.contains_key("strict-transport-security"), "who is refused is told, too");
}

/// A certificate for so many seconds, as it stands in an object.
fn certificate(seconds: i64) -> String {
    use base64::Engine;
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = params.not_before + std::time::Duration::from_secs(seconds.unsigned_abs());
    let key = rcgen::KeyPair::generate().expect("a key");
    base64::engine::general_purpose::STANDARD.encode(params.self_signed(&key).expect("signed").pem())
}

#[tokio::test]
async fn lifetimes_of_certificates_are_counted() {
    use base64::Engine;
    let api = Api::new().await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key).expect("signed").pem().expect("PEM");
    let request = base64::engine::general_purpose::STANDARD.encode(request);
    let counted = async || {
        let text = api.get("/metrics").await.expect(200);
        let lines =
            text.as_str().expect("text").lines().filter_map(|line| line.strip_prefix("apiserver_certificates_registry_csr_"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (client, own) = ("kubernetes.io/kube-apiserver-client", "example.com/a");
    for (index, (signer, wanted, actual, dry_run, new)) in [
        (
            client,
            json!(3600),
            3600,
            "",
            vec![
                "requested_duration_total{signerName=\"kubernetes.io/kube-apiserver-client\"} 1",
                "honored_duration_total{signerName=\"kubernetes.io/kube-apiserver-client\"} 1",
            ],
        ),
        // Within five minutes and a twentieth; and just not.
        (
            own,
            json!(3600),
            3600 + 479,
            "",
            vec!["requested_duration_total{signerName=\"other\"} 1", "honored_duration_total{signerName=\"other\"} 1"],
        ),
        (own, json!(3600), 3600 - 480, "", vec!["requested_duration_total{signerName=\"other\"} 2"]),
        (own, json!(3600), 3600, "?dryRun=All", vec![]),
        (own, json!(null), 3600, "", vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        let before = counted().await;
        let name = format!("r{index}");
        let spec = json!({"request": request, "signerName": signer, "usages": ["client auth"], "expirationSeconds": wanted});
        let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let mut stored = api.post(path, &json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
        stored["status"]["conditions"] = json!([{"type": "Failed", "status": "True"}]);
        stored = api.put(&format!("{path}/{name}/status"), &stored).await.expect(200);
        assert_eq!(counted().await, before, "nothing is issued yet");
        stored["status"]["certificate"] = json!(certificate(actual));
        let issued = api.put(&format!("{path}/{name}/status{dry_run}"), &stored).await.expect(200);
        let after = counted().await;
        let added: Vec<&str> = after.iter().filter(|line| !before.contains(line)).map(String::as_str).collect();
        let sorted = |mut lines: Vec<&str>| {
            lines.sort_unstable();
            lines.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(sorted(added), sorted(new), "{signer} {wanted} {actual} {dry_run}");
        if dry_run.is_empty() {
            let mut again = issued;
            again["status"]["conditions"] = json!([{"type": "Failed", "status": "True"}, {"type": "Other", "status": "True"}]);
            api.put(&format!("{path}/{name}/status"), &again).await.expect(200);
            assert_eq!(counted().await, after, "it is issued once");
        }
    }
}
