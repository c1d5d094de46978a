//! Leases.

use super::*;

fn put_leased(key: &'static str, lease: LeaseId) -> Txn {
    Txn { success: vec![Op::Put { key: key.into(), value: "v".into(), lease }], ..Txn::default() }
}

/// Grant, keep alive, revoke.
pub async fn leases(store: Subject) {
    let ttl = Duration::from_secs(3600);
    let lease = store.lease_grant(ttl).await.expect("a lease");
    let other = store.lease_grant(ttl).await.expect("a lease");
    assert_ne!(lease, other);
    assert_eq!(store.lease_keep_alive(lease).await.expect("alive"), ttl);
    for key in ["/a", "/b"] {
        store.txn(put_leased(key, lease)).await.expect("a write");
    }
    store.txn(put_leased("/c", other)).await.expect("a write");
    assert_eq!(store.get(b"/a").await.expect("a read").expect("a key").lease, lease);
    let mut watch = store.watch(all(), None, 10).await.expect("a watch");
    store.lease_revoke(lease).await.expect("a revocation");
    let found = events(&mut watch, 2).await;
    assert!(found.iter().all(|event| event.deleted && event.prev.is_some()));
    assert_eq!(found[0].kv.mod_revision, found[1].kv.mod_revision, "one transaction");
    assert_eq!(content(&store, None).await, ["/c=v"]);
    for result in [store.lease_revoke(lease).await, store.lease_keep_alive(lease).await.map(|_| ())] {
        assert!(matches!(result, Err(StoreError::LeaseNotFound(id)) if id == lease));
    }
    assert!(matches!(store.txn(put_leased("/d", lease)).await, Err(StoreError::LeaseNotFound(id)) if id == lease));
}

/// A lease without keep-alive ends and takes its keys along; one that is kept alive stays.
pub async fn leases_expire(store: Subject) {
    let ttl = Duration::from_millis(400);
    let dying = store.lease_grant(ttl).await.expect("a lease");
    let kept = store.lease_grant(ttl).await.expect("a lease");
    store.txn(put_leased("/dying", dying)).await.expect("a write");
    store.txn(put_leased("/kept", kept)).await.expect("a write");
    let mut watch = store.watch(prefix("/dying"), None, 10).await.expect("a watch");
    let keeper = {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                store.lease_keep_alive(kept).await.expect("alive");
                tokio::time::sleep(ttl / 8).await;
            }
        })
    };
    let found = events(&mut watch, 1).await;
    assert!(found[0].deleted);
    assert!(matches!(store.lease_keep_alive(dying).await, Err(StoreError::LeaseNotFound(_))));
    assert_eq!(content(&store, None).await, ["/kept=v"]);
    keeper.abort();
}

/// A key that is written again without its lease, or with another one, no longer ends with the first.
pub async fn lease_follows_its_key(store: Subject) {
    let ttl = Duration::from_secs(3600);
    let first = store.lease_grant(ttl).await.expect("a lease");
    let second = store.lease_grant(ttl).await.expect("a lease");
    for key in ["/free", "/moved", "/anew"] {
        store.txn(put_leased(key, first)).await.expect("a write");
    }
    put(&store, "/free", "v").await;
    store.txn(put_leased("/moved", second)).await.expect("a write");
    delete(&store, "/anew").await;
    put(&store, "/anew", "v").await;
    store.lease_revoke(first).await.expect("a revocation");
    assert_eq!(content(&store, None).await, ["/anew=v", "/free=v", "/moved=v"]);
    store.lease_revoke(second).await.expect("a revocation");
    assert_eq!(content(&store, None).await, ["/anew=v", "/free=v"]);
}
