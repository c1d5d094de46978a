//! Joins the runtime's seam for networks to the `network` crate.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use container_runtime::{NetworkError, NetworkRequest, SandboxNetwork};
use network::{PodNetwork, PortMapping, Protocol};

/// The pod network as the container runtime wants it.
pub(super) struct Network(pub(super) PodNetwork);

#[async_trait::async_trait]
impl SandboxNetwork for Network {
    async fn setup(&self, request: NetworkRequest) -> Result<Vec<IpAddr>, NetworkError> {
        let ports =
            request.port_mappings.iter().filter(|port| port.host_port > 0).map(port_mapping).collect::<Result<Vec<_>, _>>()?;
        let ips = self.0.setup(&request.netns, &request.sandbox_id, &ports).await?;
        Ok(ips.addresses)
    }

    async fn teardown(&self, sandbox_id: &str, _netns: &Path) -> Result<(), NetworkError> {
        Ok(self.0.teardown(sandbox_id).await?)
    }

    async fn reconcile(&self, live: &[String]) -> Result<(), NetworkError> {
        let live: HashSet<String> = live.iter().cloned().collect();
        self.0.reconcile(&live).await?;
        Ok(())
    }
}

fn port_mapping(port: &cri::v1::PortMapping) -> Result<PortMapping, NetworkError> {
    let host_ip = match port.host_ip.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| format!("hostIP {text:?} is not an address"))?),
    };
    let protocol = match cri::v1::Protocol::try_from(port.protocol) {
        Ok(cri::v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(cri::v1::Protocol::Udp) => Protocol::Udp,
        Ok(cri::v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(format!("unknown protocol {}", port.protocol).into()),
    };
    Ok(PortMapping {
        host_ip,
        host_port: u16::try_from(port.host_port)?,
        container_port: u16::try_from(port.container_port)?,
        protocol,
    })
}
