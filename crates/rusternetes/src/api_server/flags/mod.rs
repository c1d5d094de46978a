//! The command line of `rusternetes api-server`: upstream's flags.

mod table;

pub(super) use table::FLAGS;

pub(super) use crate::flags::Values;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flags::testing;

    fn read(arguments: &[&str]) -> Result<Values, String> {
        testing::read(FLAGS, arguments)
    }

    #[test]
    fn values_are_read_as_upstream_reads_them() {
        let values = read(&[
            "--secure-port=1234",
            "--anonymous-auth=false",
            "--authorization-mode",
            "Node,RBAC",
            "--authorization-mode=AlwaysAllow",
            "--event-ttl=1h30m",
            "--v=4",
            "--service-account-key-file=a,b",
            "--service-account-key-file=c",
            "--requestheader-client-ca-file=",
        ])
        .unwrap();
        assert_eq!(values.integer("secure-port"), 1234);
        assert!(!values.is_set("anonymous-auth"));
        assert_eq!(values.list("authorization-mode"), ["Node", "RBAC", "AlwaysAllow"]);
        assert_eq!(values.duration("event-ttl"), Duration::from_secs(5400));
        assert_eq!(values.integer("v"), 4);
        assert_eq!(values.list("service-account-key-file"), ["a,b", "c"]);
        assert_eq!(values.text("requestheader-client-ca-file"), None);
        assert_eq!(values.text("etcd-prefix"), Some("/registry"));
        assert!(values.warnings.is_empty());
    }

    #[test]
    fn what_is_not_there_is_refused_by_name_unless_it_is_the_default() {
        let refused = read(&["--etcd-servers=http://127.0.0.1:2379"]).unwrap_err();
        assert!(refused.contains("--etcd-servers"), "{refused}");
        let refused = read(&["--audit-log-maxage=3"]).unwrap_err();
        assert!(refused.contains("--audit-log-maxage=3: not implemented"), "{refused}");
        read(&["--audit-log-maxage=0", "--audit-log-mode=blocking", "--enable-garbage-collector"]).unwrap();
        assert_eq!(read(&["--watch-cache=false"]).unwrap().warnings.len(), 1);
        assert!(read(&["--watch-cache=maybe"]).unwrap_err().contains("--watch-cache"));
        assert!(read(&["--no-such-flag"]).is_err());
    }

    #[test]
    fn the_table_is_consistent() {
        // Upstream's v1.35 lists 171 with --help and --version; --data-dir is ours.
        assert_eq!(testing::count(FLAGS), 170);
    }
}
