//! A server on the memory store, and a client that speaks JSON to it.
#![allow(dead_code)] // Each test file uses its part of it.

use std::path::Path;
use std::sync::Arc;

use api_server::{ApiServer, Body, Pki, PkiConfig, ServerConfig, UserInfo, names};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use storage::Memory;

/// A client with an identity.
#[derive(Clone)]
pub(crate) struct Api {
    pub server: Arc<ApiServer>,
    pub store: Arc<Memory>,
    pub user: UserInfo,
}

/// Certificates and keys of a cluster, in this directory.
pub(crate) fn pki(dir: &Path) -> Pki {
    Pki::load_or_create(
        PkiConfig {
            dir: dir.join("pki"),
            node_name: "node".to_owned(),
            node_ips: vec![[127, 0, 0, 1].into()],
            host_names: Vec::new(),
            service_ip: [10, 43, 0, 1].into(),
            cluster_domain: "cluster.local".to_owned(),
        },
        jiff::Timestamp::now(),
    )
    .expect("certificates")
}

/// An answer.
pub(crate) struct Answer {
    pub code: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
    what: String,
}

impl Answer {
    /// The body, if the code is this.
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{}: {}", self.what, self.body);
        self.body
    }
}

impl Api {
    pub(crate) async fn new() -> Api {
        Api::with(ServerConfig::default()).await
    }

    pub(crate) async fn with(config: ServerConfig) -> Api {
        let store = Arc::new(Memory::new());
        let server = ApiServer::builder(config, store.clone()).build();
        let api = Api { server, store, user: UserInfo::new("admin", &[names::MASTERS]) };
        api.post("/api/v1/namespaces", &serde_json::json!({"metadata": {"name": "default"}})).await.expect(201);
        // Pods need it, and its controller does not run here.
        let account = serde_json::json!({"metadata": {"name": "default"}});
        api.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
        api
    }

    pub(crate) fn as_user(&self, user: UserInfo) -> Api {
        Api { user, ..self.clone() }
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::full(body.to_string()));
        let mut request = request.body(body).expect("a valid request");
        request.extensions_mut().insert(self.user.clone());
        self.server.handle(request).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let what = format!("{method} {path}");
        let response = self.request(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code: parts.status, headers: parts.headers, body, what }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Method::GET, path, &[("accept", accept)], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", content_type)], Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], None).await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.send(Method::DELETE, path, &[("content-type", "application/json")], Some(options)).await
    }
}
