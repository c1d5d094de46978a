//! Answers of a proxied backend, on their way back: links that are absolute at the backend get the proxy's path in front
//! (upstream's `apimachinery/pkg/util/proxy/transport.go`).

use std::io::Read;
use std::net::SocketAddr;

use ::http::header::{self, HeaderValue};
use ::http::{HeaderMap, Request, Response, Uri};
use apimachinery::Status;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, Tokenizer};
use http_body_util::BodyExt;

use super::target::Target;
use crate::http::{Body, BoxError};

/// Pages larger than this, packed or unpacked, are passed on as they are.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// Attributes that hold URLs (HTML 4 and 5).
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// What is known of a proxied request when its answer comes.
#[derive(Clone)]
pub(super) struct Rewriter {
    /// The proxy's path, which stands before every path of the backend.
    prefix: String,
    /// The names of the backend: its address, and the host that the client asked.
    backend: SocketAddr,
    host: String,
}

impl Rewriter {
    /// `path` is that at the backend.
    pub(super) fn new(target: &Target, request: &Request<Body>, path: &str) -> Self {
        let whole = request.uri().path();
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default();
        Self { prefix: whole.strip_suffix(path).unwrap_or(whole).to_owned(), backend: target.address, host: host.to_owned() }
    }

    /// The path that the client sees.
    pub(super) fn forwarded_uri(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A URL as the client must ask for it. Relative ones and those of other hosts stay.
    fn link(&self, url: &str) -> Option<String> {
        let (path, rest) = match url.strip_prefix("//") {
            None if url.starts_with('/') => split_path(url),
            _ => {
                let parsed: Uri = url.parse().ok()?;
                let authority = parsed.authority()?.as_str();
                if authority != self.host && authority != self.backend.to_string() && authority != self.backend.ip().to_string() {
                    return None;
                }
                let start = url.find(authority)? + authority.len();
                split_path(&url[start..])
            }
        };
        if path.is_empty() {
            return None;
        }
        let prefix = if path.starts_with(&self.prefix) { "" } else { self.prefix.as_str() };
        Some(format!("{prefix}{path}{rest}"))
    }

    /// The answer with its links led through the proxy.
    pub(super) async fn rewrite(&self, mut answer: Response<Body>) -> Result<Response<Body>, Status> {
        if let Some(location) = answer.headers().get(header::LOCATION) {
            let location = location.to_str().ok().and_then(|location| self.link(location));
            if let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            return Ok(answer);
        }
        let Some(encoding) = encoding_of_page(answer.headers()) else { return Ok(answer) };
        let (mut head, mut body) = answer.into_parts();
        let read = collect(&mut body).await;
        let (packed, is_whole) =
            read.map_err(|error| Status::service_unavailable(format!("error trying to reach service: {error}")))?;
        if !is_whole {
            return Ok(Response::from_parts(head, prepend(packed, body)));
        }
        let page = match unpack(&packed, &encoding).map(|page| self.page(&page)) {
            Some(page) => pack(&page, &encoding),
            None => packed,
        };
        head.headers.remove(header::CONTENT_LENGTH);
        Ok(Response::from_parts(head, Body::full(page)))
    }

    /// A page with other links; everything else is as it was, byte for byte.
    fn page(&self, page: &[u8]) -> Vec<u8> {
        let (mut attributes, mut is_link): (&[&str], bool) = (&[], false);
        let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, span: Span<usize>| -> Option<(Span<usize>, String)> {
            match event {
                CallbackEvent::OpenStartTag { name } => {
                    attributes = LINKS.iter().find(|(tag, _)| tag.as_bytes() == name).map_or(&[], |(_, attributes)| *attributes);
                }
                CallbackEvent::AttributeName { name } => is_link = attributes.iter().any(|link| link.as_bytes() == name),
                CallbackEvent::AttributeValue { value } if is_link => {
                    return Some((span, self.link(std::str::from_utf8(value).ok()?)?));
                }
                CallbackEvent::CloseStartTag { .. } | CallbackEvent::EndTag { .. } => (attributes, is_link) = (&[], false),
                _ => {}
            }
            None
        });
        // What looks like a tag inside of a script is none.
        emitter.naively_switch_states(true);
        let Ok(text) = std::str::from_utf8(page) else { return page.to_vec() };
        let mut out = Vec::with_capacity(page.len());
        let mut done = 0;
        for (span, link) in Tokenizer::new_with_emitter(text, emitter).flatten() {
            let Some(between) = page.get(done..span.start) else { continue };
            out.extend_from_slice(between);
            out.extend_from_slice(link.replace('&', "&amp;").replace('"', "&#34;").as_bytes());
            done = span.end;
        }
        out.extend_from_slice(page.get(done..).unwrap_or_default());
        out
    }
}

