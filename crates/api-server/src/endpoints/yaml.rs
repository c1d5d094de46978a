//! YAML for those who ask for it: block style with every string quoted that could be read as something else.

use apimachinery::Value;

/// A tree as YAML.
pub(crate) fn write(value: &Value) -> Vec<u8> {
    let mut out = String::new();
    block(value, 0, &mut out, false);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out.into_bytes()
}

/// Writes a value that starts on the current line; `inline` says that text stands on it already (after `- `).
fn block(value: &Value, indent: usize, out: &mut String, inline: bool) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 || !inline {
                    pad(indent, out);
                }
                scalar(key, out);
                out.push(':');
                child(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 || !inline {
                    pad(indent, out);
                }
                out.push_str("- ");
                block(item, indent + 2, out, true);
                if !out.ends_with('\n') {
                    out.push('\n');
                }
            }
        }
        Value::String(text) => scalar(text, out),
        // The rest of JSON, empty collections included, is YAML.
        other => out.push_str(&other.to_json()),
    }
}

fn child(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out, false);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent, out, false);
        }
        _ => {
            out.push(' ');
            block(value, indent, out, true);
            out.push('\n');
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Plain where nothing can be mistaken, else as a JSON string, which is YAML too.
fn scalar(text: &str, out: &mut String) {
    let first = text.chars().next().unwrap_or(' ');
    let safe = first.is_ascii_alphabetic()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        && !matches!(text.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null");
    match safe {
        true => out.push_str(text),
        false => out.push_str(&Value::from(text).to_json()),
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn writes_blocks() {
        let object = value!({"kind": "Pod", "metadata": {"name": "a", "labels": {}}, "n": 1, "no": "yes",
            "list": [{"a": 1, "b": [true, null]}, "x: y", []]});
        let expected = "kind: Pod\nlist:\n- a: 1\n  b:\n  - true\n  - null\n- \"x: y\"\n- []\nmetadata:\n  labels: {}\n  name: a\n\"n\": 1\n\"no\": \"yes\"\n";
        assert_eq!(String::from_utf8(write(&object)).expect("UTF-8"), expected);
    }
}
