//! Regular expressions in Go's syntax (RE2), by the `regex` crate: both match in linear time.
//!
//! The classes `\d`, `\w`, `\s` and `\b` are about ASCII in Go, and are rewritten so; `\Q...\E` and `\C` do not occur in the crate.

use std::collections::HashMap;

use crate::ast::{Expr, Id, Kind};
use crate::eval::{ELEMENTS_MAX, EvalError, Evaluated};
use crate::meter::Meter;
use crate::value::Val;

pub(super) const TABLE: &str = "
find string_find_string string.(string) -> string
findAll string_find_all_string string.(string) -> list(string)
findAll string_find_all_string_int string.(string, int) -> list(string)
";

/// What a compiled pattern may take, and the sizes that are tried before: how large a pattern is says how much work a match is.
const SIZE_MAX: usize = 1 << 20;
const SIZES: [usize; 5] = [1 << 11, 1 << 13, 1 << 15, 1 << 17, SIZE_MAX];
/// What the constant patterns of an expression may take together.
const SIZES_SUM_MAX: usize = 2 << 20;
/// So much of a pattern is compiled in one step.
const COMPILED_PER_STEP: usize = 64;
/// So much of a pattern is matched with one byte of text in one step.
const MATCHED_PER_STEP: usize = 1 << 12;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    regex: regex::Regex,
    /// At least what it takes, in bytes.
    size: usize,
}

/// Why a text is no pattern.
struct Invalid {
    why: String,
    size: usize,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Pattern, Invalid> {
        let mut builder = regex::RegexBuilder::new(&translated(pattern));
        builder.dfa_size_limit(SIZE_MAX).nest_limit(200);
        let mut invalid = Invalid { why: String::new(), size: SIZE_MAX };
        for size in SIZES {
            match builder.size_limit(size).build() {
                Ok(regex) => return Ok(Pattern { regex, size }),
                Err(regex::Error::CompiledTooBig(_)) if size < SIZE_MAX => {}
                Err(error @ regex::Error::CompiledTooBig(_)) => invalid.why = error.to_string(),
                Err(error) => return Err(Invalid { why: error.to_string(), size: 0 }),
            }
        }
        Err(invalid)
    }

    /// The steps of a search, which cannot be interrupted: as much work as text and pattern are large.
    fn work(&self, bytes: usize) -> usize {
        (bytes + 1).saturating_mul(self.size) / MATCHED_PER_STEP
    }

    /// At most `limit` matches, one after the other.
    fn find_all(&self, text: &str, limit: usize, meter: &Meter<'_>) -> Evaluated {
        let (mut found, mut all) = (Vec::new(), self.regex.find_iter(text));
        // Beyond what a list may be, it is enough to know so.
        while found.len() < limit.min(ELEMENTS_MAX + 1)
            && let Some(next) = all.next()
        {
            // To find the next one may take the whole rest of the text.
            meter.step(self.work(text.len() - next.end()))?;
            found.push(Val::from(next.as_str()));
        }
        Ok(found.into())
    }
}

/// What became of a constant pattern.
#[derive(Clone, Debug)]
pub(crate) enum Constant {
    Compiled(Pattern),
    Invalid,
    /// The patterns before it take all that an expression's may.
    TooMuch,
}

/// The constant patterns of an expression, by the id of the literal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns(HashMap<Id, Constant>);

impl Patterns {
    pub(crate) fn of(expr: &Expr) -> Patterns {
        let (mut patterns, mut sum) = (HashMap::new(), 0);
        expr.walk(&mut |expr| {
            let Kind::Call { target, function, args } = &*expr.kind else { return };
            // Called on a text the pattern is the first argument, otherwise the second; cel-go checks the first of `matches` in any case.
            let places = match &**function {
                "matches" => 0..=usize::from(target.is_none()),
                "find" | "findAll" => 0..=0,
                _ => return,
            };
            for arg in args.get(places).unwrap_or_default() {
                let Some(text) = arg.as_text() else { continue };
                if sum >= SIZES_SUM_MAX {
                    patterns.insert(arg.id, Constant::TooMuch);
                    continue;
                }
                let (size, constant) = match Pattern::new(text) {
                    Ok(pattern) => (pattern.size, Constant::Compiled(pattern)),
                    Err(invalid) => (invalid.size, Constant::Invalid),
                };
                sum += size;
                patterns.insert(arg.id, constant);
            }
        });
        Patterns(patterns)
    }

    pub(crate) fn get(&self, literal: &Expr) -> Option<&Constant> {
        self.0.get(&literal.id)
    }
}

