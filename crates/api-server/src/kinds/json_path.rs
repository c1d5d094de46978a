//! JSONPath templates as client-go's `util/jsonpath` reads them, and its words for those that are none. Nothing is evaluated.

/// Filters and unions hold paths themselves; nobody nests them deeper.
const DEPTH_MAX: usize = 50;

/// What is wrong with the path, as it stands between braces.
pub(super) fn check(path: &str) -> Result<(), String> {
    nested(path, 0)
}

fn nested(path: &str, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("nested too deep".to_owned());
    }
    let mut parser = Parser { text: format!("{{{path}}}").chars().collect(), at: 0, depth };
    while let Some(brace) = parser.text[parser.at..].iter().position(|c| *c == '{') {
        parser.at += brace + 1;
        parser.action()?;
    }
    Ok(())
}

struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn takes(&mut self, prefix: &str) -> bool {
        let found = prefix.chars().enumerate().all(|(i, c)| self.text.get(self.at + i) == Some(&c));
        self.at += if found { prefix.len() } else { 0 };
        found
    }

    /// What stands between braces.
    fn action(&mut self) -> Result<(), String> {
        let mut descends = false;
        loop {
            if self.takes("}") {
                return Ok(());
            }
            if self.takes("..") {
                if descends {
                    return Err("invalid multiple recursive descent".to_owned());
                }
                descends = !self.peek().is_some_and(is_word);
                if !descends {
                    self.field();
                }
                continue;
            }
            if self.takes("[?(") {
                self.filter()?;
            } else {
                match self.next() {
                    None | Some('\n' | '\r') => return Err("unclosed action".to_owned()),
                    Some(' ' | '@' | '$') => continue,
                    Some('[') => self.array()?,
                    Some(quote @ ('"' | '\'')) => self.quoted(quote)?,
                    Some('.') => self.field(),
                    Some(c) if matches!(c, '+' | '-') || c.is_ascii_digit() => self.number(c)?,
                    Some(c) if is_word(c) => {
                        while !self.peek().is_none_or(is_end) {
                            self.at += 1
                        }
                    }
                    Some(c) => return Err(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c))),
                }
            }
            descends = false;
        }
    }

    fn field(&mut self) {
        while let Some(c) = self.peek() {
            if c != '\\' && is_end(c) {
                return;
            }
            self.at += 1 + usize::from(c == '\\');
        }
    }

    fn number(&mut self, first: char) -> Result<(), String> {
        let mut value = first.to_string();
        while let Some(c) = self.peek().filter(|c| *c == '.' || c.is_ascii_digit()) {
            value.push(c);
            self.at += 1;
        }
        value.parse::<f64>().map(drop).map_err(|_| format!("cannot parse number {value}"))
    }

    /// All up to a character on the same line, which is passed over.
    fn until(&mut self, end: char, otherwise: &str) -> Result<String, String> {
        let rest = &self.text[self.at..];
        let line = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        let length = rest[..line].iter().position(|c| *c == end).ok_or(otherwise)?;
        let found = rest[..length].iter().collect();
        self.at += length + 1;
        Ok(found)
    }

    fn array(&mut self) -> Result<(), String> {
        let text = self.until(']', "unterminated array")?;
        if text.contains(',') {
            return text.split(',').try_for_each(|part| nested(&format!("[{}]", part.trim_matches(' ')), self.depth + 1));
        }
        let key = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).filter(|key| !key.contains('\''));
        if let Some(key) = key {
            return nested(&format!(".{key}"), self.depth + 1);
        }
        let parts: Vec<&str> = if text == "*" { vec![""] } else { text.split(':').collect() };
        let is_index = |part: &&str| part.strip_prefix('-').unwrap_or(part).bytes().all(|byte| byte.is_ascii_digit());
        if parts.len() > 3 || !parts.iter().all(is_index) {
            return Err(format!("invalid array index {text}"));
        }
        match parts.into_iter().find(|part| !part.is_empty() && part.parse::<i64>().is_err()) {
            Some(part) => Err(format!("array index {part} is not a number")),
            None => Ok(()),
        }
    }

    fn filter(&mut self) -> Result<(), String> {
        let start = self.at;
        let (mut quote, mut ended) = (None, false);
        loop {
            match self.next() {
                None | Some('\n') => return Err("unterminated filter".to_owned()),
                Some(c @ ('"' | '\'')) => match quote {
                    None => quote = Some(c),
                    Some(pair) => ended |= c == pair && self.text[self.at - 2] != '\\',
                },
                Some(')') if quote.is_some() == ended => break,
                Some(_) => {}
            }
        }
        let text: String = self.text[start..self.at - 1].iter().collect();
        if self.next() != Some(']') {
            return Err("unclosed array expect ]".to_owned());
        }
        let is_operator = |c: char| "!<>=".contains(c);
        let operator = text.find(is_operator).filter(|at| *at > 0);
        let Some(operator) = operator else { return nested(&text, self.depth + 1) };
        let right = text[operator..].trim_start_matches(is_operator);
        // Of nothing but an operator the last sign is what it compares with.
        let right = match (right.is_empty(), text.len() - operator) {
            (true, 1) => return nested(&text, self.depth + 1),
            (true, _) => &text[text.len() - 1..],
            (false, _) => right,
        };
        nested(&text[..operator], self.depth + 1)?;
        nested(right, self.depth + 1)
    }

    fn quoted(&mut self, quote: char) -> Result<(), String> {
        let start = self.at;
        loop {
            match self.next() {
                None | Some('\n') => return Err("unterminated quoted string".to_owned()),
                Some(c) if c == quote && self.text[self.at - 2] != '\\' => break,
                Some(_) => {}
            }
        }
        let inner = &self.text[start..self.at - 1];
        let mut letters = inner.iter();
        while let Some(c) = letters.next() {
            let known = |c: char| "abfnrtv\\xuU01234567".contains(c) || c == quote;
            if *c == '\\' && !letters.next().is_some_and(|c| known(*c)) {
                let value: String = self.text[start - 1..self.at].iter().collect();
                return Err(format!("unquote string {value} error invalid syntax"));
            }
        }
        Ok(())
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphabetic() || c.is_numeric()
}

fn is_end(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for path in [
            "spec.validations[0].expression",
            "a",
            "-1",
            "$..a",
            "a['b.c'][1:2][*][0,1]",
            "a[?(@.b=='x')].c",
            "'a'",
            "ümlaut",
            "a\\.b",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        for (path, why) in [
            ("self.a == 1", "unrecognized character in action: U+003D '='"),
            ("a/../b", "unrecognized character in action: U+002F '/'"),
            ("a\nb", "unclosed action"),
            ("10.0.0.1", "cannot parse number 10.0.0.1"),
            ("a[x]", "invalid array index x"),
            ("a[-]", "array index - is not a number"),
            ("a[1", "unterminated array"),
            ("....", "invalid multiple recursive descent"),
            ("a[?(@.b", "unterminated filter"),
            ("a[?(@.b)}", "unclosed array expect ]"),
            ("'a", "unterminated quoted string"),
            (r"'\z'", r"unquote string '\z' error invalid syntax"),
        ] {
            assert_eq!(check(path), Err(why.to_owned()), "{path}");
        }
    }
}
