//! What nearly every question is about, answered without building a message: A and AAAA of a Service's own name, and names below `svc`
//! of which there is no Service (a resolver's search path).
//!
//! Invariant: an answer from here says what [`Zone::lookup`](crate::zone::Zone::lookup) and the handler would say; a question of any
//! other kind is not answered here. The tests compare the two.

use std::collections::HashMap;
use std::net::IpAddr;

use client::NamespacedName;

use crate::handler::UDP_PAYLOAD_MAX;
use crate::zone::TTL;

const HEADER: usize = 12;
/// A name has no more bytes (RFC 1035, 2.3.4).
const NAME_MAX: usize = 255;
/// Names with more labels are not answered here: a Service has three before the cluster domain.
const LABELS_MAX: usize = 24;
/// An answer without EDNS is no longer (RFC 1035, 4.2.1); EDNS cannot make it shorter.
const PAYLOAD_MIN: u16 = 512;

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_AUTHORITATIVE: u16 = 0x0400;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const OPCODE: u16 = 0x7800;
const NXDOMAIN: u16 = 3;

/// What a Service's own name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It has these addresses, sorted, each once.
    Addresses { ipv4: Vec<[u8; 4]>, ipv6: Vec<[u8; 16]> },
    /// Headless and without endpoints: there is no such name.
    Missing,
    /// An alias: not answered here.
    Other,
}

impl Entry {
    pub(crate) fn addresses(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => ipv4.push(address.octets()),
                IpAddr::V6(address) => ipv6.push(address.octets()),
            }
        }
        ipv4.sort_unstable();
        ipv4.dedup();
        ipv6.sort_unstable();
        ipv6.dedup();
        Self::Addresses { ipv4, ipv6 }
    }
}

/// The table, by the name's two labels as they are in a message, in lower case.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The cluster domain as it is in a message, in lower case.
    origin: Vec<u8>,
    origin_labels: usize,
    services: HashMap<Box<[u8]>, Entry>,
}

/// A question that may be answered here.
struct Question<'a> {
    /// The name, its type and its class, as they were asked.
    bytes: &'a [u8],
    kind: u16,
    flags: u16,
    /// How long an answer the client takes, if it said so.
    payload: Option<u16>,
}

/// A name in lower case, and where its labels begin; the last one is the root.
struct Lowered {
    bytes: [u8; NAME_MAX],
    length: usize,
    starts: [u8; LABELS_MAX],
    labels: usize,
}

impl Prepared {
    /// An empty table for a cluster domain, given as lower-case labels.
    pub(crate) fn new(origin: &[String]) -> Self {
        let mut bytes = Vec::new();
        origin.iter().for_each(|label| push_label(&mut bytes, label));
        bytes.push(0);
        Self { origin: bytes, origin_labels: origin.len(), services: HashMap::new() }
    }

