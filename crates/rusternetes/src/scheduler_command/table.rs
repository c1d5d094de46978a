//! The flags of upstream's kube-scheduler v1.35, as data: name, type, default and what is made of each here.

use crate::flags::Kind::{Bool, Duration, Float, Int, Text};
use crate::flags::State::{DefaultOnly, Ignored, Works};
use crate::flags::common::{
    AUTHENTICATION, AUTHORIZATION, CERTIFICATES, LEADER_ELECTION, LISTENING, LOGS, METRICS, SECURE_SERVING, VERSIONS,
};
use crate::flags::{Table, flag};

/// All flags, by upstream's headings.
#[rustfmt::skip]
pub(super) const FLAGS: Table = &[
    ("Misc flags", &[
        flag("config", Text, "", Works),
        flag("master", Text, "", Works),
        flag("write-config-to", Text, "", DefaultOnly),
    ]),
    ("Secure serving flags", LISTENING),
    ("Secure serving flags", SECURE_SERVING),
    ("Secure port", &[
        flag("authentication-tolerate-lookup-failure", Bool, "true", Works),
        flag("secure-port", Int, "10259", Works),
    ]),
    ("Authentication flags", CERTIFICATES),
    ("Authentication flags", AUTHENTICATION),
    ("Authorization flags", AUTHORIZATION),
    ("Deprecated flags", &[
        flag("contention-profiling", Bool, "true", Ignored("there is no Go runtime to profile")),
        flag("kube-api-burst", Int, "100", Works),
        flag("kube-api-content-type", Text, "application/vnd.kubernetes.protobuf", Ignored("requests are JSON")),
        flag("kube-api-qps", Float, "50", Works),
        flag("kubeconfig", Text, "", Works),
        flag("pod-max-in-unschedulable-pods-duration", Duration, "5m0s", Works),
        flag("profiling", Bool, "true", Ignored("there is no Go runtime to profile")),
    ]),
    ("Leader election flags", LEADER_ELECTION),
    ("Leader election name", &[flag("leader-elect-resource-name", Text, "kube-scheduler", Works)]),
    ("Feature gate flags", VERSIONS),
    ("Metrics flags", METRICS),
    ("Logs flags", LOGS),
];
