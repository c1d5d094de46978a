//! Compressed answers for clients that accept gzip, as upstream's `APIResponseCompression`: objects and lists above 128 KiB, at the
//! fastest level, block by block, so that no list is held as a whole. Watches, logs and proxied answers go as they are.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;

use crate::http::{Body, BoxError, RequestInfo, Verb};

/// Smaller answers are not worth it.
const THRESHOLD_BYTES: usize = 128 * 1024;

/// Whether the client takes gzip for an answer of this kind.
pub(super) fn is_wanted(headers: &HeaderMap, info: &RequestInfo) -> bool {
    let whole_objects = info.is_resource && info.verb != Verb::Watch && matches!(info.subresource.as_str(), "" | "status");
    whole_objects && accepts_gzip(headers)
}

/// Whether the client takes gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let names_gzip = |clause: &str| clause.split(';').next().is_some_and(|name| name.trim() == "gzip");
    values.any(|value| value.split(',').any(names_gzip))
}

/// Compresses the body if it is large; reads it only as far as needed to know.
pub(super) async fn compress(response: Response<Body>) -> Response<Body> {
    let (mut parts, mut body) = response.into_parts();
    let mut begun = BytesMut::new();
    while begun.len() <= THRESHOLD_BYTES {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    begun.extend_from_slice(&data);
                }
            }
            Some(Err(error)) => {
                // What came before the failure is sent, then the client sees it, as without compression.
                let failed = futures::stream::iter([Ok(begun.freeze()), Err(error)]);
                return Response::from_parts(parts, Body::stream(failed));
            }
            None => return Response::from_parts(parts, Body::full(begun.freeze())),
        }
    }
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let state = Some((GzEncoder::new(Vec::new(), Compression::fast()), begun.freeze(), body));
    let stream = futures::stream::unfold(state, |state| async move {
        let (mut encoder, mut block, mut body) = state?;
        loop {
            if let Err(error) = encoder.write_all(&block) {
                return Some((Err(error.into()), None));
            }
            if !encoder.get_ref().is_empty() {
                let out = Bytes::from(std::mem::take(encoder.get_mut()));
                return Some((Ok(out), Some((encoder, Bytes::new(), body))));
            }
            match body.frame().await {
                Some(Ok(frame)) => block = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Some((Err(error), None)),
                None => return Some((encoder.finish().map(Bytes::from).map_err(BoxError::from), None)),
            }
        }
    });
    Response::from_parts(parts, Body::stream(stream))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::http::Query;

    async fn bytes(response: Response<Body>) -> Bytes {
        response.into_body().collect().await.expect("a whole body").to_bytes()
    }

    fn blocks(count: usize) -> Response<Body> {
        let block = |index: usize| Ok(Bytes::from(format!("block {index}; ").repeat(1_000)));
        Response::new(Body::stream(futures::stream::iter((0..count).map(block).collect::<Vec<Result<Bytes, BoxError>>>())))
    }

    #[tokio::test]
    async fn large_answers_come_back_whole() {
        let plain = bytes(blocks(100)).await;
        let compressed = compress(blocks(100)).await;
        assert_eq!(compressed.headers()[CONTENT_ENCODING], "gzip");
        let compressed = bytes(compressed).await;
        assert!(compressed.len() < plain.len() / 10, "{} of {}", compressed.len(), plain.len());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(compressed.as_ref()).read_to_end(&mut back).expect("gzip");
        assert_eq!(back, plain);
    }

    #[tokio::test]
    async fn small_answers_stay_as_they_are() {
        let response = compress(blocks(3)).await;
        assert!(!response.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(bytes(response).await, bytes(blocks(3)).await);
    }

    #[tokio::test]
    async fn failures_are_seen() {
        let failing = futures::stream::iter([Ok(Bytes::from(vec![7; 200_000])), Err(BoxError::from("broken"))]);
        let response = compress(Response::new(Body::stream(failing))).await;
        assert!(response.into_body().collect().await.is_err());
    }

    #[test]
    fn only_what_asks_for_it() {
        let wanted = |accepted: &'static str, url: &str| {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let info = RequestInfo::new(&http::Method::GET, path, &Query::parse(query)).expect("a valid path");
            is_wanted(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accepted))]), &info)
        };
        let pods = "/api/v1/namespaces/a/pods";
        for (accepted, expected) in [("gzip", true), ("deflate, gzip;q=1.0", true), ("br", false), ("x-gzip", false)] {
            assert_eq!(wanted(accepted, pods), expected, "{accepted}");
        }
        for (url, expected) in [("/p/status", true), ("/p/log", false), ("/p/proxy/x", false), ("?watch=1", false)] {
            assert_eq!(wanted("gzip", &format!("{pods}{url}")), expected, "{url}");
        }
    }
}
