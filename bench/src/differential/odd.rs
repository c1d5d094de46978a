//! `--odd`: a fixed set of requests that random ones never come to (`bench/differential/odd.yaml`): headers, paths, options, bodies as no client
//! library sends them. Beside what random requests compare, the headers of the answers are. What is not compared whole is counted
//! ([`Summary::unseen`]): answers of which only code and headers are (`headOnly`), and requests that neither server answers.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, bail};
use apimachinery::{Value, yaml};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};

use super::Side;
use super::compare::{self, Answer, Days};
use super::data::NAMESPACE;
use super::request::State;
use super::summary::{Summary, Unseen};
use crate::connection::Connection;

const PROBES: &str = include_str!("../../differential/odd.yaml");
/// What an answer may take, watches with their `timeoutSeconds` included.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Headers that are compared.
const HEADERS: [&str; 15] = [
    "accept-ranges",
    "allow",
    "audit-id",
    "cache-control",
    "content-encoding",
    "content-type",
    "date",
    "expires",
    "etag",
    "last-modified",
    "location",
    "retry-after",
    "vary",
    "www-authenticate",
    "x-content-type-options",
];
/// Of these only that they are there.
const MADE_UP: [&str; 5] = ["audit-id", "date", "expires", "etag", "last-modified"];

/// One request, the same for both servers but for `${NAME.PATH}`: what the answer saved under a name has at a path.
#[derive(Clone)]
struct Probe {
    section: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    save: Option<String>,
    /// The body is of no interest.
    head_only: bool,
}

/// An answer with its headers.
struct Seen {
    answer: Answer,
    headers: BTreeMap<&'static str, String>,
}

/// What came of a request.
enum Reply {
    Answer(Box<Seen>),
    /// The connection ended without an answer.
    Dropped,
    /// There was none within [`ANSWER_MAX`].
    Silent,
}

/// What `$large` stands for: more than servers send uncompressed where gzip is asked for.
const LARGE_BYTES: usize = 200_000;

/// All probes, in order.
fn probes() -> anyhow::Result<Vec<Probe>> {
    let document = yaml::parse_one(PROBES.as_bytes()).context("odd.yaml")?;
    let mut all = Vec::new();
    for (number, row) in document.value.as_array().context("odd.yaml is a list")?.iter().enumerate() {
        expand(row, &mut all).with_context(|| format!("odd.yaml, row {number}"))?;
    }
    Ok(all)
}

/// The values of a member, or of its plural; `absent` where there is neither.
fn texts(row: &Value, one: &str, many: &str, absent: &str) -> Vec<Option<String>> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.to_string()),
        other => Some(other.to_json()),
    };
    match (row.get(one), row.get(many)) {
        (None, Some(list)) => list.as_array().unwrap_or_default().iter().map(text).collect(),
        (Some(value), _) => vec![text(value)],
        (None, None) => vec![Some(absent.to_owned()).filter(|absent| !absent.is_empty())],
    }
}

