//! Rules: lists of expressions over sixteen 4-byte registers.
//!
//! An expression loads a register, compares one, or acts; the first that does not match ends the rule. A value longer than
//! four bytes occupies the registers that follow, which is how concatenated keys are built: load the fields into
//! consecutive registers, then look the first one up.
//!
//! The kernel takes more than the nft program can print: nft 1.0.6 (Debian 12) aborts on a concatenated key, or on data of an
//! `Update`, that holds a constant or the result of a map, and would then abort on the host's whole ruleset. Build keys from
//! packet fields, meta and `numgen` only.

use std::time::Duration;

use crate::attr::Writer;
use crate::key::Key;
use crate::object::Family;
use crate::uapi::*;

/// A 4-byte register, 0 to 15. A 16-byte value needs a register that is a multiple of four only by convention, not by rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u8);

impl Reg {
    fn number(self) -> u32 {
        debug_assert!(self.0 < 16, "there are sixteen registers");
        NFT_REG32_00 + u32::from(self.0)
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Passes this hook's chain (other base chains still see it).
    Accept,
    /// Is thrown away without an answer.
    Drop,
    /// Goes on with the next rule.
    Continue,
    /// Goes back to the calling chain.
    Return,
    /// Runs a chain and comes back.
    Jump(String),
    /// Runs a chain and does not come back.
    Goto(String),
}

impl Verdict {
    /// A jump to `chain`.
    pub fn jump(chain: impl Into<String>) -> Self {
        Self::Jump(chain.into())
    }

    /// A goto to `chain`.
    pub fn goto(chain: impl Into<String>) -> Self {
        Self::Goto(chain.into())
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        let (code, chain) = match self {
            Self::Accept => (NF_ACCEPT, None),
            Self::Drop => (NF_DROP, None),
            Self::Continue => (NFT_CONTINUE, None),
            Self::Return => (NFT_RETURN, None),
            Self::Jump(chain) => (NFT_JUMP, Some(chain)),
            Self::Goto(chain) => (NFT_GOTO, Some(chain)),
        };
        let verdict = writer.begin_nest(NFTA_DATA_VERDICT);
        writer.be32(NFTA_VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            writer.string(NFTA_VERDICT_CHAIN, chain);
        }
        writer.end_nest(verdict);
    }
}

/// A field of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Source address of an IPv4 packet.
    Ipv4Source,
    /// Destination address of an IPv4 packet.
    Ipv4Destination,
    /// Source address of an IPv6 packet.
    Ipv6Source,
    /// Destination address of an IPv6 packet.
    Ipv6Destination,
    /// Source port (TCP, UDP, SCTP).
    SourcePort,
    /// Destination port (TCP, UDP, SCTP).
    DestinationPort,
    /// ICMP type.
    IcmpType,
}

impl Payload {
    /// Source address in the given family (IPv4 for anything but IPv6).
    pub const fn source(family: Family) -> Self {
        if matches!(family, Family::Ipv6) { Self::Ipv6Source } else { Self::Ipv4Source }
    }

    /// Destination address in the given family.
    pub const fn destination(family: Family) -> Self {
        if matches!(family, Family::Ipv6) { Self::Ipv6Destination } else { Self::Ipv4Destination }
    }

    /// (base, offset, length): base 1 is the network header, 2 the transport header.
    const fn place(self) -> (u32, u32, u32) {
        match self {
            Self::Ipv4Source => (1, 12, 4),
            Self::Ipv4Destination => (1, 16, 4),
            Self::Ipv6Source => (1, 8, 16),
            Self::Ipv6Destination => (1, 24, 16),
            Self::SourcePort => (2, 0, 2),
            Self::DestinationPort => (2, 2, 2),
            Self::IcmpType => (2, 0, 1),
        }
    }
}

/// Facts about a packet that are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// The mark, 32 bits in host order.
    Mark,
    /// Name of the interface that it came by, 16 bytes.
    InputInterface,
    /// Name of the interface that it leaves by, 16 bytes.
    OutputInterface,
    /// Address family, one byte (2 is IPv4, 10 IPv6).
    NetworkProtocol,
    /// Layer 4 protocol, one byte.
    Layer4Protocol,
}

impl MetaKey {
    const fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::InputInterface => 6,
            Self::OutputInterface => 7,
            Self::NetworkProtocol => 15,
            Self::Layer4Protocol => 16,
        }
    }
}

/// Facts about a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtKey {
    /// State bits, host order: invalid 1, established 2, related 4, new 8, untracked 64.
    State,
    /// Status bits, host order: snat 16, dnat 32.
    Status,
}

