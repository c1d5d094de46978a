//! Errors show an empty list or map as the client sent it, which the object that is validated does not have any more: there, as in upstream's
//! store, empty is none.

use apimachinery::decode::EmptyMember;
use apimachinery::{Reason, Status};

/// The error with the empty values that the client sent where it says `null`.
pub(crate) fn shown_as_sent(mut status: Status, empty: &[EmptyMember]) -> Status {
    if empty.is_empty() || status.reason != Reason::Invalid || !status.message.contains(" value: null") {
        return status;
    }
    for cause in status.details.iter_mut().flat_map(|details| &mut details.causes) {
        let Some(member) = empty.iter().find(|member| member.path == cause.field) else { continue };
        let before = format!("{}: {}", cause.field, cause.message);
        cause.message = cause.message.replacen(" value: null", &format!(" value: {}", member.json), 1);
        status.message = status.message.replace(&before, &format!("{}: {}", cause.field, cause.message));
    }
    status
}

#[cfg(test)]
mod tests {
    use apimachinery::{GroupKind, Value, field};

    use super::*;

    #[test]
    fn empty_is_shown_as_it_came() {
        let path = || field::Path::new("spec").child("cidrs");
        let sent = |path: &str, json| vec![EmptyMember { path: path.to_owned(), json }];
        let cases = [
            (sent("spec.cidrs", "[]"), "[]"),
            (sent("spec.cidrs", "{}"), "{}"),
            (sent("spec.other", "[]"), "null"),
            (Vec::new(), "null"),
        ];
        for (empty, shown) in cases {
            let errors = [field::Error::invalid(&path(), Value::Null, "why"), field::Error::required(&path(), "")];
            let status = shown_as_sent(Status::invalid(&GroupKind::new("", "X"), "a", &errors), &empty);
            let expected = format!("X \"a\" is invalid: [spec.cidrs: Invalid value: {shown}: why, spec.cidrs: Required value]");
            assert_eq!(status.message, expected);
            assert_eq!(status.details.expect("details").causes[0].message, format!("Invalid value: {shown}: why"));
        }
    }
}
