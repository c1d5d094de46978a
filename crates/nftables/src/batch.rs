//! A batch: changes to one table that the kernel applies whole or not at all.
//!
//! Order matters as it does in an nft script: an object must be added before it is referred to, and be free of references
//! before it is deleted. Within one batch an element may be deleted and added again with another value; packets see either
//! the old or the new one.

use crate::attr::{Attrs, Messages, Writer};
use crate::expr::Rule;
use crate::key;
use crate::object::{BaseChain, Element, ElementValue, MapData, Set, Table};
use crate::uapi::*;

/// Elements are cut into messages of about this size: an attribute holds at most 65,535 bytes.
const ELEMENTS_BYTES_MAX: usize = 48 * 1024;

/// Changes to one table, in order.
#[derive(Debug, Clone)]
pub struct Batch {
    table: Table,
    writer: Writer,
    messages: u32,
    set_ids: u32,
    last: usize,
}

impl Batch {
    /// An empty batch for `table`.
    pub fn new(table: &Table) -> Self {
        let mut writer = Writer::default();
        let begin = writer.begin_message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, 0, NFNL_SUBSYS_NFTABLES);
        writer.end_message(begin);
        Self { table: table.clone(), writer, messages: 0, set_ids: 0, last: 0 }
    }

    /// Whether the batch would change nothing.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// How many messages it holds.
    pub fn len(&self) -> u32 {
        self.messages
    }

    /// Creates the table; no error if it exists.
    pub fn add_table(&mut self) {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |w, table| w.string(NFTA_TABLE_NAME, &table.name));
    }

    /// Deletes the table with everything in it; an error if it does not exist. To start afresh: add, delete, add.
    pub fn delete_table(&mut self) {
        self.message(NFT_MSG_DELTABLE, 0, |w, table| w.string(NFTA_TABLE_NAME, &table.name));
    }

    /// Creates a chain; no error if it exists with the same properties.
    pub fn add_chain(&mut self, name: &str, base: Option<BaseChain>) {
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |w, table| {
            w.string(NFTA_CHAIN_TABLE, &table.name);
            w.string(NFTA_CHAIN_NAME, name);
            if let Some(base) = base {
                let hook = w.begin_nest(NFTA_CHAIN_HOOK);
                w.be32(NFTA_HOOK_HOOKNUM, base.hook.number());
                w.be32(NFTA_HOOK_PRIORITY, base.priority as u32);
                w.end_nest(hook);
                w.be32(NFTA_CHAIN_POLICY, NF_ACCEPT as u32);
                w.string(NFTA_CHAIN_TYPE, base.kind.name());
            }
        });
    }

    /// Deletes a chain that nothing refers to, with its rules.
    pub fn delete_chain(&mut self, name: &str) {
        self.flush_chain(name);
        self.message(NFT_MSG_DELCHAIN, 0, |w, table| {
            w.string(NFTA_CHAIN_TABLE, &table.name);
            w.string(NFTA_CHAIN_NAME, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.message(NFT_MSG_DELRULE, 0, |w, table| {
            w.string(NFTA_RULE_TABLE, &table.name);
            w.string(NFTA_RULE_CHAIN, name);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) {
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |w, table| {
            w.string(NFTA_RULE_TABLE, &table.name);
            w.string(NFTA_RULE_CHAIN, chain);
            let exprs = w.begin_nest(NFTA_RULE_EXPRESSIONS);
            for expr in &rule.exprs {
                expr.encode(w);
            }
            w.end_nest(exprs);
            if let Some(comment) = &rule.comment {
                w.bytes(NFTA_RULE_USERDATA, &comment_userdata(comment));
            }
        });
    }

    /// Deletes one rule by its handle (see [`crate::DumpedRule`]).
    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.message(NFT_MSG_DELRULE, 0, |w, table| {
            w.string(NFTA_RULE_TABLE, &table.name);
            w.string(NFTA_RULE_CHAIN, chain);
            w.be64(NFTA_RULE_HANDLE, handle);
        });
    }

    /// Creates a set or map; no error if it exists with the same properties.
    pub fn add_set(&mut self, set: &Set) {
        self.set_ids += 1;
        let id = self.set_ids;
        self.message(NFT_MSG_NEWSET, NLM_F_CREATE, |w, table| {
            w.string(NFTA_SET_TABLE, &table.name);
            w.string(NFTA_SET_NAME, &set.name);
            w.be32(NFTA_SET_FLAGS, set.flag_bits());
            w.be32(NFTA_SET_KEY_TYPE, key::datatype(&set.key));
            w.be32(NFTA_SET_KEY_LEN, key::length(&set.key));
            match &set.data {
                Some(MapData::Verdict) => w.be32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT),
                Some(MapData::Value(fields)) => {
                    w.be32(NFTA_SET_DATA_TYPE, key::datatype(fields));
                    w.be32(NFTA_SET_DATA_LEN, key::length(fields));
                }
                None => {}
            }
            if let Some(size) = set.size {
                let desc = w.begin_nest(NFTA_SET_DESC);
                w.be32(NFTA_SET_DESC_SIZE, size);
                w.end_nest(desc);
            }
            w.be32(NFTA_SET_ID, id);
        });
    }

    /// Deletes a set or map that no rule refers to.
    pub fn delete_set(&mut self, name: &str) {
        self.message(NFT_MSG_DELSET, 0, |w, table| {
            w.string(NFTA_SET_TABLE, &table.name);
            w.string(NFTA_SET_NAME, name);
        });
    }

    /// Adds elements; an element that exists with another value is an error.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements);
    }

    /// Deletes elements by their keys; a missing one is an error.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NFT_MSG_DELSETELEM, 0, set, elements);
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, set: &str) {
        self.message(NFT_MSG_DELSETELEM, 0, |w, table| {
            w.string(NFTA_SET_ELEM_LIST_TABLE, &table.name);
            w.string(NFTA_SET_ELEM_LIST_SET, set);
        });
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            self.message(kind, flags, |w, table| {
                w.string(NFTA_SET_ELEM_LIST_TABLE, &table.name);
                w.string(NFTA_SET_ELEM_LIST_SET, set);
                let list = w.begin_nest(NFTA_SET_ELEM_LIST_ELEMENTS);
                while w.nest_len(&list) < ELEMENTS_BYTES_MAX {
                    let Some(element) = rest.next() else { break };
                    encode_element(w, element, kind == NFT_MSG_NEWSETELEM);
                }
                w.end_nest(list);
            });
        }
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer, &Table)) {
        self.messages += 1;
        let kind = (NFNL_SUBSYS_NFTABLES << 8) | kind;
        let family = self.table.family.number();
        self.last = self.writer.begin_message(kind, NLM_F_REQUEST | flags, self.messages, family, 0);
        body(&mut self.writer, &self.table);
        self.writer.end_message(self.last);
    }

    /// The whole batch as one datagram, its last message asking for an acknowledgement, and that message's sequence number.
    pub(crate) fn datagram(&self) -> (Vec<u8>, u32) {
        let mut writer = self.writer.clone();
        let flags_at = self.last + 6;
        let flags = u16::from_ne_bytes([writer.buf[flags_at], writer.buf[flags_at + 1]]) | NLM_F_ACK;
        writer.buf[flags_at..flags_at + 2].copy_from_slice(&flags.to_ne_bytes());
        let end = writer.begin_message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, self.messages + 1, 0, NFNL_SUBSYS_NFTABLES);
        writer.end_message(end);
        (writer.buf, self.messages)
    }

    /// Says what the message of this sequence number wanted to do.
    pub(crate) fn describe(&self, seq: u32) -> String {
        let table = format!("{} {}", self.table.family.name(), self.table.name);
        if seq == 0 {
            return format!("commit a batch of {} changes to table {table}", self.messages);
        }
        let found = Messages(&self.writer.buf).flatten().find(|message| message.seq == seq);
        let Some(message) = found else { return format!("apply message {seq} of a batch for table {table}") };
        describe(message.kind & 0xff, message.attrs(), &table)
    }
}

