//! The flags that upstream's components share, and what is made of those of the secure port and of leader election.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use api_server::EmulatedVersion;
use client::{Connection, LeaderElection};
use component_server::{AuthenticationConfig, AuthorizationConfig};
use serde_json::{Value, json};
use serving::{Authorities, KeyCert, RequestHeaders, TlsOptions};

use super::Kind::{Array, Bool, Duration as Time, Int, List, Text};
use super::State::{DefaultOnly, Ignored, Works};
use super::{Flag, Values, flag};
use crate::certificate_files::{FollowedFiles, ServingFiles};

/// `Debugging flags`.
pub(crate) const DEBUGGING: &[Flag] = &[
    flag("contention-profiling", Bool, "false", Ignored("there is no Go runtime to profile")),
    flag("profiling", Bool, "true", Ignored("there is no Go runtime to profile")),
];

/// `Secure serving flags` of every server, but for the port.
pub(crate) const LISTENING: &[Flag] = &[
    flag("bind-address", Text, "0.0.0.0", Works),
    flag("disable-http2-serving", Bool, "false", Works),
    flag("http2-max-streams-per-connection", Int, "", DefaultOnly),
    flag("permit-address-sharing", Bool, "false", Ignored("addresses are shared in any case")),
    flag("permit-port-sharing", Bool, "false", DefaultOnly),
    flag("tls-cert-file", Text, "", Works),
    flag("tls-cipher-suites", List, "", Works),
    flag("tls-min-version", Text, "", Works),
    flag("tls-private-key-file", Text, "", Works),
    flag("tls-sni-cert-key", Array, "", Works),
];

/// Further `Secure serving flags` of components.
pub(crate) const SECURE_SERVING: &[Flag] =
    &[flag("cert-dir", Text, "", Ignored("a certificate that is not given is made in memory"))];

/// `Authentication flags` of every server.
pub(crate) const CERTIFICATES: &[Flag] = &[
    flag("client-ca-file", Text, "", Works),
    flag("requestheader-allowed-names", List, "", Works),
    flag("requestheader-client-ca-file", Text, "", Works),
    flag("requestheader-uid-headers", List, "", Works),
];

/// Further `Authentication flags` of components, but for `--authentication-tolerate-lookup-failure`, which has a default of its own in
/// each.
#[rustfmt::skip]
pub(crate) const AUTHENTICATION: &[Flag] = &[
    flag("authentication-kubeconfig", Text, "", Works),
    flag("authentication-skip-lookup", Bool, "false", Works),
    flag("authentication-token-webhook-cache-ttl", Time, "10s", Works),
    flag("requestheader-extra-headers-prefix", List, "x-remote-extra-", Works),
    flag("requestheader-group-headers", List, "x-remote-group", Works),
    flag("requestheader-username-headers", List, "x-remote-user", Works),
];

/// `Authorization flags`.
#[rustfmt::skip]
pub(crate) const AUTHORIZATION: &[Flag] = &[
    flag("authorization-always-allow-paths", List, "/healthz,/readyz,/livez", Works),
    flag("authorization-kubeconfig", Text, "", Works),
    flag("authorization-webhook-cache-authorized-ttl", Time, "10s", Works),
    flag("authorization-webhook-cache-unauthorized-ttl", Time, "10s", Works),
];

/// Leader election, but for the name of the Lease.
pub(crate) const LEADER_ELECTION: &[Flag] = &[
    flag("leader-elect", Bool, "true", Works),
    flag("leader-elect-lease-duration", Time, "15s", Works),
    flag("leader-elect-renew-deadline", Time, "10s", Works),
    flag("leader-elect-resource-lock", Text, "leases", DefaultOnly),
    flag("leader-elect-resource-namespace", Text, "kube-system", Works),
    flag("leader-elect-retry-period", Time, "2s", Works),
];

/// Versions and features.
pub(crate) const VERSIONS: &[Flag] = &[
    flag("emulated-version", List, "", Works),
    flag("feature-gates", List, "", Works),
    flag("min-compatibility-version", List, "", Works),
];

/// `Metrics flags`.
pub(crate) const METRICS: &[Flag] = &[
    flag("allow-metric-labels", List, "", DefaultOnly),
    flag("allow-metric-labels-manifest", Text, "", DefaultOnly),
    flag("disabled-metrics", List, "", Works),
    flag("show-hidden-metrics-for-version", Text, "", Ignored("no metric is hidden")),
];