/// Comparison operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
}

/// What a routing look-up yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FibResult {
    /// Address type of the source, host order: 2 is an address of this host.
    SourceType,
    /// Address type of the destination.
    DestinationType,
}

/// The way of refusing a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectKind {
    /// ICMP (or ICMPv6) port unreachable.
    PortUnreachable,
    /// TCP reset; only after a match on TCP.
    TcpReset,
}

/// The kind of address translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Of the source.
    Source,
    /// Of the destination.
    Destination,
}

/// One expression. The doc comments give the nft syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// `ip daddr`: loads a packet field.
    Payload(Payload, Reg),
    /// `meta l4proto`.
    Meta(MetaKey, Reg),
    /// `meta mark set`: stores a register.
    MetaSet(MetaKey, Reg),
    /// `ct state`.
    Ct(CtKey, Reg),
    /// `fib daddr type`.
    Fib(FibResult, Reg),
    /// Loads a constant (up to 16 bytes).
    Immediate(Reg, Vec<u8>),
    /// `== VALUE`: ends the rule unless it holds.
    Cmp(Reg, Cmp, Vec<u8>),
    /// `& MASK ^ XOR`, in place; both of the same length.
    Bitwise(Reg, Vec<u8>, Vec<u8>),
    /// `@set`: ends the rule unless the key is in the set (`inverted`: unless it is not).
    InSet {
        /// Name of the set.
        set: String,
        /// First register of the key.
        key: Reg,
        /// `!= @set`.
        inverted: bool,
    },
    /// `map @map`: loads the value of a key, or ends the rule.
    MapLookup {
        /// Name of the map.
        map: String,
        /// First register of the key.
        key: Reg,
        /// First register of the value.
        value: Reg,
    },
    /// `vmap @map`: follows the verdict of a key, or ends the rule.
    VerdictLookup {
        /// Name of the verdict map.
        map: String,
        /// First register of the key.
        key: Reg,
    },
    /// `numgen random mod N`, host order.
    Random {
        /// Results are 0 to `modulus` - 1.
        modulus: u32,
        /// Where the result goes.
        into: Reg,
    },
    /// `update @set { key timeout T : value }`.
    Update {
        /// Name of the dynamic set or map.
        set: String,
        /// First register of the key.
        key: Reg,
        /// First register of the value, in maps.
        value: Option<Reg>,
        /// Time to live, renewed at every update.
        timeout: Duration,
    },
    /// `dnat to ADDR:PORT` and `snat to`.
    Nat {
        /// Which end is translated.
        kind: Nat,
        /// IPv4 or IPv6 (never inet).
        family: Family,
        /// Register of the address.
        address: Reg,
        /// Register of the port, if it is translated.
        port: Option<Reg>,
    },
    /// `masquerade`, with `fully-random` ports if set.
    Masquerade {
        /// Choose source ports at random, which avoids clashes under load.
        fully_random: bool,
    },
    /// `reject`.
    Reject(RejectKind),
    /// `counter`.
    Counter,
    /// A verdict for every packet that got here.
    Verdict(Verdict),
}

impl Expr {
    const fn name(&self) -> &'static str {
        match self {
            Self::Payload(..) => "payload",
            Self::Meta(..) | Self::MetaSet(..) => "meta",
            Self::Ct(..) => "ct",
            Self::Fib(..) => "fib",
            Self::Immediate(..) | Self::Verdict(_) => "immediate",
            Self::Cmp(..) => "cmp",
            Self::Bitwise(..) => "bitwise",
            Self::InSet { .. } | Self::MapLookup { .. } | Self::VerdictLookup { .. } => "lookup",
            Self::Random { .. } => "numgen",
            Self::Update { .. } => "dynset",
            Self::Nat { .. } => "nat",
            Self::Masquerade { .. } => "masq",
            Self::Reject(_) => "reject",
            Self::Counter => "counter",
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        let elem = writer.begin_nest(NFTA_LIST_ELEM);
        writer.string(NFTA_EXPR_NAME, self.name());
        let data = writer.begin_nest(NFTA_EXPR_DATA);
        self.encode_data(writer);
        writer.end_nest(data);
        writer.end_nest(elem);
    }

