//! Where a webhook is: a URL or a Service (upstream's `apiserver/pkg/util/webhook`).

use apimachinery::field::{Error, ErrorList};
use apimachinery::url::Url;
use apimachinery::validation;

use super::at::At;

const FORM: &str = "; desired format: https://host[/path]";

/// The URL of a webhook.
pub(super) fn url(at: &At, e: &mut ErrorList) {
    let url = match Url::parse(at.text()) {
        Ok(url) => url,
        Err(why) => return at.require(e, &format!("url must be a valid URL: {why}{FORM}")),
    };
    if url.scheme != "https" {
        e.push(Error::invalid(&at.path(), url.scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    if url.host.is_empty() {
        e.push(Error::invalid(&at.path(), "", format!("host must be specified{FORM}")));
    }
    if let Some(user) = url.user {
        e.push(Error::invalid(&at.path(), user.to_string(), "user information is not permitted in the URL"));
    }
    for (part, why) in
        [(url.fragment, "fragments are not permitted in the URL"), (url.query, "query parameters are not permitted in the URL")]
    {
        if !part.is_empty() {
            e.push(Error::invalid(&at.path(), part, why));
        }
    }
}

/// The Service of a webhook. Upstream's callers swap name and namespace, and so do its paths.
pub(super) fn service(at: &At, e: &mut ErrorList) {
    if at.get("namespace").text().is_empty() {
        at.get("name").require(e, "");
    }
    if at.get("name").text().is_empty() {
        at.get("namespace").require(e, "");
    }
    let port = at.get("port");
    let why = validation::is_port_number(port.int());
    if !why.is_empty() {
        port.invalid_int(e, format!("port is not valid: {}", why.join(", ")));
    }
    let path = at.get("path");
    match path.text() {
        "" | "/" => {}
        "//" => path.invalid(e, "segment[0] may not be empty"),
        text => {
            if !text.starts_with('/') {
                path.invalid(e, "must start with a '/'");
            }
            // Upstream drops the first byte whatever it is.
            let rest = String::from_utf8_lossy(text.as_bytes().get(1..).unwrap_or_default());
            for (at, step) in rest.strip_suffix('/').unwrap_or(&rest).split('/').enumerate() {
                if step.is_empty() {
                    path.invalid(e, format!("segment[{at}] may not be empty"));
                    continue;
                }
                for why in validation::is_dns1123_subdomain(step) {
                    path.invalid(e, format!("segment[{at}]: {why}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{Value, value};

    use super::*;

    fn found(object: &Value, check: fn(&At, &mut ErrorList)) -> Vec<String> {
        let mut e = ErrorList::new();
        let root = At::root(object);
        check(&root.get("at"), &mut e);
        e.iter().map(|error| error.body()).collect()
    }

    #[test]
    fn urls() {
        let cases: [(&str, &[&str]); 5] = [
            ("https://example.com/a", &[]),
            (
                "::1",
                &[
                    r#"Required value: url must be a valid URL: parse "::1": missing protocol scheme; desired format: https://host[/path]"#,
                ],
            ),
            (
                "http://example.com",
                &[r#"Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#],
            ),
            ("https:///a", &[r#"Invalid value: "": host must be specified; desired format: https://host[/path]"#]),
            (
                "https://u@example.com?a#b",
                &[
                    r#"Invalid value: "u": user information is not permitted in the URL"#,
                    r#"Invalid value: "b": fragments are not permitted in the URL"#,
                    r#"Invalid value: "a": query parameters are not permitted in the URL"#,
                ],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(found(&value!({"at": text}), url), expected, "{text}");
        }
    }

    #[test]
    fn services() {
        let cases: [(Value, &[&str]); 3] = [
            (value!({"name": "a", "namespace": "b", "port": 1, "path": "/a/b"}), &[]),
            (
                value!({"name": "a", "port": 0}),
                &["Required value", "Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"],
            ),
            (
                value!({"name": "a", "namespace": "b", "port": 1, "path": "/a//b"}),
                &[r#"Invalid value: "/a//b": segment[1] may not be empty"#],
            ),
        ];
        for (at, expected) in cases {
            assert_eq!(found(&value!({"at": at.clone()}), service), expected, "{at}");
        }
    }
}
