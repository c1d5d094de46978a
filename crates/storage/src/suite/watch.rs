//! Watches: ordered, unique, atomic, resumable, and honest about what they cannot deliver.

use super::*;

/// Events come in order, once, with what was before.
pub async fn watch_delivers_in_order(store: Subject) {
    put(&store, "/before", "x").await;
    let mut watch = store.watch(all(), None, 100).await.expect("a watch");
    let first = put(&store, "/a", "1").await.0;
    put(&store, "/a", "2").await;
    delete(&store, "/a").await;
    delete(&store, "/a").await;
    put(&store, "/a", "3").await;
    let found: Vec<String> = events(&mut watch, 4).await.iter().map(show).collect();
    let expected = [
        format!("{} /a - -> 1", first),
        format!("{} /a 1 -> 2", first + 1),
        format!("{} /a 2 -> deleted", first + 2),
        format!("{} /a - -> 3", first + 3),
    ];
    assert_eq!(found, expected);
}

/// A watch from an older revision delivers all since then, first from history, then live, without a gap or a repetition.
pub async fn watch_resumes(store: Subject) {
    let mut expected = Vec::new();
    for step in 0..700 {
        expected.push(put(&store, &format!("/k{}", step % 10), step.to_string()).await);
    }
    for start in [0, 1, 350, 699] {
        let mut watch = store.watch(all(), Some(expected[start]), 1000).await.expect("a watch");
        let more = put(&store, "/live", "x").await;
        let mut wanted = expected[start + 1..].to_vec();
        wanted.push(more);
        expected.push(more);
        let found = events(&mut watch, wanted.len()).await;
        assert_eq!(found.iter().map(|event| event.kv.mod_revision).collect::<Vec<_>>(), wanted, "from index {start}");
        let change = &found[0];
        let same_key_before = change.prev.as_ref().map(|kv| kv.mod_revision);
        assert!(same_key_before.is_none_or(|revision| revision < change.kv.mod_revision));
    }
    let replayed = store.watch(prefix("/k3"), Some(expected[0]), 1000).await.expect("a watch");
    let found = events(&mut { replayed }, 70).await;
    let third = show(&found[1]);
    assert!(third.ends_with("/k3 3 -> 13"), "{third}");
    let current = store.current_revision().await.expect("a revision");
    let future = store.watch(all(), Some(Revision(current.0 + 1)), 1).await;
    assert!(matches!(future, Err(StoreError::FutureRevision { .. })));
}

/// The events of one transaction are never split, live or from history.
pub async fn watch_is_atomic(store: Subject) {
    let start = store.current_revision().await.expect("a revision");
    let mut live = store.watch(all(), None, 1000).await.expect("a watch");
    for step in 0..100 {
        let ops = (0..7).map(|key| put_op(&format!("/k{key}"), step.to_string())).collect();
        run(&store, ops).await;
    }
    let mut history = store.watch(all(), Some(start), 1000).await.expect("a watch");
    for watch in [&mut live, &mut history] {
        let (mut count, mut last) = (0, start);
        while count < 700 {
            let WatchResponse::Events { events, revision } = next(watch).await else { continue };
            assert_eq!(events.len() % 7, 0, "a split transaction");
            for group in events.chunks(7) {
                assert!(group.iter().all(|event| event.kv.mod_revision == group[0].kv.mod_revision));
                assert_eq!(group[0].kv.mod_revision, Revision(last.0 + 1));
                last = group[0].kv.mod_revision;
            }
            assert_eq!(revision, last, "complete up to the last event");
            count += events.len();
        }
    }
}

/// A watch gets the events of its range only.
pub async fn watch_many_ranges(store: Subject) {
    let mut pods = store.watch(prefix("/pods/"), None, 10).await.expect("a watch");
    let one = KeyRange { start: "/nodes/a".into(), end: "/nodes/a\0".into() };
    let mut node = store.watch(one, None, 10).await.expect("a watch");
    for key in ["/nodes/", "/nodes/a", "/nodes/ab", "/pods", "/pods/x", "/pods0", "/pods/y"] {
        put(&store, key, "v").await;
    }
    let keys = |events: Vec<Event>| events.iter().map(|event| text(&event.kv.key)).collect::<Vec<_>>();
    assert_eq!(keys(events(&mut pods, 2).await), ["/pods/x", "/pods/y"]);
    assert_eq!(keys(events(&mut node, 1).await), ["/nodes/a"]);
    put(&store, "/nodes/a", "end").await;
    assert_eq!(keys(events(&mut node, 1).await), ["/nodes/a"]);
}

