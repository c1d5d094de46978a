//! The options of `pods/log` (upstream's `ValidatePodLogOptions`).

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{GroupKind, Status, time};

use crate::http::Query;

/// Reads them all, and says what is wrong with them.
pub(super) fn check(query: &Query, pod: &str) -> Result<(), Status> {
    let number = |key: &str| query.get(key).map(crate::registry::parse_int).transpose();
    let (tail, limit, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let since = query.non_empty("sinceTime");
    if let Some(since) = since {
        time::parse_time(since).map_err(|error| Status::bad_request(error.to_string()))?;
    }
    let mut errors = ErrorList::new();
    let at = |name: &str| Path::new(name);
    if let Some(tail) = tail.filter(|tail| *tail < 0) {
        errors.push(Error::invalid(&at("tailLines"), tail, "must be greater than or equal to 0"));
    }
    if let Some(limit) = limit.filter(|limit| *limit < 1) {
        errors.push(Error::invalid(&at("limitBytes"), limit, "must be greater than 0"));
    }
    match seconds {
        Some(_) if since.is_some() => {
            errors.push(Error::forbidden(&Path::nameless(), "at most one of `sinceTime` or `sinceSeconds` may be specified"));
        }
        Some(seconds) if seconds < 1 => {
            errors.push(Error::invalid(&at("sinceSeconds"), seconds, "must be greater than 0"));
        }
        _ => {}
    }
    // One stream alone is a feature that is off.
    if query.get("stream").is_some() {
        errors.push(Error::forbidden(&at("stream"), "may not be specified"));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("", "PodLogOptions"), pod, &errors)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let message = |query: &str| check(&Query::parse(query), "p").err().map(|status| status.message).unwrap_or_default();
        for fine in ["", "tailLines=0&limitBytes=1&sinceSeconds=1&follow=true", "sinceTime=2020-01-01T00:00:00Z"] {
            assert_eq!(message(fine), "", "{fine}");
        }
        for (query, expected) in [
            ("tailLines=abc", "strconv.ParseInt: parsing \"abc\": invalid syntax"),
            ("limitBytes=0", "PodLogOptions \"p\" is invalid: limitBytes: Invalid value: 0: must be greater than 0"),
            ("stream=Stdout", "PodLogOptions \"p\" is invalid: stream: Forbidden: may not be specified"),
        ] {
            assert_eq!(message(query), expected);
        }
    }
}
