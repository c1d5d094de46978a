//! The `Status` error (metav1.Status): the one place where reasons, codes and messages of API errors are made, each as
//! upstream's `api/errors` makes it.

use std::fmt;

use crate::{GroupKind, GroupResource, Value, field, go_quote, value};

macro_rules! reasons {
    ($($name:ident = $code:literal),* $(,)?) => {
        /// Why a request failed, in one word (metav1.StatusReason).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
        pub enum Reason {
            /// No reason given.
            #[default]
            Unknown,
            $(#[doc = concat!("HTTP ", stringify!($code), ".")] $name),*
        }

        impl Reason {
            /// The word; empty for unknown.
            pub fn as_str(self) -> &'static str {
                match self { Reason::Unknown => "", $(Reason::$name => stringify!($name)),* }
            }

            /// The reason for a word; [`Reason::Unknown`] for one that is not known.
            pub fn parse(text: &str) -> Reason {
                match text { $(stringify!($name) => Reason::$name,)* _ => Reason::Unknown }
            }

            /// The HTTP status code that goes with it.
            pub fn code(self) -> u16 {
                match self { Reason::Unknown => 500, $(Reason::$name => $code),* }
            }
        }
    };
}

reasons! {
    BadRequest = 400, Unauthorized = 401, Forbidden = 403, NotFound = 404, MethodNotAllowed = 405, NotAcceptable = 406,
    AlreadyExists = 409, Conflict = 409, Gone = 410, Expired = 410, RequestEntityTooLarge = 413, UnsupportedMediaType = 415,
    Invalid = 422, TooManyRequests = 429, InternalError = 500, ServerTimeout = 500, StoreReadError = 500, ServiceUnavailable = 503,
    Timeout = 504,
}

/// One cause of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusCause {
    /// What kind of cause (metav1.CauseType).
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field, as a path.
    pub field: String,
}

/// What the failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusDetails {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The kind, or more often the resource.
    pub kind: String,
    /// The object's UID.
    pub uid: String,
    /// The causes.
    pub causes: Vec<StatusCause>,
    /// When to try again; 0 when it is not said.
    pub retry_after_seconds: i32,
}

/// A failed request's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// In one word.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Option<StatusDetails>,
    /// Where an expired list can go on, inconsistently (`metadata.continue`); empty for all other failures.
    pub continue_token: String,
}

impl std::error::Error for Status {}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn about(resource: &GroupResource, name: &str) -> StatusDetails {
    StatusDetails {
        group: resource.group.clone(),
        kind: resource.resource.clone(),
        name: name.into(),
        ..StatusDetails::default()
    }
}

