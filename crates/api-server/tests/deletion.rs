//! What a deletion leaves behind.

mod harness;

use harness::Api;
use serde_json::{Value, json};

fn template() -> Value {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Always"});
    json!({"metadata": {"labels": {"app": "x"}}, "spec": spec})
}

#[tokio::test]
async fn dependents_of_old_kinds_are_orphaned_unless_the_client_says_otherwise() {
    let api = Api::new().await;
    let controller = json!({"metadata": {"name": "a"}, "spec": {"selector": {"app": "x"}, "template": template()}});
    let mut job = json!({"metadata": {"name": "a"}, "spec": {"template": template()}});
    job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let deployment =
        json!({"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template()}});
    let background = json!({"propagationPolicy": "Background"});
    for (path, object, orphans) in [
        ("/api/v1/namespaces/default/replicationcontrollers", &controller, true),
        ("/apis/batch/v1/namespaces/default/jobs", &job, true),
        ("/apis/apps/v1/namespaces/default/deployments", &deployment, false),
    ] {
        let one = format!("{path}/a");
        api.post(path, object).await.expect(201);
        api.delete_with(&one, &background).await.expect(200);
        api.get(&one).await.expect(404);
        api.post(path, object).await.expect(201);
        api.delete(&one).await.expect(200);
        let left = api.get(&one).await;
        match orphans {
            // The garbage collector, which does not run here, takes the finalizer away.
            true => assert_eq!(left.expect(200)["metadata"]["finalizers"], json!(["orphan"]), "{path}"),
            false => drop(left.expect(404)),
        }
    }
}
