//! Figures of a run: how much was the same, and what was not, grouped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Counts of one kind.
#[derive(Default, Clone, Copy)]
pub(super) struct Count {
    pub(super) requests: usize,
    pub(super) identical: usize,
    /// Of the identical ones, those that upstream answered with success.
    pub(super) succeeded: usize,
}

/// One way to differ.
#[derive(Default)]
struct Group {
    count: usize,
    kinds: BTreeSet<String>,
    example: String,
}

/// Figures.
#[derive(Default)]
pub(super) struct Summary {
    pub(super) kinds: BTreeMap<String, Count>,
    groups: BTreeMap<String, Group>,
    /// Requests on which upstream closed the connection, and of them those that ours answered with an error.
    pub(super) dropped: usize,
    pub(super) dropped_answered: usize,
    unseen_answers: usize,
    unseen_bodies: usize,
}

/// What was not compared.
#[derive(Clone, Copy)]
pub(super) enum Unseen {
    /// Neither server answered.
    Answer,
    /// Only code and headers are.
    Body,
}

impl Summary {
    /// Notes what is not compared.
    pub(super) fn unseen(&mut self, what: Unseen) {
        match what {
            Unseen::Answer => self.unseen_answers += 1,
            Unseen::Body => self.unseen_bodies += 1,
        }
    }

    /// Notes an answered request.
    pub(super) fn add(&mut self, kind: &str, verb: &str, succeeded: bool, differences: &[String], example: &str) {
        let count = self.kinds.entry(kind.to_owned()).or_default();
        count.requests += 1;
        if differences.is_empty() {
            count.identical += 1;
            count.succeeded += usize::from(succeeded);
        }
        for difference in differences.iter().take(8) {
            let group = self.groups.entry(format!("{verb}: {difference}")).or_default();
            group.count += 1;
            group.kinds.insert(kind.to_owned());
            if group.example.is_empty() {
                group.example = example.to_owned();
            }
        }
    }

    /// All kinds together.
    pub(super) fn total(&self) -> Count {
        self.kinds.values().fold(Count::default(), |sum, count| Count {
            requests: sum.requests + count.requests,
            identical: sum.identical + count.identical,
            succeeded: sum.succeeded + count.succeeded,
        })
    }

    fn sorted(&self) -> Vec<(&String, &Group)> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by(|a, b| b.1.count.cmp(&a.1.count).then(a.0.cmp(b.0)));
        groups
    }

    /// For the terminal.
    pub(super) fn text(&self, groups_max: usize) -> String {
        let total = self.total();
        let mut out = String::new();
        for (text, group) in self.sorted().into_iter().take(groups_max) {
            let kinds: Vec<&str> = group.kinds.iter().map(String::as_str).take(3).collect();
            let more = if group.kinds.len() > 3 { format!(" and {} more", group.kinds.len() - 3) } else { String::new() };
            let _ = writeln!(out, "{:5}  {text}  [{}{more}]", group.count, kinds.join(", "));
        }
        let _ = writeln!(
            out,
            "{} of {} requests identical ({}), {} of them successes; upstream dropped {} connections, of which ours answered {} with an error",
            total.identical,
            total.requests,
            percent(total.identical, total.requests),
            total.succeeded,
            self.dropped,
            self.dropped_answered
        );
        if self.unseen_answers + self.unseen_bodies > 0 {
            let (answers, bodies) = (self.unseen_answers, self.unseen_bodies);
            let _ = writeln!(out, "not compared: {answers} requests that neither answered, the bodies of {bodies} answers");
        }
        out
    }

    /// Every group with one example.
    pub(super) fn details(&self) -> String {
        let mut out = String::new();
        for (text, group) in self.sorted() {
            let kinds: Vec<&str> = group.kinds.iter().map(String::as_str).collect();
            let _ = writeln!(out, "=== {} times: {text}\nkinds: {}\n{}\n", group.count, kinds.join(", "), group.example);
        }
        out
    }

    /// The table of docs/differential.md.
    pub(super) fn table(&self) -> String {
        let mut out = "| Kind | Requests | Identical | | of them successes |\n|---|---:|---:|---:|---:|\n".to_owned();
        for (kind, count) in &self.kinds {
            let Count { requests, identical, succeeded } = *count;
            let _ = writeln!(out, "| {kind} | {requests} | {identical} | {} | {succeeded} |", percent(identical, requests));
        }
        let Count { requests, identical, succeeded } = self.total();
        let _ = writeln!(out, "| all | {requests} | {identical} | {} | {succeeded} |", percent(identical, requests));
        out
    }
}

pub(super) fn percent(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{}.{:02} %", part * 100 / whole, part * 10_000 / whole % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_groups() {
        let mut summary = Summary::default();
        summary.add("v1/pods", "create", true, &[], "");
        summary.add("v1/pods", "create", false, &["a".to_owned()], "first");
        summary.add("v1/nodes", "create", false, &["a".to_owned(), "b".to_owned()], "second");
        let total = summary.total();
        assert_eq!((total.requests, total.identical, total.succeeded), (3, 1, 1));
        assert!(
            summary.details().starts_with("=== 2 times: create: a\nkinds: v1/nodes, v1/pods\nfirst\n"),
            "{}",
            summary.details()
        );
        assert!(summary.table().contains("| v1/pods | 2 | 1 | 50.00 % | 1 |\n"));
        assert_eq!(percent(1, 3), "33.33 %");
    }
}
