//! Defaults of the flowcontrol.apiserver.k8s.io group.

use super::{Rule, absent, zero};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("flowcontrol.v1.FlowSchemaSpec", |spec| zero(spec, "matchingPrecedence", 1000)),
    ("flowcontrol.v1.ExemptPriorityLevelConfiguration", |level| {
        absent(level, "nominalConcurrencyShares", 0);
        absent(level, "lendablePercent", 0);
    }),
    ("flowcontrol.v1.LimitedPriorityLevelConfiguration", |level| {
        absent(level, "nominalConcurrencyShares", 30);
        absent(level, "lendablePercent", 0);
    }),
    ("flowcontrol.v1.QueuingConfiguration", |queuing| {
        zero(queuing, "handSize", 8);
        zero(queuing, "queues", 64);
        zero(queuing, "queueLengthLimit", 50);
    }),
];
