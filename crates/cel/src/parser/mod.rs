//! The parser: CEL's grammar by recursive descent, which recovers from errors as ANTLR does, because its words are what clients see
//! (`mismatched input '<EOF>' expecting {...}`).
//!
//! Every rule of the grammar that can fail has a method; what may follow a rule is kept on a stack while it is worked on, and is what
//! recovery looks for. Depth is bounded by cel-go's limit of 250 for each recursive rule, size by 100,000 characters.
//!
//! Not here: what names mean (the checker).

mod aggregates;
mod lexer;
mod literal;
mod macros;
mod recovery;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::ast::{Expr, Id, Kind, Literal, op};
use crate::names::RESERVED;
use crate::source::{Issue, Issues};
use lexer::{Set, Tok, Token, Tokens};

/// cel-go's limits.
const DEPTH_MAX: u32 = 250;
const SOURCE_CHARS_MAX: usize = 100_000;
const RECOVERIES_MAX: u32 = 30;
const SKIPPED_MAX: usize = 256;

const RELATION: Set =
    Set::of(&[Tok::Equals, Tok::NotEquals, Tok::In, Tok::Less, Tok::LessEquals, Tok::GreaterEquals, Tok::Greater]);
const CALCULATION: Set = Set::of(&[Tok::Plus, Tok::Minus, Tok::Star, Tok::Slash, Tok::Percent]);
const AFTER_OPERAND: Set = RELATION.or(CALCULATION).or(Set::of(&[Tok::And, Tok::Or])).or(Set::END);
const AFTER_PRIMARY: Set = Set::of(&[Tok::Dot, Tok::LBracket]).or(Set::END);
/// What a primary starts with, and with it a member.
const MEMBER: Set = Set::of(&[
    Tok::LBracket,
    Tok::LBrace,
    Tok::LParen,
    Tok::Dot,
    Tok::Minus,
    Tok::True,
    Tok::False,
    Tok::Null,
    Tok::Float,
    Tok::Int,
    Tok::Uint,
    Tok::String,
    Tok::Bytes,
    Tok::Ident,
]);
const EXPR: Set = MEMBER.or(Set::of(&[Tok::Exclam]));
const OPT_EXPR: Set = EXPR.or(Set::of(&[Tok::Question]));
const FIELD: Set = Set::of(&[Tok::Ident, Tok::EscIdent]);
const OPT_FIELD: Set = FIELD.or(Set::of(&[Tok::Question]));

/// Which parts of the language are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Syntax {
    pub(crate) optionals: bool,
    pub(crate) two_variables: bool,
    pub(crate) sort_by: bool,
    pub(crate) bindings: bool,
}

/// Parses an expression; returns it and how many ids it uses.
pub(crate) fn parse(source: &str, syntax: Syntax) -> Result<(Expr, Id), Issues> {
    let chars: Vec<char> = source.chars().collect();
    if chars.len() > SOURCE_CHARS_MAX {
        let message = format!("expression code point size exceeds limit: size: {}, limit {SOURCE_CHARS_MAX}", chars.len());
        return Err(Issues::new(source, vec![Issue { offset: None, message }]));
    }
    let Tokens { tokens, unknown, issues } = lexer::tokens(&chars);
    let mut parser = Parser {
        source: &chars,
        tokens,
        unknown,
        at: 0,
        issues,
        recovering: false,
        last_error: None,
        recoveries: 0,
        follow: Vec::new(),
        depth: Depth::default(),
        next_id: 0,
        syntax,
    };
    let parsed = parser.start();
    match parsed {
        Ok(expr) if parser.issues.is_empty() => Ok((expr, parser.next_id)),
        _ => Err(Issues::new(source, parser.issues)),
    }
}

/// Why a rule ended early.
enum Fail {
    /// No alternative goes on after the tokens from `start` to `offending`.
    NoViable { start: usize, offending: usize },
    /// The token at `offending` is none of these.
    Mismatch { offending: usize, expected: Set },
    /// A limit was reached; the error is reported.
    Abort,
}

