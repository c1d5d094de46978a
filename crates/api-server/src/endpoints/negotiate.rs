//! Which form a client wants the answer in (<https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources>).

use std::borrow::Cow;

use apimachinery::{Status, cbor};
use http::HeaderMap;
use http::header::ACCEPT;

use crate::gates::Feature;
use crate::http::{Query, RequestContext, RequestInfo};

/// The encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

/// The shape of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    Object,
    /// A Table, in this version of meta.k8s.io.
    Table(&'static str),
    /// Only the metadata, of objects or of a list's items.
    Metadata(&'static str),
    /// Metadata of a list where there is an object, or the other way round: found out when there is something to answer with.
    Misfit,
}

/// What the client accepts best of what we can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    pub(crate) pretty: bool,
}

/// What answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One object, or a watch of objects.
    Object,
    /// A list.
    List,
    /// Something that has no other shapes (discovery, reviews).
    Fixed,
    /// A failure, which is not asked to be anything else.
    Error,
}

/// What the server can read and write, for errors. CBOR is behind its gate.
pub(super) fn supported(context: &RequestContext) -> &'static [&'static str] {
    const ALL: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", cbor::MEDIA_TYPE];
    if context.gates.has(Feature::CborServingAndStorage) { ALL } else { &ALL[..3] }
}

/// What it can write as a stream. CBOR is behind its gate.
pub(super) fn streamed(context: &RequestContext) -> &'static [&'static str] {
    if context.gates.has(Feature::CborServingAndStorage) { &STREAMS } else { &STREAMS[..2] }
}

const STREAMS: [&str; 3] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", cbor::SEQUENCE_MEDIA_TYPE];

impl Accepted {
    /// Whether the cache's JSON can be sent as it is.
    pub(crate) fn is_plain_json(self) -> bool {
        self.format == Format::Json && self.shape == Shape::Object && !self.pretty
    }
}

/// Chooses from the `Accept` header.
pub(crate) fn negotiate(headers: &HeaderMap, context: &RequestContext, answer: Answer) -> Result<Accepted, Status> {
    choose(headers, context, answer).ok_or_else(|| Status::only_accepted(supported(context)))
}

/// Chooses for a watch: YAML cannot be streamed.
pub(crate) fn negotiate_stream(headers: &HeaderMap, context: &RequestContext) -> Result<Accepted, Status> {
    let accepted = negotiate(headers, context, Answer::Object)?;
    match accepted.format {
        Format::Yaml => Err(Status::only_accepted(&STREAMS[..2])),
        _ => Ok(accepted),
    }
}

fn choose(headers: &HeaderMap, context: &RequestContext, answer: Answer) -> Option<Accepted> {
    let pretty = is_pretty(headers, &context.query);
    let Some(text) = accept_header(headers) else {
        return Some(Accepted { format: Format::Json, shape: Shape::Object, pretty });
    };
    let choose = |clause: &Clause| {
        let pretty = pretty || clause.parameter("pretty") == Some("1");
        let format =
            clause.format().filter(|format| *format != Format::Cbor || context.gates.has(Feature::CborServingAndStorage))?;
        let shape = clause.shape(answer).filter(|shape| !matches!(shape, Shape::Table(_)) || has_tables(&context.info))?;
        Some(Accepted { format, shape, pretty })
    };
    clauses(text).iter().find_map(choose)
}

/// Whether what is asked for is shown in tables: some subresources are not (upstream's have no `ConvertToTable`).
fn has_tables(info: &RequestInfo) -> bool {
    !matches!(
        (info.resource.as_str(), info.subresource.as_str()),
        (_, "approval" | "ephemeralcontainers" | "finalize" | "resize")
            | ("apiservices" | "devicetaintrules" | "resourceclaims", "status")
    )
}

/// The encoding that a client wants discovery in one document in; `None` when it does not ask for that. Like upstream, any clause that
/// does counts, whatever comes before it; the beta version is not served any more.
pub(crate) fn negotiate_aggregated(headers: &HeaderMap) -> Option<Format> {
    let wanted = [("g", "apidiscovery.k8s.io"), ("v", "v2"), ("as", "APIGroupDiscoveryList")];
    let clauses = clauses(accept_header(headers)?);
    let mut asking = clauses.iter().filter(|clause| wanted.iter().all(|(key, value)| clause.parameter(key) == Some(*value)));
    asking.find_map(Clause::format)
}

/// The media types that a client accepts, best first, without parameters; everything if it does not say.
pub(crate) fn accepted_media_types(headers: &HeaderMap) -> Vec<Cow<'_, str>> {
    let of = |text| clauses(text).into_iter().map(|clause| clause.media_type).collect();
    accept_header(headers).map_or_else(|| vec!["*/*".into()], of)
}

/// The header's first value, as upstream; an empty one says nothing.
fn accept_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty())
}