    /// What a Service's name is from now on; `None`: there is no such Service.
    pub(crate) fn set(&mut self, service: &NamespacedName, entry: Option<Entry>) {
        let mut key = Vec::with_capacity(service.name.len() + service.namespace.len() + 2);
        push_label(&mut key, &service.name);
        push_label(&mut key, &service.namespace);
        match entry {
            Some(entry) => drop(self.services.insert(key.into_boxed_slice(), entry)),
            None => drop(self.services.remove(key.as_slice())),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Writes the response to a UDP message into the empty `out`. `turn` says with which of several addresses to begin. Returns false,
    /// with anything in `out`, if the message is not a question of the kind that is answered here.
    pub(crate) fn answer(&self, message: &[u8], turn: impl FnOnce() -> usize, out: &mut Vec<u8>) -> bool {
        let Some((question, name)) = parse(message) else { return false };
        let Some(before) = name.labels.checked_sub(self.origin_labels).filter(|before| *before >= 3) else { return false };
        let start = |label: usize| usize::from(name.starts[label]);
        if name.bytes[start(before)..name.length] != self.origin[..]
            || name.bytes[start(before - 1)..start(before)] != *b"\x03svc"
        {
            return false;
        }
        let entry = self.services.get(&name.bytes[start(before - 3)..start(before - 1)]);
        let entry = match entry {
            None => &Entry::Missing,
            Some(entry) if before == 3 => entry,
            // Endpoints and ports have names, too.
            Some(_) => return false,
        };
        // From the message's beginning, for pointers to it.
        let origin = (HEADER + start(before)) as u16;
        match (entry, question.kind) {
            (Entry::Other, _) => return false,
            (Entry::Missing, _) => negative(&question, NXDOMAIN, origin, out),
            (Entry::Addresses { ipv4, .. }, TYPE_A) => addresses(&question, ipv4, turn, origin, out),
            (Entry::Addresses { ipv6, .. }, _) => addresses(&question, ipv6, turn, origin, out),
        }
        let payload_max = question.payload.map_or(PAYLOAD_MIN, payload);
        out.len() <= usize::from(payload_max)
    }
}

fn push_label(bytes: &mut Vec<u8>, label: &str) {
    // Longer than 63 bytes is no label: such a key is never asked for.
    bytes.push(label.len().min(usize::from(u8::MAX)) as u8);
    bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
}

fn payload(asked: u16) -> u16 {
    asked.clamp(PAYLOAD_MIN, UDP_PAYLOAD_MAX)
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// A query with one question for an address, and with at most EDNS of version 0 beside it.
fn parse(message: &[u8]) -> Option<(Question<'_>, Lowered)> {
    let flags = u16_at(message, 2)?;
    if flags & (FLAG_RESPONSE | OPCODE) != 0 {
        return None;
    }
    let counts = [u16_at(message, 4)?, u16_at(message, 6)?, u16_at(message, 8)?];
    let additionals = u16_at(message, 10)?;
    if counts != [1, 0, 0] || additionals > 1 {
        return None;
    }
    let name = lowered(message)?;
    let end = HEADER + name.length + 4;
    let (kind, class) = (u16_at(message, end - 4)?, u16_at(message, end - 2)?);
    if !matches!(kind, TYPE_A | TYPE_AAAA) || class != CLASS_IN {
        return None;
    }
    let payload = match additionals {
        0 => None,
        _ => Some(edns(message, end)?),
    };
    if additionals == 0 && message.len() != end {
        return None;
    }
    Some((Question { bytes: &message[..end], kind, flags, payload }, name))
}

/// The payload of an OPT record (RFC 6891, 6.1.2) that ends the message.
fn edns(message: &[u8], at: usize) -> Option<u16> {
    let (root, kind) = (*message.get(at)?, u16_at(message, at + 1)?);
    let (version, length) = (*message.get(at + 6)?, u16_at(message, at + 9)?);
    let whole = message.len() == at + 11 + usize::from(length);
    (root == 0 && kind == TYPE_OPT && version == 0 && whole).then(|| u16_at(message, at + 3))?
}

fn lowered(message: &[u8]) -> Option<Lowered> {
    let mut name = Lowered { bytes: [0; NAME_MAX], length: 0, starts: [0; LABELS_MAX], labels: 0 };
    loop {
        let length = usize::from(*message.get(HEADER + name.length)?);
        *name.starts.get_mut(name.labels)? = name.length as u8;
        // Also refuses pointers, which a question does not need.
        let end = name.length + 1 + length;
        if length > 63 || end > NAME_MAX {
            return None;
        }
        let bytes = message.get(HEADER + name.length..HEADER + end)?;
        name.bytes[name.length..end].copy_from_slice(bytes);
        name.bytes[name.length + 1..end].make_ascii_lowercase();
        name.length = end;
        if length == 0 {
            return Some(name);
        }
        name.labels += 1;
    }
}

fn begin(question: &Question<'_>, code: u16, answers: usize, authorities: u16, out: &mut Vec<u8>) {
    let kept = question.flags & (FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED);
    let flags = FLAG_RESPONSE | FLAG_AUTHORITATIVE | FLAG_RECURSION_AVAILABLE | kept | code;
    out.extend_from_slice(&question.bytes[..2]);
    // A Service has far fewer addresses; a longer answer is given up below.
    let counts = [flags, 1, answers.min(usize::from(u16::MAX)) as u16, authorities, u16::from(question.payload.is_some())];
    counts.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
    out.extend_from_slice(&question.bytes[HEADER..]);
}

fn end(question: &Question<'_>, out: &mut Vec<u8>) {
    if let Some(asked) = question.payload {
        out.push(0);
        out.extend_from_slice(&TYPE_OPT.to_be_bytes());
        out.extend_from_slice(&payload(asked).to_be_bytes());
        out.extend_from_slice(&[0; 6]);
    }
}

/// A record up to its data, whose length follows: owner by a pointer into the question.
fn record(owner: u16, kind: u16, length: usize, out: &mut Vec<u8>) {
    for number in [0xc000 | owner, kind, CLASS_IN] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&TTL.to_be_bytes());
    out.extend_from_slice(&(length as u16).to_be_bytes());
}

fn addresses<const N: usize>(
    question: &Question<'_>,
    all: &[[u8; N]],
    turn: impl FnOnce() -> usize,
    origin: u16,
    out: &mut Vec<u8>,
) {
    if all.is_empty() {
        return negative(question, 0, origin, out);
    }
    begin(question, 0, all.len(), 0, out);
    let first = if all.len() > 1 { turn() % all.len() } else { 0 };
    for address in all[first..].iter().chain(&all[..first]) {
        record(HEADER as u16, question.kind, N, out);
        out.extend_from_slice(address);
    }
    end(question, out);
}

/// No such name, or none of that type: the zone's SOA says how long that may be remembered.
fn negative(question: &Question<'_>, code: u16, origin: u16, out: &mut Vec<u8>) {
    const PRIMARY: &[u8] = b"\x02ns\x03dns";
    const MAILBOX: &[u8] = b"\x0ahostmaster";
    /// Serial, refresh, retry, expire: as in [`crate::zone::Zone::soa`]. The last number is the TTL.
    const NUMBERS: [u32; 5] = [1, 7200, 1800, 86_400, TTL];
    begin(question, code, 0, 1, out);
    let origin_pointer = (0xc000 | origin).to_be_bytes();
    record(origin, TYPE_SOA, PRIMARY.len() + MAILBOX.len() + 2 * origin_pointer.len() + 4 * NUMBERS.len(), out);
    for name in [PRIMARY, MAILBOX] {
        out.extend_from_slice(name);
        out.extend_from_slice(&origin_pointer);
    }
    NUMBERS.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
    end(question, out);
}
