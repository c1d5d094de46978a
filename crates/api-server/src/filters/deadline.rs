//! How long a request may take, and which ones may take as long as they like.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use apimachinery::{Reason, Status};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::http::{Body, BoxError, Query, RequestInfo, Verb};
use crate::metrics::GaugeGuard;

/// Watches, and the subresources that are streams (upstream's `BasicLongRunningRequestCheck`).
pub(super) fn is_long_running(info: &RequestInfo) -> bool {
    if !info.is_resource {
        return info.path.starts_with("/debug/pprof/");
    }
    matches!(info.verb, Verb::Watch | Verb::Proxy)
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}

/// The time a request may take: the client's `timeout` parameter, at most the server's own.
pub(super) fn limit(query: &Query, server: Duration) -> Result<Duration, Status> {
    let Some(text) = query.non_empty("timeout") else { return Ok(server) };
    let refused =
        |why: String| Status::new(Reason::BadRequest, format!("invalid timeout specified in the request URL - time: {why}"));
    let wanted = go_duration(text).map_err(refused)?;
    Ok(if wanted.is_zero() { server } else { wanted.min(server) })
}

pub(super) fn timed_out() -> Status {
    Status::new(Reason::Timeout, "request did not complete within the allotted timeout")
}

/// Go's duration syntax: `1h2m3.5s`, `300ms`, `0`; a negative one counts as none. The error is in the words of `time.ParseDuration`.
fn go_duration(text: &str) -> Result<Duration, String> {
    let quoted = apimachinery::go_quote(text);
    let invalid = || format!("invalid duration {quoted}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let (mut rest, mut seconds) = (unsigned, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| digits + at);
        seconds += number
            * match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                "" => return Err(format!("missing unit in duration {quoted}")),
                unit => return Err(format!("unknown unit {} in duration {quoted}", apimachinery::go_quote(unit))),
            };
        rest = &rest[unit_end..];
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
    Ok(if text.starts_with('-') { Duration::ZERO } else { duration })
}

/// A long-running answer that ends when the server drains, and is counted as long as it runs.
pub(super) fn until_drained(body: Body, draining: CancellationToken, guard: GaugeGuard) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(UntilDrained { body, drained: Box::pin(draining.cancelled_owned()), _guard: guard })
}

struct UntilDrained {
    body: Body,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
    _guard: GaugeGuard,
}

impl HttpBody for UntilDrained {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // What is there already goes out first, so that no event is cut off that could have been sent.
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => self.drained.as_mut().poll(cx).map(|()| None),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let server = Duration::from_secs(60);
        for (query, wanted) in [
            ("", Some(server)),
            ("timeout=", Some(server)),
            ("timeout=0", Some(server)),
            ("timeout=0s", Some(server)),
            ("timeout=1m30s", Some(server)),
            ("timeout=32s", Some(Duration::from_secs(32))),
            ("timeout=500ms", Some(Duration::from_millis(500))),
            ("timeout=1.5s", Some(Duration::from_millis(1500))),
            ("timeout=5", None),
            ("timeout=-1s", Some(server)),
            ("timeout=soon", None),
        ] {
            assert_eq!(limit(&Query::parse(query), server).ok(), wanted, "{query:?}");
        }
    }
}
