//! The server: sockets, informers, shutdown.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informers, NamespacedName, ResyncError};
use hickory_server::Server;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::forward::Forwarder;
use crate::handler::Handler;
use crate::udp;
use crate::zone::{SharedZone, Zone};

/// A TCP connection that is silent this long is closed (RFC 7766 asks for a few seconds).
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Responses that may wait on one TCP connection.
const TCP_RESPONSES_MAX: usize = 32;

/// Configuration of the DNS server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen, UDP and TCP each: usually the pod bridge's address, port 53.
    pub addresses: Vec<SocketAddr>,
    /// The cluster domain (`--cluster-domain`), usually `cluster.local`.
    pub cluster_domain: String,
    /// The addresses that clients reach us by (the ClusterIP of kube-dns): `ns.dns.DOMAIN`.
    pub service_ips: Vec<IpAddr>,
    /// The file that names the host's resolvers, usually `/etc/resolv.conf`. A missing file means that there are none.
    pub resolv_conf: PathBuf,
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster domain is no domain name.
    #[error("{0:?} cannot be a cluster domain")]
    Domain(String),
    /// An address is taken, or not ours.
    #[error("cannot listen on {address} ({protocol}) for DNS")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// "udp" or "tcp".
        protocol: &'static str,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// The informers were stopped before the first list.
    #[error("the DNS server's informers were stopped")]
    Informers(#[from] ResyncError),
    /// The server's sockets failed.
    #[error("the DNS server failed")]
    Serve(#[source] hickory_server::net::NetError),
}

/// A DNS server whose sockets are bound, not yet serving.
pub struct DnsServer {
    zone: Zone,
    resolv_conf: PathBuf,
    sockets: Vec<(UdpSocket, TcpListener)>,
}

impl DnsServer {
    /// Binds the sockets. Port 53 may be taken by a resolver of the host's that listens everywhere: then another port is
    /// chosen, see [`DnsServer::addresses`], because the Service leads to any port.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let zone =
            Zone::new(&config.cluster_domain, config.service_ips).ok_or_else(|| Error::Domain(config.cluster_domain.clone()))?;
        let mut sockets = Vec::new();
        for address in &config.addresses {
            sockets.push(match bind(*address).await {
                Err(Error::Listen { source, .. }) if address.port() == 53 && source.kind() == ErrorKind::AddrInUse => {
                    let other = bind(SocketAddr::new(address.ip(), 0)).await?;
                    tracing::warn!(%address, "port 53 is taken, cluster DNS listens on another port");
                    other
                }
                other => other?,
            });
        }
        Ok(Self { zone, resolv_conf: config.resolv_conf, sockets })
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect()
    }

    /// Serves until the token ends. Questions that come before the first list of Services is complete wait in the sockets.
    pub async fn run(self, informers: Informers, token: CancellationToken) -> Result<(), Error> {
        let own = self.addresses();
        let zone: SharedZone = Arc::new(RwLock::new(self.zone));
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            synced = follow(&zone, &informers) => synced?,
        }
        let handler = Handler::new(Arc::clone(&zone), Forwarder::new(self.resolv_conf, own));
        let mut server = Server::new(handler.clone());
        let mut datagrams = JoinSet::new();
        for (udp, tcp) in self.sockets {
            datagrams.spawn(udp::serve(udp, Arc::clone(&zone), handler.clone(), token.clone()));
            server.register_listener(tcp, TCP_IDLE, TCP_RESPONSES_MAX);
        }
        let failed = |error: std::io::Error| Error::Serve(error.into());
        tokio::select! {
            () = token.cancelled() => {}
            ended = server.block_until_done() => return ended.map_err(Error::Serve),
            Some(ended) = datagrams.join_next() => ended.map_err(std::io::Error::other).flatten().map_err(failed)?,
        }
        while let Some(ended) = datagrams.join_next().await {
            ended.map_err(std::io::Error::other).flatten().map_err(failed)?;
        }
        server.shutdown_gracefully().await.map_err(Error::Serve)
    }
}

/// Binds and serves until the token ends: [`DnsServer::bind`] and [`DnsServer::run`] in one.
pub async fn run(config: Config, informers: Informers, token: CancellationToken) -> Result<(), Error> {
    DnsServer::bind(config).await?.run(informers, token).await
}

async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let error = |protocol| move |source| Error::Listen { address, protocol, source };
    let udp = UdpSocket::bind(address).await.map_err(error("udp"))?;
    // With port 0 both protocols get the same one.
    let same = SocketAddr::new(address.ip(), udp.local_addr().map_err(error("udp"))?.port());
    let tcp = TcpListener::bind(same).await.map_err(error("tcp"))?;
    Ok((udp, tcp))
}

/// Keeps the zone up to date; returns when it is complete.
async fn follow(zone: &SharedZone, informers: &Informers) -> Result<(), ResyncError> {
    let services = informers.get::<Service>();
    let sink = Arc::clone(zone);
    services.add_handler(move |change| match change {
        Change::Deleted(service) => sink.write().remove_service(&NamespacedName::of(&***service)),
        other => sink.write().set_service(other.object()),
    });
    let slices = informers.get::<EndpointSlice>();
    let sink = Arc::clone(zone);
    slices.add_handler(move |change| match change {
        Change::Deleted(slice) => sink.write().remove_slice(slice),
        Change::Added(slice) => sink.write().set_slice(slice),
        Change::Updated { old, new } => {
            let mut zone = sink.write();
            zone.remove_slice(old);
            zone.set_slice(new);
        }
    });
    services.wait_synced().await?;
    slices.wait_synced().await
}