/// Whether JSON is indented: what `pretty` says, if it says something, or who asks.
fn is_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(value) = query.non_empty("pretty") {
        // Go's ParseBool; what it does not know is false.
        return matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True");
    }
    let agent = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

/// The header's clauses, best first: by quality, then exact types before wildcards, by the library's own comparison and, as its sort
/// for so few, by insertion.
fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut sorted: Vec<Clause> = Vec::new();
    for clause in text.split(',').filter_map(Clause::parse) {
        let before = sorted.iter().rposition(|other| !clause.is_better_than(other));
        sorted.insert(before.map_or(0, |at| at + 1), clause);
    }
    sorted
}

struct Clause<'a> {
    media_type: Cow<'a, str>,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Clause<'a>> {
        let mut parts = text.split(';').map(|part| part.trim_matches(' '));
        let text = parts.next()?;
        let (main, sub) = text.split_once('/').unwrap_or((text, ""));
        let main = main.trim_matches(' ');
        let sub = match sub.split_once('/').unwrap_or((sub, "")) {
            ("", _) if main == "*" => "*",
            ("", _) => return None,
            (sub, "") => sub.trim_matches(' '),
            _ => return None,
        };
        let plain = text.len() == main.len() + 1 + sub.len();
        let media_type = if plain { Cow::Borrowed(text) } else { Cow::Owned(format!("{main}/{sub}")) };
        let mut clause = Clause { media_type, parameters: Vec::new(), quality: 1.0 };
        for (key, value) in parts.filter_map(|part| part.split_once('=')).filter(|(_, value)| !value.is_empty()) {
            // A second equals sign makes it none, unless nothing follows.
            let Some(value) = (match value.split_once('=') {
                None => Some(value),
                Some((value, "")) => Some(value),
                Some(_) => None,
            }) else {
                continue;
            };
            match key.trim_matches(' ') {
                // Go's ParseFloat gives zero for what is no number.
                "q" => clause.quality = value.parse().unwrap_or(0.0),
                key => clause.parameters.push((key, value.trim_matches(' '))),
            }
        }
        Some(clause)
    }

    fn is_better_than(&self, other: &Clause) -> bool {
        let wild = |clause: &Clause| (clause.media_type.starts_with('*'), clause.media_type.ends_with("/*"));
        let (own, others) = (wild(self), wild(other));
        self.quality > other.quality || (!own.0 && others.0) || (!own.1 && others.1)
    }

    fn format(&self) -> Option<Format> {
        match &*self.media_type {
            "application/json" | "application/*" | "*/*" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
            cbor::MEDIA_TYPE => Some(Format::Cbor),
            _ => None,
        }
    }

    fn parameter(&self, key: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(have, _)| *have == key).map(|(_, value)| *value)
    }

    /// `None` when a parameter asks for something that is not there: the clause does not count then.
    fn shape(&self, answer: Answer) -> Option<Shape> {
        let stream = self.parameter("stream");
        if stream.is_some_and(|stream| stream != "watch" || self.format() == Some(Format::Yaml))
            || self.parameter("sv").is_some_and(|version| version != "v1" || matches!(answer, Answer::Fixed | Answer::Error))
        {
            return None;
        }
        let (shape, group, version) = (self.parameter("as"), self.parameter("g"), self.parameter("v"));
        if shape.is_none() && group.is_none() && version.is_none() {
            return Some(Shape::Object);
        }
        if group != Some("meta.k8s.io") {
            return None;
        }
        let version = match version? {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => return None,
        };
        match (shape?, answer) {
            // A Table's cells are of any type, which protobuf cannot write.
            ("Table", Answer::Object | Answer::List) if self.format() != Some(Format::Protobuf) => Some(Shape::Table(version)),
            ("PartialObjectMetadata", Answer::Object) | ("PartialObjectMetadataList", Answer::List) => {
                Some(Shape::Metadata(version))
            }
            ("PartialObjectMetadata", Answer::List) | ("PartialObjectMetadataList", Answer::Object) => Some(Shape::Misfit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::UserInfo;

    fn check(accept: &str, answer: Answer, expected: Option<(Format, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header"));
        let info = RequestInfo::new(&http::Method::GET, "/api", &Query::default()).expect("a path");
        let mut context = RequestContext::internal(UserInfo::anonymous(), info);
        let got = |context: &RequestContext| {
            negotiate(&headers, context, answer).ok().map(|accepted| (accepted.format, accepted.shape))
        };
        assert_eq!(got(&context), expected, "{accept}");
        context.gates = context.gates.with(Feature::CborServingAndStorage, true);
        let cbor = accept.contains("cbor").then_some((Format::Cbor, Shape::Object));
        assert_eq!(got(&context), cbor.or(expected), "{accept}");
    }

    #[test]
    fn chooses_what_clients_send() {
        let kubectl =
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, Answer::List, Some((Format::Json, Shape::Table("v1"))));
        check(kubectl, Answer::Fixed, Some((Format::Json, Shape::Object)));
        check("application/vnd.kubernetes.protobuf,application/json", Answer::List, Some((Format::Protobuf, Shape::Object)));
        let table =
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io";
        check(table, Answer::List, Some((Format::Json, Shape::Table("v1"))));
        // CBOR is alpha, and off.
        check("application/cbor", Answer::List, None);
        check("application/cbor,application/json;q=0.1", Answer::List, Some((Format::Json, Shape::Object)));
        check("json", Answer::List, None);
        check("*/json", Answer::List, None);
        check("application / json", Answer::List, Some((Format::Json, Shape::Object)));
        check("*/", Answer::List, Some((Format::Json, Shape::Object)));
        check("application/yaml;q=1=2,application/json", Answer::List, Some((Format::Yaml, Shape::Object)));
        check("*", Answer::List, Some((Format::Json, Shape::Object)));
        check("*/*,application/yaml", Answer::List, Some((Format::Yaml, Shape::Object)));
        check("application/*;q=0.9, application/yaml;q=0.2", Answer::List, Some((Format::Yaml, Shape::Object)));
        check("application/yaml;q=nonsense,application/json;q=0.3", Answer::List, Some((Format::Json, Shape::Object)));
        check("application/yaml;stream=watch", Answer::Object, None);
        check("application/json;stream=watch", Answer::Object, Some((Format::Json, Shape::Object)));
        check("application/json;stream=other", Answer::Object, None);
        check("application/json;v=v1", Answer::Object, None);
        check("text/html, */*;q=0.8", Answer::Object, Some((Format::Json, Shape::Object)));
        check("application/json;q=0.5,application/yaml", Answer::Object, Some((Format::Yaml, Shape::Object)));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        check(metadata, Answer::List, Some((Format::Json, Shape::Metadata("v1"))));
        check(metadata, Answer::Object, Some((Format::Json, Shape::Misfit)));
    }

    #[test]
    fn some_subresources_have_no_tables() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let headers = HeaderMap::from_iter([(ACCEPT, http::HeaderValue::from_static(table))]);
        for (path, expected) in [
            ("/api/v1/namespaces/n/pods/p", true),
            ("/api/v1/namespaces/n/pods/p/status", true),
            ("/api/v1/namespaces/n/pods/p/ephemeralcontainers", false),
            ("/api/v1/namespaces/n/pods/p/resize", false),
            ("/apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval", false),
            ("/apis/resource.k8s.io/v1/namespaces/n/resourceclaims/c", true),
            ("/apis/resource.k8s.io/v1/namespaces/n/resourceclaims/c/status", false),
            ("/apis/apps/v1/namespaces/n/deployments/d/scale", true),
        ] {
            let info = RequestInfo::new(&http::Method::GET, path, &Query::default()).expect("a path");
            let context = RequestContext::internal(UserInfo::anonymous(), info);
            assert_eq!(negotiate(&headers, &context, Answer::Object).is_ok(), expected, "{path}");
        }
    }

    #[test]
    fn pretty_is_said_or_guessed() {
        let pretty = |agent: &'static str, query: &str, accept: &'static str| {
            let headers = HeaderMap::from_iter([
                (http::header::USER_AGENT, http::HeaderValue::from_static(agent)),
                (ACCEPT, http::HeaderValue::from_static(accept)),
            ]);
            let info = RequestInfo::new(&http::Method::GET, "/api", &Query::default()).expect("a path");
            let mut context = RequestContext::internal(UserInfo::anonymous(), info);
            context.query = std::sync::Arc::new(Query::parse(query));
            negotiate(&headers, &context, Answer::Object).expect("JSON").pretty
        };
        for (agent, query, accept, expected) in [
            ("kubectl/v1.35", "", "application/json", false),
            ("kubectl/v1.35", "pretty=true", "application/json", true),
            ("kubectl/v1.35", "pretty=yes", "application/json", false),
            ("kubectl/v1.35", "", "application/json;pretty=1", true),
            ("curl/8", "", "*/*", true),
            ("curl/8", "pretty=", "*/*", true),
            ("curl/8", "pretty=0", "*/*", false),
        ] {
            assert_eq!(pretty(agent, query, accept), expected, "{agent} {query} {accept}");
        }
    }

    #[test]
    fn discovery_in_one_document_is_asked_for() {
        let asked = |accept: &'static str| {
            negotiate_aggregated(&HeaderMap::from_iter([(ACCEPT, http::HeaderValue::from_static(accept))]))
        };
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert_eq!(asked(v2), Some(Format::Json));
        assert_eq!(
            asked("application/json, application/vnd.kubernetes.protobuf;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io"),
            Some(Format::Protobuf)
        );
        assert_eq!(asked("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"), None);
        assert_eq!(asked("application/json"), None);
    }
}