    /// Attribute numbers are those of each expression's own enum in `nf_tables.h` (NFTA_PAYLOAD_DREG and so on).
    fn encode_data(&self, w: &mut Writer) {
        match self {
            Self::Payload(field, into) => {
                let (base, offset, len) = field.place();
                numbers(w, &[(1, into.number()), (2, base), (3, offset), (4, len)]);
            }
            Self::Meta(key, into) => numbers(w, &[(1, into.number()), (2, key.number())]),
            Self::MetaSet(key, from) => numbers(w, &[(2, key.number()), (3, from.number())]),
            Self::Ct(key, into) => {
                let key = match key {
                    CtKey::State => 0,
                    CtKey::Status => 2,
                };
                numbers(w, &[(1, into.number()), (2, key)]);
            }
            Self::Fib(result, into) => {
                let flags = match result {
                    FibResult::SourceType => 1,
                    FibResult::DestinationType => 2,
                };
                const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
                numbers(w, &[(1, into.number()), (2, NFT_FIB_RESULT_ADDRTYPE), (3, flags)]);
            }
            Self::Immediate(into, bytes) => {
                w.be32(1, into.number());
                value(w, 2, bytes);
            }
            Self::Verdict(verdict) => {
                w.be32(1, NFT_REG_VERDICT);
                let data = w.begin_nest(2);
                verdict.encode(w);
                w.end_nest(data);
            }
            Self::Cmp(reg, op, bytes) => {
                numbers(w, &[(1, reg.number()), (2, u32::from(*op == Cmp::Ne))]);
                value(w, 3, bytes);
            }
            Self::Bitwise(reg, mask, xor) => {
                numbers(w, &[(1, reg.number()), (2, reg.number()), (3, mask.len() as u32)]);
                value(w, 4, mask);
                value(w, 5, xor);
            }
            Self::InSet { set, key, inverted } => {
                w.string(1, set);
                numbers(w, &[(2, key.number()), (5, u32::from(*inverted))]);
            }
            Self::MapLookup { map, key, value } => {
                w.string(1, map);
                numbers(w, &[(2, key.number()), (3, value.number())]);
            }
            Self::VerdictLookup { map, key } => {
                w.string(1, map);
                numbers(w, &[(2, key.number()), (3, NFT_REG_VERDICT)]);
            }
            Self::Random { modulus, into } => {
                const NFT_NG_RANDOM: u32 = 1;
                numbers(w, &[(1, into.number()), (2, *modulus), (3, NFT_NG_RANDOM)]);
            }
            _ => self.encode_action(w),
        }
    }

    fn encode_action(&self, w: &mut Writer) {
        match self {
            Self::Update { set, key, value, timeout } => {
                const NFT_DYNSET_OP_UPDATE: u32 = 1;
                w.string(1, set);
                numbers(w, &[(3, NFT_DYNSET_OP_UPDATE), (4, key.number())]);
                if let Some(value) = value {
                    w.be32(5, value.number());
                }
                w.be64(6, timeout.as_millis() as u64);
            }
            Self::Nat { kind, family, address, port } => {
                let kind = u32::from(*kind == Nat::Destination);
                numbers(w, &[(1, kind), (2, u32::from(family.number())), (3, address.number())]);
                if let Some(port) = port {
                    w.be32(5, port.number());
                }
            }
            Self::Masquerade { fully_random } => {
                const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
                if *fully_random {
                    w.be32(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
                }
            }
            Self::Reject(kind) => match kind {
                // NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH: both families.
                RejectKind::PortUnreachable => {
                    w.be32(1, 2);
                    w.bytes(2, &[1]);
                }
                RejectKind::TcpReset => {
                    w.be32(1, 1);
                    w.bytes(2, &[0]);
                }
            },
            // Counter has no attributes when it starts from zero.
            _ => {}
        }
    }
}

fn numbers(writer: &mut Writer, attrs: &[(u16, u32)]) {
    for (kind, number) in attrs {
        writer.be32(*kind, *number);
    }
}

fn value(writer: &mut Writer, kind: u16, bytes: &[u8]) {
    let nest = writer.begin_nest(kind);
    writer.bytes(NFTA_DATA_VALUE, bytes);
    writer.end_nest(nest);
}

/// A rule under construction. Each method appends expressions and returns the rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    pub(crate) exprs: Vec<Expr>,
    pub(crate) comment: Option<String>,
}

impl Rule {
    /// A rule that matches every packet and does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends any expression.
    pub fn expr(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    /// A text that `nft list ruleset` shows; at most 127 bytes, more is cut.
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        let mut text = text.into();
        while text.len() > 127 {
            text.pop();
        }
        self.comment = Some(text);
        self
    }

