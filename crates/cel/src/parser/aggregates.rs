//! Lists, maps and messages.

use std::sync::Arc;

use super::lexer::{Set, Tok};
use super::{EXPR, FIELD, OPT_EXPR, OPT_FIELD, Parsed, Parser};
use crate::ast::{Entry, Expr, Kind};

impl Parser<'_> {
    /// A comma that is not the last one.
    fn goes_on(&self, next: Set) -> bool {
        self.kind(0) == Tok::Comma && next.has(self.kind(1))
    }

    fn close(&mut self, close: Tok) -> Parsed<()> {
        self.sync(Set::of(&[Tok::Comma, close]))?;
        if self.kind(0) == Tok::Comma {
            self.expect(Tok::Comma, Set::of(&[close]))?;
        }
        self.expect(close, Set::END)
    }

    /// An expression that a question mark may precede.
    fn opt_expr(&mut self, follow: Set) -> Parsed<(Expr, bool)> {
        self.follow.push(follow);
        let parsed = match self.sync(OPT_EXPR) {
            Ok(()) => {
                let pos = self.here();
                let optional = self.kind(0) == Tok::Question;
                if optional {
                    self.expect(Tok::Question, EXPR)?;
                    if !self.syntax.optionals {
                        self.error(pos, "unsupported syntax '?'");
                    }
                }
                (self.expr(Set::END)?, optional)
            }
            Err(fail) => {
                self.recover("optExpr", fail)?;
                (self.nothing(), false)
            }
        };
        self.follow.pop();
        Ok(parsed)
    }

    pub(super) fn list(&mut self) -> Parsed<Expr> {
        let pos = self.here();
        let ends = Set::of(&[Tok::Comma, Tok::RBracket]);
        self.expect(Tok::LBracket, OPT_EXPR.or(ends))?;
        self.sync(OPT_EXPR.or(ends))?;
        let (mut elements, mut optionals) = (Vec::new(), Vec::new());
        if self.is(OPT_EXPR) {
            self.follow.push(ends);
            loop {
                let (element, optional) = self.opt_expr(Set::of(&[Tok::Comma]).or(Set::END))?;
                if optional {
                    optionals.push(elements.len());
                }
                elements.push(element);
                if !self.goes_on(OPT_EXPR) {
                    break;
                }
                self.expect(Tok::Comma, OPT_EXPR)?;
            }
            self.follow.pop();
        }
        self.close(Tok::RBracket)?;
        Ok(self.node(pos, Kind::List(elements, optionals)))
    }

    pub(super) fn map(&mut self) -> Parsed<Expr> {
        let pos = self.here();
        let ends = Set::of(&[Tok::Comma, Tok::RBrace]);
        self.expect(Tok::LBrace, OPT_EXPR.or(ends))?;
        self.sync(OPT_EXPR.or(ends))?;
        let mut entries = Vec::new();
        if self.is(OPT_EXPR) {
            self.follow.push(ends);
            if let Err(fail) = self.map_entries(&mut entries) {
                self.recover("mapInitializerList", fail)?;
            }
            self.follow.pop();
        }
        self.close(Tok::RBrace)?;
        Ok(self.node(pos, Kind::Map(entries)))
    }

    fn map_entries(&mut self, entries: &mut Vec<Entry<Expr>>) -> Parsed<()> {
        loop {
            let (key, optional) = self.opt_expr(Set::of(&[Tok::Colon]))?;
            let pos = self.here();
            self.expect(Tok::Colon, EXPR)?;
            let value = self.expr(Set::of(&[Tok::Comma]).or(Set::END))?;
            self.next_id += 1;
            entries.push(Entry { id: self.next_id - 1, pos, key, value, optional });
            if !self.goes_on(OPT_EXPR) {
                return Ok(());
            }
            self.expect(Tok::Comma, OPT_EXPR)?;
        }
    }

    /// A message; its name is the next `tokens` tokens.
    pub(super) fn message(&mut self, tokens: usize) -> Parsed<Expr> {
        let mut name = String::new();
        for _ in 0..tokens {
            let at = self.advance();
            name.push_str(&self.text(at));
        }
        self.recovering = false;
        let pos = self.here();
        let ends = Set::of(&[Tok::Comma, Tok::RBrace]);
        self.expect(Tok::LBrace, OPT_FIELD.or(ends))?;
        self.sync(OPT_FIELD.or(ends))?;
        let mut fields = Vec::new();
        if self.is(OPT_FIELD) {
            self.follow.push(ends);
            if let Err(fail) = self.fields(&mut fields) {
                self.recover("fieldInitializerList", fail)?;
            }
            self.follow.pop();
        }
        self.close(Tok::RBrace)?;
        Ok(self.node(pos, Kind::Struct(name.into(), fields)))
    }

    fn fields(&mut self, fields: &mut Vec<Entry<Arc<str>>>) -> Parsed<()> {
        loop {
            let start = self.here();
            let optional = self.kind(0) == Tok::Question;
            if optional {
                self.expect(Tok::Question, FIELD)?;
                if !self.syntax.optionals {
                    self.error(start, "unsupported syntax '?'");
                }
            }
            let name = self.within(Set::of(&[Tok::Colon]), Self::escape_ident)?.unwrap_or_default();
            let pos = self.here();
            self.expect(Tok::Colon, EXPR)?;
            let value = self.expr(Set::of(&[Tok::Comma]).or(Set::END))?;
            self.next_id += 1;
            fields.push(Entry { id: self.next_id - 1, pos, key: name.into(), value, optional });
            if !self.goes_on(OPT_FIELD) {
                return Ok(());
            }
            self.expect(Tok::Comma, OPT_FIELD)?;
        }
    }
}
