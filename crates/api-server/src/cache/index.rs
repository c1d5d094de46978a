//! The secondary index of a cache: which objects have a label with a value, or the indexed field with a value.
//!
//! A persistent set, so that a snapshot takes it along in O(1). Postings hold keys, not entries: a change of an object that leaves
//! its labels and its indexed field alone leaves the index alone.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;

use super::entry::Entry;

/// What an object can be found by. Label keys are never empty, so that fields cannot be taken for labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Term(Arc<str>);

impl Term {
    /// Objects with this label.
    pub(crate) fn label(key: &str, value: &str) -> Term {
        Term(format!("{key}={value}").into())
    }

    /// Objects whose indexed field has this value.
    pub(crate) fn field(value: &str) -> Term {
        Term(format!("={value}").into())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Posting {
    term: Term,
    key: Bytes,
}

/// Keys by term.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    postings: OrdSet<Posting>,
}

pub(super) fn indexed_value(entry: &Entry, indexed: Option<usize>) -> Option<&str> {
    entry.fields.get(indexed?).map(|value| &**value)
}

/// How many postings are looked at before the next term gets a chance to be shorter; then four times as many, and so on.
const FIRST_PROBE: usize = 16;

impl Index {
    /// Takes in a change of an object; `indexed` is the position of the indexed field.
    pub(super) fn update(&mut self, key: &Bytes, before: Option<&Entry>, after: Option<&Entry>, indexed: Option<usize>) {
        let unchanged = |before: &Entry, after: &Entry| {
            before.labels == after.labels && indexed_value(before, indexed) == indexed_value(after, indexed)
        };
        if before.zip(after).is_some_and(|(before, after)| unchanged(before, after)) {
            return;
        }
        let terms = |entry: &Entry| -> Vec<Term> {
            let labels = entry.labels.iter().map(|(key, value)| Term::label(key, value));
            labels.chain(indexed_value(entry, indexed).map(Term::field)).collect()
        };
        for term in before.map(terms).unwrap_or_default() {
            self.postings.remove(&Posting { term, key: key.clone() });
        }
        for term in after.map(terms).unwrap_or_default() {
            let term = self.shared(term);
            self.postings.insert(Posting { term, key: key.clone() });
        }
    }

    /// The same term in the allocation that its other postings have.
    fn shared(&self, term: Term) -> Term {
        let first = Posting { term, key: Bytes::new() };
        match self.postings.range::<_, Posting>((Bound::Included(&first), Bound::Unbounded)).next() {
            Some(found) if found.term == first.term => found.term.clone(),
            _ => first.term,
        }
    }

    fn keys<'a>(&'a self, term: &Term, start: &Bytes, end: &Bytes) -> impl Iterator<Item = &'a Bytes> + use<'a> {
        let bound = |key: &Bytes| Posting { term: term.clone(), key: key.clone() };
        self.postings
            .range::<_, Posting>((Bound::Included(bound(start)), Bound::Excluded(bound(end))))
            .map(|posting| &posting.key)
    }

    /// The keys in `[start, end)` (which is not empty), in order, of the term that has the fewest there; `None` when that is more than `worthwhile`, or
    /// there is no term.
    pub(super) fn narrowest(&self, terms: &[Term], start: &Bytes, end: &Bytes, worthwhile: usize) -> Option<Vec<Bytes>> {
        let mut probe = FIRST_PROBE;
        loop {
            for term in terms {
                let found: Vec<Bytes> = self.keys(term, start, end).take(probe + 1).cloned().collect();
                if found.len() <= probe {
                    return (found.len() <= worthwhile).then_some(found);
                }
            }
            if terms.is_empty() || probe >= worthwhile {
                return None;
            }
            probe = probe.saturating_mul(4).min(worthwhile);
        }
    }

    /// How many postings there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.postings.len()
    }
}
