//! What the flags mean: upstream's values turned into the configuration of our API server. Reads the files that they name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use api_server::{
    AdmissionConfig, AllowedLabels, ApiEnablement, AuthorizationMode, EmulatedVersion, Feature, FeatureGates, FrontProxyConfig,
    InFlightMax, KeyCert, KubeletIdentity, PolicyFile, ServerConfig, TlsOptions, TokenConfig, TokenFile, TokenLifetime,
    admission_plugin_names,
};
use http::HeaderValue;

use super::feature_gates::{self, ServerGates};
use super::flags::Values;
use super::plugins;
use crate::certificate_files::ServingFiles;
use crate::flags::common::{emulated_version, file, read, request_headers, tls};

/// Upstream's range for ClusterIPs when none is given.
const SERVICE_RANGE: &str = "10.0.0.0/24";

/// Where upstream's kube-apiserver looks for the other components.
const COMPONENTS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];

/// Everything that the command line says, checked.
pub(super) struct Settings {
    pub(super) data_dir: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) advertise: Option<IpAddr>,
    pub(super) tls: TlsOptions,
    pub(super) serving: Option<KeyCert>,
    /// Where that and others are from, if the flags say so.
    pub(super) serving_files: ServingFiles,
    pub(super) server: ServerConfig,
    pub(super) shutdown_delay: std::time::Duration,
    pub(super) client_ca_pem: String,
    pub(super) front_proxy: Option<FrontProxyConfig>,
    pub(super) token_file: TokenFile,
    pub(super) bootstrap_tokens: bool,
    pub(super) anonymous: bool,
    pub(super) authorization: Vec<AuthorizationMode>,
    pub(super) policy_file: PolicyFile,
    /// The signing key is empty when none is given.
    pub(super) tokens: TokenConfig,
    pub(super) disabled_admission: Vec<String>,
    pub(super) admission_config: AdmissionConfig,
    pub(super) kubelet_identity: KubeletIdentity,
    /// Who vouches for kubelets, if they must be vouched for.
    pub(super) kubelet_ca_pem: Option<String>,
    pub(super) service_ip: IpAddr,
    pub(super) publish_endpoints: bool,
    pub(super) verbosity: i64,
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// Reads the flags; errors name the flag.
    pub(super) fn new(values: &Values) -> anyhow::Result<Self> {
        let emulated = emulated_version(values)?;
        let ServerGates { gates, differences } = feature_gates::of_server(&values.list("feature-gates"), emulated)
            .map_err(|error| anyhow::anyhow!("--feature-gates: {error}"))?;
        refuse_others(values)?;
        let mut warnings = values.warnings.clone();
        if !differences.is_empty() {
            let minor = emulated.minor;
            warnings.push(format!("--emulated-version=1.{minor}: these features are as in 1.35: {}", differences.join(", ")));
        }
        let (tls, more) = tls(values)?;
        warnings.extend(more);
        let serving_files = ServingFiles::of(values)?;
        let authorization = authorization(values)?;
        let mut anonymous = values.is_set("anonymous-auth");
        if anonymous && authorization.contains(&AuthorizationMode::AlwaysAllow) {
            if values.given("anonymous-auth") {
                warnings.push("--anonymous-auth is not allowed with the AlwaysAllow authorizer and is off".to_owned());
            }
            anonymous = false;
        }
        let port = u16::try_from(values.integer("secure-port")).context("--secure-port: not a port")?;
        let (service_cidrs, service_ip) = service_ranges(values)?;
        let (enable, disable) = (values.list("enable-admission-plugins"), values.list("disable-admission-plugins"));
        let disabled_admission = plugins::disabled(&enable, &disable, &admission_plugin_names()).map_err(anyhow::Error::msg)?;
        Ok(Self {
            data_dir: PathBuf::from(values.text("data-dir").unwrap_or(crate::server::DEFAULT_DATA_DIR)),
            address: SocketAddr::new(address(values, "bind-address")?.unwrap_or(IpAddr::from([0, 0, 0, 0])), port),
            advertise: address(values, "advertise-address")?,
            tls,
            serving: serving_files.read()?,
            serving_files,
            server: ServerConfig { gates, emulated, service_cidrs, ..server(values, emulated)? },
            shutdown_delay: values.duration("shutdown-delay-duration"),
            client_ca_pem: file(values, "client-ca-file")?.unwrap_or_default(),
            front_proxy: front_proxy(values, gates)?,
            token_file: match values.text("token-auth-file") {
                Some(path) => TokenFile::load(Path::new(path)).context("--token-auth-file")?,
                None => TokenFile::default(),
            },
            bootstrap_tokens: values.is_set("enable-bootstrap-token-auth"),
            anonymous,
            policy_file: policy_file(values, &authorization)?,
            authorization,
            tokens: tokens(values)?,
            admission_config: admission_config(values, &disabled_admission)?,
            disabled_admission,
            kubelet_identity: kubelet_identity(values)?,
            kubelet_ca_pem: file(values, "kubelet-certificate-authority")?,
            service_ip,
            publish_endpoints: values.text("endpoint-reconciler-type") != Some("none"),
            verbosity: values.integer("v"),
            warnings,
        })
    }
}

