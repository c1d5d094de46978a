//! Transactions, ranges, compaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::contract::{OpResponse, TXN_WRITES_MAX};

/// Each transaction that writes has the next revision, also if it writes several keys.
pub async fn revisions_grow_by_one(store: Subject) {
    let start = store.current_revision().await.expect("a revision");
    assert!(start > Revision(0), "a list of an empty store must not be at revision 0");
    let first = put(&store, "/a", "1").await;
    assert_eq!(first, Revision(start.0 + 1));
    let both = run(&store, vec![put_op("/b", "1"), put_op("/c", "1")]).await.revision;
    assert_eq!(both, Revision(start.0 + 2));
    assert_eq!(delete(&store, "/b").await, Revision(start.0 + 3));
    assert_eq!(store.current_revision().await.expect("a revision"), Revision(start.0 + 3));
    let c = store.get(b"/c").await.expect("a read").expect("a key");
    assert_eq!((c.create_revision, c.mod_revision, c.version), (both, both, 1));
    let again = put(&store, "/c", "2").await;
    let c = store.get(b"/c").await.expect("a read").expect("a key");
    assert_eq!((c.create_revision, c.mod_revision, c.version, text(&c.value)), (both, again, 2, "2".to_owned()));
}

/// A write happens only if the key is at the revision expected.
pub async fn compare_and_swap(store: Subject) {
    let created = put_at(&store, "/a", "1", Revision(0)).await;
    assert!(created.succeeded);
    let refused = put_at(&store, "/a", "2", Revision(0)).await;
    assert!(!refused.succeeded);
    assert_eq!(refused.revision, created.revision, "nothing was written");
    let OpResponse::Get(Some(kv)) = &refused.responses[0] else { panic!("{refused:?}") };
    assert_eq!((text(&kv.value), kv.mod_revision), ("1".to_owned(), created.revision));
    let updated = put_at(&store, "/a", "2", created.revision).await;
    assert!(updated.succeeded);
    let OpResponse::Put(Some(prev)) = &updated.responses[0] else { panic!("{updated:?}") };
    assert_eq!(text(&prev.value), "1");
    assert!(!put_at(&store, "/a", "3", created.revision).await.succeeded);
    delete(&store, "/a").await;
    assert!(!put_at(&store, "/a", "3", updated.revision).await.succeeded);
    assert!(put_at(&store, "/a", "3", Revision(0)).await.succeeded);
}

