//! `/flagz` and `/statusz` (KEP-4828, KEP-4827): text for people, or an object of `config.k8s.io/v1alpha1` for who asks for it by name.
//!
//! Alpha upstream: there only with the feature gates ComponentFlagz and ComponentStatusz.

use http::StatusCode;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::metrics;

/// Which of the pages are there.
#[derive(Clone, Debug, Default)]
pub struct ZPages {
    /// `/flagz`, with the flags and their values.
    pub flags: Option<Vec<(String, String)>>,
    /// `/statusz`, with the version of Kubernetes (`1.35.0`).
    pub version: Option<String>,
}

/// A page: its status, its media type and its text.
pub(crate) type Page = (StatusCode, &'static str, String);

/// What the `Accept` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Object,
}

/// The first form of the header that there is.
fn form(accept: &str, kind: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    accept.split(',').find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameter = |name: &str| {
            let of = |part: &&str| part.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
            parts.clone().find(of).map(|part| part[name.len() + 1..].to_owned())
        };
        match media {
            "text/plain" | "text/*" | "*/*" => Some(Form::Text),
            "application/json" => {
                let asked = [parameter("g"), parameter("v"), parameter("as")].map(Option::unwrap_or_default);
                (asked == ["config.k8s.io", "v1alpha1", kind].map(str::to_owned)).then_some(Form::Object)
            }
            _ => None,
        }
    })
}

fn not_acceptable(kind: &str) -> Page {
    let wanted = format!("application/json;g=config.k8s.io;v=v1alpha1;as={kind}");
    let message = format!("only the following media types are accepted: text/plain, {wanted}");
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": "NotAcceptable", "code": 406});
    (StatusCode::NOT_ACCEPTABLE, "application/json", status.to_string())
}

fn header(component: &str, page: &str) -> String {
    format!(
        "\n{component} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees \
         and is for debugging purposes only.\n"
    )
}

fn answer(accept: &str, kind: &str, text: impl FnOnce() -> String, object: impl FnOnce() -> Value) -> Page {
    match form(accept, kind) {
        None => not_acceptable(kind),
        Some(Form::Text) => (StatusCode::OK, "text/plain; charset=utf-8", text()),
        Some(Form::Object) => (StatusCode::OK, "application/json", object().to_string()),
    }
}

/// `/flagz`.
pub(crate) fn flagz(component: &str, flags: &[(String, String)], accept: &str) -> Page {
    let text = || {
        let mut flags = flags.to_vec();
        flags.sort();
        let lines: String = flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        header(component, "flagz") + &lines
    };
    let object = || {
        let flags: serde_json::Map<String, Value> = flags.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({"kind": "Flagz", "apiVersion": "config.k8s.io/v1alpha1", "metadata": {"name": component}, "flags": flags})
    };
    answer(accept, "Flagz", text, object)
}

/// `/statusz`. `paths` are those that the server has.
pub(crate) fn statusz(component: &str, version: &str, paths: &[&str], now: Timestamp, accept: &str) -> Page {
    let seconds = metrics::start_seconds().map_or_else(|| now.as_second(), |seconds| seconds as i64);
    let started = Timestamp::from_second(seconds).unwrap_or(now);
    let up = (now.as_second() - seconds).max(0);
    let minor: Vec<&str> = version.split('.').take(2).collect();
    let emulated = minor.join(".");
    let text = || {
        let date = started.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S UTC %Y").to_string();
        let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
        format!(
            "{}\nStarted: {date}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\nBinary version: {version}\nEmulation version: \
             {emulated}\nPaths: {}\n",
            header(component, "statusz"),
            paths.join(" ")
        )
    };
    let object = || {
        json!({"kind": "Statusz", "apiVersion": "config.k8s.io/v1alpha1", "metadata": {"name": component},
            "startTime": started.to_string(), "uptimeSeconds": up, "goVersion": "", "binaryVersion": version,
            "emulationVersion": emulated, "paths": paths})
    };
    answer(accept, "Statusz", text, object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_negotiated() {
        for (accept, expected) in [
            ("", Some(Form::Text)),
            ("text/plain", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("application/json", None),
            ("application/json;v=v1alpha1;g=config.k8s.io;as=Flagz", Some(Form::Object)),
            ("application/json;v=v1alpha1;g=config.k8s.io;as=Statusz", None),
            ("application/yaml, text/plain;q=0.5", Some(Form::Text)),
        ] {
            assert_eq!(form(accept, "Flagz"), expected, "{accept}");
        }
    }

    #[test]
    fn pages_in_both_forms() {
        let flags = [("v".to_owned(), "2".to_owned()), ("kubeconfig".to_owned(), "/x".to_owned())];
        let (status, _, text) = flagz("kube-scheduler", &flags, "");
        assert_eq!(status, StatusCode::OK);
        assert!(text.starts_with("\nkube-scheduler flagz\nWarning: ") && text.ends_with("kubeconfig=/x\nv=2\n"), "{text}");
        let accept = "application/json;v=v1alpha1;g=config.k8s.io;as=Statusz";
        let (_, media, text) = statusz("kube-scheduler", "1.35.0", &["/healthz"], Timestamp::now(), accept);
        let object: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(
            (media, &object["emulationVersion"], &object["paths"][0]),
            ("application/json", &json!("1.35"), &json!("/healthz"))
        );
        assert_eq!(flagz("x", &flags, "application/json").0, StatusCode::NOT_ACCEPTABLE);
    }
}
