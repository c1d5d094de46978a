//! Tokens, as ANTLR's lexer for CEL's grammar finds them: always the longest match, and the same text for what is none.

use std::fmt;
use std::ops::Range;

use crate::source::Issue;

/// The kinds of tokens, in the grammar's order, which is also the order in which errors list them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Tok {
    Eof,
    Equals,
    NotEquals,
    In,
    Less,
    LessEquals,
    GreaterEquals,
    Greater,
    And,
    Or,
    LBracket,
    RBracket,
    LBrace,
    RBrace,
    LParen,
    RParen,
    Dot,
    Comma,
    Minus,
    Exclam,
    Question,
    Colon,
    Plus,
    Star,
    Slash,
    Percent,
    True,
    False,
    Null,
    Float,
    Int,
    Uint,
    String,
    Bytes,
    Ident,
    EscIdent,
}

/// What errors call the kinds.
const NAMES: [&str; 36] = [
    "<EOF>",
    "'=='",
    "'!='",
    "'in'",
    "'<'",
    "'<='",
    "'>='",
    "'>'",
    "'&&'",
    "'||'",
    "'['",
    "']'",
    "'{'",
    "'}'",
    "'('",
    "')'",
    "'.'",
    "','",
    "'-'",
    "'!'",
    "'?'",
    "':'",
    "'+'",
    "'*'",
    "'/'",
    "'%'",
    "'true'",
    "'false'",
    "'null'",
    "NUM_FLOAT",
    "NUM_INT",
    "NUM_UINT",
    "STRING",
    "BYTES",
    "IDENTIFIER",
    "ESC_IDENTIFIER",
];

/// A set of kinds. [`Set::END`] is ANTLR's epsilon: the rule may end here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Set(u64);

impl Set {
    pub(super) const END: Set = Set(1 << 63);

    pub(super) const fn of(kinds: &[Tok]) -> Set {
        let (mut bits, mut i) = (0, 0);
        while i < kinds.len() {
            bits |= 1 << (kinds[i] as u8);
            i += 1;
        }
        Set(bits)
    }

    pub(super) const fn or(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    pub(super) const fn has(self, kind: Tok) -> bool {
        self.0 & (1 << (kind as u8)) != 0
    }

    pub(super) const fn may_end(self) -> bool {
        self.0 & Set::END.0 != 0
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = NAMES.iter().enumerate().filter(|(i, _)| self.0 & (1 << i) != 0).map(|(_, name)| *name).collect();
        match names.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "{{{}}}", many.join(", ")),
        }
    }
}

/// A token: its kind and the characters that it is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Tok,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a source is made of.
pub(super) struct Tokens {
    /// With the end of the input as the last.
    pub(super) tokens: Vec<Token>,
    /// What is no token.
    pub(super) unknown: Vec<Range<usize>>,
    /// An error for each of these.
    pub(super) issues: Vec<Issue>,
}

/// The tokens of a source.
pub(super) fn tokens(source: &[char]) -> Tokens {
    let (mut tokens, mut unknown, mut issues) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    while at < source.len() {
        match scan(source, at) {
            Ok((Some(kind), end)) => {
                tokens.push(Token { kind, start: at, end });
                at = end;
            }
            Ok((None, end)) => at = end,
            Err(failed) => {
                // The character at which no rule went on is part of the text, and is skipped.
                let end = (failed + 1).min(source.len());
                let text: String = source[at..end].iter().collect();
                issues.push(Issue {
                    offset: Some(at as u32),
                    message: format!("Syntax error: token recognition error at: '{text}'"),
                });
                unknown.push(at..end);
                at = end;
            }
        }
    }
    tokens.push(Token { kind: Tok::Eof, start: source.len(), end: source.len() });
    Tokens { tokens, unknown, issues }
}

/// The kind (`None` for what is skipped) and end of the token at `at`; the error is where the last rule gave up.
fn scan(s: &[char], at: usize) -> Result<(Option<Tok>, usize), usize> {
    let peek = |i: usize| s.get(at + i).copied().unwrap_or('\0');
    let one = |kind| Ok((Some(kind), at + 1));
    let two = |kind| Ok((Some(kind), at + 2));
    match (peek(0), peek(1)) {
        ('\t' | ' ' | '\r' | '\n' | '\u{c}', _) => {
            let len = s[at..].iter().take_while(|c| matches!(c, '\t' | ' ' | '\r' | '\n' | '\u{c}')).count();
            Ok((None, at + len))
        }
        ('/', '/') => Ok((None, at + s[at..].iter().take_while(|c| **c != '\n').count())),
        ('=', '=') => two(Tok::Equals),
        ('!', '=') => two(Tok::NotEquals),
        ('<', '=') => two(Tok::LessEquals),
        ('>', '=') => two(Tok::GreaterEquals),
        ('&', '&') => two(Tok::And),
        ('|', '|') => two(Tok::Or),
        ('=' | '&' | '|', _) => Err(at + 1),
        ('<', _) => one(Tok::Less),
        ('>', _) => one(Tok::Greater),
        ('!', _) => one(Tok::Exclam),
        ('[', _) => one(Tok::LBracket),
        (']', _) => one(Tok::RBracket),
        ('{', _) => one(Tok::LBrace),
        ('}', _) => one(Tok::RBrace),
        ('(', _) => one(Tok::LParen),
        (')', _) => one(Tok::RParen),
        (',', _) => one(Tok::Comma),
        ('-', _) => one(Tok::Minus),
        ('?', _) => one(Tok::Question),
        (':', _) => one(Tok::Colon),
        ('+', _) => one(Tok::Plus),
        ('*', _) => one(Tok::Star),
        ('/', _) => one(Tok::Slash),
        ('%', _) => one(Tok::Percent),
        ('.', next) if next.is_ascii_digit() => Ok(number(s, at)),
        ('.', _) => one(Tok::Dot),
        (c, _) if c.is_ascii_digit() => Ok(number(s, at)),
        ('"' | '\'', _) => string(s, at, false).map(|end| (Some(Tok::String), end)),
        ('`', _) => escaped_ident(s, at),
        (c, _) if c == '_' || c.is_ascii_alphabetic() => Ok(word(s, at)),
        _ => Err(at),
    }
}

