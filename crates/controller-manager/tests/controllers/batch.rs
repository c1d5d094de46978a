//! Jobs run to their end, CronJobs start them.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobStatus};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, EXIT_CODE, config, eventually, until, until_gone};

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// A Job with these fields of its spec; its pods end at once with a code, or run on.
fn job(name: &str, exit_code: Option<i32>, spec: Value) -> Value {
    let annotations = exit_code.map(|code| json!({EXIT_CODE: code.to_string()}));
    let template = json!({"metadata": {"annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "image:1"}]}});
    let mut all = json!({"template": template});
    all.as_object_mut().expect("is an object").extend(spec.as_object().cloned().expect("is an object"));
    json!({"metadata": {"name": name}, "spec": all})
}

fn conditions(job: &Job) -> Vec<(&str, &str)> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|c| c.status == "True").map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap_or(""))).collect()
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

fn is_finished(job: &Job) -> bool {
    conditions(job).iter().any(|(kind, _)| matches!(*kind, "Complete" | "Failed"))
}

async fn pods_of(cluster: &Cluster, job: &str) -> Vec<Pod> {
    let pods: Api<Pod> = cluster.api("default");
    let selected = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    pods.list(&selected).await.expect("is listed").items
}

async fn told(cluster: &Cluster, name: &str, reason: &str) {
    let events: Api<Event> = cluster.api("default");
    eventually(reason, || async {
        let events = events.list(&ListParams::default()).await.expect("is listed").items;
        let found =
            |event: &Event| event.involved_object.name.as_deref() == Some(name) && event.reason.as_deref() == Some(reason);
        events.iter().any(found).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_and_lets_its_pods_go() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let jobs: Api<Job> = cluster.api("default");
    cluster.create::<Job>("default", job("work", Some(0), json!({"completions": 3, "parallelism": 2}))).await;
    let done = until(&jobs, "work", "the Job completes", is_finished).await;
    let expected = [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")];
    assert_eq!(conditions(&done), expected);
    let counted = status(&done);
    assert_eq!((counted.succeeded, counted.failed, counted.active, counted.ready), (Some(3), None, None, Some(0)));
    assert!(counted.completion_time.is_some() && counted.start_time.is_some());
    let pods = pods_of(&cluster, "work").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| !pod.finalizers().contains(&TRACKING.to_owned())), "nothing holds them");
    told(&cluster, "work", "SuccessfulCreate").await;
    told(&cluster, "work", "Completed").await;
    // Counted in the status, and found by it.
    let found = jobs.list(&ListParams::default().fields("status.successful=3")).await.expect("is listed").items;
    assert_eq!(found.len(), 1);
    jobs.delete("work", &DeleteParams::background()).await.expect("is deleted");
    eventually("its pods go with it", || async { pods_of(&cluster, "work").await.is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indexed_job_fails_by_its_indexes() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let jobs: Api<Job> = cluster.api("default");
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1});
    cluster.create::<Job>("default", job("indexes", Some(3), spec)).await;
    let failed = until(&jobs, "indexes", "the Job fails", is_finished).await;
    assert_eq!(conditions(&failed), [("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]);
    let counted = status(&failed);
    assert_eq!((counted.failed_indexes.as_deref(), counted.failed, counted.succeeded), (Some("0,1"), Some(4), None));
    let pods = pods_of(&cluster, "indexes").await;
    let mut tries: Vec<_> = pods
        .iter()
        .map(|pod| {
            let annotation = |key: &str| pod.annotations().get(key).cloned().unwrap_or_default();
            let host = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).unwrap_or_default();
            (
                annotation("batch.kubernetes.io/job-completion-index"),
                annotation("batch.kubernetes.io/job-index-failure-count"),
                host,
            )
        })
        .collect();
    tries.sort();
    let of = |index: &str, failures: &str| (index.to_owned(), failures.to_owned(), format!("indexes-{index}"));
    assert_eq!(tries, [of("0", "0"), of("0", "1"), of("1", "0"), of("1", "1")], "each was tried twice");
    told(&cluster, "indexes", "FailedIndexes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_policy_ends_a_job_at_once() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let jobs: Api<Job> = cluster.api("default");
    let rules = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]);
    cluster.create::<Job>("default", job("policy", Some(42), json!({"podFailurePolicy": {"rules": rules}}))).await;
    let failed = until(&jobs, "policy", "the Job fails", is_finished).await;
    assert_eq!(conditions(&failed), [("FailureTarget", "PodFailurePolicy"), ("Failed", "PodFailurePolicy")]);
    let message = status(&failed).conditions.expect("has some")[0].message.clone().unwrap_or_default();
    assert!(message.starts_with("Container c for pod default/policy-"), "{message}");
    assert!(message.ends_with("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_suspended_resumed_and_orphaned() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let jobs: Api<Job> = cluster.api("default");
    let spec = json!({"completions": 4, "parallelism": 2, "suspend": true});
    cluster.create::<Job>("default", job("pause", None, spec)).await;
    let suspended = |job: &Job| conditions(job) == [("Suspended", "JobSuspended")];
    let paused = until(&jobs, "pause", "the Job is suspended", suspended).await;
    assert_eq!(status(&paused).start_time, None);
    assert!(pods_of(&cluster, "pause").await.is_empty());
    let suspend = |suspend: bool| Patch::Merge(json!({"spec": {"suspend": suspend}}));
    let params = PatchParams::default();
    jobs.patch("pause", &params, &suspend(false)).await.expect("is resumed");
    let running = until(&jobs, "pause", "two pods are ready", |job| status(job).ready == Some(2)).await;
    assert!(conditions(&running).is_empty() && status(&running).start_time.is_some());
    jobs.patch("pause", &params, &suspend(true)).await.expect("is suspended");
    eventually("its pods are gone", || async { pods_of(&cluster, "pause").await.is_empty().then_some(()) }).await;
    let again = until(&jobs, "pause", "it says so", |job| suspended(job) && status(job).active.is_none()).await;
    assert_eq!(status(&again).failed, None, "pods that had to go did not fail");
    jobs.patch("pause", &params, &suspend(false)).await.expect("is resumed");
    until(&jobs, "pause", "two pods are ready again", |job| status(job).ready == Some(2)).await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
    jobs.delete("pause", &orphan).await.expect("is deleted");
    until_gone(&jobs, "pause").await;
    eventually("nothing holds its pods", || async {
        let pods = pods_of(&cluster, "pause").await;
        let free = |pod: &Pod| pod.finalizers().is_empty() && pod.owner_references().is_empty();
        (pods.len() == 2 && pods.iter().all(free)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_job_with_its_pods() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let jobs: Api<Job> = cluster.api("default");
    cluster.create::<Job>("default", job("late", None, json!({"activeDeadlineSeconds": 1}))).await;
    let failed = until(&jobs, "late", "the Job fails", is_finished).await;
    assert_eq!(conditions(&failed), [("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")]);
    let counted = status(&failed);
    assert_eq!((counted.failed, counted.active, counted.terminating), (Some(1), None, Some(0)));
    eventually("its pods are gone", || async { pods_of(&cluster, "late").await.is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_jobs_and_notes_their_success() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let cron_jobs: Api<CronJob> = cluster.api("default");
    let template = json!({"metadata": {"labels": {"of": "cron"}}, "spec": job("", Some(0), json!({}))["spec"]});
    let spec = json!({"schedule": "@every 1s", "timeZone": "Asia/Tokyo", "concurrencyPolicy": "Forbid", "jobTemplate": template});
    let created = cluster.create::<CronJob>("default", json!({"metadata": {"name": "cron"}, "spec": spec})).await;
    until(&cron_jobs, "cron", "a success is noted", |cron_job| {
        let status = cron_job.status.clone().unwrap_or_default();
        status.last_schedule_time.is_some() && status.last_successful_time.is_some()
    })
    .await;
    let jobs: Api<Job> = cluster.api("default");
    let made = jobs.list(&ListParams::default().labels("of=cron")).await.expect("is listed").items;
    let first = made.first().expect("there is one");
    assert!(first.name_any().starts_with("cron-"));
    assert_eq!(Some(&first.owner_references()[0].uid), created.metadata.uid.as_ref());
    let annotation = first.annotations().get("batch.kubernetes.io/cronjob-scheduled-timestamp").expect("says when");
    assert!(annotation.ends_with("+09:00"), "{annotation}");
    told(&cluster, "cron", "SuccessfulCreate").await;
    told(&cluster, "cron", "SawCompletedJob").await;
    cron_jobs.delete("cron", &DeleteParams::background()).await.expect("is deleted");
    eventually("its Jobs go with it", || async {
        jobs.list(&ListParams::default()).await.expect("is listed").items.is_empty().then_some(())
    })
    .await;
}
