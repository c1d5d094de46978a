//! The gRPC health protocol (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>), as a client of one call.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::check::Outcome;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING` in `HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;

/// Asks the server at `address` for the health of `service`.
pub(super) async fn check(address: &str, service: &str, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, ask(address, service)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{address}\" within {}s: context deadline exceeded",
            timeout.as_secs()
        )),
    }
}

async fn ask(address: &str, service: &str) -> Outcome {
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint.user_agent("kube-probe/1.35").unwrap_or_else(|_| Endpoint::from_static("http://invalid")),
        Err(error) => return Outcome::Error(error.to_string()),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Outcome::Failure(format!("error: health rpc probe failed: {error}")),
    };
    let mut client = tonic::client::Grpc::new(channel);
    if let Err(error) = client.ready().await {
        return Outcome::Failure(format!("error: health rpc probe failed: {error}"));
    }
    let codec: tonic_prost::ProstCodec<HealthCheckRequest, HealthCheckResponse> = tonic_prost::ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    match client.unary(request, path, codec).await {
        Ok(response) if response.get_ref().status == SERVING => Outcome::Success,
        Ok(_) => Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        Err(status) if status.code() == tonic::Code::Unimplemented => Outcome::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Outcome::Failure(format!("error: health rpc probe failed: {}", status.message())),
    }
}
