//! The parser of label selectors.

use std::collections::BTreeSet;

use super::SelectorError;
use super::labels::{Operator, Requirement, check_key};
use crate::field::Path;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    Identifier,
    In,
    NotIn,
    Open,
    Compare(Operator),
}

const SPECIAL: &[u8] = b"=!(),><";

fn special(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "(" => Token::Open,
        "==" => Token::Compare(Operator::DoubleEquals),
        "=" => Token::Compare(Operator::Equals),
        "!=" => Token::Compare(Operator::NotEquals),
        ">" => Token::Compare(Operator::GreaterThan),
        "<" => Token::Compare(Operator::LessThan),
        _ => return None,
    })
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let bytes = text.as_bytes();
    let is_space = |b: u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        while bytes.get(at).is_some_and(|b| is_space(*b)) {
            at += 1;
        }
        let start = at;
        match bytes.get(at) {
            None => {
                tokens.push((Token::End, String::new()));
                return tokens;
            }
            Some(b) if SPECIAL.contains(b) => {
                at += 1;
                // The longest operator wins; all have one or two characters.
                if bytes.get(at).is_some_and(|b| SPECIAL.contains(b)) && special(&text[start..=at]).is_some() {
                    at += 1;
                }
                let literal = &text[start..at];
                tokens.push((special(literal).unwrap_or(Token::Error), literal.to_owned()));
            }
            Some(_) => {
                while bytes.get(at).is_some_and(|b| !is_space(*b) && !SPECIAL.contains(b)) {
                    at += 1;
                }
                let literal = &text[start..at];
                let token = match literal {
                    "in" => Token::In,
                    "notin" => Token::NotIn,
                    _ => Token::Identifier,
                };
                tokens.push((token, literal.to_owned()));
            }
        }
    }
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

/// Parses a selector into its requirements, in the order of the text.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        let (token, literal) = parser.peek();
        match token {
            Token::Identifier | Token::Not => {}
            Token::End => return Ok(requirements),
            _ => return Err(SelectorError(format!("found '{literal}', expected: !, identifier, or 'end of string'"))),
        }
        let requirement = parser.requirement();
        requirements.push(requirement.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
        match parser.next() {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => {
                let (token, literal) = parser.peek();
                if !matches!(token, Token::Identifier | Token::Not) {
                    return Err(SelectorError(format!("found '{literal}', expected: identifier after ','")));
                }
            }
            (_, literal) => return Err(SelectorError(format!("found '{literal}', expected: ',' or 'end of string'"))),
        }
    }
}

impl Parser {
    /// The next token; `in` and `notin` count as identifiers, as everywhere but in the place of an operator.
    fn peek(&self) -> (Token, String) {
        let (token, literal) = self.tokens.get(self.at).cloned().unwrap_or((Token::End, String::new()));
        (if matches!(token, Token::In | Token::NotIn) { Token::Identifier } else { token }, literal)
    }

    fn next(&mut self) -> (Token, String) {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(SelectorError(format!("found '{key}', expected: identifier")));
        }
        if let Some(error) = check_key(&key, &Path::root()) {
            return Err(SelectorError(error.to_string()));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(&key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, literal) = self.tokens.get(self.at).cloned().unwrap_or((Token::End, String::new()));
        self.at += 1;
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Compare(operator) => Ok(operator),
            _ => Err(SelectorError(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt"))),
        }
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, literal) => Ok(literal),
            (_, literal) => Err(SelectorError(format!("found '{literal}', expected: identifier"))),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, literal) = self.next();
        if token != Token::Open {
            return Err(SelectorError(format!("found '{literal}' expected: '('")));
        }
        match self.peek() {
            (Token::Close, _) => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            (Token::Identifier | Token::Comma, first) => {
                let values = self.identifiers()?;
                match self.next().0 {
                    Token::Close => Ok(values.into_iter().collect()),
                    _ => Err(SelectorError(format!("found '{first}', expected: ')'"))),
                }
            }
            (_, literal) => Err(SelectorError(format!("found '{literal}', expected: ',', ')' or identifier"))),
        }
    }

    /// Identifiers between commas; a comma without one next to it stands for the empty string.
    fn identifiers(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let mut values = BTreeSet::new();
        loop {
            match self.next() {
                (Token::Identifier, literal) => {
                    values.insert(literal);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, literal) => return Err(SelectorError(format!("found '{literal}', expected: ',' or ')'"))),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, literal) => return Err(SelectorError(format!("found '{literal}', expected: ',', or identifier"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::selector::LabelSelector;

    #[test]
    fn valid_selectors() {
        let cases = [
            ("", ""),
            ("a", "a"),
            ("!a", "!a"),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("z=c,x==a", "x==a,z=c"),
            ("x!=a,y", "x!=a,y"),
            ("x in (b,a), y notin ()", "x in (a,b),y notin ()"),
            ("x in (a,,b)", "x in (,a,b)"),
            ("x in (,a)", "x in (,a)"),
            ("in in (in,notin)", "in in (in,notin)"),
            ("example.com/x>1,y<7", "example.com/x>1,y<7"),
            ("x=", "x="),
            (" x = a , y ", "x=a,y"),
        ];
        for (text, printed) in cases {
            assert_eq!(LabelSelector::parse(text).expect(text).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn invalid_selectors() {
        let cases = [
            (
                "x=a||y=b",
                "unable to parse requirement: values[0][x]: Invalid value: \"a||y\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            ("x==a==b", "found '==', expected: ',' or 'end of string'"),
            (",x", "found ',', expected: !, identifier, or 'end of string'"),
            ("x,", "found '', expected: identifier after ','"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"),
            ("!!x", "unable to parse requirement: found '!', expected: identifier"),
            (
                "x>a",
                "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(LabelSelector::parse(text).expect_err(text).to_string(), message, "{text}");
        }
        assert!(
            LabelSelector::parse("-x=a")
                .expect_err("key")
                .to_string()
                .starts_with("unable to parse requirement: <nil>: Invalid value: \"-x\": name part must consist")
        );
    }
}