    /// Appends a verdict.
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expr(Expr::Verdict(verdict))
    }

    /// Loads a packet field.
    pub fn load(self, field: Payload, into: Reg) -> Self {
        self.expr(Expr::Payload(field, into))
    }

    /// Loads a fact about the packet.
    pub fn meta(self, key: MetaKey, into: Reg) -> Self {
        self.expr(Expr::Meta(key, into))
    }

    /// Loads a constant.
    pub fn immediate(self, into: Reg, key: &Key) -> Self {
        self.expr(Expr::Immediate(into, key.as_bytes().to_vec()))
    }

    /// Matches a packet field.
    pub fn field_is(self, field: Payload, op: Cmp, key: &Key) -> Self {
        self.load(field, Reg(0)).expr(Expr::Cmp(Reg(0), op, key.as_bytes().to_vec()))
    }

    /// Matches the leading bits of an address field: `ip daddr 10.42.0.0/16`.
    pub fn field_in_prefix(self, field: Payload, op: Cmp, network: std::net::IpAddr, prefix_len: u8) -> Self {
        let key = Key::new().ip(network);
        let mask = prefix_mask(key.as_bytes().len(), prefix_len);
        let masked: Vec<u8> = key.as_bytes().iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        let zeros = vec![0; mask.len()];
        self.load(field, Reg(0)).expr(Expr::Bitwise(Reg(0), mask, zeros)).expr(Expr::Cmp(Reg(0), op, masked))
    }

    /// Matches the layer 4 protocol.
    pub fn protocol_is(self, protocol: u8) -> Self {
        self.meta(MetaKey::Layer4Protocol, Reg(0)).expr(Expr::Cmp(Reg(0), Cmp::Eq, vec![protocol]))
    }

    /// Matches the incoming or outgoing interface's name.
    pub fn interface_is(self, key: MetaKey, op: Cmp, name: &str) -> Self {
        self.meta(key, Reg(0)).expr(Expr::Cmp(Reg(0), op, Key::new().interface(name).as_bytes().to_vec()))
    }

    /// Matches when any of the bits is set in a connection's state or status.
    pub fn ct_any(self, key: CtKey, bits: u32) -> Self {
        self.expr(Expr::Ct(key, Reg(0))).any_bit(bits)
    }

    /// Matches when none of the bits is set in a connection's state or status.
    pub fn ct_none(self, key: CtKey, bits: u32) -> Self {
        self.expr(Expr::Ct(key, Reg(0))).expr(Expr::Bitwise(Reg(0), bits.to_ne_bytes().to_vec(), vec![0; 4])).expr(Expr::Cmp(
            Reg(0),
            Cmp::Eq,
            vec![0; 4],
        ))
    }

    /// Matches when any of the bits is set in the packet's mark.
    pub fn mark_any(self, bits: u32) -> Self {
        self.meta(MetaKey::Mark, Reg(0)).any_bit(bits)
    }

    fn any_bit(self, bits: u32) -> Self {
        self.expr(Expr::Bitwise(Reg(0), bits.to_ne_bytes().to_vec(), vec![0; 4])).expr(Expr::Cmp(Reg(0), Cmp::Ne, vec![0; 4]))
    }

    /// Sets (`on`) or clears bits of the packet's mark.
    pub fn set_mark_bits(self, bits: u32, on: bool) -> Self {
        let xor = if on { bits } else { 0 };
        self.meta(MetaKey::Mark, Reg(0))
            .expr(Expr::Bitwise(Reg(0), (!bits).to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec()))
            .expr(Expr::MetaSet(MetaKey::Mark, Reg(0)))
    }

    /// Matches when the source or destination is an address of this host.
    pub fn is_local(self, which: FibResult) -> Self {
        const RTN_LOCAL: u32 = 2;
        self.expr(Expr::Fib(which, Reg(0))).expr(Expr::Cmp(Reg(0), Cmp::Eq, RTN_LOCAL.to_ne_bytes().to_vec()))
    }
}

fn prefix_mask(len: usize, prefix_len: u8) -> Vec<u8> {
    (0..len)
        .map(|byte| {
            let bits = usize::from(prefix_len).saturating_sub(byte * 8).min(8);
            (0xff00u16 >> bits) as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_follow_prefix_lengths() {
        let check = |prefix, expected: [u8; 4]| assert_eq!(prefix_mask(4, prefix), expected, "/{prefix}");
        check(0, [0, 0, 0, 0]);
        check(7, [0xfe, 0, 0, 0]);
        check(8, [0xff, 0, 0, 0]);
        check(20, [0xff, 0xff, 0xf0, 0]);
        check(32, [0xff; 4]);
    }

    #[test]
    fn comments_are_cut_at_a_character() {
        let rule = Rule::new().comment("é".repeat(100));
        assert_eq!(rule.comment.unwrap().len(), 126);
    }
}