fn digits(s: &[char], at: usize) -> usize {
    at + s.get(at..).unwrap_or_default().iter().take_while(|c| c.is_ascii_digit()).count()
}

fn is_suffix(s: &[char], at: usize) -> bool {
    matches!(s.get(at), Some('u' | 'U'))
}

fn number(s: &[char], at: usize) -> (Option<Tok>, usize) {
    if s[at] == '0' && s.get(at + 1) == Some(&'x') {
        let end = at + 2 + s[at + 2..].iter().take_while(|c| c.is_ascii_hexdigit()).count();
        if end > at + 2 {
            return if is_suffix(s, end) { (Some(Tok::Uint), end + 1) } else { (Some(Tok::Int), end) };
        }
    }
    let whole = digits(s, at);
    let mut end = whole;
    if s.get(end) == Some(&'.') && s.get(end + 1).is_some_and(char::is_ascii_digit) {
        end = digits(s, end + 1);
    }
    if matches!(s.get(end), Some('e' | 'E')) {
        let sign = usize::from(matches!(s.get(end + 1), Some('+' | '-')));
        let exponent = digits(s, end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    match end > whole {
        true => (Some(Tok::Float), end),
        false if is_suffix(s, whole) => (Some(Tok::Uint), whole + 1),
        false => (Some(Tok::Int), whole),
    }
}

/// The end of a string whose quote is at `at`.
fn string(s: &[char], at: usize, raw: bool) -> Result<usize, usize> {
    let quote = s[at];
    let is = |i: usize| s.get(i) == Some(&quote);
    if is(at + 1) && is(at + 2) {
        let mut i = at + 3;
        while i < s.len() {
            if is(i) && is(i + 1) && is(i + 2) {
                return Ok(i + 3);
            }
            match s[i] {
                '\\' if !raw => match escape(s, i) {
                    Ok(end) => i = end,
                    Err(_) => break,
                },
                _ => i += 1,
            }
        }
        // It does not end: the first two quotes are an empty string.
        return Ok(at + 2);
    }
    let mut i = at + 1;
    while i < s.len() {
        match s[i] {
            c if c == quote => return Ok(i + 1),
            '\n' | '\r' => return Err(i),
            '\\' if !raw => i = escape(s, i)?,
            _ => i += 1,
        }
    }
    Err(i)
}

/// The end of an escape sequence whose backslash is at `at`.
fn escape(s: &[char], at: usize) -> Result<usize, usize> {
    let hex = |count: usize| {
        let bad = (0..count).find(|i| !s.get(at + 2 + i).is_some_and(char::is_ascii_hexdigit));
        bad.map_or(Ok(at + 2 + count), |i| Err(at + 2 + i))
    };
    match s.get(at + 1) {
        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(at + 2),
        Some('x' | 'X') => hex(2),
        Some('u') => hex(4),
        Some('U') => hex(8),
        Some('0'..='3') => {
            let bad = (2..4).find(|i| !matches!(s.get(at + i), Some('0'..='7')));
            bad.map_or(Ok(at + 4), |i| Err(at + i))
        }
        _ => Err(at + 1),
    }
}

fn escaped_ident(s: &[char], at: usize) -> Result<(Option<Tok>, usize), usize> {
    let inner = |c: &&char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ');
    let end = at + 1 + s[at + 1..].iter().take_while(inner).count();
    match s.get(end) {
        Some('`') if end > at + 1 => Ok((Some(Tok::EscIdent), end + 1)),
        _ => Err(end),
    }
}

fn word(s: &[char], at: usize) -> (Option<Tok>, usize) {
    let raw = |i: usize| matches!(s.get(i), Some('r' | 'R'));
    let quoted = |i: usize| matches!(s.get(i), Some('"' | '\''));
    // A prefix without a string that ends is a name, and what follows is looked at again.
    let literals = [
        (raw(at) && quoted(at + 1), Tok::String, 1, true),
        (matches!(s[at], 'b' | 'B') && quoted(at + 1), Tok::Bytes, 1, false),
        (matches!(s[at], 'b' | 'B') && raw(at + 1) && quoted(at + 2), Tok::Bytes, 2, true),
    ];
    for (is, kind, skip, raw) in literals {
        if is && let Ok(end) = string(s, at + skip, raw) {
            return (Some(kind), end);
        }
    }
    let end = at + s[at..].iter().take_while(|c| **c == '_' || c.is_ascii_alphanumeric()).count();
    let text: String = s[at..end].iter().collect();
    let kind = match text.as_str() {
        "in" => Tok::In,
        "true" => Tok::True,
        "false" => Tok::False,
        "null" => Tok::Null,
        _ => Tok::Ident,
    };
    (Some(kind), end)
}
