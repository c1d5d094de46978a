//! AlwaysPullImages: every image is pulled anew, so that only who may pull it can run it.

use std::collections::HashSet;

use apimachinery::field::{Error, Path};
use apimachinery::{Status, Value};
use async_trait::async_trait;

use super::forbidden;
use crate::admission::{AdmissionPlugin, Attributes, Operation};

const ALWAYS: &str = "Always";
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) struct AlwaysPullImages;

#[async_trait]
impl AdmissionPlugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if is_ignored(attributes) {
            return Ok(());
        }
        let Some(pod) = attributes.object.as_mut() else { return Ok(()) };
        for kind in CONTAINERS {
            let containers = pod.get_path_mut(&["spec", kind]).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                container.insert("imagePullPolicy", ALWAYS);
            }
        }
        let volumes = pod.get_path_mut(&["spec", "volumes"]).and_then(Value::as_array_mut);
        for image in volumes.into_iter().flatten().filter_map(|volume| volume.get_mut("image")) {
            image.insert("pullPolicy", ALWAYS);
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = attributes.object.as_ref().filter(|_| !is_ignored(attributes)) else { return Ok(()) };
        let mut errors = Vec::new();
        let mut check = |holder: &Value, field: &str, path: Path| {
            let policy = holder.str_at(&[field]).unwrap_or_default();
            if policy != ALWAYS {
                errors.push(Error::not_supported(&path.child(field), policy, &[ALWAYS]));
            }
        };
        let spec = Path::new("spec");
        for kind in CONTAINERS {
            for (index, container) in pod.array_at(&["spec", kind]).iter().enumerate() {
                check(container, "imagePullPolicy", spec.child(kind).index(index));
            }
        }
        for (index, volume) in pod.array_at(&["spec", "volumes"]).iter().enumerate() {
            if let Some(image) = volume.get("image") {
                check(image, "pullPolicy", spec.child("volumes").index(index).child("image"));
            }
        }
        let refusals: Vec<_> = errors.iter().map(|error| forbidden(attributes, error)).collect();
        match refusals.as_slice() {
            [] => Ok(()),
            // Several errors are one without a reason upstream.
            many => {
                let texts: Vec<_> = many.iter().map(|status| status.message.as_str()).collect();
                let text = if let [one] = texts.as_slice() { (*one).to_owned() } else { format!("[{}]", texts.join(", ")) };
                Err(Status::new(apimachinery::Reason::Unknown, text))
            }
        }
    }
}

/// What is not a pod, or an update that brings no new image.
fn is_ignored(attributes: &Attributes) -> bool {
    if !attributes.is_resource("", "pods") {
        return true;
    }
    match (&attributes.object, &attributes.old_object) {
        (Some(pod), Some(old)) if attributes.operation == Operation::Update => images(pod).is_subset(&images(old)),
        _ => false,
    }
}

fn images(pod: &Value) -> HashSet<&str> {
    let containers = CONTAINERS.iter().flat_map(|kind| pod.array_at(&["spec", kind]));
    containers.map(|container| container.str_at(&["image"]).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::{create, object};

    #[tokio::test]
    async fn policies() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i", "image": "a"}],
            "containers": [{"name": "c", "image": "b", "imagePullPolicy": "Never"}],
            "volumes": [{"name": "v", "image": {"reference": "c"}}, {"name": "e", "emptyDir": {}}],
        }});
        let mut attributes = create("", "pods", "Pod", &pod);
        let refused = AlwaysPullImages.validate(&attributes).await.expect_err("not always");
        let message = r#"pods "p" is forbidden: spec.containers[0].imagePullPolicy: Unsupported value: "Never": supported values: "Always""#;
        assert!(refused.message.contains(message), "{}", refused.message);
        assert_eq!(refused.message.matches("is forbidden").count(), 3);
        AlwaysPullImages.admit(&mut attributes).await.expect("admitted");
        AlwaysPullImages.validate(&attributes).await.expect("always");
        let spec = object(&attributes)["spec"].clone();
        assert_eq!(spec["initContainers"][0]["imagePullPolicy"], "Always");
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(
            spec["volumes"],
            json!([{"name": "v", "image": {"reference": "c", "pullPolicy": "Always"}}, {"name": "e", "emptyDir": {}}])
        );
    }

    #[tokio::test]
    async fn updates() {
        let pod = |image: &str| json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": image}]}});
        for (old, changed) in [("a", false), ("b", true)] {
            let mut update = create("", "pods", "Pod", &pod("a"));
            update.operation = Operation::Update;
            update.old_object = create("", "pods", "Pod", &pod(old)).object;
            AlwaysPullImages.admit(&mut update).await.expect("admitted");
            assert_eq!(object(&update)["spec"]["containers"][0].get("imagePullPolicy").is_some(), changed, "{old}");
        }
    }
}