/// A start that is compacted ends the watch with where to start instead.
pub async fn watch_compacted(store: Subject) {
    let first = put(&store, "/a", "1").await;
    let second = put(&store, "/a", "2").await;
    let third = put(&store, "/a", "3").await;
    store.compact(second).await.expect("a compaction");
    let mut watch = store.watch(all(), Some(first), 10).await.expect("a watch");
    let response = next(&mut watch).await;
    assert!(matches!(response, WatchResponse::Compacted { compact_revision } if compact_revision == second), "{response:?}");
    assert!(watch.recv().await.is_none(), "the watch goes on after its end");
    let mut watch = store.watch(all(), Some(second), 10).await.expect("a watch");
    let found = events(&mut watch, 1).await;
    assert_eq!(show(&found[0]), format!("{third} /a 2 -> 3"));
}

/// A watcher that does not read hears that it lags, after the events that it has room for, and never blocks a writer.
pub async fn watch_lagged(store: Subject) {
    let mut watch = store.watch(all(), None, 3).await.expect("a watch");
    let start = store.current_revision().await.expect("a revision");
    for step in 0..20 {
        put(&store, "/a", step.to_string()).await;
    }
    let mut last = start;
    loop {
        match next(&mut watch).await {
            WatchResponse::Events { events, .. } => {
                assert_eq!(events[0].kv.mod_revision, Revision(last.0 + 1));
                last = events[events.len() - 1].kv.mod_revision;
            }
            WatchResponse::Lagged => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(watch.recv().await.is_none());
    let mut resumed = store.watch(all(), Some(last), 100).await.expect("a watch");
    let missed = 20 - (last.0 - start.0);
    let found = events(&mut resumed, usize::try_from(missed).expect("positive")).await;
    assert_eq!(found[0].kv.mod_revision, Revision(last.0 + 1));
    assert_eq!(text(&found[found.len() - 1].kv.value), "19");
}

/// A quiet watch hears of the newest revision when asked for; progress is never ahead of events.
pub async fn watch_progress(store: Subject) {
    let mut quiet = store.watch(prefix("/quiet/"), None, 10).await.expect("a watch");
    let mut busy = store.watch(prefix("/busy/"), None, 100).await.expect("a watch");
    let mut newest = Revision(0);
    for step in 0..20 {
        newest = put(&store, "/busy/a", step.to_string()).await;
    }
    store.request_progress().await.expect("a request");
    loop {
        match next(&mut quiet).await {
            WatchResponse::Progress(revision) if revision == newest => break,
            WatchResponse::Progress(revision) => assert!(revision < newest),
            other => panic!("{other:?}"),
        }
    }
    let mut last = Revision(0);
    while last < newest {
        match next(&mut busy).await {
            WatchResponse::Events { events, revision } => {
                last = events[events.len() - 1].kv.mod_revision;
                assert!(revision >= last);
            }
            WatchResponse::Progress(revision) => assert!(revision <= last, "progress {revision} before its events"),
            other => panic!("{other:?}"),
        }
    }
}

/// Watches that start at any time under load, beside a compactor, miss nothing and repeat nothing.
pub async fn watch_under_load_and_compaction(store: Subject) {
    const WRITES: i64 = 600;
    let start = put(&store, "/start", "x").await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for step in 0..WRITES {
                let revision = put(&store, &format!("/k{}", step % 17), step.to_string()).await;
                if step % 50 == 49 {
                    store.compact(Revision(revision.0 - 40)).await.expect("a compaction");
                }
            }
        })
    };
    let watchers = (0..6).map(|index| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut last = Revision(start.0 + index * 20);
            while store.current_revision().await.expect("a revision") < last {
                tokio::task::yield_now().await;
            }
            let end = Revision(start.0 + WRITES);
            let mut watch = store.watch(all(), Some(last), 8).await.expect("a watch");
            while last < end {
                match next(&mut watch).await {
                    WatchResponse::Events { events, .. } => {
                        for event in &events {
                            assert_eq!(event.kv.mod_revision, Revision(last.0 + 1), "a gap or a repetition");
                            last = event.kv.mod_revision;
                        }
                    }
                    WatchResponse::Progress(revision) => assert_eq!(revision, last),
                    WatchResponse::Lagged => watch = store.watch(all(), Some(last), 8).await.expect("a watch"),
                    WatchResponse::Compacted { compact_revision } => {
                        assert!(compact_revision > last);
                        last = compact_revision;
                        watch = store.watch(all(), Some(last), 8).await.expect("a watch");
                    }
                }
            }
        })
    });
    for watcher in watchers.collect::<Vec<_>>() {
        watcher.await.expect("a watcher");
    }
    writer.await.expect("the writer");
}

/// Closing the store ends its watches.
pub async fn watch_ends_with_store(store: Subject) {
    let mut watch = store.watch(all(), None, 10).await.expect("a watch");
    store.close().await.expect("a close");
    let end = tokio::time::timeout(DEADLINE, watch.recv()).await.expect("an end in time");
    assert!(end.is_none(), "{end:?}");
}
