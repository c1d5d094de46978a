//! What ANTLR's runtime does for a generated parser: matching tokens, reporting what does not match, skipping to what does.
//!
//! It stays silent between an error and the next token that matches, and gives up after as many recoveries as cel-go allows.

use super::lexer::{Set, Tok, Token};
use super::{DEPTH_MAX, Fail, Parsed, Parser, RECOVERIES_MAX, SKIPPED_MAX};
use crate::source::Issue;

impl Parser<'_> {
    pub(super) fn kind(&self, ahead: usize) -> Tok {
        self.tokens.get(self.at + ahead).map_or(Tok::Eof, |token| token.kind)
    }

    pub(super) fn is(&self, set: Set) -> bool {
        set.has(self.kind(0))
    }

    pub(super) fn pos(&self, token: usize) -> Option<u32> {
        self.tokens.get(token).map(|token| token.start as u32)
    }

    pub(super) fn here(&self) -> Option<u32> {
        self.pos(self.at)
    }

    pub(super) fn text(&self, token: usize) -> String {
        self.tokens.get(token).map_or_else(String::new, |token| self.source[token.start..token.end].iter().collect())
    }

    pub(super) fn advance(&mut self) -> usize {
        let at = self.at;
        self.at = (at + 1).min(self.tokens.len() - 1);
        at
    }

    pub(super) fn error(&mut self, offset: Option<u32>, message: impl Into<String>) {
        self.issues.push(Issue { offset, message: message.into() });
    }

    pub(super) fn quoted(text: &str) -> String {
        format!("'{}'", text.replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r"))
    }

    pub(super) fn shown(&self, token: usize) -> String {
        match self.tokens.get(token) {
            Some(Token { kind: Tok::Eof, .. }) | None => "'<EOF>'".to_owned(),
            Some(_) => Self::quoted(&self.text(token)),
        }
    }

    /// What may come next here, where a rule may end also what follows it.
    pub(super) fn expected(&self, local: Set) -> Set {
        let mut set = local;
        for follow in self.follow.iter().rev() {
            if !set.may_end() {
                break;
            }
            set = set.without(Set::END).or(*follow);
        }
        set.without(Set::END)
    }

    pub(super) fn syntax_error(&mut self, token: usize, message: &str) {
        let offset = self.pos(token);
        self.error(offset, format!("Syntax error: {message}"));
    }

    pub(super) fn report_unwanted(&mut self, expected: Set) {
        if !std::mem::replace(&mut self.recovering, true) {
            let message = format!("extraneous input {} expecting {expected}", self.shown(self.at));
            self.syntax_error(self.at, &message);
        }
    }

    /// Skips one token if the next one is expected.
    pub(super) fn delete_one(&mut self, expected: Set) -> bool {
        if self.kind(0) == Tok::Eof || !expected.has(self.kind(1)) {
            return false;
        }
        self.report_unwanted(expected);
        self.advance();
        self.recovering = false;
        true
    }

    /// Sees to it that one of `local` is next, before a choice.
    pub(super) fn sync(&mut self, local: Set) -> Parsed<()> {
        if self.recovering || local.may_end() || self.is(local) || self.delete_one(self.expected(local)) {
            return Ok(());
        }
        Err(Fail::Mismatch { offending: self.at, expected: self.expected(local) })
    }

    /// Takes a token of this kind. `after` is what may follow it in the rule.
    pub(super) fn expect(&mut self, kind: Tok, after: Set) -> Parsed<()> {
        if self.kind(0) == kind {
            self.recovering = false;
            self.advance();
            return Ok(());
        }
        self.count_recovery()?;
        let wanted = Set::of(&[kind]);
        if self.delete_one(wanted) {
            self.advance();
            return Ok(());
        }
        if self.expected(after).has(self.kind(0)) {
            if !std::mem::replace(&mut self.recovering, true) {
                let message = format!("missing {wanted} at {}", self.shown(self.at));
                self.syntax_error(self.at, &message);
            }
            return Ok(());
        }
        Err(Fail::Mismatch { offending: self.at, expected: wanted })
    }

    pub(super) fn count_recovery(&mut self) -> Parsed<()> {
        self.recoveries += 1;
        if self.recoveries > RECOVERIES_MAX {
            let message = format!("error recovery attempt limit exceeded: {RECOVERIES_MAX}");
            self.syntax_error(self.at, &message);
            return Err(Fail::Abort);
        }
        Ok(())
    }

    /// Reports why a rule failed, and skips to something that may follow it.
    pub(super) fn recover(&mut self, rule: &'static str, fail: Fail) -> Parsed<()> {
        let (token, message) = match fail {
            Fail::Abort => return Err(Fail::Abort),
            Fail::Mismatch { offending, expected } => {
                (offending, format!("mismatched input {} expecting {expected}", self.shown(offending)))
            }
            Fail::NoViable { start, offending } => (offending, self.no_viable(start, offending)),
        };
        if !std::mem::replace(&mut self.recovering, true) {
            self.syntax_error(token, &message);
        }
        self.count_recovery()?;
        if self.last_error == Some((self.at, rule)) {
            self.advance();
        }
        self.last_error = Some((self.at, rule));
        let until = self.follow.iter().fold(Set::of(&[Tok::Eof]), |all, follow| all.or(*follow));
        let mut skipped = 0;
        while !self.is(until) {
            skipped += 1;
            if skipped > SKIPPED_MAX {
                self.error(None, format!("error recovery token lookahead limit exceeded: {SKIPPED_MAX}"));
                return Err(Fail::Abort);
            }
            self.advance();
        }
        Ok(())
    }

    pub(super) fn no_viable(&self, start: usize, offending: usize) -> String {
        if self.tokens[start].kind == Tok::Eof {
            return "no viable alternative at input '<EOF>'".to_owned();
        }
        let end = match self.tokens[offending].kind {
            // What is between the tokens is part of the text, as are the tokens themselves; the end of the input is none.
            Tok::Eof => self.source.len(),
            _ => self.tokens[offending].end,
        };
        let known = |at: &usize| !self.unknown.iter().any(|unknown| unknown.contains(at));
        let text: String = (self.tokens[start].start..end).filter(known).map(|at| self.source[at]).collect();
        // cel-go says it so, since older versions of the grammar did.
        let mut chars = text.chars();
        chars.next();
        match chars.as_str() {
            word @ ("true" | "false" | "null") => format!("mismatched input '{word}' expecting IDENTIFIER"),
            _ => format!("no viable alternative at input {}", Self::quoted(&text)),
        }
    }

    pub(super) fn within<T>(&mut self, follow: Set, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.follow.push(follow);
        let parsed = rule(self);
        self.follow.pop();
        parsed
    }

    pub(super) fn too_deep<T>(&mut self) -> Parsed<T> {
        self.error(None, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
        Err(Fail::Abort)
    }
}