/// The pattern in the crate's syntax.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut class = 0usize;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
                Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                Some(b @ ('b' | 'B')) if class == 0 => out.push_str(&format!("(?-u:\\{b})")),
                Some('Q') => quoted(&mut chars, &mut out),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            // Inside a class Go takes an opening bracket, and pairs of `&`, `-` and `~`, for what they are.
            '[' if class > 0 && chars.peek() != Some(&':') => out.push_str("\\["),
            '[' => {
                class += 1;
                out.push('[');
                if class == 1 {
                    open_class(&mut chars, &mut out);
                }
            }
            ']' if class > 0 => {
                class -= 1;
                out.push(']');
            }
            '&' | '~' if class > 0 => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// A bracket that comes first in a class belongs to it.
fn open_class(chars: &mut std::iter::Peekable<std::str::Chars>, out: &mut String) {
    if chars.peek() == Some(&'^') {
        out.extend(chars.next());
    }
    if chars.peek() == Some(&']') {
        chars.next();
        out.push_str("\\]");
    }
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars>, out: &mut String) {
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            return;
        }
        out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }
}

pub(super) fn invoke(function: &str, args: &[Val], pattern: Option<&Pattern>, meter: &Meter<'_>) -> Evaluated {
    let (Some(Val::String(text)), Some(Val::String(source))) = (args.first(), args.get(1)) else {
        return Err(EvalError::no_overload());
    };
    let compiled;
    let pattern = match pattern {
        Some(pattern) => pattern,
        None => {
            meter.check()?;
            let made = Pattern::new(source);
            let size = made.as_ref().map_or_else(|invalid| invalid.size, |pattern| pattern.size);
            meter.step(source.len() + size / COMPILED_PER_STEP)?;
            compiled = made.map_err(|Invalid { why, .. }| match function {
                "matches" => EvalError::failed(why),
                _ => EvalError::failed(format!("Illegal regex: {why}")),
            })?;
            &compiled
        }
    };
    meter.check()?;
    meter.step(pattern.work(text.len()))?;
    match (function, args.get(2)) {
        ("matches", None) => Ok(Val::Bool(pattern.regex.is_match(text))),
        ("find", None) => Ok(Val::from(pattern.regex.find(text).map_or("", |found| found.as_str()))),
        ("findAll", limit @ (None | Some(Val::Int(_)))) => {
            let limit = match limit {
                Some(Val::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            pattern.find_all(text, limit, meter)
        }
        _ => Err(EvalError::no_overload()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{COMPATIBLE, Env};
    use crate::meter::STEPS_MAX;
    use crate::types::Type;

    fn constants(expression: &str) -> Vec<Constant> {
        let env = Env::base(COMPATIBLE).with_variable("x", Type::String);
        let ast = env.compile(expression).expect(expression);
        let mut all: Vec<_> = ast.patterns.0.iter().map(|(id, constant)| (*id, constant.clone())).collect();
        all.sort_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, constant)| constant).collect()
    }

    #[test]
    fn constant_patterns_are_compiled_beforehand() {
        for (expression, count) in
            [("x.matches('a+') || matches(x, 'a+')", 2), ("x.find('a+') == x.findAll('a+', 2)[0]", 2), ("'a'.matches(x)", 0)]
        {
            let constants = constants(expression);
            assert_eq!(constants.len(), count, "{expression}");
            assert!(constants.iter().all(|constant| matches!(constant, Constant::Compiled(_))), "{expression}");
        }
        assert!(matches!(constants("x.find('(') == ''")[..], [Constant::Invalid]));
    }

    #[test]
    fn patterns_are_bounded_together() {
        let large = "x.find('[a-z]{500}') == ''";
        let all = constants(&vec![large; 100].join(" || "));
        assert!(matches!(all[0], Constant::Compiled(_)) && matches!(all[99], Constant::TooMuch));
        let sum: usize =
            all.iter().map(|constant| if let Constant::Compiled(pattern) = constant { pattern.size } else { 0 }).sum();
        assert!((SIZES_SUM_MAX..SIZES_SUM_MAX + SIZE_MAX).contains(&sum), "{sum}");
        let env = Env::base(COMPATIBLE).with_variable("x", Type::String);
        let issues = env.compile(&vec!["x.matches('[a-z]{500}')"; 100].join(" || ")).expect_err("refused").to_string();
        assert!(issues.contains("regular expressions of the expression are too large together"), "{issues:.500}");
    }

    #[test]
    fn searches_are_bounded() {
        let text = |source: &str| Val::from(source.repeat(1 << 20).as_str());
        let bounded = |function: &str, pattern: &str| {
            let meter = Meter::new(&|| false);
            // What is left is enough for a small pattern to go through the text once.
            meter.step(STEPS_MAX - (1 << 20)).expect("within bounds");
            invoke(function, &[text("A"), Val::from(pattern)], None, &meter).err()
        };
        assert_eq!(bounded("matches", "x"), None);
        // Each of the 2^20 matches would look at all that is left.
        assert_eq!(bounded("findAll", ".*[^A-Z]|[A-Z]"), Some(EvalError::CostLimit));
        assert_eq!(bounded("matches", "[A-Z]{1000}[A-Z]{1000}x"), Some(EvalError::CostLimit));
    }
}