/// `Logs flags`.
#[rustfmt::skip]
pub(crate) const LOGS: &[Flag] = &[
    flag("log-flush-frequency", Time, "5s", Ignored("logs are not buffered")),
    flag("log-json-info-buffer-size", Text, "", DefaultOnly),
    flag("log-json-split-stream", Bool, "false", DefaultOnly),
    flag("log-text-info-buffer-size", Text, "", DefaultOnly),
    flag("log-text-split-stream", Bool, "false", DefaultOnly),
    flag("logging-format", Text, "text", DefaultOnly),
    flag("v", Int, "", Works),
    flag("vmodule", List, "", Ignored("levels of single modules are set by RUST_LOG")),
];

/// Upstream's levels: up to 3 is what is usual there, from 4 on things are told that only developers want to know.
pub(crate) fn init_logging(values: &Values) {
    let level = match values.integer("v") {
        ..=3 => "info",
        4..=7 => "debug",
        8.. => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
    for warning in &values.warnings {
        tracing::warn!(warning, "a flag has no effect");
    }
}

/// Refuses versions that a component other than the API server cannot be like.
pub(crate) fn check_versions(values: &Values) -> anyhow::Result<()> {
    let minor = emulated_version(values)?.minor;
    if minor != EmulatedVersion::NEWEST_MINOR {
        bail!("--emulated-version=1.{minor}: not implemented, only 1.{} is spoken", EmulatedVersion::NEWEST_MINOR);
    }
    Ok(())
}

/// The version of `flag`, `1.33` or `kube=1.33`; `None` if it is not given.
fn version(values: &Values, flag: &str) -> anyhow::Result<Option<u8>> {
    let mut found = None;
    for text in values.list(flag) {
        let (component, version) = text.split_once('=').unwrap_or(("kube", &text));
        if component.trim() != "kube" {
            bail!("--{flag}={text}: component not registered: {component}");
        }
        let minor = version.trim().trim_start_matches('v').strip_prefix("1.").map(|minor| minor.trim_end_matches(".0"));
        let minor = minor.and_then(|minor| minor.parse().ok());
        let minor =
            minor.with_context(|| format!("--{flag}={text}: not a version such as 1.{}", EmulatedVersion::NEWEST_MINOR))?;
        if found.replace(minor).is_some() {
            bail!("--{flag}: duplicate version flag");
        }
    }
    Ok(found)
}

/// `--emulated-version` and `--min-compatibility-version`.
pub(crate) fn emulated_version(values: &Values) -> anyhow::Result<EmulatedVersion> {
    let (oldest, newest) = (EmulatedVersion::OLDEST_MINOR, EmulatedVersion::NEWEST_MINOR);
    let minor = version(values, "emulated-version")?.unwrap_or(newest);
    if !(oldest..=newest).contains(&minor) {
        bail!("emulation version 1.{minor} is not between [1.{oldest}, 1.{newest}]");
    }
    let usual = EmulatedVersion::of(minor);
    let least = version(values, "min-compatibility-version")?.unwrap_or(usual.min_compatibility_minor);
    if !(oldest..=minor).contains(&least) {
        bail!("minCompatibilityVersion version 1.{least} is not between [1.{oldest}, 1.{minor}]");
    }
    Ok(EmulatedVersion { min_compatibility_minor: least, ..usual })
}

/// `--kubeconfig`, `--master`, and the rate where one is asked for: upstream's default rates are not applied, because what is sent here
/// is already bounded by what there is to do.
pub(crate) fn connection(values: &Values) -> anyhow::Result<Connection> {
    let rate = (values.given("kube-api-qps") || values.given("kube-api-burst")).then(|| values.float("kube-api-qps"));
    let burst = u32::try_from(values.integer("kube-api-burst")).context("--kube-api-burst: not a number of requests")?;
    Ok(Connection {
        kubeconfig: values.text("kubeconfig").map(PathBuf::from),
        master: values.text("master").map(str::to_owned),
        // A rate that is not positive is none, as upstream's client has it.
        rate: rate.filter(|rate| *rate > 0.0).map(|rate| (rate, burst.max(1))),
    })
}

/// The connection as `/configz` shows it, with upstream's field names and its client's sign for "no limit".
pub(crate) fn client_connection(connection: &Connection) -> Value {
    let (qps, burst) = connection.rate.unwrap_or((-1.0, 0));
    let kubeconfig = connection.kubeconfig.as_deref().unwrap_or(Path::new(""));
    json!({"Kubeconfig": kubeconfig, "ContentType": "application/json", "QPS": qps, "Burst": burst})
}

/// `--leader-elect-*`; `None` if it is switched off.
pub(crate) fn leader_election(values: &Values, identity: String) -> anyhow::Result<Option<LeaderElection>> {
    let text = |name: &str| values.text(name).unwrap_or_default().to_owned();
    let election = LeaderElection {
        namespace: text("leader-elect-resource-namespace"),
        lease_duration: values.duration("leader-elect-lease-duration"),
        renew_deadline: values.duration("leader-elect-renew-deadline"),
        retry_period: values.duration("leader-elect-retry-period"),
        ..LeaderElection::new(text("leader-elect-resource-name"), identity)
    };
    if !values.is_set("leader-elect") {
        return Ok(None);
    }
    // Upstream's NewLeaderElector: renewing must be over before another may take over, and have time for a second attempt.
    if election.lease_duration <= election.renew_deadline {
        bail!("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline");
    }
    if election.renew_deadline <= election.retry_period.mul_f64(1.2) {
        bail!("--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period");
    }
    if election.lease_duration < Duration::from_secs(1) || election.retry_period.is_zero() {
        bail!("the durations of leader election must be greater than zero");
    }
    Ok(Some(election))
}

/// What the secure port is opened with.
pub(crate) struct Serving {
    /// `None` with `--secure-port=0`.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) certificate: KeyCert,
    /// Where certificates are from.
    pub(crate) files: ServingFiles,
    /// Authorities that are read again.
    pub(crate) followed: FollowedFiles,
    pub(crate) tls: TlsOptions,
    authentication_kubeconfig: Option<PathBuf>,
    authorization_kubeconfig: Option<PathBuf>,
    authentication: AuthenticationConfig,
    authorization: AuthorizationConfig,
}

impl Serving {
    /// Reads the flags and the files that they name.
    pub(crate) fn new(values: &Values) -> anyhow::Result<Self> {
        let port = u16::try_from(values.integer("secure-port")).context("--secure-port: not a port")?;
        let bind = values.text("bind-address").unwrap_or("0.0.0.0");
        let ip: IpAddr = bind.parse().with_context(|| format!("--bind-address={bind}: not an address"))?;
        let files = ServingFiles::of(values)?;
        let certificate = match files.read()? {
            Some(pair) => pair,
            None => KeyCert::self_signed(&["localhost".to_owned(), "127.0.0.1".to_owned()])?,
        };
        let (tls, warnings) = tls(values)?;
        for warning in warnings {
            tracing::warn!(warning, "a flag is not followed to the letter");
        }
        let mut followed = FollowedFiles::default();
        let clients = authorities(values, "client-ca-file", &mut followed)?;
        let proxy = authorities(values, "requestheader-client-ca-file", &mut followed)?;
        let proxy = proxy.map(|authorities| (authorities, request_headers(values)));
        Ok(Self {
            address: (port != 0).then(|| SocketAddr::new(ip, port)),
            certificate,
            files,
            followed,
            tls,
            authentication_kubeconfig: values.text("authentication-kubeconfig").map(PathBuf::from),
            authorization_kubeconfig: values.text("authorization-kubeconfig").map(PathBuf::from),
            authentication: AuthenticationConfig {
                client: None,
                token_ttl: values.duration("authentication-token-webhook-cache-ttl"),
                clients,
                proxy,
                skip_lookup: values.is_set("authentication-skip-lookup"),
                tolerate_lookup_failure: values.is_set("authentication-tolerate-lookup-failure"),
            },
            authorization: AuthorizationConfig {
                client: None,
                always_allow_paths: values.list("authorization-always-allow-paths"),
                allowed_ttl: values.duration("authorization-webhook-cache-authorized-ttl"),
                denied_ttl: values.duration("authorization-webhook-cache-unauthorized-ttl"),
            },
        })
    }

    /// The same with the clients that ask the API server. Must be called inside a Tokio runtime.
    pub(crate) async fn reviewers(&self) -> anyhow::Result<(AuthenticationConfig, AuthorizationConfig)> {
        let client = async |kubeconfig: &Option<PathBuf>| -> anyhow::Result<Option<kube::Client>> {
            match kubeconfig {
                Some(path) => Ok(Some(client::from_kubeconfig(path).await?)),
                None => Ok(None),
            }
        };
        let authentication = client(&self.authentication_kubeconfig).await.context("--authentication-kubeconfig")?;
        let authorization = client(&self.authorization_kubeconfig).await.context("--authorization-kubeconfig")?;
        if self.address.is_some() && authorization.is_none() {
            tracing::warn!("no authorization kubeconfig: only the paths that are open to all can be read");
        }
        Ok((
            AuthenticationConfig { client: authentication, ..self.authentication.clone() },
            AuthorizationConfig { client: authorization, ..self.authorization.clone() },
        ))
    }
}

/// The authorities that a flag names, followed from now on.
fn authorities(values: &Values, flag: &'static str, followed: &mut FollowedFiles) -> anyhow::Result<Option<Authorities>> {
    let Some(pem) = file(values, flag)? else { return Ok(None) };
    let authorities = Authorities::new(&pem).with_context(|| format!("--{flag}"))?;
    followed.add_authorities(values, flag, &authorities, || {});
    Ok(Some(authorities))
}

/// `--requestheader-*`.
pub(crate) fn request_headers(values: &Values) -> RequestHeaders {
    RequestHeaders {
        allowed_names: values.list("requestheader-allowed-names"),
        username_headers: values.list("requestheader-username-headers"),
        uid_headers: values.list("requestheader-uid-headers"),
        group_headers: values.list("requestheader-group-headers"),
        extra_header_prefixes: values.list("requestheader-extra-headers-prefix"),
    }
}

/// What handshakes may agree on, and what the user should know of it: what is asked for and cannot be spoken.
pub(crate) fn tls(values: &Values) -> anyhow::Result<(TlsOptions, Vec<String>)> {
    let mut warnings = Vec::new();
    let only_tls13 = match values.text("tls-min-version") {
        None | Some("VersionTLS12") => false,
        Some("VersionTLS13") => true,
        Some(version @ ("VersionTLS10" | "VersionTLS11")) => {
            warnings.push(format!("--tls-min-version={version}: nothing older than TLS 1.2 is spoken"));
            false
        }
        Some(other) => bail!("--tls-min-version={other}: unknown; choose VersionTLS12 or VersionTLS13"),
    };
    let without_http2 = values.is_set("disable-http2-serving");
    let tls = TlsOptions { only_tls13, cipher_suites: values.list("tls-cipher-suites"), without_http2 };
    let unsupported = tls.unsupported_cipher_suites();
    if !unsupported.is_empty() {
        if unsupported.len() == tls.cipher_suites.len() {
            bail!("--tls-cipher-suites: none of {} is supported", unsupported.join(", "));
        }
        warnings.push(format!("--tls-cipher-suites: not supported and left out: {}", unsupported.join(", ")));
    }
    Ok((tls, warnings))
}

/// The content of the file that a flag names.
pub(crate) fn file(values: &Values, name: &str) -> anyhow::Result<Option<String>> {
    values.text(name).map(|path| read(name, path)).transpose()
}

/// The content of a file that a flag names.
pub(crate) fn read(name: &str, path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--{name}: cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_cannot_be_spoken_is_said() {
        let read = |arguments: &[&str]| tls(&testing::read(&[("f", LISTENING)], arguments).unwrap());
        for (argument, expected) in [
            ("--tls-min-version=VersionTLS12", Ok(None)),
            ("--tls-min-version=VersionTLS10", Ok(Some("--tls-min-version=VersionTLS10: nothing older"))),
            ("--tls-min-version=VersionTLS09", Err("--tls-min-version=VersionTLS09: unknown")),
            ("--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Ok(None)),
            (
                "--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_RSA_WITH_RC4_128_SHA",
                Ok(Some("--tls-cipher-suites: not supported and left out: TLS_RSA_WITH_RC4_128_SHA")),
            ),
            ("--tls-cipher-suites=TLS_RSA_WITH_RC4_128_SHA", Err("none of TLS_RSA_WITH_RC4_128_SHA")),
        ] {
            match (read(&[argument]), expected) {
                (Ok((_, warnings)), Ok(None)) => assert!(warnings.is_empty(), "{argument}: {warnings:?}"),
                (Ok((_, warnings)), Ok(Some(text))) => assert!(warnings[0].starts_with(text), "{argument}: {warnings:?}"),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{argument}: {error}"),
                (found, expected) => panic!("{argument}: {found:?}, not {expected:?}"),
            }
        }
    }
}