/// The content encoding of a page of HTML, if it is one that can be changed.
fn encoding_of_page(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let media_type = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let encoding = text(header::CONTENT_ENCODING);
    (media_type == "text/html" && matches!(encoding, "" | "gzip" | "deflate")).then(|| encoding.to_owned())
}

/// The path of `/path?query#fragment`, and the rest.
fn split_path(url: &str) -> (&str, &str) {
    url.split_at(url.find(['?', '#']).unwrap_or(url.len()))
}

/// A body up to [`PAGE_BYTES_MAX`]; `false` when there is more to come.
async fn collect(body: &mut Body) -> Result<(Bytes, bool), BoxError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            collected.extend_from_slice(&data);
        }
        if collected.len() > PAGE_BYTES_MAX {
            return Ok((collected.freeze(), false));
        }
    }
    Ok((collected.freeze(), true))
}

/// What was read of a body, and what is still to come.
fn prepend(read: Bytes, rest: Body) -> Body {
    use futures::StreamExt;
    let rest = http_body_util::BodyDataStream::new(rest);
    Body::stream(futures::stream::iter([Ok(read)]).chain(rest))
}

/// `None` when it is not what it says, or too large.
fn unpack(packed: &[u8], encoding: &str) -> Option<Vec<u8>> {
    let mut page = Vec::new();
    let limit = PAGE_BYTES_MAX as u64 + 1;
    let read = match encoding {
        "gzip" => GzDecoder::new(packed).take(limit).read_to_end(&mut page),
        "deflate" => DeflateDecoder::new(packed).take(limit).read_to_end(&mut page),
        _ => return Some(packed.to_vec()),
    };
    read.ok().filter(|length| *length <= PAGE_BYTES_MAX).map(|_| page)
}

fn pack(page: &[u8], encoding: &str) -> Bytes {
    let mut packed = Vec::new();
    let read = match encoding {
        "gzip" => GzEncoder::new(page, Compression::fast()).read_to_end(&mut packed),
        "deflate" => DeflateEncoder::new(page, Compression::best()).read_to_end(&mut packed),
        _ => return Bytes::copy_from_slice(page),
    };
    read.expect("a slice can be read");
    packed.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::target::Transport;

    const PREFIX: &str = "/api/v1/namespaces/n/pods/p/proxy";

    fn rewriter() -> Rewriter {
        let request = Request::builder()
            .uri(format!("{PREFIX}/page"))
            .header("host", "server:6443")
            .body(Body::empty())
            .expect("a request");
        let target = Target { address: "10.0.0.1:80".parse().expect("an address"), transport: Transport::Http };
        Rewriter::new(&target, &request, "/page")
    }

    #[test]
    fn links_of_the_backend_get_the_proxys_path() {
        let check = |url: &str, expected: Option<&str>| {
            assert_eq!(rewriter().link(url), expected.map(|path| format!("{PREFIX}{path}")), "{url}");
        };
        check("/a?b#c", Some("/a?b#c"));
        check("http://10.0.0.1:80/a", Some("/a"));
        check("https://server:6443/a/", Some("/a/"));
        check(&format!("{PREFIX}/a"), Some("/a"));
        check("a/b", None);
        check("../a", None);
        check("#top", None);
        check("mailto:a@b", None);
        check("http://example.com/a", None);
        check("//example.com/a", None);
    }

    #[test]
    fn only_links_of_a_page_change() {
        let page = "<!DOCTYPE html><a class=/x href='/a?b&amp;c'>/a</a ><img SRC=/i.png><script>'<a href=\"/s\">'</script>\n<p href=\"/p\">";
        let expected = format!(
            "<!DOCTYPE html><a class=/x href='{PREFIX}/a?b&amp;c'>/a</a ><img SRC={PREFIX}/i.png><script>'<a href=\"/s\">'</script>\n<p href=\"/p\">"
        );
        assert_eq!(String::from_utf8(rewriter().page(page.as_bytes())).expect("text"), expected);
    }

    #[test]
    fn packed_pages_are_unpacked_and_packed_again() {
        for encoding in ["gzip", "deflate", ""] {
            let packed = pack(b"<p>", encoding);
            assert_eq!(unpack(&packed, encoding).as_deref(), Some(&b"<p>"[..]), "{encoding}");
        }
        assert_eq!(unpack(b"not gzip", "gzip"), None);
        let bomb = pack(&vec![0; PAGE_BYTES_MAX + 1], "gzip");
        assert_eq!(unpack(&bomb, "gzip"), None);
    }
}
