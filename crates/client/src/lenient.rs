//! Objects that k8s-openapi refuses and every API server serves: a `metav1.Condition` without a time.
//!
//! Go's zero time is written as `null`, and k8s-openapi wants a time there. One such object, which anyone with a right to its status can
//! make, would break the watch of all: no Service would be known any more. It is read with the year 1 instead, which is what Go
//! makes of the zero time in text.

use std::any::TypeId;
use std::borrow::Cow;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Go's zero time.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The types with conditions of that kind. Others are read without a detour: the question is answered at compile time, so that the
/// detour is not even compiled for them (reading Pods is 100 KB of code).
#[inline(always)]
fn has_conditions<K: 'static>() -> bool {
    let kind = TypeId::of::<K>();
    kind == TypeId::of::<Service>()
        || kind == TypeId::of::<PodDisruptionBudget>()
        || kind == TypeId::of::<ServiceCIDR>()
        || kind == TypeId::of::<ResourceClaim>()
        || kind == TypeId::of::<ValidatingAdmissionPolicy>()
        || kind == TypeId::of::<StorageVersionMigration>()
}

/// An object of a built-in type, read leniently.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Lenient<K>(pub(crate) K);

impl<'de, K: DeserializeOwned + 'static> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !has_conditions::<K>() {
            return K::deserialize(deserializer).map(Self);
        }
        let mut object = Value::deserialize(deserializer)?;
        complete(&mut object["status"]);
        K::deserialize(object).map(Self).map_err(D::Error::custom)
    }
}

/// Fills the times in, at whatever depth conditions are.
fn complete(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Array(conditions) if name == "conditions" => conditions.iter_mut().for_each(complete_condition),
                    field => complete(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(complete),
        _ => {}
    }
}

fn complete_condition(condition: &mut Value) {
    if let Value::Object(fields) = condition {
        let time = fields.entry("lastTransitionTime").or_insert(Value::Null);
        if time.is_null() {
            *time = Value::from(ZERO_TIME);
        }
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        Cow::Owned(K::kind(&()).into_owned())
    }

    fn group((): &()) -> Cow<'_, str> {
        Cow::Owned(K::group(&()).into_owned())
    }

    fn version((): &()) -> Cow<'_, str> {
        Cow::Owned(K::version(&()).into_owned())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Cow::Owned(K::plural(&()).into_owned())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_without_a_time() {
        for time in [json!({}), json!({"lastTransitionTime": null})] {
            let mut condition = json!({"type": "A", "status": "True", "reason": "", "message": ""});
            condition.as_object_mut().expect("object").extend(time.as_object().expect("object").clone());
            let object = json!({"metadata": {"name": "s"}, "status": {"conditions": [condition]}});
            assert!(serde_json::from_value::<Service>(object.clone()).is_err(), "k8s-openapi reads it now: this module may go");
            let service: Lenient<Service> = serde_json::from_value(object).expect("is read");
            let conditions = service.0.status.and_then(|status| status.conditions).expect("conditions");
            assert_eq!(conditions[0].last_transition_time.0.to_string(), ZERO_TIME);
        }
        let pod: Lenient<Pod> = serde_json::from_value(json!({"metadata": {"name": "p"}})).expect("is read");
        assert_eq!(pod.0.metadata.name.as_deref(), Some("p"));
    }
}
