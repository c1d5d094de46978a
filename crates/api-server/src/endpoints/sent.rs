//! Errors show an empty list or map as the client sent it, which the tree that is validated does not know: there, as in upstream's store, empty
//! is none.

use apimachinery::{GroupVersionKind, Reason, Status, Value};

use super::body::Encoding;
use super::codecs;
use super::patch::PatchType;

/// How the body says what the object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is the object.
    Object(Encoding),
    /// It changes the object.
    Patch(PatchType),
}

/// The error with the empty values of the body where it says `null`.
pub(crate) fn shown_as_sent(mut status: Status, sent: Sent, bytes: &[u8], kind: &GroupVersionKind) -> Status {
    if status.reason != Reason::Invalid || !status.message.contains(" value: null") {
        return status;
    }
    let encoding = match sent {
        Sent::Object(encoding) | Sent::Patch(PatchType::Apply(encoding)) => encoding,
        Sent::Patch(_) => Encoding::Json,
    };
    let Ok((document, _)) = codecs::parse(bytes, encoding, kind) else { return status };
    let mut found = Vec::new();
    match sent {
        Sent::Patch(PatchType::Json) => {
            for operation in document.as_array().unwrap_or_default() {
                let pointer = operation["path"].as_str().unwrap_or_default();
                empty_members(&operation["value"], &field_path(pointer), &mut found);
            }
        }
        _ => empty_members(&document, "", &mut found),
    }
    for cause in status.details.iter_mut().flat_map(|details| &mut details.causes) {
        let Some((_, shown)) = found.iter().find(|(path, _)| *path == cause.field) else { continue };
        let before = format!("{}: {}", cause.field, cause.message);
        cause.message = cause.message.replacen(" value: null", &format!(" value: {shown}"), 1);
        status.message = status.message.replace(&before, &format!("{}: {}", cause.field, cause.message));
    }
    status
}

/// A JSON pointer as errors name places.
fn field_path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")) {
        match part.parse::<usize>() {
            Ok(index) => path.push_str(&format!("[{index}]")),
            Err(_) if path.is_empty() => path.push_str(&part),
            Err(_) => path.push_str(&format!(".{part}")),
        }
    }
    path
}

fn empty_members(value: &Value, path: &str, found: &mut Vec<(String, &'static str)>) {
    match value {
        Value::Array(items) if items.is_empty() => found.push((path.to_owned(), "[]")),
        Value::Object(members) if members.is_empty() => found.push((path.to_owned(), "{}")),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| empty_members(item, &format!("{path}[{index}]"), found));
        }
        Value::Object(members) => {
            for (key, member) in members.iter() {
                let path = if path.is_empty() { key.as_str().to_owned() } else { format!("{path}.{}", key.as_str()) };
                empty_members(member, &path, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{GroupKind, field};

    use super::*;

    #[test]
    fn empty_is_shown_as_it_came() {
        let path = || field::Path::new("spec").child("cidrs");
        let kind = GroupVersionKind::new("networking.k8s.io", "v1", "ServiceCIDR");
        let cases = [
            (Sent::Object(Encoding::Json), r#"{"spec":{"cidrs":[]}}"#, "[]"),
            (Sent::Object(Encoding::Json), r#"{"spec":{"cidrs":null}}"#, "null"),
            (Sent::Object(Encoding::Yaml), "spec: {cidrs: {}}", "{}"),
            (Sent::Patch(PatchType::Merge), r#"{"spec":{"cidrs":[]}}"#, "[]"),
            (Sent::Patch(PatchType::Json), r#"[{"op":"add","path":"/spec/cidrs","value":[]}]"#, "[]"),
            (Sent::Patch(PatchType::Json), r#"[{"op":"add","path":"/spec","value":{"cidrs":[]}}]"#, "[]"),
        ];
        for (sent, body, shown) in cases {
            let errors = [field::Error::invalid(&path(), Value::Null, "why"), field::Error::required(&path(), "")];
            let status = Status::invalid(&GroupKind::new("", "X"), "a", &errors);
            let status = shown_as_sent(status, sent, body.as_bytes(), &kind);
            let expected = format!("X \"a\" is invalid: [spec.cidrs: Invalid value: {shown}: why, spec.cidrs: Required value]");
            assert_eq!(status.message, expected, "{body}");
            assert_eq!(status.details.expect("details").causes[0].message, format!("Invalid value: {shown}: why"));
        }
    }

    #[test]
    fn pointers() {
        assert_eq!(field_path("/spec/devices/0/a~1b"), "spec.devices[0].a/b");
    }
}
