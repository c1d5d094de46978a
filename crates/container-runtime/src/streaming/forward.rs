//! Connections into a sandbox's network, for port-forward.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// A refused connection comes back at once; one that is dropped by a firewall does not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a port on the loopback interface of the network namespace pinned at `netns` (the host's if `None`).
#[allow(dead_code)]
pub(crate) async fn connect(netns: Option<&Path>, port: u16) -> std::io::Result<tokio::net::TcpStream> {
    let netns = netns.map(Path::to_owned);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own: it changes its network namespace, and must not come back into a pool.
    std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        let _ = sender.send(connect_blocking(netns.as_deref(), port));
    })?;
    let stream = receiver.await.map_err(|_| std::io::Error::other("the connecting thread panicked"))??;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

fn connect_blocking(netns: Option<&Path>, port: u16) -> std::io::Result<TcpStream> {
    if let Some(netns) = netns {
        nix::sched::setns(std::fs::File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpStream::connect_timeout(&v4, CONNECT_TIMEOUT) {
        Ok(stream) => Ok(stream),
        Err(error) => {
            TcpStream::connect_timeout(&SocketAddr::from((Ipv6Addr::LOCALHOST, port)), CONNECT_TIMEOUT).map_err(|_| error)
        }
    }
}