fn describe(kind: u16, attrs: Attrs<'_>, table: &str) -> String {
    let name = |kind| attrs.text(kind).unwrap_or_default();
    match kind {
        NFT_MSG_NEWTABLE => format!("add table {table}"),
        NFT_MSG_DELTABLE => format!("delete table {table}"),
        NFT_MSG_NEWCHAIN => format!("add chain {table} {}", name(NFTA_CHAIN_NAME)),
        NFT_MSG_DELCHAIN => format!("delete chain {table} {}", name(NFTA_CHAIN_NAME)),
        NFT_MSG_NEWRULE => {
            let exprs: Vec<String> = attrs
                .nested(NFTA_RULE_EXPRESSIONS)
                .into_iter()
                .flatten()
                .filter_map(|(_, expr)| Attrs(expr).text(NFTA_EXPR_NAME))
                .collect();
            format!("add rule {table} {} [{}]", name(NFTA_RULE_CHAIN), exprs.join(" "))
        }
        NFT_MSG_DELRULE => format!("delete rules of {table} {}", name(NFTA_RULE_CHAIN)),
        NFT_MSG_NEWSET => format!("add set {table} {}", name(NFTA_SET_NAME)),
        NFT_MSG_DELSET => format!("delete set {table} {}", name(NFTA_SET_NAME)),
        NFT_MSG_NEWSETELEM => format!("add elements to {table} {}", name(NFTA_SET_ELEM_LIST_SET)),
        NFT_MSG_DELSETELEM => format!("delete elements from {table} {}", name(NFTA_SET_ELEM_LIST_SET)),
        other => format!("apply message type {other} to table {table}"),
    }
}

