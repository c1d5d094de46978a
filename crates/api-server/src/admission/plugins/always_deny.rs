//! AlwaysDeny: nothing may be written. Deprecated upstream; for tests.

use apimachinery::Status;
use async_trait::async_trait;

use super::forbidden;
use crate::admission::{AdmissionPlugin, Attributes, Operation};

pub(super) struct AlwaysDeny;

#[async_trait]
impl AdmissionPlugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        self.validate(attributes).await
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        Err(forbidden(attributes, "admission control is denying all modifications"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::create;

    #[tokio::test]
    async fn everything() {
        let mut attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}}));
        let refused = AlwaysDeny.admit(&mut attributes).await.expect_err("denied");
        assert_eq!(refused.message, r#"pods "p" is forbidden: admission control is denying all modifications"#);
    }
}
