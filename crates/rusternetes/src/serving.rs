//! The secure port of a component that runs alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::LeaderWatch;
use component_server::{Authentication, Authorization, Check, Listener, Pages, ZPages};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api_server::component_zpages;
use crate::exit::{self, Exit};
use crate::flags::Values;
use crate::flags::common::Serving;

/// The version of Kubernetes that components say they are.
const KUBERNETES: &str = "1.35.0";
/// How long a leader's lease may be past its end before the component calls itself unhealthy (upstream's adaptor).
const OVERDUE_MAX: Duration = Duration::from_secs(20);

/// Opens the port and answers until the token is cancelled. `None` with `--secure-port=0`.
pub(crate) async fn start(serving: Serving, pages: Pages, token: CancellationToken) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(address) = serving.address else { return Ok(None) };
    let (authentication, authorization) = serving.reviewers().await?;
    let authorization = Authorization::new(authorization).map_err(usage)?;
    let certificate = serving.files.show(&serving.certificate)?;
    let listener = Listener::bind(address, certificate.clone(), &serving.tls).await;
    let listener = listener.map_err(|error| bind_error(address, error))?;
    let authentication = Authentication::new(authentication, token.clone()).await.context("cannot set up authentication")?;
    tracing::info!(address = %listener.address(), "serving securely");
    let mut followed = serving.followed;
    serving.files.follow(&certificate, &mut followed);
    Ok(Some(tokio::spawn(async move {
        let renewals = followed.run(token.clone());
        tokio::join!(listener.serve(pages, authentication, authorization, token.clone()), renewals);
    })))
}

fn usage(error: component_server::PathError) -> anyhow::Error {
    Exit::new(exit::USAGE, format!("--authorization-always-allow-paths: {error}")).into()
}

fn bind_error(address: SocketAddr, error: component_server::ListenError) -> anyhow::Error {
    let taken = |source: &std::io::Error| source.kind() == std::io::ErrorKind::AddrInUse;
    match error {
        component_server::ListenError::Bind { source, .. } if taken(&source) => {
            let message = format!("cannot listen on {address}: the port is already in use; choose another with --secure-port");
            Exit::new(exit::ADDRESS_IN_USE, message).into()
        }
        other => other.into(),
    }
}

/// `leaderElection` of upstream: a leader that could not renew for long is not healthy.
pub(crate) fn leader_check(watch: LeaderWatch, lease: &str, lease_duration: Duration) -> Check {
    let lease = lease.to_owned();
    Check::new("leaderElection", move || match watch.not_renewed_for() {
        Some(silent) if silent > lease_duration + OVERDUE_MAX => {
            Err(format!("failed election to renew leadership on lease {lease}"))
        }
        _ => Ok(()),
    })
}

/// The alpha pages, by their feature gates.
pub(crate) fn zpages(values: &Values) -> anyhow::Result<ZPages> {
    let (flagz, statusz) =
        component_zpages(&values.list("feature-gates")).map_err(|error| anyhow::anyhow!("--feature-gates: {error}"))?;
    Ok(ZPages { flags: flagz.then(|| values.all()), version: statusz.then(|| KUBERNETES.to_owned()) })
}

/// Pages with checks that are not there yet.
pub(crate) fn pages(component: &'static str, values: &Values, configuration: (&'static str, Value)) -> anyhow::Result<Pages> {
    let (name, value) = configuration;
    Ok(Pages {
        component,
        healthz: Default::default(),
        livez: Default::default(),
        readyz: Default::default(),
        configuration: (name, Arc::new(value)),
        zpages: zpages(values)?,
        disabled_metrics: values.list("disabled-metrics"),
    })
}
