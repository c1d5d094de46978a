//! A JSON parser without recursion: nesting costs heap, never stack. Messages are those of Go's `encoding/json`, because
//! upstream's clients see them in 400 answers. Invalid UTF-8 becomes U+FFFD, as in Go.

use std::borrow::Cow;
use std::sync::Arc;

use super::repeated::{Duplicates, Repeated};
use super::{JsonError, Key, Map, Value};

/// The deepest nesting of lists and objects. Upstream allows 10,000 and handles only that; every recursive walk over a
/// tree (drop, merge, prune) must fit into a thread's stack. Real objects stay below 100 (nested JSON schemas in a CRD).
pub(crate) const DEPTH_MAX: usize = 500;

/// A container that is being read.
pub(super) enum Frame {
    Array(Vec<Value>),
    Object { members: Vec<(Key, Value)>, key: Key },
}

/// A member of an object that [`Value::project`] keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub member: String,
    /// If it is an object: which of its members; none for all.
    pub of_it: Vec<String>,
}

impl Wanted {
    /// All that is needed for these dotted paths, of which the first two parts count.
    pub fn of_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<Wanted> {
        let mut all: Vec<Wanted> = Vec::new();
        for path in paths {
            let mut parts = path.split('.').map(str::to_owned);
            let (Some(member), inner) = (parts.next(), parts.next()) else { continue };
            match (all.iter_mut().find(|wanted| wanted.member == member), inner) {
                (None, inner) => all.push(Wanted { member, of_it: inner.into_iter().collect() }),
                (Some(wanted), None) => wanted.of_it.clear(),
                (Some(wanted), Some(inner)) if !wanted.of_it.is_empty() => wanted.of_it.push(inner),
                (Some(_), Some(_)) => {}
            }
        }
        all
    }
}

pub(crate) struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Frame>,
    /// Members that occur more than once in their object; noted only on request.
    duplicates: Option<Duplicates>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, duplicates: Option<Duplicates>) -> Self {
        Parser { text, bytes: text.as_bytes(), at: 0, stack: Vec::new(), duplicates }
    }
}

/// Parses one JSON value and returns the members that others of the same name follow, in the order in which their objects end; none if
/// there are very many.
pub(crate) fn parse_with_repeated(json: &[u8]) -> Result<Vec<Repeated>, JsonError> {
    let text: Cow<'_, str> = String::from_utf8_lossy(json);
    let mut parser = Parser::new(&text, Some(Duplicates::new(true)));
    parser.document()?;
    Ok(parser.duplicates.map(Duplicates::into_earlier).unwrap_or_default())
}

/// Parses one JSON value. With `report_duplicates` the paths of repeated members are returned too.
pub(crate) fn parse(json: &[u8], report_duplicates: bool) -> Result<(Value, Vec<String>), JsonError> {
    let text: Cow<'_, str> = String::from_utf8_lossy(json);
    let mut parser = Parser::new(&text, report_duplicates.then(|| Duplicates::new(false)));
    let value = parser.document()?;
    Ok((value, parser.duplicates.map(|duplicates| duplicates.paths).unwrap_or_default()))
}

/// Parses an object, of which only the wanted members of the first and second level are kept. The others are passed over: that costs
/// a tenth of reading them, and mistakes in them are not found.
pub(crate) fn project(json: &[u8], wanted: &[Wanted]) -> Result<Value, JsonError> {
    let text: Cow<'_, str> = String::from_utf8_lossy(json);
    let mut parser = Parser::new(&text, None);
    parser.skip_space();
    parser.members_of(|parser, key| {
        let Some(wanted) = wanted.iter().find(|wanted| wanted.member == key) else { return parser.skip().map(|()| None) };
        parser.skip_space();
        if wanted.of_it.is_empty() || parser.peek() != Some(b'{') {
            return parser.value().map(Some);
        }
        let inner = |parser: &mut Parser<'_>, key: &str| match wanted.of_it.iter().any(|member| member == key) {
            true => parser.value().map(Some),
            false => parser.skip().map(|()| None),
        };
        parser.members_of(inner).map(Some)
    })
}