type Parsed<T> = Result<T, Fail>;

/// How often each recursive rule is being worked on.
#[derive(Clone, Copy, Default)]
struct Depth {
    expr: u32,
    relation: u32,
    calculation: u32,
}

struct Parser<'s> {
    source: &'s [char],
    tokens: Vec<Token>,
    unknown: Vec<Range<usize>>,
    at: usize,
    issues: Vec<Issue>,
    /// An error was reported, and no token matched since: ANTLR is silent meanwhile.
    recovering: bool,
    /// Where the last recovery ended, and the rule that it was in.
    last_error: Option<(usize, &'static str)>,
    recoveries: u32,
    follow: Vec<Set>,
    depth: Depth,
    next_id: Id,
    syntax: Syntax,
}

// The rules.
impl Parser<'_> {
    fn node(&mut self, pos: Option<u32>, kind: Kind) -> Expr {
        self.next_id += 1;
        Expr { id: self.next_id - 1, pos, depth: Expr::depth_below(&kind), kind: Box::new(kind) }
    }

    /// One more selection, call or operator.
    fn nested(&mut self, mut expr: Expr) -> Parsed<Expr> {
        expr.depth += 1;
        if u32::from(expr.depth) > DEPTH_MAX {
            self.error(None, "max recursion depth exceeded");
            return Err(Fail::Abort);
        }
        Ok(expr)
    }

    fn nothing(&mut self) -> Expr {
        self.node(None, Kind::Unspecified)
    }

    fn start(&mut self) -> Parsed<Expr> {
        let expr = self.expr(Set::of(&[Tok::Eof]))?;
        if let Err(fail) = self.expect(Tok::Eof, Set::of(&[])) {
            self.recover("start", fail)?;
        }
        Ok(expr)
    }

    fn expr(&mut self, follow: Set) -> Parsed<Expr> {
        self.depth.expr += 1;
        if self.depth.expr > DEPTH_MAX {
            return self.too_deep();
        }
        self.follow.push(follow);
        let parsed = match self.ternary() {
            Ok(expr) => Ok(expr),
            Err(fail) => self.recover("expr", fail).map(|()| self.nothing()),
        };
        self.follow.pop();
        self.depth.expr -= 1;
        parsed
    }

    fn ternary(&mut self) -> Parsed<Expr> {
        let condition = self.within(Set::of(&[Tok::Question]).or(Set::END), Self::conditional)?;
        if self.kind(0) != Tok::Question {
            return Ok(condition);
        }
        let pos = self.here();
        self.expect(Tok::Question, Set::END)?;
        let yes = self.within(Set::of(&[Tok::Colon]), Self::conditional)?;
        self.expect(Tok::Colon, EXPR)?;
        let no = self.expr(Set::END)?;
        let conditional = self.global_call(pos, op::CONDITIONAL, vec![condition, yes, no]);
        self.nested(conditional)
    }

    /// Terms of `||`, each of terms of `&&`.
    fn conditional(&mut self) -> Parsed<Expr> {
        let (mut all, mut operators) = (Vec::new(), Vec::new());
        self.follow.push(AFTER_OPERAND);
        loop {
            let term = self.conjunction()?;
            all.push(Some(term));
            if self.kind(0) != Tok::Or {
                break;
            }
            operators.push(self.here());
            self.expect(Tok::Or, Set::END)?;
        }
        self.follow.pop();
        Ok(self.balanced(op::OR, &mut all, &operators))
    }

    fn conjunction(&mut self) -> Parsed<Expr> {
        let (mut all, mut operators) = (Vec::new(), Vec::new());
        loop {
            all.push(Some(self.binary(0)?));
            if self.kind(0) != Tok::And {
                return Ok(self.balanced(op::AND, &mut all, &operators));
            }
            operators.push(self.here());
            self.expect(Tok::And, Set::END)?;
        }
    }

    /// A tree as flat as can be: what is tested together nests only by its logarithm.
    fn balanced(&mut self, function: &str, terms: &mut [Option<Expr>], operators: &[Option<u32>]) -> Expr {
        match operators {
            [] => terms[0].take().unwrap_or_else(|| self.nothing()),
            operators => {
                let middle = operators.len() / 2;
                let (left, right) = terms.split_at_mut(middle + 1);
                let left = self.balanced(function, left, &operators[..middle]);
                let right = self.balanced(function, right, &operators[middle + 1..]);
                self.call(operators[middle], function, None, vec![left, right])
            }
        }
    }

    /// Relations (level 0), sums (1) and products (2).
    fn binary(&mut self, level: u8) -> Parsed<Expr> {
        let before = self.depth;
        // The right side of a relation is a relation of its own.
        self.depth.relation += u32::from(level <= 1);
        self.depth.calculation += 1;
        if self.depth.relation > DEPTH_MAX || self.depth.calculation > DEPTH_MAX {
            return self.too_deep();
        }
        let mut left = self.unary()?;
        while let Some((operator, binds)) = binary_operator(self.kind(0)).filter(|(_, binds)| *binds >= level) {
            let pos = self.here();
            let kind = self.kind(0);
            self.expect(kind, Set::END)?;
            let right = self.binary(binds + 1)?;
            left = self.call(pos, operator, None, vec![left, right]);
            left = self.nested(left)?;
        }
        self.depth = before;
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        match self.prefixed() {
            Ok(expr) => Ok(expr),
            Err(fail) => {
                self.recover("unary", fail)?;
                // The words of cel-go for what is missing; the error is reported already.
                let pos = self.here();
                Ok(self.node(pos, Kind::Literal(Literal::String("<<error>>".into()))))
            }
        }
    }

    fn prefixed(&mut self) -> Parsed<Expr> {
        self.sync(EXPR)?;
        let (kind, number) = (self.kind(0), Set::of(&[Tok::Int, Tok::Float]));
        let function = match kind {
            Tok::Exclam => op::NOT,
            Tok::Minus if !number.has(self.kind(1)) => op::NEGATE,
            _ => return self.member(),
        };
        let pos = self.here();
        let mut count = 0;
        while self.kind(0) == kind {
            if kind == Tok::Minus && !MEMBER.has(self.kind(1)) {
                return Err(Fail::NoViable { start: self.at, offending: self.at + 1 });
            }
            self.expect(kind, MEMBER)?;
            count += 1;
            let next = MEMBER.or(Set::of(&[kind]));
            if !self.recovering && !self.is(next) {
                self.report_unwanted(next);
                let until = self.follow.iter().fold(next.or(Set::of(&[Tok::Eof])), |all, follow| all.or(*follow));
                while !self.is(until) {
                    self.advance();
                }
            }
        }
        let operand = self.member()?;
        Ok(if count % 2 == 0 { operand } else { self.global_call(pos, function, vec![operand]) })
    }

    fn member(&mut self) -> Parsed<Expr> {
        match self.selections() {
            Ok(expr) => Ok(expr),
            Err(fail) => self.recover("member", fail).map(|()| self.nothing()),
        }
    }

    fn selections(&mut self) -> Parsed<Expr> {
        self.follow.push(AFTER_PRIMARY);
        let mut operand = self.primary()?;
        self.follow.pop();
        loop {
            operand = match self.kind(0) {
                Tok::Dot if !OPT_FIELD.has(self.kind(1)) => {
                    return Err(Fail::NoViable { start: self.at, offending: (self.at + 1).min(self.tokens.len() - 1) });
                }
                Tok::Dot if self.kind(1) == Tok::Ident && self.kind(2) == Tok::LParen => self.member_call(operand)?,
                Tok::Dot => self.select(operand)?,
                Tok::LBracket => self.index(operand)?,
                _ => return Ok(operand),
            };
            operand = self.nested(operand)?;
        }
    }

    fn member_call(&mut self, operand: Expr) -> Parsed<Expr> {
        self.expect(Tok::Dot, FIELD)?;
        let name = self.text(self.at);
        self.expect(Tok::Ident, Set::of(&[Tok::LParen]))?;
        let pos = self.here();
        let args = self.arguments()?;
        Ok(self.receiver_call(pos, &name, operand, args))
    }

    fn select(&mut self, operand: Expr) -> Parsed<Expr> {
        let pos = self.here();
        self.expect(Tok::Dot, OPT_FIELD)?;
        let optional = self.kind(0) == Tok::Question;
        if optional {
            self.expect(Tok::Question, FIELD)?;
        }
        let name_pos = self.here();
        let Some(field) = self.within(AFTER_PRIMARY, Self::escape_ident)? else { return Ok(self.nothing()) };
        if !optional {
            let kind = Kind::Select { operand, field: field.into(), test_only: false };
            return Ok(self.node(pos, kind));
        }
        if !self.syntax.optionals {
            self.error(pos, "unsupported syntax '.?'");
            return Ok(self.nothing());
        }
        let field = self.node(name_pos, Kind::Literal(Literal::String(field.into())));
        Ok(self.call(pos, op::OPT_SELECT, None, vec![operand, field]))
    }

    fn index(&mut self, operand: Expr) -> Parsed<Expr> {
        let pos = self.here();
        self.expect(Tok::LBracket, OPT_EXPR)?;
        self.sync(OPT_EXPR)?;
        let optional = self.kind(0) == Tok::Question;
        if optional {
            self.expect(Tok::Question, EXPR)?;
        }
        let index = self.expr(Set::of(&[Tok::RBracket]))?;
        self.expect(Tok::RBracket, AFTER_PRIMARY)?;
        if optional && !self.syntax.optionals {
            self.error(pos, "unsupported syntax '[?'");
            return Ok(self.nothing());
        }
        let function = if optional { op::OPT_INDEX } else { op::INDEX };
        Ok(self.call(pos, function, None, vec![operand, index]))
    }

    /// A field's name; `None` where there is none, which is reported.
    fn escape_ident(&mut self) -> Parsed<Option<String>> {
        if let Err(fail) = self.sync(FIELD) {
            return self.recover("escapeIdent", fail).map(|()| None);
        }
        let (at, pos) = (self.at, self.here());
        match self.kind(0) {
            Tok::Ident => {
                self.expect(Tok::Ident, Set::END)?;
                Ok(Some(self.text(at)))
            }
            Tok::EscIdent => {
                self.expect(Tok::EscIdent, Set::END)?;
                self.error(pos, "unsupported syntax: '`'");
                Ok(Some(self.text(at)))
            }
            _ => self.recover("escapeIdent", Fail::NoViable { start: at, offending: at }).map(|()| None),
        }
    }

    fn primary(&mut self) -> Parsed<Expr> {
        match self.primary_alternative() {
            Ok(expr) => Ok(expr),
            Err(fail) => self.recover("primary", fail).map(|()| self.nothing()),
        }
    }

    fn primary_alternative(&mut self) -> Parsed<Expr> {
        self.sync(MEMBER)?;
        let next = (self.at + 1).min(self.tokens.len() - 1);
        match self.kind(0) {
            Tok::Dot if self.kind(1) != Tok::Ident => Err(Fail::NoViable { start: self.at, offending: next }),
            Tok::Dot | Tok::Ident => self.name(),
            Tok::LParen => {
                self.expect(Tok::LParen, EXPR)?;
                let inner = self.expr(Set::of(&[Tok::RParen]))?;
                self.expect(Tok::RParen, Set::END)?;
                Ok(inner)
            }
            Tok::LBracket => self.list(),
            Tok::LBrace => self.map(),
            Tok::Minus if !matches!(self.kind(1), Tok::Int | Tok::Float) => {
                Err(Fail::NoViable { start: self.at, offending: next })
            }
            kind if MEMBER.has(kind) => Ok(self.literal()),
            _ => Err(Fail::NoViable { start: self.at, offending: self.at }),
        }
    }

    /// An identifier, a call of a global function, or a message.
    fn name(&mut self) -> Parsed<Expr> {
        let dotted = usize::from(self.kind(0) == Tok::Dot);
        let mut end = dotted;
        while self.kind(end + 1) == Tok::Dot && self.kind(end + 2) == Tok::Ident {
            end += 2;
        }
        if self.kind(end + 1) == Tok::LBrace {
            return self.message(end + 1);
        }
        let start = self.here();
        if dotted == 1 {
            self.expect(Tok::Dot, FIELD)?;
        }
        let (at, pos) = (self.at, self.here());
        self.expect(Tok::Ident, Set::END)?;
        let id = self.text(at);
        let name = if dotted == 1 { format!(".{id}") } else { id.clone() };
        let reserved = RESERVED.contains(&id.as_str());
        if reserved {
            self.error(start, format!("reserved identifier: {id}"));
        }
        if self.kind(0) == Tok::LParen {
            let open = self.here();
            let args = self.arguments()?;
            return Ok(if reserved { self.node(start, Kind::Unspecified) } else { self.global_call(open, &name, args) });
        }
        let kind = if reserved { Kind::Unspecified } else { Kind::Ident(name.into()) };
        Ok(self.node(pos, kind))
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        let close = Set::of(&[Tok::RParen]);
        self.expect(Tok::LParen, EXPR.or(close))?;
        self.sync(EXPR.or(close))?;
        let mut args = Vec::new();
        if self.is(EXPR) {
            self.follow.push(close);
            args.push(self.expr(Set::of(&[Tok::Comma]).or(Set::END))?);
            while self.kind(0) == Tok::Comma {
                self.expect(Tok::Comma, EXPR)?;
                args.push(self.expr(Set::of(&[Tok::Comma]).or(Set::END))?);
            }
            self.follow.pop();
        }
        self.expect(Tok::RParen, Set::END)?;
        Ok(args)
    }

    fn literal(&mut self) -> Expr {
        let pos = self.here();
        let negative = self.kind(0) == Tok::Minus;
        if negative {
            self.advance();
        }
        let at = self.advance();
        self.recovering = false;
        match literal::value(self.tokens[at].kind, &self.text(at), negative) {
            Ok(value) => self.node(pos, Kind::Literal(value)),
            Err(message) => {
                self.error(pos, message);
                self.node(pos, Kind::Unspecified)
            }
        }
    }

    fn call(&mut self, pos: Option<u32>, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Expr {
        self.node(pos, Kind::Call { target, function: function.into(), args })
    }

    fn global_call(&mut self, pos: Option<u32>, function: &str, args: Vec<Expr>) -> Expr {
        match self.expand_global(pos, function, args) {
            Ok(expanded) => expanded,
            Err(args) => self.call(pos, function, None, args),
        }
    }

    fn receiver_call(&mut self, pos: Option<u32>, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        match self.expand_receiver(pos, function, target, args) {
            Ok(expanded) => expanded,
            Err((target, args)) => self.call(pos, function, Some(target), args),
        }
    }
}

fn binary_operator(kind: Tok) -> Option<(&'static str, u8)> {
    Some(match kind {
        Tok::Equals => (op::EQUALS, 0),
        Tok::NotEquals => (op::NOT_EQUALS, 0),
        Tok::In => (op::IN, 0),
        Tok::Less => (op::LESS, 0),
        Tok::LessEquals => (op::LESS_EQUALS, 0),
        Tok::Greater => (op::GREATER, 0),
        Tok::GreaterEquals => (op::GREATER_EQUALS, 0),
        Tok::Plus => (op::ADD, 1),
        Tok::Minus => (op::SUBTRACT, 1),
        Tok::Star => (op::MULTIPLY, 2),
        Tok::Slash => (op::DIVIDE, 2),
        Tok::Percent => (op::MODULO, 2),
        _ => return None,
    })
}
