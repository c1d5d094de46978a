//! Reads and writes the quotas, through the server's own endpoints.

use ::http::Method;
use apimachinery::{Reason, Status, Value};
use async_trait::async_trait;

use crate::loopback::{Loopback, LoopbackError, collection};

/// What the plugin needs of the server.
#[async_trait]
pub(in crate::admission::plugins) trait QuotaAccess: Send + Sync + 'static {
    /// The quotas of a namespace; those that are not `fresh` may lag behind the newest write by a moment.
    async fn list(&self, namespace: &str, fresh: bool) -> Result<Vec<Value>, Status>;

    /// Stores the status of a quota whose resourceVersion is the precondition; returns it as it is then.
    async fn update_status(&self, quota: Value) -> Result<Value, Status>;
}

#[async_trait]
impl QuotaAccess for Loopback {
    async fn list(&self, namespace: &str, fresh: bool) -> Result<Vec<Value>, Status> {
        let mut path = collection("", "v1", "resourcequotas", namespace);
        if !fresh {
            path.push_str("?resourceVersion=0");
        }
        let bytes = self.bytes(Method::GET, &path, None).await;
        let bytes = bytes.map_err(|error| Status::internal_error(format_args!("error resolving quota: {error}")))?;
        let list = Value::from_slice(&bytes).map_err(Status::internal_error)?;
        Ok(list.array_at(&["items"]).to_vec())
    }

    async fn update_status(&self, quota: Value) -> Result<Value, Status> {
        let path = collection("", "v1", "resourcequotas", quota.meta().namespace());
        let path = format!("{path}/{}/status", quota.meta().name());
        match self.bytes(Method::PUT, &path, Some(("application/json", quota.to_vec().into()))).await {
            Ok(bytes) => Value::from_slice(&bytes).map_err(Status::internal_error),
            Err(LoopbackError::Status { reason, message, .. }) => Err(Status::new(Reason::parse(&reason), message)),
            Err(error) => Err(Status::internal_error(error)),
        }
    }
}
