//! `/livez`, `/readyz` and `/healthz`: named checks, all at once or one by one
//! (<https://kubernetes.io/docs/reference/using-api/health-checks/>).

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use ::http::{Response, StatusCode};

use crate::gates::{Feature, FeatureGates};
use crate::http::{Body, Query, RequestContext};
use crate::server::ApiServer;

/// A store that does not answer for so long is not healthy (upstream's `--etcd-healthcheck-timeout`, `--etcd-readycheck-timeout`).
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A part of starting up, after which some of what clients rely on is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Namespaces,
    PriorityClasses,
    BootstrapRoles,
    ServiceCidr,
    KubernetesService,
    ClusterAuthentication,
    IdentityLease,
    IdentityCollector,
    LegacyTokens,
}

impl Step {
    /// In upstream's order.
    const ALL: [Step; 9] = [
        Step::Namespaces,
        Step::ClusterAuthentication,
        Step::IdentityLease,
        Step::IdentityCollector,
        Step::LegacyTokens,
        Step::BootstrapRoles,
        Step::PriorityClasses,
        Step::KubernetesService,
        Step::ServiceCidr,
    ];

    /// The check's name: upstream's post-start hook that does the same.
    fn name(self) -> &'static str {
        match self {
            Step::Namespaces => "poststarthook/start-system-namespaces-controller",
            Step::PriorityClasses => "poststarthook/scheduling/bootstrap-system-priority-classes",
            Step::BootstrapRoles => "poststarthook/rbac/bootstrap-roles",
            Step::ServiceCidr => "poststarthook/start-kubernetes-service-cidr-controller",
            Step::KubernetesService => "poststarthook/bootstrap-controller",
            Step::ClusterAuthentication => "poststarthook/start-cluster-authentication-info-controller",
            Step::IdentityLease => "poststarthook/start-kube-apiserver-identity-lease-controller",
            Step::IdentityCollector => "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
            Step::LegacyTokens => "poststarthook/start-legacy-token-tracking-controller",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }

    /// Whether the server has such a part.
    fn is_wanted(self, gates: FeatureGates) -> bool {
        !matches!(self, Step::IdentityLease | Step::IdentityCollector) || gates.has(Feature::ApiServerIdentity)
    }
}

/// Steps of starting up and shutting down that health depends on.
#[derive(Debug, Default)]
pub struct Lifecycle {
    steps: AtomicU16,
    rbac_ready: AtomicBool,
}

impl Lifecycle {
    pub(crate) fn done(&self, step: Step) {
        self.steps.fetch_or(step.bit(), Ordering::AcqRel);
    }

    fn is_done(&self, step: Step) -> bool {
        self.steps.load(Ordering::Acquire) & step.bit() != 0
    }

    pub(crate) fn set_rbac_ready(&self) {
        self.rbac_ready.store(true, Ordering::Release);
    }
}

/// One check, under upstream's name. Those of upstream's parts that are not here (priority and fairness, aggregation, custom
/// resources) have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Ping,
    Log,
    Store,
    StoreReadiness,
    RbacPolicy,
    Start(Step),
    Shutdown,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Log => "log",
            Self::Store => "etcd",
            Self::StoreReadiness => "etcd-readiness",
            Self::RbacPolicy => "informer-sync",
            Self::Start(step) => step.name(),
            Self::Shutdown => "shutdown",
        }
    }

    async fn run(self, server: &ApiServer) -> Result<(), String> {
        let lifecycle = server.lifecycle();
        let when = |good: bool, otherwise: &str| if good { Ok(()) } else { Err(otherwise.to_owned()) };
        match self {
            // What is logged is written at once: nothing can be stuck.
            Self::Ping | Self::Log => Ok(()),
            Self::Store | Self::StoreReadiness => {
                match tokio::time::timeout(STORE_TIMEOUT, server.store().current_revision()).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("the store did not answer within {STORE_TIMEOUT:?}")),
                }
            }
            Self::RbacPolicy => when(lifecycle.rbac_ready.load(Ordering::Acquire), "RBAC objects are not loaded yet"),
            Self::Start(step) => when(lifecycle.is_done(step), "not finished"),
            Self::Shutdown => when(!server.draining().is_cancelled(), "process is shutting down"),
        }
    }
}

/// An endpoint's checks in order.
fn checks(endpoint: &str, gates: FeatureGates) -> Option<Vec<Check>> {
    let starting = Step::ALL.into_iter().filter(|step| step.is_wanted(gates)).map(Check::Start);
    match endpoint {
        "livez" | "healthz" => Some([Check::Ping, Check::Log, Check::Store].into_iter().chain(starting).collect()),
        "readyz" => {
            let first = [Check::Ping, Check::Log, Check::Store, Check::StoreReadiness, Check::RbacPolicy];
            Some(first.into_iter().chain(starting).chain([Check::Shutdown]).collect())
        }
        _ => None,
    }
}

