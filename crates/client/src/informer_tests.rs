use super::*;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn object(name: &str, version: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            namespace: Some("a".into()),
            name: Some(name.into()),
            resource_version: Some(version.into()),
            managed_fields: Some(vec![Default::default()]),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn recording(informer: &Informer<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    informer.add_handler(move |change| {
        let kind = match change {
            Change::Added(_) => "+",
            Change::Updated { .. } => "~",
            Change::Deleted(_) => "-",
        };
        sink.lock().push(format!("{kind}{}", change.object().name_any()));
    });
    log
}

async fn drive(events: Vec<Event<ConfigMap>>) -> (Informer<ConfigMap>, Arc<Mutex<Vec<String>>>) {
    let events = Mutex::new(Some(events));
    let (informer, task) = Informer::from_streams(
        move |_| {
            let events = events.lock().take().unwrap_or_default();
            futures::stream::iter(events.into_iter().map(Ok)).boxed()
        },
        watcher::Config::default(),
        CancellationToken::new(),
    );
    let log = recording(&informer);
    task.await;
    (informer, log)
}

#[tokio::test]
async fn a_relist_becomes_differences() {
    let (informer, log) = drive(vec![
        Event::Init,
        Event::InitApply(object("x", "1")),
        Event::InitApply(object("y", "2")),
        Event::InitDone,
        Event::Apply(object("y", "3")),
        Event::Init,
        Event::InitApply(object("y", "3")),
        Event::InitApply(object("z", "4")),
        Event::InitDone,
        Event::Delete(object("z", "5")),
        Event::Delete(object("never-seen", "6")),
    ])
    .await;
    assert_eq!(*log.lock(), ["+x", "+y", "~y", "+z", "-x", "-z"]);
    assert!(informer.is_synced());
    assert_eq!(informer.store().keys(), [NamespacedName::new("a", "y")]);
}

#[tokio::test]
async fn cached_objects_carry_no_managed_fields_and_late_handlers_hear_all() {
    let (informer, _) = drive(vec![Event::Init, Event::InitApply(object("x", "1")), Event::InitDone]).await;
    let cached = informer.store().get("a", "x").expect("is cached");
    assert_eq!(cached.metadata.managed_fields, None);
    assert_eq!(*recording(&informer).lock(), ["+x"]);
}

#[tokio::test]
async fn waiting_on_a_stopped_informer_fails() {
    let (informer, log) = drive(vec![Event::Init]).await;
    assert!(log.lock().is_empty());
    assert!(informer.wait_synced().await.is_err());
}
