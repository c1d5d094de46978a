//! [`Value`] to YAML text, in go-yaml's style: block collections, lists not indented below their key, strings quoted only
//! where they would be read as something else.

use super::scalar::resolve;
use crate::{Map, Value, go_quote};

/// Writes one document, with a newline at its end.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_list(items, 0, &mut out),
        // Alone in a document, a block's indentation has nothing to refer to.
        Value::String(s) => write_string(s, 0, false, &mut out),
        scalar => write_inline(scalar, 0, &mut out),
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn indent(level: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", level));
}

fn write_map(map: &Map, level: usize, out: &mut String) {
    for (i, (key, value)) in map.iter().enumerate() {
        // The first member follows what is on the line already, a dash for instance.
        if i > 0 || out.is_empty() || out.ends_with('\n') {
            indent(level, out);
        }
        write_string(key, level, false, out);
        out.push(':');
        write_member(value, level, out);
    }
}

fn write_member(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_map(map, level + 1, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write_list(items, level, out);
        }
        scalar => {
            out.push(' ');
            write_inline(scalar, level + 1, out);
            out.push('\n');
        }
    }
}

fn write_list(items: &[Value], level: usize, out: &mut String) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 || out.is_empty() || out.ends_with('\n') {
            indent(level, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(map, level + 1, out),
            Value::Array(items) if !items.is_empty() => write_list(items, level + 1, out),
            scalar => {
                write_inline(scalar, level + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_inline(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::String(s) => write_string(s, level, true, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_json()),
    }
}

fn write_string(s: &str, level: usize, block: bool, out: &mut String) {
    let printable =
        s.chars().all(|c| c == '\n' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')));
    let lines = s.contains('\n');
    if printable && block && lines {
        write_literal(s, level, out);
    } else if !printable || lines || !matches!(resolve(s), Value::String(_)) || reads_as_date(s) {
        fold(&double_quoted(s), Quote::Double, level, block, out);
    } else if needs_quotes(s) {
        fold(&format!("'{}'", s.replace('\'', "''")), Quote::Single, level, block, out);
    } else {
        fold(s, Quote::None, level, block, out);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

/// A line that is longer goes on in the next one, at the next single space (go-yaml's `best_width`).
const WIDTH: usize = 80;

/// Writes a scalar as it is quoted, in several lines where it is long and `may` be.
fn fold(text: &str, quote: Quote, level: usize, may: bool, out: &mut String) {
    if !may || text.len() <= WIDTH - 40 {
        return out.push_str(text);
    }
    let mut column = out.rsplit('\n').next().unwrap_or_default().chars().count();
    let characters: Vec<char> = text.chars().collect();
    let (first, last) = if quote == Quote::None { (0, characters.len() - 1) } else { (2, characters.len().saturating_sub(3)) };
    let mut after_space = false;
    for (at, character) in characters.iter().enumerate() {
        let is_space = *character == ' ';
        let inside = quote == Quote::None || (first..=last).contains(&at);
        let before_space = characters.get(at + 1) == Some(&' ');
        if is_space && !after_space && column > WIDTH && inside && (!before_space || quote == Quote::Double) {
            out.push('\n');
            indent(level, out);
            column = level * 2;
            if before_space {
                out.push('\\');
                column += 1;
            }
        } else {
            out.push(*character);
            column += 1;
        }
        after_space = is_space;
    }
}

fn double_quoted(s: &str) -> String {
    // Go's quoting is YAML's, but for the names of a few escapes that both know.
    go_quote(s)
}

fn reads_as_date(s: &str) -> bool {
    let bytes = s.as_bytes();
    bytes.len() >= 8 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-' && bytes[5].is_ascii_digit()
}

fn needs_quotes(s: &str) -> bool {
    let first = s.as_bytes()[0];
    let indicator = matches!(
        first,
        b',' | b'['
            | b']'
            | b'{'
            | b'}'
            | b'#'
            | b'&'
            | b'*'
            | b'!'
            | b'|'
            | b'>'
            | b'\''
            | b'"'
            | b'%'
            | b'@'
            | b'`'
            | b' '
            | b'='
    );
    let lone = matches!(first, b'-' | b'?' | b':') && s.as_bytes().get(1).is_none_or(|b| *b == b' ');
    indicator
        || lone
        || s == "<<"
        || s.starts_with("---")
        || s.starts_with("...")
        || s.contains(": ")
        || s.contains(" #")
        || s.ends_with(':')
        || s.ends_with(' ')
}

/// A `|` block; with a strip or keep indicator as the line breaks at the end demand.
fn write_literal(s: &str, level: usize, out: &mut String) {
    let body = s.trim_end_matches('\n');
    if body.is_empty() || body.lines().any(|line| line.ends_with(' ')) {
        out.push_str(&double_quoted(s));
        return;
    }
    out.push('|');
    if body.starts_with([' ', '\n']) {
        out.push('2');
    }
    match s.len() - body.len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(level, out);
            out.push_str(line);
        }
    }
    for _ in 1..s.len() - body.len() {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;
    use crate::yaml::parse_one;

    #[test]
    fn looks_like_go_yaml() {
        let pod = value!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"on": "true", "n": "1"}, "annotations": {}},
            "spec": {"containers": [{"args": ["--a=b", "c: d", "- e", ""], "command": ["sh", "-c", "echo 1\necho 2\n"], "name": "x"}], "n": 5, "none": null, "list": []},
        });
        let expected = "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {}\n  labels:\n    \"n\": \"1\"\n    \"on\": \"true\"\nspec:\n  containers:\n  - args:\n    - --a=b\n    - 'c: d'\n    - '- e'\n    - \"\"\n    command:\n    - sh\n    - -c\n    - |\n      echo 1\n      echo 2\n    name: x\n  list: []\n  \"n\": 5\n  none: null\n";
        assert_eq!(to_yaml(&pod), expected);
    }

    #[test]
    fn long_lines_are_folded() {
        let words = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        let folded = "message: 'only the following media types are accepted: application/json;stream=watch,\n  application/vnd.kubernetes.protobuf;stream=watch'\n";
        assert_eq!(to_yaml(&value!({ "message": words })), folded);
        for text in
            [words.to_owned(), "word ".repeat(60), "two  spaces ".repeat(30), "\u{1} control ".repeat(30), "'q' ".repeat(40)]
        {
            let nested = value!({"a": [{"b": text}]});
            let back = parse_one(to_yaml(&nested).as_bytes()).expect("readable");
            assert_eq!(back.value, nested);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let strings = [
            "",
            " ",
            "a b",
            "a: b",
            "a #b",
            "#a",
            "- a",
            "-",
            "?",
            ":",
            "a:",
            "'q'",
            "\"q\"",
            "1",
            "1.5",
            "0x1",
            "yes",
            "null",
            "~",
            "a\nb",
            "a\nb\n",
            "a\n\n",
            "\n",
            " a\nb",
            "a \nb",
            "\t",
            "é😀",
            "\u{1}",
            "2020-01-01",
            "[a]",
            "{a}",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "|",
            ">",
            "---",
            "...",
            "a\\b",
            "C:\\x",
            "<<",
            "=",
            "a\r\nb",
            "key: |",
            "1:30",
            "\u{2028}",
            "\u{85}",
            "a,b",
            "\u{7f}",
        ];
        for s in strings {
            let nested = value!({ "k": s, "list": [s, [s, {(s): s}]], (s): { "x": s } });
            let text = to_yaml(&nested);
            let back = parse_one(text.as_bytes()).unwrap_or_else(|e| panic!("{s:?}: {e}\n{text}"));
            assert_eq!(back.value, nested, "{s:?}\n{text}");
        }
        assert_eq!(to_yaml(&Value::Null), "null\n");
        assert_eq!(to_yaml(&value!([[1, 2], {"a": 1}])), "- - 1\n  - 2\n- a: 1\n");
    }
}