/// The paths of all endpoints and checks.
pub(crate) fn paths(gates: FeatureGates) -> impl Iterator<Item = String> {
    ["healthz", "livez", "readyz"].into_iter().flat_map(move |endpoint| {
        let checks = checks(endpoint, gates).unwrap_or_default();
        let checks = checks.into_iter().map(move |check| format!("/{endpoint}/{}", check.name()));
        std::iter::once(format!("/{endpoint}")).chain(checks)
    })
}

/// Answers a path of health, or `None` if it is not one.
pub(crate) async fn respond(server: &ApiServer, context: &RequestContext) -> Option<Response<Body>> {
    let path = context.info.path.strip_prefix('/')?;
    let (endpoint, check) = path.split_once('/').map_or((path, None), |(endpoint, check)| (endpoint, Some(check)));
    let checks = checks(endpoint, server.config().gates)?;
    let mut results = Vec::with_capacity(checks.len());
    let Some(check) = check else {
        for check in &checks {
            let excluded = context.query.all("exclude").any(|name| name == check.name());
            let result = if excluded { None } else { Some(check.run(server).await) };
            if let Some(result) = &result {
                server.metrics().health_checked(check.name(), endpoint, result.is_ok());
            }
            results.push((check.name(), result));
        }
        return Some(all(endpoint, &results, &context.query));
    };
    let check = checks.iter().find(|c| c.name() == check)?;
    Some(match check.run(server).await {
        Ok(()) => {
            let mut response = text(StatusCode::OK, "ok".to_owned());
            response.headers_mut().remove(X_CONTENT_TYPE_OPTIONS);
            response
        }
        Err(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {reason}\n")),
    })
}

/// The answer of a whole endpoint; `None` as a result is an excluded check.
fn all(endpoint: &str, results: &[(&'static str, Option<Result<(), String>>)], query: &Query) -> Response<Body> {
    let mut lines = String::new();
    let mut failed = Vec::new();
    for (name, result) in results {
        match result {
            None => lines.push_str(&format!("[+]{name} excluded: ok\n")),
            Some(Ok(())) => lines.push_str(&format!("[+]{name} ok\n")),
            Some(Err(reason)) => {
                // The endpoint is public: the reason goes to the log only.
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                failed.push(format!("{name}: {reason}"));
            }
        }
    }
    let mut unknown: Vec<_> = query.all("exclude").filter(|e| !results.iter().any(|(name, _)| name == e)).collect();
    unknown.sort_unstable();
    if !unknown.is_empty() {
        let names = unknown.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(",");
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    if !failed.is_empty() {
        tracing::info!(endpoint, failed = failed.join("; "), "a health check failed");
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n"));
    }
    if query.get("verbose").is_none() {
        return text(StatusCode::OK, "ok".to_owned());
    }
    text(StatusCode::OK, format!("{lines}{endpoint} check passed\n"))
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn answers() {
        let good = [("ping", Some(Ok(()))), ("etcd", Some(Ok(())))];
        let bad = [("ping", Some(Ok(()))), ("etcd", Some(Err("secret".to_owned())))];
        let excluded = [("ping", Some(Ok(()))), ("etcd", None)];
        for (results, query, code, wanted) in [
            (&good, "", 200, "ok"),
            (&good, "verbose", 200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n"),
            (&bad, "", 500, "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n"),
            (&excluded, "exclude=etcd&verbose=1", 200, "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n"),
            (
                &good,
                "exclude=nothing&verbose",
                200,
                "[+]ping ok\n[+]etcd ok\nwarn: some health checks cannot be excluded: no matches for \"nothing\"\nlivez check passed\n",
            ),
        ] {
            let response = all("livez", results, &Query::parse(query));
            assert_eq!(response.status(), code);
            let body = response.into_body().collect().await.expect("a whole body").to_bytes();
            assert_eq!(std::str::from_utf8(&body).expect("text"), wanted, "{query}");
        }
    }

    #[test]
    fn parts_that_are_switched_off_are_not_checked() {
        let named = |gates: FeatureGates| paths(gates).filter(|path| path.contains("identity-lease")).count();
        assert_eq!(named(FeatureGates::DEFAULT), 6);
        assert_eq!(named(FeatureGates::DEFAULT.with(Feature::ApiServerIdentity, false)), 0);
    }
}
