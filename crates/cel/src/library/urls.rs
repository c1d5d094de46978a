//! URLs (upstream's `library/urls.go`), parsed by the rules of Go's `net/url`.

use apimachinery::url::{Url, UrlError};

use super::string_map;
use crate::eval::{EvalError, Evaluated};
use crate::value::{Extension, Val};

pub(super) const TABLE: &str = "
url string_to_url (string) -> URL
getScheme url_get_scheme URL.() -> string
getHost url_get_host URL.() -> string
getHostname url_get_hostname URL.() -> string
getPort url_get_port URL.() -> string
getEscapedPath url_get_escaped_path URL.() -> string
getQuery url_get_query URL.() -> map(string, list(string))
isURL is_url_string (string) -> bool
";

/// A text that a request may be for; read as a reference, so that what follows a number sign is neither path nor query.
fn parse(text: &str) -> Result<Url, UrlError> {
    Url::parse_request(text)?;
    Url::parse(text)
}

fn query(url: &Url) -> Val {
    let list = |values: Vec<String>| -> Vec<Val> { values.iter().map(|value| Val::from(value.as_str())).collect() };
    string_map(url.values().into_iter().map(|(key, values)| (key, list(values).into())))
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    match (function, args) {
        ("isURL", [Val::String(text)]) => Ok(Val::Bool(Url::parse_request(text).is_ok())),
        ("url", [Val::String(text)]) => match parse(text) {
            Ok(url) => Ok(Extension::Url(url.into()).into()),
            Err(error) => Err(EvalError::failed(format!("URL parse error during conversion from string: {error}"))),
        },
        (_, [Val::Extension(Extension::Url(url))]) => Ok(Val::from(match function {
            "getScheme" => url.scheme.as_str(),
            "getHost" => url.host.as_str(),
            "getHostname" => url.hostname(),
            "getPort" => url.port(),
            "getEscapedPath" => url.path.as_str(),
            "getQuery" => return Ok(query(url)),
            _ => return Err(EvalError::no_overload()),
        })),
        _ => Err(EvalError::no_overload()),
    }
}
