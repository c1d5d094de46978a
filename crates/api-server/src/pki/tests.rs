use std::os::unix::fs::PermissionsExt;

use jiff::SignedDuration;

use super::*;

fn config(dir: &Path) -> PkiConfig {
    PkiConfig {
        dir: dir.join("pki"),
        node_name: "node-a".to_owned(),
        node_ips: vec![IpAddr::from([10, 0, 0, 7])],
        host_names: vec!["host-a".to_owned()],
        service_ip: IpAddr::from([10, 43, 0, 1]),
        cluster_domain: "cluster.local".to_owned(),
    }
}

#[test]
fn second_start_keeps_everything() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let now = Timestamp::now();
    let first = Pki::load_or_create(config(dir.path()), now).expect("first start");
    let second = Pki::load_or_create(config(dir.path()), now).expect("second start");
    assert_eq!(first.ca_cert_pem, second.ca_cert_pem);
    assert_eq!(first.api_server, second.api_server);
    assert_eq!(first.admin, second.admin);
    assert_eq!(first.service_account_key_pem, second.service_account_key_pem);
}

#[test]
fn changed_address_replaces_serving_certificates_only() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let now = Timestamp::now();
    let first = Pki::load_or_create(config(dir.path()), now).expect("first start");
    let moved = PkiConfig { node_ips: vec![IpAddr::from([10, 0, 0, 8])], ..config(dir.path()) };
    let second = Pki::load_or_create(moved, now).expect("start on another address");
    assert_ne!(first.api_server, second.api_server);
    assert_ne!(first.kubelet_serving, second.kubelet_serving);
    assert_eq!(first.admin, second.admin);
    assert_eq!(first.ca_cert_pem, second.ca_cert_pem);
}

#[test]
fn leaves_are_renewed_in_their_last_third() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let now = Timestamp::now();
    let mut pki = Pki::load_or_create(config(dir.path()), now).expect("first start");
    assert!(!pki.renew(now + SignedDuration::from_hours(24 * 200)).expect("check"), "200 of 365 days: keep");
    let before = pki.clone();
    assert!(pki.renew(now + SignedDuration::from_hours(24 * 300)).expect("renew"), "300 of 365 days: replace");
    assert_ne!(before.api_server, pki.api_server);
    assert_eq!(before.ca_cert_pem, pki.ca_cert_pem);
}

#[test]
fn leaf_of_another_ca_is_replaced() {
    let (dir, other) = (tempfile::tempdir().expect("temporary directory"), tempfile::tempdir().expect("temporary directory"));
    let now = Timestamp::now();
    Pki::load_or_create(config(dir.path()), now).expect("first start");
    let foreign = Pki::load_or_create(config(other.path()), now).expect("another cluster");
    for file in ["apiserver.crt", "apiserver.key", "admin.crt", "admin.key"] {
        std::fs::copy(other.path().join("pki").join(file), dir.path().join("pki").join(file)).expect("copy");
    }
    let again = Pki::load_or_create(config(dir.path()), now).expect("start");
    assert_ne!(again.admin, foreign.admin);
    assert_ne!(again.api_server, foreign.api_server);
}

#[test]
fn damaged_ca_is_an_error_and_damaged_leaf_is_not() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let now = Timestamp::now();
    Pki::load_or_create(config(dir.path()), now).expect("first start");
    let pki = dir.path().join("pki");
    std::fs::write(pki.join("apiserver.crt"), "").expect("truncate");
    Pki::load_or_create(config(dir.path()), now).expect("a leaf is made anew");
    std::fs::write(pki.join("ca.key"), "").expect("truncate");
    let error = Pki::load_or_create(config(dir.path()), now).expect_err("a CA is not");
    assert!(matches!(error, PkiError::Unusable { .. }), "{error}");
}

#[test]
fn keys_and_kubeconfig_are_private() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let pki = Pki::load_or_create(config(dir.path()), Timestamp::now()).expect("first start");
    let kubeconfig = dir.path().join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&kubeconfig, "https://127.0.0.1:6443").expect("kubeconfig");
    let component = dir.path().join("scheduler.kubeconfig");
    let written =
        pki.write_client_kubeconfig(&component, "https://127.0.0.1:6443", "system:kube-scheduler", None, Timestamp::now());
    written.expect("kubeconfig");
    assert!(std::fs::read_to_string(&component).expect("is there").contains("current-context: system:kube-scheduler@"));
    for entry in std::fs::read_dir(dir.path().join("pki")).expect("list").chain(std::fs::read_dir(dir.path()).expect("list")) {
        let entry = entry.expect("entry");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        let wanted = if entry.file_type().expect("type").is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{:?}", entry.path());
    }
}