impl Status {
    /// A failure with the code that goes with its reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Status {
        Status { code: reason.code(), reason, message: message.into(), ..Status::default() }
    }

    /// With details.
    #[must_use]
    pub fn with_details(mut self, details: StatusDetails) -> Status {
        self.details = Some(details);
        self
    }

    /// With one more cause.
    #[must_use]
    pub fn with_cause(mut self, cause: StatusCause) -> Status {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The object does not exist.
    pub fn not_found(resource: &GroupResource, name: &str) -> Status {
        Status::new(Reason::NotFound, format!("{resource} {} not found", go_quote(name))).with_details(about(resource, name))
    }

    /// The path leads nowhere: upstream's answer of the generic handlers.
    pub fn path_not_found() -> Status {
        Status::new(Reason::NotFound, "the server could not find the requested resource").with_details(StatusDetails::default())
    }

    /// The object is already there.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Status {
        Status::new(Reason::AlreadyExists, format!("{resource} {} already exists", go_quote(name)))
            .with_details(about(resource, name))
    }

    /// No unique name could be generated.
    pub fn generate_name_conflict(resource: &GroupResource, name: &str, retry_after_seconds: i32) -> Status {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            go_quote(name)
        );
        Status::new(Reason::AlreadyExists, message).with_details(StatusDetails { retry_after_seconds, ..about(resource, name) })
    }

    /// The client is not authenticated; an empty message becomes "Unauthorized".
    pub fn unauthorized(message: &str) -> Status {
        Status::new(Reason::Unauthorized, if message.is_empty() { "not authorized" } else { message })
    }

    /// The client may not do that.
    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Status {
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", go_quote(name))
        };
        Status::new(Reason::Forbidden, message).with_details(about(resource, name))
    }

    /// The object changed in between.
    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Status {
        Status::new(Reason::Conflict, format!("Operation cannot be fulfilled on {resource} {}: {why}", go_quote(name)))
            .with_details(about(resource, name))
    }

    /// As [`conflict`](Self::conflict), with the text for a stale resourceVersion.
    pub fn modified_conflict(resource: &GroupResource, name: &str) -> Status {
        Status::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Other managers own the fields that an apply wants.
    pub fn apply_conflict(causes: Vec<StatusCause>, message: impl Into<String>) -> Status {
        Status::new(Reason::Conflict, message).with_details(StatusDetails { causes, ..StatusDetails::default() })
    }

    /// The object is no longer there and nothing says where it went.
    pub fn gone(message: impl Into<String>) -> Status {
        Status::new(Reason::Gone, message)
    }

    /// The resourceVersion is too old.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(Reason::Expired, message)
    }

    /// The object breaks rules.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[field::Error]) -> Status {
        let subject = format!("{kind} {} is invalid", go_quote(name));
        let message = match field::aggregate(errors) {
            Some(errors) => format!("{subject}: {errors}"),
            None => subject,
        };
        Status::new(Reason::Invalid, message).with_details(StatusDetails {
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            name: name.into(),
            causes: errors.iter().map(field::Error::to_cause).collect(),
            ..StatusDetails::default()
        })
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(Reason::BadRequest, message)
    }

    /// The client must slow down; not for perishable requests.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Status {
        Status::new(Reason::TooManyRequests, message)
            .with_details(StatusDetails { retry_after_seconds, ..StatusDetails::default() })
    }

    /// The service is not there now.
    pub fn service_unavailable(message: impl Into<String>) -> Status {
        Status::new(Reason::ServiceUnavailable, message)
    }

    /// The resource does not know this action.
    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Status {
        let message = format!("{action} is not supported on resources of kind {}", go_quote(&resource.to_string()));
        Status::new(Reason::MethodNotAllowed, message).with_details(about(resource, ""))
    }

    /// The path does not know this HTTP method: upstream's answer of the generic handlers.
    pub fn method_not_allowed() -> Status {
        Status::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
            .with_details(StatusDetails::default())
    }

    /// A transient failure; the client should try again.
    pub fn server_timeout(resource: &GroupResource, operation: &str, retry_after_seconds: i32) -> Status {
        let message =
            format!("The {operation} operation against {resource} could not be completed at this time, please try again.");
        Status::new(Reason::ServerTimeout, message)
            .with_details(StatusDetails { retry_after_seconds, ..about(resource, operation) })
    }

    /// The server's own fault.
    pub fn internal_error(why: impl fmt::Display) -> Status {
        let why = why.to_string();
        let cause = StatusCause { message: why.clone(), ..StatusCause::default() };
        Status::new(Reason::InternalError, format!("Internal error occurred: {why}")).with_cause(cause)
    }

    /// It took too long; it may still complete.
    pub fn timeout(message: &str, retry_after_seconds: i32) -> Status {
        Status::new(Reason::Timeout, format!("Timeout: {message}"))
            .with_details(StatusDetails { retry_after_seconds, ..StatusDetails::default() })
    }

    /// The body is too large.
    pub fn request_entity_too_large(message: &str) -> Status {
        Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
    }

    /// The server cannot read the body's media type; `supported` are those that it can.
    pub fn unsupported_media_type(supported: &[&str]) -> Status {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {}", supported.join(", "));
        Status::new(Reason::UnsupportedMediaType, message)
    }

    /// No media type that the client accepts is known; `supported` are those that are, in the words of the web framework that upstream
    /// uses: it is the first to look.
    pub fn not_acceptable(supported: &[&str]) -> Status {
        let why = format!("406: Not Acceptable\n\nAvailable representations: {}", supported.join(", "));
        Status::new(Reason::NotAcceptable, why).with_details(StatusDetails::default())
    }

    /// What the client accepts is known, and cannot be written here; `supported` are the media types that can.
    pub fn only_accepted(supported: &[&str]) -> Status {
        Status::new(Reason::NotAcceptable, format!("only the following media types are accepted: {}", supported.join(", ")))
    }

    /// As the API object that clients get.
    pub fn to_value(&self) -> Value {
        let mut status = value!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": self.code,
        });
        if !self.continue_token.is_empty() {
            status.set_path(&["metadata", "continue"], self.continue_token.as_str());
        }
        if !self.message.is_empty() {
            status.insert("message", self.message.as_str());
        }
        if self.reason != Reason::Unknown {
            status.insert("reason", self.reason.as_str());
        }
        if let Some(details) = &self.details {
            status.insert("details", details.to_value());
        }
        status
    }

    /// From the API object; `None` when it is not a failed `Status`.
    pub fn from_value(status: &Value) -> Option<Status> {
        if status.kind() != "Status" || status["status"] == "Success" {
            return None;
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Some(Status {
            code: status["code"].as_i64().and_then(|c| u16::try_from(c).ok()).unwrap_or(500),
            reason: Reason::parse(status["reason"].as_str().unwrap_or_default()),
            message: text(&status["message"]),
            continue_token: text(&status["metadata"]["continue"]),
            details: status.get("details").map(|d| StatusDetails {
                name: text(&d["name"]),
                group: text(&d["group"]),
                kind: text(&d["kind"]),
                uid: text(&d["uid"]),
                causes: d
                    .array_at(&["causes"])
                    .iter()
                    .map(|c| StatusCause { reason: text(&c["reason"]), message: text(&c["message"]), field: text(&c["field"]) })
                    .collect(),
                retry_after_seconds: d["retryAfterSeconds"].as_i64().and_then(|s| i32::try_from(s).ok()).unwrap_or_default(),
            }),
        })
    }

    /// The successful `Status` that a deletion answers with.
    pub fn success(details: &StatusDetails) -> Value {
        value!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "details": details.to_value()})
    }
}