/// A row's probes: each method at each path with each query, header and body.
fn expand(row: &Value, all: &mut Vec<Probe>) -> anyhow::Result<()> {
    const KNOWN: [&str; 15] = [
        "section",
        "method",
        "methods",
        "path",
        "paths",
        "query",
        "queries",
        "accept",
        "accepts",
        "contentType",
        "contentTypes",
        "headers",
        "body",
        "bodies",
        "save",
    ];
    for (key, _) in row.as_object().context("a row is an object")? {
        if !KNOWN.contains(&key.as_str()) && key.as_str() != "headOnly" {
            bail!("{key} means nothing");
        }
    }
    let section = row["section"].as_str().context("no section")?;
    let save = row["save"].as_str().map(str::to_owned);
    let fixed: Vec<(String, String)> = row["headers"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            (name.to_string(), value.as_str().map_or_else(|| value.to_json(), str::to_owned).replace("$ns", NAMESPACE))
        })
        .collect();
    let content_type = if row.get("body").is_some() || row.get("bodies").is_some() { "application/json" } else { "" };
    for method in texts(row, "method", "methods", "GET") {
        for path in texts(row, "path", "paths", "/") {
            for query in texts(row, "query", "queries", "") {
                for accept in texts(row, "accept", "accepts", "application/json") {
                    for content_type in texts(row, "contentType", "contentTypes", content_type) {
                        for body in texts(row, "body", "bodies", "") {
                            let mut headers = fixed.clone();
                            headers.extend(accept.clone().map(|value| ("accept".to_owned(), value)));
                            headers.extend(content_type.clone().map(|value| ("content-type".to_owned(), value)));
                            let path = path.clone().unwrap_or_default();
                            let path = query.as_ref().map_or(path.clone(), |query| format!("{path}?{query}"));
                            all.push(Probe {
                                section: section.to_owned(),
                                method: method.clone().unwrap_or_default(),
                                path: path.replace("$ns", NAMESPACE),
                                headers,
                                body: body.map(|body| body.replace("$ns", NAMESPACE).replace("$large", &"x".repeat(LARGE_BYTES))),
                                save: save.clone(),
                                head_only: row["headOnly"].as_bool() == Some(true),
                            });
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// A server, and what its answers were that others refer to.
struct Player<'a> {
    side: &'a mut Side,
    saved: BTreeMap<String, Value>,
}

impl Player<'_> {
    /// Puts in what was saved.
    fn fill(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((name, after)) = after.split_once('}') else { break };
            let mut steps = name.split('.');
            let saved = steps.next().and_then(|first| self.saved.get(first));
            let found = saved.and_then(|saved| steps.try_fold(saved, |value, step| value.get(step)));
            out.push_str(found.and_then(Value::as_str).unwrap_or_default());
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn request(&self, probe: &Probe) -> anyhow::Result<Request<Full<Bytes>>> {
        let body = probe.body.as_deref().map(|body| self.fill(body)).unwrap_or_default();
        let mut request = self.side.connection.request(Method::from_bytes(probe.method.as_bytes())?, &self.fill(&probe.path));
        for (name, value) in &probe.headers {
            let value = HeaderValue::from_bytes(self.fill(value).as_bytes())?;
            request = match (name.as_str(), value.is_empty()) {
                // Nobody.
                ("authorization", true) => {
                    if let Some(headers) = request.headers_mut() {
                        headers.remove("authorization");
                    }
                    request
                }
                _ => request.header(HeaderName::from_bytes(name.as_bytes())?, value),
            };
        }
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }

    async fn send(&mut self, probe: &Probe) -> anyhow::Result<Reply> {
        let request = self.request(probe)?;
        let answered = async {
            let response = self.side.connection.send(request).await?;
            read(response, &self.side.target.address).await
        };
        let reply = match tokio::time::timeout(ANSWER_MAX, answered).await {
            Ok(Ok(seen)) => {
                if let Some(name) = &probe.save {
                    self.saved.insert(name.clone(), seen.answer.body.clone());
                }
                return Ok(Reply::Answer(Box::new(seen)));
            }
            Ok(Err(_)) => Reply::Dropped,
            Err(_) => Reply::Silent,
        };
        self.side.connection = Connection::open(&self.side.target).await.context("the server is gone")?;
        Ok(reply)
    }
}

async fn read(response: Response<hyper::body::Incoming>, address: &str) -> anyhow::Result<Seen> {
    let code = response.status().as_u16();
    let headers = shown(response.headers());
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    let gzip = response.headers().get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let bytes = response.into_body().collect().await?.to_bytes();
    let bytes = if gzip && !bytes.is_empty() { unpacked(&bytes)? } else { bytes };
    // Some answers say where the server is.
    let bytes = match std::str::from_utf8(&bytes) {
        Ok(text) if text.contains(address) => Bytes::from(text.replace(address, "ADDRESS:PORT")),
        _ => bytes,
    };
    let (body, text) = compare::decoded(&bytes);
    Ok(Seen { answer: Answer { code, body, text, warnings }, headers })
}

fn unpacked(bytes: &[u8]) -> anyhow::Result<Bytes> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).context("the answer is no gzip")?;
    Ok(plain.into())
}

fn shown(headers: &HeaderMap) -> BTreeMap<&'static str, String> {
    let mut shown = BTreeMap::new();
    for name in HEADERS {
        let values: Vec<String> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        if !values.is_empty() {
            shown.insert(name, if MADE_UP.contains(&name) { "<made up>".to_owned() } else { values.join(" | ") });
        }
    }
    shown
}

/// Sends them all.
pub(super) async fn run(theirs: &mut Side, ours: &mut Side, days: &Days, summary: &mut Summary) -> anyhow::Result<()> {
    let mut theirs = Player { side: theirs, saved: BTreeMap::new() };
    let mut ours = Player { side: ours, saved: BTreeMap::new() };
    for probe in probes()? {
        let (their, our) = (theirs.send(&probe).await?, ours.send(&probe).await?);
        let text = format!("{} {}\n{:?}\n{}", probe.method, probe.path, probe.headers, probe.body.as_deref().unwrap_or_default());
        let (their, our) = match (their, our) {
            (Reply::Answer(their), Reply::Answer(our)) => (their, our),
            (their, our) => {
                note_unanswered(&probe, &their, &our, &text, summary);
                continue;
            }
        };
        let mut differences = headers_that_differ(&their.headers, &our.headers);
        if probe.head_only {
            summary.unseen(Unseen::Body);
            if their.answer.code != our.answer.code {
                differences.push(format!("code {} is {}", their.answer.code, our.answer.code));
            }
        } else {
            let left = compare::normalized(&their.answer, &State::of(&theirs.saved), &text, days);
            let right = compare::normalized(&our.answer, &State::of(&ours.saved), &text, days);
            differences.extend(compare::differences(&left, &right));
        }
        let example = match differences.is_empty() {
            true => String::new(),
            false => {
                let plain = super::example(&text, &their.answer, &our.answer);
                format!("{plain}\nupstream: {:?}\nours:     {:?}", their.headers, our.headers)
            }
        };
        summary.add(&probe.section, VERB, their.answer.code < 300, &titled(&probe, &differences), &example);
    }
    Ok(())
}

/// What the summary calls all of them.
const VERB: &str = "odd";

/// One line for each request: what is asked is the whole point here.
fn titled(probe: &Probe, differences: &[String]) -> Vec<String> {
    differences.iter().map(|difference| format!("{} {} {difference}", probe.method, probe.path)).collect()
}

/// Of two replies, at least one of which is no answer. The same silence is not compared; where upstream drops the connection (a panic), ours has
/// to answer an error; all else is different.
fn note_unanswered(probe: &Probe, theirs: &Reply, ours: &Reply, text: &str, summary: &mut Summary) {
    let told = |reply: &Reply| match reply {
        Reply::Answer(seen) => format!("code {}", seen.answer.code),
        Reply::Dropped => "no answer, the connection dropped".to_owned(),
        Reply::Silent => "no answer in time".to_owned(),
    };
    match (theirs, ours) {
        (Reply::Dropped, Reply::Dropped) | (Reply::Silent, Reply::Silent) => summary.unseen(Unseen::Answer),
        (Reply::Dropped, Reply::Answer(ours)) if ours.answer.code >= 400 => {
            summary.dropped += 1;
            summary.dropped_answered += 1;
        }
        _ => {
            let difference = format!("{} is {}", told(theirs), told(ours));
            summary.add(&probe.section, VERB, false, &titled(probe, &[difference]), text);
        }
    }
}

fn headers_that_differ(theirs: &BTreeMap<&'static str, String>, ours: &BTreeMap<&'static str, String>) -> Vec<String> {
    let of = |all: &BTreeMap<&'static str, String>, name: &str| all.get(name).cloned().unwrap_or_else(|| "(none)".to_owned());
    let differing = HEADERS.iter().filter(|name| theirs.get(**name) != ours.get(**name));
    differing.map(|name| format!("header {name}: {} is {}", of(theirs, name), of(ours, name))).collect()
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn rows_make_all_combinations() {
        let row = value!({"section": "a", "methods": ["GET", "HEAD"], "path": "/x/$ns", "queries": [null, "a=b"], "accepts": [null, "b/c"]});
        let mut all = Vec::new();
        expand(&row, &mut all).expect("a good row");
        assert_eq!(all.len(), 8);
        assert_eq!((all[0].method.as_str(), all[0].path.as_str(), all[0].headers.len()), ("GET", "/x/differential", 0));
        assert_eq!((all[7].method.as_str(), all[7].path.as_str()), ("HEAD", "/x/differential?a=b"));
        assert_eq!(all[7].headers, [("accept".to_owned(), "b/c".to_owned())]);
        assert!(expand(&value!({"section": "a", "pth": "/"}), &mut all).is_err());
    }

    #[test]
    fn all_rows_are_readable() {
        assert!(probes().expect("readable").len() > 100);
    }

    #[test]
    fn silence_is_told() {
        let mut all = Vec::new();
        expand(&value!({"section": "a", "path": "/x"}), &mut all).expect("a good row");
        let reply = |code: u16| match code {
            0 => Reply::Dropped,
            1 => Reply::Silent,
            code => {
                let answer = Answer { code, body: Value::Null, text: String::new(), warnings: Vec::new() };
                Reply::Answer(Box::new(Seen { answer, headers: BTreeMap::new() }))
            }
        };
        let cases = [
            (0, 0, None),
            (1, 1, None),
            (0, 500, None),
            (0, 200, Some("no answer, the connection dropped is code 200")),
            (1, 500, Some("no answer in time is code 500")),
            (0, 1, Some("no answer, the connection dropped is no answer in time")),
            (200, 0, Some("code 200 is no answer, the connection dropped")),
            (200, 1, Some("code 200 is no answer in time")),
        ];
        for (theirs, ours, expected) in cases {
            let mut summary = Summary::default();
            note_unanswered(&all[0], &reply(theirs), &reply(ours), "", &mut summary);
            let told = summary.text(1);
            match expected {
                Some(difference) => assert!(told.contains(&format!("odd: GET /x {difference}  [a]")), "{told}"),
                None => assert_eq!(summary.total().requests, 0, "{told}"),
            }
            assert_eq!(told.contains("1 requests that neither answered"), theirs == ours, "{told}");
        }
    }

    #[test]
    fn what_is_packed_is_compared() {
        let mut packer = flate2::read::GzEncoder::new(&b"{\"a\":1}"[..], flate2::Compression::fast());
        let mut packed = Vec::new();
        packer.read_to_end(&mut packed).expect("packed");
        assert_eq!(compare::decoded(&unpacked(&packed).expect("gzip")).0, value!({"a": 1}));
        assert!(unpacked(b"plain").is_err());
    }

    #[test]
    fn headers() {
        let of = |value: &str| BTreeMap::from([("vary", value.to_owned())]);
        assert_eq!(headers_that_differ(&of("Accept"), &BTreeMap::new()), ["header vary: Accept is (none)"]);
        assert!(headers_that_differ(&of("a"), &of("a")).is_empty());
    }
}