/// What the plugins that run are told.
fn admission_config(values: &Values, disabled: &[String]) -> anyhow::Result<AdmissionConfig> {
    const FLAG: &str = "admission-control-config-file";
    let Some(path) = values.text(FLAG) else { return Ok(AdmissionConfig::default()) };
    // Those that are not implemented are among what the user named only.
    let off = [disabled, &values.list("disable-admission-plugins")].concat();
    AdmissionConfig::load(Path::new(path), &off).with_context(|| format!("--{FLAG}"))
}

/// Values that upstream knows and this server does not.
fn refuse_others(values: &Values) -> anyhow::Result<()> {
    match values.text("endpoint-reconciler-type") {
        None | Some("lease" | "none" | "master-count") => Ok(()),
        Some(other) => bail!("--endpoint-reconciler-type={other}: unknown; choose lease, master-count or none"),
    }
}

fn server(values: &Values, emulated: EmulatedVersion) -> anyhow::Result<ServerConfig> {
    let count = |name: &str| usize::try_from(values.integer(name)).with_context(|| format!("--{name}: negative"));
    let seconds = u64::try_from(values.integer("min-request-timeout")).context("--min-request-timeout: negative")?;
    Ok(ServerConfig {
        // Upstream takes the prefix with and without its slash.
        storage_prefix: format!("/{}", values.text("etcd-prefix").unwrap_or("/registry").trim_matches('/')),
        compaction_interval: values.duration("etcd-compaction-interval"),
        min_request_timeout: std::time::Duration::from_secs(seconds),
        request_timeout: values.duration("request-timeout"),
        in_flight_max: InFlightMax {
            read_only: count("max-requests-inflight")?,
            mutating: count("max-mutating-requests-inflight")?,
        },
        event_ttl: values.duration("event-ttl"),
        apis: ApiEnablement::parse(&values.list("runtime-config"))
            .and_then(|apis| {
                let forward = values.is_set("emulation-forward-compatible");
                apis.emulating(emulated, forward, values.is_set("runtime-config-emulation-forward-compatible"))
            })
            .map_err(|error| anyhow::anyhow!("--runtime-config: {error}"))?,
        hostname: crate::server::host_name()?,
        components: COMPONENTS.iter().map(|(name, port)| ((*name).to_owned(), (Ipv4Addr::LOCALHOST, *port).into())).collect(),
        strict_transport_security: strict_transport_security(&values.list("strict-transport-security-directives"))?,
        allow_privileged: values.is_set("allow-privileged"),
        allowed_labels: AllowedLabels::parse(&values.list("allow-metric-labels"))
            .map_err(|error| anyhow::anyhow!("--allow-metric-labels: {error}"))?,
        ..ServerConfig::default()
    })
}

/// RFC 6797, section 6.1.
fn strict_transport_security(directives: &[String]) -> anyhow::Result<Option<HeaderValue>> {
    const FLAG: &str = "--strict-transport-security-directives";
    for directive in directives {
        let age = directive.split_once('=').filter(|(name, rest)| *name == "max-age" && !rest.contains('='));
        if age.is_none() && !matches!(directive.as_str(), "includeSubDomains" | "preload") {
            bail!("{FLAG} invalid, allowed values: max-age=expireTime, includeSubDomains, preload");
        }
    }
    if directives.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(&directives.join("; ")).with_context(|| format!("{FLAG}: not a header")).map(Some)
}

fn authorization(values: &Values) -> anyhow::Result<Vec<AuthorizationMode>> {
    let names = values.list("authorization-mode");
    if names.is_empty() {
        return Ok(vec![AuthorizationMode::AlwaysAllow]);
    }
    let mode = |name: &String| match AuthorizationMode::ALL.iter().find(|(have, _)| have == name) {
        Some((_, mode)) => Ok(*mode),
        None if name == "Webhook" => bail!("--authorization-mode={name}: not implemented"),
        None => bail!("--authorization-mode={name}: unknown; choose of ABAC, AlwaysAllow, AlwaysDeny, Node and RBAC"),
    };
    names.iter().map(mode).collect()
}