fn encode_element(writer: &mut Writer, element: &Element, with_value: bool) {
    let elem = writer.begin_nest(NFTA_LIST_ELEM);
    let key = writer.begin_nest(NFTA_SET_ELEM_KEY);
    writer.bytes(NFTA_DATA_VALUE, element.key.as_bytes());
    writer.end_nest(key);
    if element.interval_end {
        writer.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    }
    if with_value {
        if let Some(value) = &element.value {
            let data = writer.begin_nest(NFTA_SET_ELEM_DATA);
            match value {
                ElementValue::Verdict(verdict) => verdict.encode(writer),
                ElementValue::Value(value) => writer.bytes(NFTA_DATA_VALUE, value.as_bytes()),
            }
            writer.end_nest(data);
        }
        if let Some(timeout) = element.timeout {
            writer.be64(NFTA_SET_ELEM_TIMEOUT, timeout.as_millis() as u64);
        }
    }
    writer.end_nest(elem);
}

/// The nft program's own encoding of a comment: type 0, length, text with its NUL.
fn comment_userdata(comment: &str) -> Vec<u8> {
    let mut bytes = vec![0, comment.len() as u8 + 1];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::object::Family;
    use crate::{Expr, Verdict};

    #[test]
    fn errors_can_name_what_failed() {
        let table = Table::new(Family::Ipv4, "t");
        let mut batch = Batch::new(&table);
        batch.add_table();
        batch.add_chain("c", None);
        batch.add_rule("c", &Rule::new().expr(Expr::Counter).verdict(Verdict::Accept));
        batch.delete_elements("s", &[Element::key(Key::new().port(1))]);
        assert_eq!(batch.describe(1), "add table ip t");
        assert_eq!(batch.describe(2), "add chain ip t c");
        assert_eq!(batch.describe(3), "add rule ip t c [counter immediate]");
        assert_eq!(batch.describe(4), "delete elements from ip t s");
        assert_eq!(batch.describe(0), "commit a batch of 4 changes to table ip t");
    }

    #[test]
    fn many_elements_are_cut_into_messages() {
        let table = Table::new(Family::Ipv4, "t");
        let mut batch = Batch::new(&table);
        let elements: Vec<_> = (0..10_000u32).map(|n| Element::key(Key::new().number(n))).collect();
        batch.add_elements("s", &elements);
        let (datagram, last) = batch.datagram();
        let mut count = 0;
        for message in Messages(&datagram).flatten().filter(|message| message.kind >> 8 == NFNL_SUBSYS_NFTABLES) {
            let list = message.attrs().nested(NFTA_SET_ELEM_LIST_ELEMENTS).unwrap();
            count += list.count();
        }
        assert_eq!(count, 10_000);
        assert!(last > 1, "one message cannot hold them all");
    }
}
