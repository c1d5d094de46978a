//! Requests before they are sent: the same for both servers, but for what each server made up itself (uid, resourceVersion, its own state of
//! the object).

use apimachinery::Value;
use bytes::Bytes;
use hyper::Method;

use super::edit::{self, Edit};
use crate::connection::Call;

pub(super) const JSON: &str = "application/json";

/// What a body is made of.
#[derive(Clone)]
pub(super) enum Body {
    None,
    /// Text in which `$uid`, `$rv` and `$first` (the resourceVersion at first) stand for the server's own.
    Text(&'static str, String),
    /// The object as this server has it, changed.
    Current(Vec<Edit>),
}

/// A request.
#[derive(Clone)]
pub(super) struct Request {
    /// `create`, `patch merge`: what the summary calls it.
    pub(super) verb: &'static str,
    pub(super) method: Method,
    pub(super) path: String,
    /// Not yet escaped.
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Body,
    pub(super) accept: &'static str,
}

/// What one server made up in this scenario.
#[derive(Default)]
pub(super) struct State {
    /// The object as it was answered last.
    pub(super) object: Option<Value>,
    /// The resourceVersion that it was made with.
    pub(super) first: String,
    /// Addresses and ports in it that the server chose.
    pub(super) chosen: Vec<Value>,
}

/// The addresses and ports of a new object that the request for it did not name.
pub(super) fn chosen(object: &Value, request: &str) -> Vec<Value> {
    let spec = &object["spec"];
    let ports = spec.array_at(&["ports"]).iter().map(|port| &port["nodePort"]);
    let all = [&spec["clusterIP"], &spec["clusterIPs"], &spec["healthCheckNodePort"]].into_iter().chain(ports);
    all.filter(|value| !value.is_zero() && **value != "None" && !request.contains(&value.to_json())).cloned().collect()
}

impl State {
    /// Of the objects that were saved by name: the one called `object`.
    pub(super) fn of(saved: &std::collections::BTreeMap<String, Value>) -> State {
        State { object: saved.get("object").cloned(), ..State::default() }
    }

    pub(super) fn uid(&self) -> &str {
        self.object.as_ref().map_or("", |object| object.meta().uid())
    }

    pub(super) fn resource_version(&self) -> &str {
        self.object.as_ref().map_or("", |object| object.meta().resource_version())
    }

    fn fill(&self, text: &str) -> String {
        text.replace("$uid", self.uid()).replace("$rv", self.resource_version()).replace("$first", &self.first)
    }
}

impl Request {
    /// As it goes to a server in this state; `None` if it needs an object that is not there.
    pub(super) fn call(&self, state: &State) -> Option<Call> {
        let body = match &self.body {
            Body::None => None,
            Body::Text(content_type, text) => Some((*content_type, Bytes::from(state.fill(text)))),
            Body::Current(edits) => {
                let mut object = state.object.clone()?;
                if let Some(metadata) = object.get_mut("metadata") {
                    metadata.remove("managedFields");
                }
                edits.iter().for_each(|edit| edit.apply(&mut object));
                Some((JSON, Bytes::from(edit::to_text(&object))))
            }
        };
        let query: Vec<String> = self.query.iter().map(|(key, value)| format!("{key}={}", escape(&state.fill(value)))).collect();
        let path = if query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, query.join("&")) };
        Some(Call { method: self.method.clone(), path, body, accept: self.accept, gzip: false })
    }
}

/// For a query.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