/// Many clients add one to a counter; no addition is lost.
pub async fn concurrent_compare_and_swap(store: Subject) {
    const CLIENTS: u64 = 8;
    const ADDITIONS: u64 = 20;
    put(&store, "/counter", "0").await;
    let clients = (0..CLIENTS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..ADDITIONS {
                loop {
                    let kv = store.get(b"/counter").await.expect("a read").expect("the counter");
                    let next = text(&kv.value).parse::<u64>().expect("a number") + 1;
                    if put_at(&store, "/counter", &next.to_string(), kv.mod_revision).await.succeeded {
                        break;
                    }
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("a client");
    }
    let kv = store.get(b"/counter").await.expect("a read").expect("the counter");
    assert_eq!(text(&kv.value), (CLIENTS * ADDITIONS).to_string());
    assert_eq!(kv.version, i64::try_from(CLIENTS * ADDITIONS).expect("small") + 1);
}

/// All of a transaction happens or nothing; its reads see its writes.
pub async fn transactions_are_atomic(store: Subject) {
    put(&store, "/a", "1").await;
    let txn = Txn {
        compares: vec![Compare::ModRevision("/none".into(), Revision(0)), Compare::Value("/a".into(), "other".into())],
        success: vec![put_op("/b", "1"), delete_op("/a")],
        ..Txn::default()
    };
    assert!(!store.txn(txn).await.expect("a transaction").succeeded);
    assert_eq!(content(&store, None).await, ["/a=1"]);
    let ops = vec![put_op("/b", "2"), Op::Get { key: "/b".into() }, delete_op("/a"), Op::Get { key: "/a".into() }];
    let response = run(&store, ops).await;
    let [OpResponse::Put(None), OpResponse::Get(Some(b)), OpResponse::Delete(Some(a)), OpResponse::Get(None)] =
        &response.responses[..]
    else {
        panic!("{response:?}")
    };
    assert_eq!((text(&b.value), b.mod_revision, text(&a.value)), ("2".to_owned(), response.revision, "1".to_owned()));
    let unknown = Op::Put { key: "/x".into(), value: "1".into(), lease: LeaseId(4711) };
    let failed = store.txn(Txn { success: vec![put_op("/y", "1"), unknown], ..Txn::default() }).await;
    assert!(matches!(failed, Err(StoreError::LeaseNotFound(LeaseId(4711)))), "{failed:?}");
    assert_eq!(content(&store, None).await, ["/b=2"]);
    assert_eq!(store.current_revision().await.expect("a revision"), response.revision);
}

/// Compares by value.
pub async fn values_compare(store: Subject) {
    let binary = Bytes::from_static(&[0, 159, 146, 150, 0]);
    put(&store, "/a", binary.clone()).await;
    assert_eq!(store.get(b"/a").await.expect("a read").expect("a key").value, binary);
    let attempt = |value: Bytes, key: &'static str| Txn {
        compares: vec![Compare::Value(key.into(), value)],
        success: vec![],
        ..Txn::default()
    };
    assert!(store.txn(attempt(binary.clone(), "/a")).await.expect("a transaction").succeeded);
    assert!(!store.txn(attempt(Bytes::new(), "/a")).await.expect("a transaction").succeeded);
    assert!(!store.txn(attempt(Bytes::new(), "/none")).await.expect("a transaction").succeeded);
    put(&store, "/empty", Bytes::new()).await;
    assert!(store.txn(attempt(Bytes::new(), "/empty")).await.expect("a transaction").succeeded);
}

/// Half-open ranges in key order, limits with `more` and `count`, keys only.
pub async fn ranges_and_limits(store: Subject) {
    for key in ["/b/2", "/a", "/b/1", "/b/3", "/c", "/b"] {
        put(&store, key, "v").await;
    }
    let keys = |response: &RangeResponse| response.kvs.iter().map(|kv| text(&kv.key)).collect::<Vec<_>>();
    let response = range(&store, prefix("/b/"), 0, None).await.expect("a range");
    assert_eq!((keys(&response), response.more, response.count), (vec!["/b/1".into(), "/b/2".into(), "/b/3".into()], false, 3));
    let response = range(&store, prefix("/b/"), 2, None).await.expect("a range");
    assert_eq!((keys(&response), response.more, response.count), (vec!["/b/1".into(), "/b/2".into()], true, 3));
    let response = range(&store, prefix("/b/"), 3, None).await.expect("a range");
    assert!(!response.more, "exactly the limit");
    let response = range(&store, all(), 0, None).await.expect("a range");
    assert_eq!(keys(&response), ["/a", "/b", "/b/1", "/b/2", "/b/3", "/c"]);
    let backwards = KeyRange { start: "/c".into(), end: "/a".into() };
    assert_eq!(range(&store, backwards, 0, None).await.expect("a range").count, 0);
    let request = RangeRequest { range: all(), limit: 1, revision: None, keys_only: true };
    let response = store.range(request).await.expect("a range");
    assert_eq!((text(&response.kvs[0].key), response.kvs[0].value.len(), response.count), ("/a".to_owned(), 0, 6));
}

/// The past can be read, the future cannot.
pub async fn ranges_at_revisions(store: Subject) {
    let mut expected = Vec::new();
    let mut now: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for step in 0..40 {
        let key = format!("/k{}", step * 7 % 5);
        let revision = if step % 3 == 2 && now.contains_key(&key) {
            now.remove(&key);
            delete(&store, &key).await
        } else {
            now.insert(key.clone(), step.to_string());
            put(&store, &key, step.to_string()).await
        };
        expected.push((revision, now.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()));
    }
    for (revision, content_then) in &expected {
        assert_eq!(content(&store, Some(*revision)).await, *content_then, "at revision {revision}");
    }
    let current = store.current_revision().await.expect("a revision");
    let past = range(&store, all(), 1, Some(expected[3].0)).await.expect("a range");
    assert_eq!(past.revision, current, "the store's own revision, not the one asked for");
    let future = range(&store, all(), 0, Some(Revision(current.0 + 1))).await;
    assert!(matches!(future, Err(StoreError::FutureRevision { .. })), "{future:?}");
}

/// A key that is created again starts anew.
pub async fn delete_and_create_anew(store: Subject) {
    put(&store, "/a", "1").await;
    put(&store, "/a", "2").await;
    let response = run(&store, vec![delete_op("/a")]).await;
    let [OpResponse::Delete(Some(prev))] = &response.responses[..] else { panic!("{response:?}") };
    assert_eq!((text(&prev.value), prev.version), ("2".to_owned(), 2));
    assert!(store.get(b"/a").await.expect("a read").is_none());
    let revision = put(&store, "/a", "3").await;
    let kv = store.get(b"/a").await.expect("a read").expect("a key");
    assert_eq!((kv.create_revision, kv.version), (revision, 1));
}

/// Deleting nothing, reading, and a compare that fails leave the revision as it is.
pub async fn writes_nothing_without_change(store: Subject) {
    let revision = put(&store, "/a", "1").await;
    let response = run(&store, vec![delete_op("/none"), Op::Get { key: "/a".into() }]).await;
    assert!(matches!(&response.responses[..], [OpResponse::Delete(None), OpResponse::Get(Some(_))]), "{response:?}");
    assert_eq!((response.succeeded, response.revision), (true, revision));
    assert_eq!(run(&store, vec![]).await.revision, revision);
}

/// A transaction may not write a key twice, nor write without limit; refusing it changes nothing.
pub async fn invalid_transactions(store: Subject) {
    let before = store.current_revision().await.expect("a revision");
    let twice = Txn { success: vec![put_op("/a", "1"), delete_op("/a")], ..Txn::default() };
    assert!(matches!(store.txn(twice).await, Err(StoreError::Backend { .. })));
    let ops = |count: usize| (0..count).map(|index| put_op(&format!("/many/{index:05}"), "v")).collect::<Vec<_>>();
    let too_many = Txn { success: ops(TXN_WRITES_MAX + 1), ..Txn::default() };
    assert!(matches!(store.txn(too_many).await, Err(StoreError::Backend { .. })));
    assert_eq!(store.current_revision().await.expect("a revision"), before);
    assert_eq!(run(&store, ops(TXN_WRITES_MAX)).await.revision, Revision(before.0 + 1));
    assert_eq!(range(&store, prefix("/many/"), 1, None).await.expect("a range").count, TXN_WRITES_MAX);
}

/// What is compacted cannot be read, everything else can.
pub async fn compaction(store: Subject) {
    let mut revisions = Vec::new();
    for step in 0..30 {
        revisions.push(put(&store, &format!("/k{}", step % 3), step.to_string()).await);
    }
    revisions.push(delete(&store, "/k0").await);
    revisions.push(put(&store, "/k3", "30").await);
    let at = revisions[20];
    store.compact(at).await.expect("a compaction");
    let past = range(&store, all(), 0, Some(revisions[19])).await;
    assert!(
        matches!(&past, Err(StoreError::Compacted { requested, compact_revision }) if *requested == revisions[19] && *compact_revision == at),
        "{past:?}"
    );
    assert_eq!(content(&store, Some(at)).await, ["/k0=18", "/k1=19", "/k2=20"]);
    assert_eq!(content(&store, None).await, ["/k1=28", "/k2=29", "/k3=30"]);
    store.compact(revisions[5]).await.expect("nothing to do");
    let newest = *revisions.last().expect("some");
    let future = store.compact(Revision(newest.0 + 1)).await;
    assert!(matches!(future, Err(StoreError::FutureRevision { .. })), "{future:?}");
    store.compact(newest).await.expect("a compaction");
    assert_eq!(content(&store, Some(newest)).await, ["/k1=28", "/k2=29", "/k3=30"]);
    assert!(store.get(b"/k0").await.expect("a read").is_none());
    put(&store, "/k0", "again").await;
    assert_eq!(store.get(b"/k0").await.expect("a read").expect("a key").version, 1);
}

/// Readers beside writers and a compactor see whole states, or hear that theirs is compacted.
pub async fn compaction_beside_readers_and_writers(store: Subject) {
    let done = Arc::new(AtomicBool::new(false));
    // Both keys are always written together, so that every state has them equal.
    let first = run(&store, vec![put_op("/x", "0"), put_op("/y", "0")]).await.revision;
    let writer = {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            for step in 1..=300 {
                let revision = run(&store, vec![put_op("/x", step.to_string()), put_op("/y", step.to_string())]).await.revision;
                if step % 10 == 0 {
                    store.compact(Revision(revision.0 - 5)).await.expect("a compaction");
                }
            }
            done.store(true, Ordering::SeqCst);
        })
    };
    let mut reads = 0;
    let mut last = Revision(0);
    while !done.load(Ordering::SeqCst) {
        let revision = store.current_revision().await.expect("a revision");
        assert!(revision >= last, "the revision went backwards");
        last = revision;
        for at in [None, Some(revision), Some(Revision(revision.0 - 3).max(first))] {
            match range(&store, all(), 0, at).await {
                Ok(response) => {
                    assert_eq!(response.kvs.len(), 2, "{response:?}");
                    assert_eq!(response.kvs[0].value, response.kvs[1].value, "a torn read");
                    assert!(at.is_none_or(|at| response.kvs[0].mod_revision <= at));
                    reads += 1;
                }
                Err(StoreError::Compacted { .. }) if at.is_some() => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    writer.await.expect("the writer");
    assert!(reads > 0);
    assert_eq!(content(&store, None).await, ["/x=300", "/y=300"]);
}

/// After `close` everything answers `Closed`.
pub async fn closed_store_refuses(store: Subject) {
    put(&store, "/a", "1").await;
    store.close().await.expect("a close");
    assert!(matches!(store.get(b"/a").await, Err(StoreError::Closed)));
    assert!(matches!(range(&store, all(), 0, None).await, Err(StoreError::Closed)));
    assert!(matches!(store.current_revision().await, Err(StoreError::Closed)));
    let write = store.txn(Txn { success: vec![put_op("/a", "2")], ..Txn::default() }).await;
    assert!(matches!(write, Err(StoreError::Closed)));
    assert!(matches!(store.watch(all(), None, 1).await, Err(StoreError::Closed)));
    assert!(matches!(store.lease_grant(DEADLINE).await, Err(StoreError::Closed)));
    assert!(matches!(store.compact(Revision(1)).await, Err(StoreError::Closed)));
}