fn front_proxy(values: &Values, gates: FeatureGates) -> anyhow::Result<Option<FrontProxyConfig>> {
    let Some(ca_pem) = file(values, "requestheader-client-ca-file")? else { return Ok(None) };
    let mut headers = request_headers(values);
    if !gates.has(Feature::RemoteRequestHeaderUid) {
        if values.given("requestheader-uid-headers") && !headers.uid_headers.is_empty() {
            bail!("--requestheader-uid-headers requires the \"RemoteRequestHeaderUID\" feature to be enabled");
        }
        headers.uid_headers.clear();
    }
    Ok(Some(FrontProxyConfig { ca_pem, headers }))
}

fn policy_file(values: &Values, modes: &[AuthorizationMode]) -> anyhow::Result<PolicyFile> {
    match (values.text("authorization-policy-file"), modes.contains(&AuthorizationMode::Abac)) {
        (Some(path), true) => PolicyFile::load(Path::new(path)).context("--authorization-policy-file"),
        (None, false) => Ok(PolicyFile::default()),
        (None, true) => bail!("authorization-mode ABAC's authorization policy file not passed"),
        (Some(_), false) => bail!("cannot specify --authorization-policy-file without mode ABAC"),
    }
}

fn tokens(values: &Values) -> anyhow::Result<TokenConfig> {
    let read = |path: &String| read("service-account-key-file", path);
    let seconds_max = values.duration("service-account-max-token-expiration").as_secs();
    Ok(TokenConfig {
        signing_key_pem: file(values, "service-account-signing-key-file")?.unwrap_or_default(),
        verifying_keys_pem: values.list("service-account-key-file").iter().map(read).collect::<Result<_, _>>()?,
        issuers: values.list("service-account-issuer"),
        api_audiences: values.list("api-audiences"),
        jwks_uri: values.text("service-account-jwks-uri").map(str::to_owned),
        lifetime: TokenLifetime {
            seconds_max: i64::try_from(seconds_max).ok().filter(|seconds| *seconds > 0),
            extend: values.is_set("service-account-extend-token-expiration"),
        },
    })
}

/// Whom kubelets are spoken to as. The files are read again when they are needed; here they are only checked.
fn kubelet_identity(values: &Values) -> anyhow::Result<KubeletIdentity> {
    const FLAGS: [&str; 2] = ["kubelet-client-certificate", "kubelet-client-key"];
    let [certificate, key] = FLAGS.map(|flag| values.text(flag).map(PathBuf::from));
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            for flag in FLAGS {
                file(values, flag)?;
            }
            Ok(KubeletIdentity::Files { certificate, key })
        }
        (None, None) => Ok(KubeletIdentity::Nobody),
        _ => bail!("--{} and --{} go together", FLAGS[0], FLAGS[1]),
    }
}

/// The ranges, and the first address of the first, which the Service `kubernetes` has.
fn service_ranges(values: &Values) -> anyhow::Result<(Vec<String>, IpAddr)> {
    const FLAG: &str = "--service-cluster-ip-range";
    let text = values.text("service-cluster-ip-range").unwrap_or(SERVICE_RANGE);
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 2 {
        bail!("{FLAG} must not contain more than two entries");
    }
    let ranges = parts.iter().map(|part| service_range(part)).collect::<anyhow::Result<Vec<_>>>()?;
    if let [first, second] = &ranges[..]
        && first.1.is_ipv4() == second.1.is_ipv4()
    {
        bail!("{FLAG}[0] and {FLAG}[1] must be of different IP family");
    }
    let first = ranges[0].1;
    Ok((ranges.into_iter().map(|(range, _)| range).collect(), first))
}

/// One range in canonical form, and its first address.
fn service_range(text: &str) -> anyhow::Result<(String, IpAddr)> {
    let wrong = || format!("--service-cluster-ip-range={text}: not a range such as 10.0.0.0/16");
    let (address, prefix) = text.split_once('/').with_context(wrong)?;
    let (address, prefix): (IpAddr, u32) = (address.parse().with_context(wrong)?, prefix.parse().with_context(wrong)?);
    let (network, first): (IpAddr, IpAddr) = match address {
        IpAddr::V4(v4) if prefix < 31 => {
            let network = v4.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            (std::net::Ipv4Addr::from_bits(network).into(), std::net::Ipv4Addr::from_bits(network + 1).into())
        }
        IpAddr::V6(v6) if (64..127).contains(&prefix) => {
            let network = v6.to_bits() & (u128::MAX << (128 - prefix));
            (std::net::Ipv6Addr::from_bits(network).into(), std::net::Ipv6Addr::from_bits(network + 1).into())
        }
        _ => bail!(wrong()),
    };
    Ok((format!("{network}/{prefix}"), first))
}

fn address(values: &Values, name: &str) -> anyhow::Result<Option<IpAddr>> {
    values.text(name).map(|text| text.parse().with_context(|| format!("--{name}={text}: not an address"))).transpose()
}
