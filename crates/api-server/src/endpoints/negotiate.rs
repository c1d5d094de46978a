//! Which form a client wants the answer in (<https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources>).

use apimachinery::Status;
use http::HeaderMap;
use http::header::ACCEPT;

use crate::http::Query;

/// The encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
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
}

/// What the server can write, for errors.
const SUPPORTED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

impl Accepted {
    /// Whether the cache's JSON can be sent as it is.
    pub(crate) fn is_plain_json(self) -> bool {
        self.format == Format::Json && self.shape == Shape::Object && !self.pretty
    }
}

/// Chooses from the `Accept` header.
pub(crate) fn negotiate(headers: &HeaderMap, query: &Query, answer: Answer) -> Result<Accepted, Status> {
    let agent = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let by_agent = ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix));
    let pretty = query.flag("pretty").unwrap_or(by_agent);
    let mut accepted = false;
    let mut clauses: Vec<Clause> = Vec::new();
    for value in headers.get_all(ACCEPT) {
        accepted = true;
        clauses.extend(value.to_str().unwrap_or_default().split(',').filter_map(Clause::parse));
    }
    if !accepted || clauses.is_empty() {
        return Ok(Accepted { format: Format::Json, shape: Shape::Object, pretty });
    }
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let choose = |clause: &Clause| Some(Accepted { format: clause.format()?, shape: clause.shape(answer)?, pretty });
    clauses.iter().find_map(choose).ok_or_else(|| Status::not_acceptable(SUPPORTED))
}

struct Clause<'a> {
    media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Clause<'a>> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().filter(|media_type| !media_type.is_empty())?;
        let mut clause = Clause { media_type, parameters: Vec::new(), quality: 1.0 };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key {
                "q" => clause.quality = value.parse().unwrap_or(1.0),
                _ => clause.parameters.push((key, value.trim_matches('"'))),
            }
        }
        Some(clause)
    }

    fn format(&self) -> Option<Format> {
        match self.media_type {
            "application/json" | "application/*" | "*/*" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
            _ => None,
        }
    }

    fn parameter(&self, key: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(have, _)| *have == key).map(|(_, value)| *value)
    }

    fn shape(&self, answer: Answer) -> Option<Shape> {
        let Some(shape) = self.parameter("as") else { return Some(Shape::Object) };
        if self.parameter("g") != Some("meta.k8s.io") {
            return None;
        }
        let version = match self.parameter("v")? {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => return None,
        };
        match (shape, answer) {
            // A Table's cells are of any type, which protobuf cannot write.
            ("Table", Answer::Object | Answer::List) if self.format() != Some(Format::Protobuf) => Some(Shape::Table(version)),
            ("PartialObjectMetadata", Answer::Object) | ("PartialObjectMetadataList", Answer::List) => {
                Some(Shape::Metadata(version))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, answer: Answer, expected: Option<(Format, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header"));
        let got = negotiate(&headers, &Query::default(), answer).ok().map(|accepted| (accepted.format, accepted.shape));
        assert_eq!(got, expected, "{accept}");
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
        check("application/cbor", Answer::List, None);
        check("text/html, */*;q=0.8", Answer::Object, Some((Format::Json, Shape::Object)));
        check("application/json;q=0.5,application/yaml", Answer::Object, Some((Format::Yaml, Shape::Object)));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        check(metadata, Answer::List, Some((Format::Json, Shape::Metadata("v1"))));
        check(metadata, Answer::Object, None);
    }
}
