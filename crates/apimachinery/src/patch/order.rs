//! The order of a merged list: what the client named comes in its order, what only the server has stays where it was relative to it.

use crate::Value;

/// How elements of a list are told apart: objects by their merge key, anything else by value.
#[derive(Clone, Copy)]
pub(super) enum Identity<'a> {
    Key(&'a str),
    Value,
}

impl Identity<'_> {
    /// Whether two elements are the same one. Elements without the key are like nothing.
    pub(super) fn same(self, one: &Value, other: &Value) -> bool {
        match self {
            Identity::Key(key) => one.get(key).is_some_and(|value| other.get(key) == Some(value)),
            Identity::Value => one == other,
        }
    }

    /// The position in a list of the element that is the same.
    pub(super) fn position(self, list: &[Value], element: &Value) -> Option<usize> {
        list.iter().position(|candidate| self.same(candidate, element))
    }
}

/// Orders `merged`: elements named in `wanted` in that order, the others in the order of `before`, merged so that where both orders
/// say something about a pair, `before` decides which comes first.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], before: &[Value], identity: Identity<'_>) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|element| identity.position(wanted, element).is_some());
    let rank = |order: &[Value], element: &Value| identity.position(order, element).unwrap_or(usize::MAX);
    named.sort_by_key(|element| rank(wanted, element));
    others.sort_by_key(|element| rank(before, element));
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(name), Some(other)) = (named.peek(), others.peek()) {
        let other_first =
            identity.position(before, other).zip(identity.position(before, name)).is_some_and(|(other, name)| other < name);
        arranged.extend(if other_first { others.next() } else { named.next() });
    }
    arranged.extend(named);
    arranged.extend(others);
    arranged
}
