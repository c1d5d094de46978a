//! CBOR over HTTP, where it is turned on.

mod harness;

use api_server::{Body, Feature, FeatureGates, ServerConfig};
use apimachinery::{Value, cbor, value};
use harness::Api;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

async fn send(api: &Api, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header("accept", cbor::MEDIA_TYPE);
    if body.is_some() {
        request = request.header("content-type", content_type);
    }
    let body = body.map_or_else(Body::empty, |body| Body::full(cbor::encode(body)));
    let mut request = request.body(body).expect("a valid request");
    request.extensions_mut().insert(api.user.clone());
    api.server.clone().handle(request).await
}

/// The answer's body, if its code and media type are these.
async fn answer(response: Response<Body>, code: StatusCode) -> Value {
    let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let status = response.status();
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    assert_eq!((status, media_type.as_deref()), (code, Some(cbor::MEDIA_TYPE)), "{}", String::from_utf8_lossy(&bytes));
    cbor::decode(&bytes).expect("CBOR")
}

#[tokio::test]
async fn objects_and_events() {
    let gates = FeatureGates::default().with(Feature::CborServingAndStorage, true);
    let api = Api::with(ServerConfig { gates, ..ServerConfig::default() }).await;
    let secret = value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"k": "aGk="}});
    let created = answer(send(&api, Method::POST, SECRETS, cbor::MEDIA_TYPE, Some(&secret)).await, StatusCode::CREATED).await;
    assert_eq!(created["data"], value!({"k": "aGk="}));
    let version = created.meta().resource_version().to_owned();
    let one = format!("{SECRETS}/a");
    assert_eq!(answer(send(&api, Method::GET, &one, "", None).await, StatusCode::OK).await, created);
    let list = answer(send(&api, Method::GET, SECRETS, "", None).await, StatusCode::OK).await;
    assert_eq!((list.kind(), list.array_at(&["items"]).len()), ("SecretList", 1));
    // Errors, too.
    let missing = answer(send(&api, Method::GET, &format!("{SECRETS}/b"), "", None).await, StatusCode::NOT_FOUND).await;
    assert_eq!(missing.kind(), "Status");
    // A configuration is applied.
    let applied = value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"labels": {"x": "y"}}});
    let path = format!("{one}?fieldManager=m");
    let applied = answer(send(&api, Method::PATCH, &path, "application/apply-patch+cbor", Some(&applied)).await, StatusCode::OK);
    assert_eq!(applied.await["metadata"]["labels"]["x"], "y");
    // Events follow each other.
    let watch = format!("{SECRETS}?watch=1&resourceVersion={version}&timeoutSeconds=1");
    let response = send(&api, Method::GET, &watch, "", None).await;
    assert_eq!(response.headers()["content-type"], cbor::SEQUENCE_MEDIA_TYPE);
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    let (event, end) = cbor::decode_first(&bytes).expect("an event");
    assert_eq!((event["type"].as_str(), event["object"]["metadata"]["labels"]["x"].as_str()), (Some("MODIFIED"), Some("y")));
    assert_eq!(end, bytes.len());
}

#[tokio::test]
async fn it_is_off_by_default() {
    let api = Api::new().await;
    assert_eq!(send(&api, Method::GET, SECRETS, "", None).await.status(), StatusCode::NOT_ACCEPTABLE);
    let secret = value!({"metadata": {"name": "a"}});
    let headers = [("content-type", cbor::MEDIA_TYPE), ("accept", "application/json")];
    let body = serde_json::json!({"metadata": {"name": "a"}});
    let refused = api.send(Method::POST, SECRETS, &headers, Some(&body)).await.expect(415);
    assert_eq!(refused["reason"], "UnsupportedMediaType");
    let patch = send(&api, Method::PATCH, &format!("{SECRETS}/a"), "application/apply-patch+cbor", Some(&secret)).await;
    assert_eq!(patch.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}