impl Parser<'_> {
    /// Reads an object whose members' values `read` takes, or leaves out.
    fn members_of(&mut self, read: impl Fn(&mut Self, &str) -> Result<Option<Value>, JsonError>) -> Result<Value, JsonError> {
        if self.peek() != Some(b'{') {
            return Err(self.unexpected("looking for beginning of object"));
        }
        self.at += 1;
        self.skip_space();
        let mut members = Vec::new();
        while self.peek() != Some(b'}') {
            let key = self.key()?;
            if let Some(value) = read(self, &key)? {
                members.push((key, value));
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.skip_space();
                }
                Some(b'}') => {}
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
        self.at += 1;
        Ok(Value::Object(Arc::new(Map::from_unsorted(members))))
    }

    /// Passes over one value: only strings and brackets are looked at.
    fn skip(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b'}' | b']' if depth == 0 => return Ok(()),
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(self.unexpected("in a value"))
    }

    fn skip_string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => 2,
                _ => 1,
            };
        }
        Err(self.unexpected("in string literal"))
    }

    fn document(&mut self) -> Result<Value, JsonError> {
        let value = self.value()?;
        self.skip_space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.unexpected("after top-level value")),
        }
    }

    /// Reads one value.
    fn value(&mut self) -> Result<Value, JsonError> {
        let mut value = self.open()?;
        loop {
            // `value` is complete; hand it to the container around it.
            value = match self.stack.pop() {
                None => return Ok(value),
                Some(Frame::Array(mut items)) => {
                    items.push(value);
                    self.skip_space();
                    match self.peek() {
                        Some(b',') => {
                            self.at += 1;
                            self.stack.push(Frame::Array(items));
                            self.open()?
                        }
                        Some(b']') => {
                            self.at += 1;
                            items.shrink_to_fit();
                            Value::Array(Arc::new(items))
                        }
                        _ => return Err(self.unexpected("after array element")),
                    }
                }
                Some(Frame::Object { mut members, key }) => {
                    members.push((key, value));
                    self.skip_space();
                    match self.peek() {
                        Some(b',') => {
                            self.at += 1;
                            self.skip_space();
                            let key = self.key()?;
                            self.stack.push(Frame::Object { members, key });
                            self.open()?
                        }
                        Some(b'}') => {
                            self.at += 1;
                            self.note_duplicates(&members);
                            members.shrink_to_fit();
                            Value::Object(Arc::new(Map::from_unsorted(members)))
                        }
                        _ => return Err(self.unexpected("after object key:value pair")),
                    }
                }
            };
        }
    }

    /// Reads the start of a value, down through opening brackets, to the first complete value.
    fn open(&mut self) -> Result<Value, JsonError> {
        loop {
            self.skip_space();
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    self.skip_space();
                    if self.peek() == Some(b'}') {
                        self.at += 1;
                        return Ok(Value::object());
                    }
                    let key = self.key()?;
                    self.push(Frame::Object { members: Vec::with_capacity(8), key })?;
                }
                Some(b'[') => {
                    self.at += 1;
                    self.skip_space();
                    if self.peek() == Some(b']') {
                        self.at += 1;
                        return Ok(Value::array());
                    }
                    self.push(Frame::Array(Vec::new()))?;
                }
                _ => return self.scalar(),
            }
        }
    }

    fn push(&mut self, frame: Frame) -> Result<(), JsonError> {
        if self.stack.len() == DEPTH_MAX {
            return Err(JsonError::new("exceeded max depth"));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn scalar(&mut self) -> Result<Value, JsonError> {
        match self.peek() {
            Some(b'"') => Ok(Value::from(self.string()?.as_ref())),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// The error for the character here, as Go words it.
    fn unexpected(&self, context: &str) -> JsonError {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            None => JsonError::new("unexpected end of JSON input"),
            Some('\'') => JsonError::new(format!("invalid character '\\'' {context}")),
            Some('"') => JsonError::new(format!("invalid character '\"' {context}")),
            Some(c) => {
                let quoted = super::go_quote(&c.to_string());
                JsonError::new(format!("invalid character '{}' {context}", &quoted[1..quoted.len() - 1]))
            }
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", expected as char)));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn key(&mut self) -> Result<Key, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("looking for beginning of object key string"));
        }
        let key = Key::new(&self.string()?);
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("after object key"));
        }
        self.at += 1;
        Ok(key)
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at > start
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => {
                self.digits();
            }
            _ => return Err(self.unexpected("in numeric literal")),
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            if !self.digits() {
                return Err(self.unexpected("after decimal point in numeric literal"));
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if !self.digits() {
                return Err(self.unexpected("in exponent of numeric literal"));
            }
        }
        let text = &self.text[start..self.at];
        if integer && let Ok(i) = text.parse::<i64>() {
            return Ok(Value::Int(i));
        }
        match text.parse::<f64>() {
            Ok(f) if f.is_finite() => Ok(Value::Float(f)),
            _ => Err(JsonError::new(format!("json: cannot unmarshal number {text} into Go value of type float64"))),
        }
    }

    fn string(&mut self) -> Result<Cow<'_, str>, JsonError> {
        self.at += 1;
        let start = self.at;
        let bytes = self.bytes;
        let text = self.text;
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&text[start..self.at - 1]));
                }
                b'\\' => return self.escaped_string(start).map(Cow::Owned),
                0..0x20 => return Err(self.unexpected("in string literal")),
                _ => self.at += 1,
            }
        }
        Err(self.unexpected("in string literal"))
    }

    fn escaped_string(&mut self, start: usize) -> Result<String, JsonError> {
        let mut out = String::from(&self.text[start..self.at]);
        let mut run = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    out.push_str(&self.text[run..self.at]);
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    out.push_str(&self.text[run..self.at]);
                    self.at += 1;
                    self.escape(&mut out)?;
                    run = self.at;
                }
                None | Some(0..0x20) => return Err(self.unexpected("in string literal")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), JsonError> {
        let c = match self.peek() {
            Some(c @ (b'"' | b'\\' | b'/')) => c as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let c = self.unicode_escape()?;
                out.push(c);
                return Ok(());
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        out.push(c);
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            match self.peek().and_then(|b| (b as char).to_digit(16)) {
                Some(digit) => code = code * 16 + digit,
                None => return Err(self.unexpected("in \\u hexadecimal character escape")),
            }
            self.at += 1;
        }
        Ok(code)
    }

    /// A `\u` escape, with its second half when it is a surrogate pair; half a pair becomes U+FFFD.
    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let high = self.hex4()?;
        if (0xD800..0xDC00).contains(&high) && self.bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or('\u{FFFD}'));
            }
            self.at = back;
        }
        Ok(char::from_u32(high).unwrap_or('\u{FFFD}'))
    }

    fn note_duplicates(&mut self, members: &[(Key, Value)]) {
        if let Some(duplicates) = &mut self.duplicates {
            duplicates.note(&self.stack, members);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_gos() {
        let cases = [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\"", "unexpected end of JSON input"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\":}", "invalid character '}' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\":2}", "invalid character '\"' after object key:value pair"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("nul", "unexpected end of JSON input"),
            ("nulx", "invalid character 'x' in literal null (expecting 'l')"),
            ("1 2", "invalid character '2' after top-level value"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\u{1}\"", "invalid character '\\x01' in string literal"),
            ("01", "invalid character '1' after top-level value"),
            ("-", "unexpected end of JSON input"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("é", "invalid character 'é' looking for beginning of value"),
            ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
        ];
        for (input, message) in cases {
            assert_eq!(parse(input.as_bytes(), false).expect_err(input).to_string(), message, "{input}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert_eq!(parse(nested(100_000).as_bytes(), false).expect_err("too deep").to_string(), "exceeded max depth");
            assert!(parse(nested(DEPTH_MAX + 1).as_bytes(), false).is_err());
            let deepest = parse(nested(DEPTH_MAX).as_bytes(), false).expect("deep enough").0;
            assert_eq!(deepest.to_json(), nested(DEPTH_MAX));
        }
    }

    #[test]
    fn strings() {
        let cases: [(&[u8], &str); 5] = [
            (br#""a\u00e9\n\"\\\/\b\f\r\t""#, "aé\n\"\\/\u{8}\u{c}\r\t"),
            (br#""\ud83d\ude00""#, "😀"),
            (br#""\ud83dx""#, "\u{FFFD}x"),
            (br#""\ude00\ud83d\u0041""#, "\u{FFFD}\u{FFFD}A"),
            (b"\"a\xffb\"", "a\u{FFFD}b"),
        ];
        for (input, expected) in cases {
            assert_eq!(parse(input, false).expect(expected).0, expected);
        }
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let wanted = Wanted::of_paths(["metadata.labels", "type.a", "type", "type.b", "n.x"]);
        assert_eq!(wanted[1], Wanted { member: "type".into(), of_it: Vec::new() });
        let check = |json: &str, expected: &str| {
            assert_eq!(project(json.as_bytes(), &wanted).map(|value| value.to_json()).as_deref(), Ok(expected), "{json}");
        };
        check(
            r#" { "kind" : "X", "metadata": {"name":"a\\\"}{","labels":{"b":"c","a":"b"},"l":[[{}],"]"]},"spec":{"x":[1,{"y":"}"}]},"type":{"a":1} } "#,
            r#"{"metadata":{"labels":{"a":"b","b":"c"}},"type":{"a":1}}"#,
        );
        check(r#"{"metadata":null,"n":7,"m":-1.5e3,"type":[1,2]}"#, r#"{"metadata":null,"n":7,"type":[1,2]}"#);
        check("{}", "{}");
        check(r#"{"a":true}"#, "{}");
        for broken in
            ["", "[]", "{", r#"{"a""#, r#"{"a":"#, r#"{"a":[1"#, r#"{"a":"b"#, r#"{"type":tru}"#, r#"{"a":1"#, r#"{"a":"\"#]
        {
            assert!(project(broken.as_bytes(), &wanted).is_err(), "{broken}");
        }
    }
}
