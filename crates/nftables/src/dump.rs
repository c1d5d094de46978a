//! Reading a table back: for tests, and to find what an earlier process left behind.

use std::time::Duration;

use crate::attr::{Attrs, text};
use crate::connection::Connection;
use crate::error::Error;
use crate::expr::Verdict;
use crate::object::Table;
use crate::uapi::*;

/// A rule as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedRule {
    /// Its chain.
    pub chain: String,
    /// Names it in [`crate::Batch::delete_rule`].
    pub handle: u64,
    /// The names of its expressions, in order.
    pub exprs: Vec<String>,
    /// Its comment.
    pub comment: Option<String>,
}

/// An element as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedElement {
    /// The key's bytes (padded fields, see [`crate::Key`]).
    pub key: Vec<u8>,
    /// The value's bytes, in maps to values.
    pub value: Vec<u8>,
    /// The verdict, in verdict maps.
    pub verdict: Option<Verdict>,
    /// Time left, if it expires.
    pub expires_in: Option<Duration>,
}

fn message(kind: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | kind
}

impl Connection {
    /// The names of all tables of the family of `like`.
    pub fn tables(&mut self, family: crate::Family) -> Result<Vec<String>, Error> {
        self.dump(message(NFT_MSG_GETTABLE), family.number(), "list tables", |_| {}, |attrs| attrs.text(NFTA_TABLE_NAME))
    }

    /// The names of a table's chains.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<String>, Error> {
        self.dump(
            message(NFT_MSG_GETCHAIN),
            table.family.number(),
            "list chains",
            |_| {},
            |attrs| (attrs.text(NFTA_CHAIN_TABLE)? == table.name).then(|| attrs.text(NFTA_CHAIN_NAME))?,
        )
    }

    /// The names of a table's sets and maps.
    pub fn sets(&mut self, table: &Table) -> Result<Vec<String>, Error> {
        self.dump(
            message(NFT_MSG_GETSET),
            table.family.number(),
            "list sets",
            |w| w.string(NFTA_SET_TABLE, &table.name),
            |attrs| attrs.text(NFTA_SET_NAME),
        )
    }

    /// A table's rules in order, of one chain or of all.
    pub fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<DumpedRule>, Error> {
        self.dump(
            message(NFT_MSG_GETRULE),
            table.family.number(),
            "list rules",
            |w| {
                w.string(NFTA_RULE_TABLE, &table.name);
                if let Some(chain) = chain {
                    w.string(NFTA_RULE_CHAIN, chain);
                }
            },
            |attrs| {
                let exprs = attrs.nested(NFTA_RULE_EXPRESSIONS).into_iter().flatten();
                Some(DumpedRule {
                    chain: attrs.text(NFTA_RULE_CHAIN)?,
                    handle: attrs.be64(NFTA_RULE_HANDLE)?,
                    exprs: exprs.filter_map(|(_, expr)| Attrs(expr).text(NFTA_EXPR_NAME)).collect(),
                    comment: attrs.get(NFTA_RULE_USERDATA).and_then(comment),
                })
            },
        )
    }

    /// The elements of a set or map.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<DumpedElement>, Error> {
        let lists = self.dump(
            message(NFT_MSG_GETSETELEM),
            table.family.number(),
            "list elements",
            |w| {
                w.string(NFTA_SET_ELEM_LIST_TABLE, &table.name);
                w.string(NFTA_SET_ELEM_LIST_SET, set);
            },
            |attrs| {
                let list = attrs.nested(NFTA_SET_ELEM_LIST_ELEMENTS)?;
                Some(list.filter_map(|(_, element)| parse_element(Attrs(element))).collect::<Vec<_>>())
            },
        )?;
        Ok(lists.into_iter().flatten().collect())
    }
}

fn parse_element(attrs: Attrs<'_>) -> Option<DumpedElement> {
    let key = attrs.nested(NFTA_SET_ELEM_KEY)?.get(NFTA_DATA_VALUE)?.to_vec();
    let data = attrs.nested(NFTA_SET_ELEM_DATA);
    Some(DumpedElement {
        key,
        value: data.and_then(|data| data.get(NFTA_DATA_VALUE)).unwrap_or_default().to_vec(),
        verdict: data.and_then(|data| data.nested(NFTA_DATA_VERDICT)).and_then(verdict),
        expires_in: attrs.be64(NFTA_SET_ELEM_EXPIRATION).map(Duration::from_millis),
    })
}

fn verdict(attrs: Attrs<'_>) -> Option<Verdict> {
    let chain = || attrs.text(NFTA_VERDICT_CHAIN);
    Some(match attrs.be32(NFTA_VERDICT_CODE)? as i32 {
        NF_ACCEPT => Verdict::Accept,
        NF_DROP => Verdict::Drop,
        NFT_CONTINUE => Verdict::Continue,
        NFT_RETURN => Verdict::Return,
        NFT_JUMP => Verdict::Jump(chain()?),
        NFT_GOTO => Verdict::Goto(chain()?),
        _ => return None,
    })
}

/// Finds the comment in a rule's user data: (type, length, value) triples, type 0 is the comment.
fn comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == 0 {
            return Some(text(value));
        }
        userdata = &rest[usize::from(*len)..];
    }
    None
}
