//! Asking the host's resolvers about names that are not the cluster's.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{Resolver, TokioResolver};
use parking_lot::Mutex;

/// Answers that are kept; a few hundred bytes each.
const CACHE_ENTRIES_MAX: u64 = 1024;
/// Nobody waits longer: resolvers give up after 5 seconds by default.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// CoreDNS' cache plugin keeps answers for at most 30 seconds as kubeadm configures it.
const TTL_MAX: Duration = Duration::from_secs(30);
/// How often resolv.conf is looked at, and only when somebody asks.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// What a resolver said.
pub(crate) struct Forwarded {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
}

impl Forwarded {
    fn failure(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new() }
    }
}

struct Loaded {
    checked: Instant,
    modified: Option<SystemTime>,
    resolver: Option<Arc<TokioResolver>>,
}

/// The host's resolvers as its resolv.conf names them; follows changes of the file.
pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    /// Our own addresses: never asked, or a query would go round for ever.
    own: Vec<SocketAddr>,
    loaded: Mutex<Option<Loaded>>,
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: PathBuf, own: Vec<SocketAddr>) -> Self {
        Self { resolv_conf, own, loaded: Mutex::new(None) }
    }

    /// Forwards one question. Without resolvers the answer is SERVFAIL, at once.
    pub(crate) async fn lookup(&self, name: Name, query_type: RecordType) -> Forwarded {
        let Some(resolver) = self.resolver() else { return Forwarded::failure(ResponseCode::ServFail) };
        match resolver.lookup(name, query_type).await {
            Ok(lookup) => Forwarded {
                code: ResponseCode::NoError,
                answers: lookup.answers().to_vec(),
                authorities: lookup.authorities().to_vec(),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(negative))) => Forwarded {
                code: negative.response_code,
                answers: Vec::new(),
                authorities: negative.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Forwarded::failure(code),
            Err(error) => {
                tracing::debug!(%error, "no resolver of the host answered");
                Forwarded::failure(ResponseCode::ServFail)
            }
        }
    }

    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut loaded = self.loaded.lock();
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.checked.elapsed() < RELOAD_INTERVAL) {
            return loaded.resolver.clone();
        }
        let modified = std::fs::metadata(&self.resolv_conf).and_then(|meta| meta.modified()).ok();
        if let Some(loaded) = loaded.as_mut().filter(|loaded| loaded.modified == modified) {
            loaded.checked = Instant::now();
            return loaded.resolver.clone();
        }
        let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        let resolver = self.build(&name_servers(&text));
        *loaded = Some(Loaded { checked: Instant::now(), modified, resolver: resolver.clone() });
        resolver
    }

    fn build(&self, servers: &[IpAddr]) -> Option<Arc<TokioResolver>> {
        let ours = |ip: &IpAddr| self.own.iter().any(|own| own.ip() == *ip && own.port() == 53);
        let servers: Vec<NameServerConfig> =
            servers.iter().filter(|ip| !ours(ip)).map(|ip| NameServerConfig::udp_and_tcp(*ip)).collect();
        if servers.is_empty() {
            return None;
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.cache_size = CACHE_ENTRIES_MAX;
        options.positive_max_ttl = Some(TTL_MAX);
        options.negative_max_ttl = Some(TTL_MAX);
        // The host's own hosts file is not the pods' business.
        options.use_hosts_file = ResolveHosts::Never;
        match builder.build() {
            Ok(resolver) => Some(Arc::new(resolver)),
            Err(error) => {
                tracing::warn!(%error, "cannot use the host's resolvers");
                None
            }
        }
    }
}

/// The `nameserver` lines of a resolv.conf; a scope (`fe80::1%eth0`) is not understood and skipped.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_leniently() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.53\n nameserver\tfd00::53 \nnameserver x\nnameserver\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.53".parse().unwrap(), "fd00::53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }

    #[tokio::test]
    async fn we_never_ask_ourselves_and_without_resolvers_fail_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let forwarder = Forwarder::new(path.clone(), vec!["192.0.2.1:53".parse().unwrap()]);
        let answer = forwarder.lookup(Name::from_ascii("example.org.").unwrap(), RecordType::A).await;
        assert_eq!(answer.code, ResponseCode::ServFail);
        let missing = Forwarder::new(dir.path().join("missing"), Vec::new());
        let answer = missing.lookup(Name::from_ascii("example.org.").unwrap(), RecordType::A).await;
        assert_eq!(answer.code, ResponseCode::ServFail);
    }
}