impl StatusDetails {
    fn to_value(&self) -> Value {
        let mut details = Value::object();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                details.insert(key, text.as_str());
            }
        }
        if !self.causes.is_empty() {
            details.insert("causes", self.causes.iter().map(StatusCause::to_value).collect::<Value>());
        }
        if self.retry_after_seconds != 0 {
            details.insert("retryAfterSeconds", self.retry_after_seconds);
        }
        details
    }
}

impl StatusCause {
    fn to_value(&self) -> Value {
        let mut cause = Value::object();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                cause.insert(key, text.as_str());
            }
        }
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_codes_are_upstreams() {
        let deployments = GroupResource::new("apps", "deployments");
        let pods = GroupResource::new("", "pods");
        let cases = [
            (Status::not_found(&pods, "a"), 404, r#"pods "a" not found"#),
            (Status::already_exists(&deployments, "a"), 409, r#"deployments.apps "a" already exists"#),
            (
                Status::modified_conflict(&deployments, "a"),
                409,
                r#"Operation cannot be fulfilled on deployments.apps "a": the object has been modified; please apply your changes to the latest version and try again"#,
            ),
            (Status::forbidden(&pods, "", "no"), 403, "pods is forbidden: no"),
            (Status::forbidden(&pods, "a", "no"), 403, r#"pods "a" is forbidden: no"#),
            (Status::forbidden(&GroupResource::default(), "", "no"), 403, "forbidden: no"),
            (
                Status::invalid(
                    &GroupKind::new("apps", "Deployment"),
                    "a",
                    &[field::Error::required(&field::Path::new("spec"), "")],
                ),
                422,
                r#"Deployment.apps "a" is invalid: spec: Required value"#,
            ),
            (Status::timeout("x", 0), 504, "Timeout: x"),
            (Status::internal_error("x"), 500, "Internal error occurred: x"),
            (Status::method_not_supported(&pods, "patch"), 405, r#"patch is not supported on resources of kind "pods""#),
            (Status::expired("too old"), 410, "too old"),
            (
                Status::server_timeout(&pods, "get", 2),
                500,
                "The get operation against pods could not be completed at this time, please try again.",
            ),
        ];
        for (status, code, message) in cases {
            assert_eq!((status.code, status.message.as_str()), (code, message));
            assert_eq!(Status::from_value(&status.to_value()), Some(status));
        }
    }

    #[test]
    fn as_an_object() {
        let status =
            Status::invalid(&GroupKind::new("", "Pod"), "a", &[field::Error::invalid(&field::Path::new("spec"), 1, "bad")]);
        assert_eq!(
            status.to_value().to_json(),
            r#"{"apiVersion":"v1","code":422,"details":{"causes":[{"field":"spec","message":"Invalid value: 1: bad","reason":"FieldValueInvalid"}],"kind":"Pod","name":"a"},"kind":"Status","message":"Pod \"a\" is invalid: spec: Invalid value: 1: bad","metadata":{},"reason":"Invalid","status":"Failure"}"#
        );
    }
}
