//! What there is to see, by path.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::health::{Checks, Report};
use crate::zpages::{self, Page, ZPages};
use crate::{metrics, render_metrics};

pub(crate) type Answer = Response<Full<Bytes>>;

/// The pages of a component.
#[derive(Clone)]
pub struct Pages {
    /// Upstream's name of the component.
    pub component: &'static str,
    /// `/healthz`.
    pub healthz: Checks,
    /// `/livez`.
    pub livez: Checks,
    /// `/readyz`.
    pub readyz: Checks,
    /// `/configz`: the name of the configuration and what it is.
    pub configuration: (&'static str, Arc<Value>),
    /// The alpha pages.
    pub zpages: ZPages,
    /// Metrics that are not shown (`--disabled-metrics`).
    pub disabled_metrics: Vec<String>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("component", &self.component).finish_non_exhaustive()
    }
}

impl Pages {
    /// The page at a path. Any method will do, as upstream has it.
    pub(crate) fn answer(&self, uri: &Uri, headers: &HeaderMap) -> Answer {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let parts: Vec<&str> = uri.path().split('/').skip(1).collect();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz"] => {
                let (checks, query) = (self.checks(parts[0]), uri.query());
                health(checks.report(parts[0], &values(query, "exclude"), !values(query, "verbose").is_empty()))
            }
            [kind @ ("healthz" | "livez" | "readyz"), name] => match self.checks(kind).single(name) {
                Some(report) => health(report),
                None => not_found(),
            },
            ["metrics"] => metrics_page(render_metrics(&self.disabled_metrics)),
            ["metrics", "slis"] => metrics_page(metrics::render_slis()),
            ["configz"] => {
                let (name, configuration) = &self.configuration;
                plain(StatusCode::OK, "application/json", json!({ *name: &**configuration }).to_string())
            }
            ["flagz"] => self.zpages.flags.as_deref().map_or_else(not_found, |f| page(zpages::flagz(self.component, f, accept))),
            ["statusz"] => match &self.zpages.version {
                Some(version) => page(zpages::statusz(self.component, version, &self.paths(), now(), accept)),
                None => not_found(),
            },
            _ => not_found(),
        }
    }

    fn checks(&self, kind: &str) -> &Checks {
        match kind {
            "livez" => &self.livez,
            "readyz" => &self.readyz,
            _ => &self.healthz,
        }
    }

    fn paths(&self) -> Vec<&'static str> {
        let mut paths = vec!["/configz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"];
        if self.zpages.flags.is_some() {
            paths.insert(1, "/flagz");
        }
        paths
    }
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// The values of a parameter of the query, empty where it is alone. Names of checks need no escapes.
fn values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).collect()
}

/// An answer with a text.
pub(crate) fn plain(status: StatusCode, media: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

fn page((status, media, text): Page) -> Answer {
    plain(status, media, text)
}

fn health(report: Report) -> Answer {
    let status = if report.healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    plain(status, "text/plain; charset=utf-8", report.text)
}

fn metrics_page(text: Vec<u8>) -> Answer {
    plain(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

fn not_found() -> Answer {
    plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

/// A `Status` that tells of a failure.
pub(crate) fn failure(status: StatusCode, reason: &str, message: &str, details: bool) -> Answer {
    let mut body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": status.as_u16()});
    if details {
        body["details"] = json!({});
    }
    plain(status, "application/json", body.to_string() + "\n")
}

/// The verb of a request that is not for a resource: its method.
pub(crate) fn verb(method: &Method) -> String {
    method.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Check;

    fn pages() -> Pages {
        Pages {
            component: "kube-scheduler",
            healthz: Checks::new([Check::ping("leaderElection")]),
            livez: Checks::default(),
            readyz: Checks::new([Check::new("shutdown", || Err("process is shutting down".to_owned()))]),
            configuration: ("componentconfig", Arc::new(json!({"Parallelism": 16}))),
            zpages: ZPages::default(),
            disabled_metrics: Vec::new(),
        }
    }

    #[test]
    fn pages_by_path() {
        for (path, status) in [
            ("/healthz", 200),
            ("/healthz/leaderElection", 200),
            ("/healthz/none", 404),
            ("/livez", 200),
            ("/readyz", 500),
            ("/readyz?exclude=shutdown", 200),
            ("/metrics", 200),
            ("/metrics/slis", 200),
            ("/configz", 200),
            ("/statusz", 404),
            ("/flagz", 404),
            ("/", 404),
            ("/debug/pprof", 404),
        ] {
            let answer = pages().answer(&path.parse().expect("is a path"), &HeaderMap::new());
            assert_eq!(answer.status().as_u16(), status, "{path}");
        }
        let mut with = pages();
        with.zpages = ZPages { flags: Some(Vec::new()), version: Some("1.35.0".to_owned()) };
        for path in ["/flagz", "/statusz"] {
            assert_eq!(with.answer(&path.parse().expect("is a path"), &HeaderMap::new()).status(), StatusCode::OK, "{path}");
        }
    }
}
