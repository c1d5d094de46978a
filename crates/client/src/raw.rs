//! Objects as they come over the wire, so that what follows a resource is compiled once, not for each of fifty types.
//!
//! A watch of typed objects is some 100 KB of code for each type and crate, most of it the same. Here all are watched as [`Raw`], and only
//! [`Raw::read`] knows types: one decoder for each, the one that requests use as well.

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
use kube::api::ApiResource;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde_json::Value;

/// Go's zero time.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// An object of any type in JSON.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    json: String,
    /// Only the resourceVersion, for the watcher.
    metadata: ObjectMeta,
}

/// What the watcher has to know of an object.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    resource_version: Option<String>,
}

impl Raw {
    /// The object, of a built-in type.
    ///
    /// k8s-openapi refuses a `metav1.Condition` without a time, which every API server serves: Go's zero time is written as `null`. One
    /// such object, which anyone with a right to its status can make, would be lost to every component. It is read with the year 1
    /// instead, which is what Go makes of the zero time in text.
    pub(crate) fn read<K: DeserializeOwned + 'static>(&self) -> Result<K, serde_json::Error> {
        let read = serde_json::from_str(&self.json);
        if read.is_ok() || !has_conditions::<K>() {
            return read;
        }
        let mut object = serde_json::from_str::<Value>(&self.json)?;
        complete(&mut object["status"]);
        serde_json::from_str(&object.to_string())
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut json = Vec::with_capacity(1024);
        serde_transcode::transcode(deserializer, &mut serde_json::Serializer::new(&mut json)).map_err(D::Error::custom)?;
        let json = String::from_utf8(json).map_err(D::Error::custom)?;
        let head: Head = serde_json::from_str(&json).map_err(D::Error::custom)?;
        let metadata = ObjectMeta { resource_version: head.metadata.resource_version, ..ObjectMeta::default() };
        Ok(Self { json, metadata })
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The types with conditions of that kind.
fn has_conditions<K: 'static>() -> bool {
    let kind = TypeId::of::<K>();
    kind == TypeId::of::<Service>()
        || kind == TypeId::of::<PodDisruptionBudget>()
        || kind == TypeId::of::<ServiceCIDR>()
        || kind == TypeId::of::<ResourceClaim>()
        || kind == TypeId::of::<ValidatingAdmissionPolicy>()
        || kind == TypeId::of::<StorageVersionMigration>()
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use kube::core::WatchEvent;
    use serde_json::json;

    use super::*;

    fn raw(object: &Value) -> Raw {
        serde_json::from_str(&object.to_string()).expect("is an object")
    }

    #[test]
    fn conditions_without_a_time() {
        for time in [json!({}), json!({"lastTransitionTime": null})] {
            let mut condition = json!({"type": "A", "status": "True", "reason": "", "message": ""});
            condition.as_object_mut().expect("object").extend(time.as_object().expect("object").clone());
            let object = json!({"metadata": {"name": "s"}, "status": {"conditions": [condition]}});
            assert!(serde_json::from_value::<Service>(object.clone()).is_err(), "k8s-openapi reads it now: this may go");
            let service: Service = raw(&object).read().expect("is read");
            let conditions = service.status.and_then(|status| status.conditions).expect("conditions");
            assert_eq!(conditions[0].last_transition_time.0.to_string(), ZERO_TIME);
        }
    }

    #[test]
    fn an_object_comes_through_unchanged() {
        let object =
            json!({"metadata": {"name": "c", "resourceVersion": "7", "labels": {"ä": "\"\\\n"}}, "data": {"a": "\u{1}é"}});
        let raw = raw(&object);
        assert_eq!(raw.meta().resource_version.as_deref(), Some("7"));
        let read: ConfigMap = raw.read().expect("is read");
        assert_eq!(serde_json::to_value(read).expect("JSON")["data"], object["data"]);
        assert!(self::raw(&json!({"metadata": {"name": "p"}, "spec": {"containers": 1}})).read::<Pod>().is_err());
        for nothing in ["1", "{}x", r#"{"metadata": {"resourceVersion": 1}}"#] {
            assert!(serde_json::from_str::<Raw>(nothing).is_err(), "{nothing}");
        }
    }

    /// The frame of a watch may have the object before the type.
    #[test]
    fn a_frame_in_any_order() {
        for frame in
            [r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#, r#"{"object":{"metadata":{"name":"a"}},"type":"ADDED"}"#]
        {
            let WatchEvent::Added(raw) = serde_json::from_str::<WatchEvent<Raw>>(frame).expect("a frame") else {
                panic!("{frame}")
            };
            assert_eq!(raw.read::<ConfigMap>().expect("is read").metadata.name.as_deref(), Some("a"));
        }
    }
}
