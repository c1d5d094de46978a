//! The costs of calls: first those of the list and set libraries, then Kubernetes' (`library/cost.go`), then cel-go's own.

use std::sync::Arc;

use super::{CallCost, Coster, EQUALS, Node, Range, compared_at_once};
use crate::ast::{Expr, Kind, Literal};
use crate::runtime_cost::{AUTHORIZATION, LIST, REGEX, STRUCT, TRAVERSAL, scaled};
use crate::types::Type;

const ONE: Range = Range::fixed(1);
/// Functions of Kubernetes that cost one unit, whatever they are called with.
const COST_ONE: [&str; 38] = [
    "serviceAccount",
    "path",
    "group",
    "resource",
    "subresource",
    "namespace",
    "name",
    "allowed",
    "reason",
    "error",
    "errored",
    "masked",
    "prefixLength",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "format.named",
    "sign",
    "asInteger",
    "isInteger",
    "asApproximateFloat",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "add",
    "sub",
    "major",
    "minor",
    "patch",
    "getScheme",
    "getHostname",
    "getHost",
    "getPort",
    "getEscapedPath",
    "getQuery",
];
/// What upstream takes the longest named format's pattern, and the longest format, to be.
const FORMAT_REGEX_MAX: f64 = 128.0;
const FORMAT_MAX: u64 = 64;

fn cost(cost: Range) -> Option<CallCost> {
    Some(CallCost { cost, size: None })
}

fn sized(cost: Range, size: Range) -> Option<CallCost> {
    Some(CallCost { cost, size: Some(size) })
}

/// A literal integer, with negative ones as 0.
fn literal_int(node: &Node) -> Option<u64> {
    match *node.expr.kind {
        Kind::Literal(Literal::Int(i)) => Some(u64::try_from(i).unwrap_or_default()),
        _ => None,
    }
}

/// A call that makes a list of this size.
fn allocating(factor: f64, size: Range) -> Option<CallCost> {
    sized(size.scaled(factor).plus(ONE).plus(Range::fixed(LIST)), size)
}

impl Coster<'_> {
    /// The size of an argument, by its path where it was not computed.
    fn estimated(&self, node: &Node) -> Range {
        let by_path = || node.path.as_ref().and_then(|path| self.sizes.size(path));
        node.size.or_else(by_path).unwrap_or(Range::UNKNOWN)
    }

    pub(super) fn function_cost(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Node>,
        args: &[Node],
        costs: &[Range],
    ) -> CallCost {
        let sum = costs.iter().fold(Range::fixed(0), |sum, cost| sum.plus(*cost));
        let own = self.lists(overload, target, args).or_else(|| self.kubernetes(function, overload, target, args));
        match own {
            Some(call) => CallCost { cost: call.cost.plus(sum), size: call.size },
            None => self.standard(expr, overload, target, args, costs, sum),
        }
    }

    fn lists(&self, overload: &str, target: Option<&Node>, args: &[Node]) -> Option<CallCost> {
        let size = |node: &Node| self.estimated(node);
        match (overload, target, args) {
            ("list_slice", Some(list), [start, end]) => {
                let (start, end) = (literal_int(start).unwrap_or(0), literal_int(end).unwrap_or(size(list).max));
                allocating(1.0, Range::fixed(end.wrapping_sub(start)))
            }
            ("lists_range", None, [n]) => allocating(1.0, Range::fixed(literal_int(n).unwrap_or(u64::MAX))),
            ("list_reverse", Some(list), []) => allocating(1.0, size(list)),
            ("list_flatten", Some(list), []) => allocating(1.0, size(list)),
            ("list_flatten_int", Some(list), [depth]) => allocating(literal_int(depth).unwrap_or(u64::MAX) as f64, size(list)),
            ("list_distinct", Some(list), []) => allocating(2.0, size(list).times(size(list))),
            (id, Some(list), []) if id.starts_with("list_") && id.ends_with("_sort") => sorting(id, size(list)),
            (id, Some(_), [keys]) if id.ends_with("_sortByAssociatedKeys") => sorting(id, size(keys)),
            ("list_sets_contains_list" | "list_sets_intersects_list", None, [a, b]) => cost(size(a).times(size(b)).plus(ONE)),
            ("list_sets_equivalent_list", None, [a, b]) => cost(size(a).times(size(b)).scaled(2.0).plus(ONE)),
            _ => None,
        }
    }

    fn kubernetes(&self, function: &str, overload: &str, target: Option<&Node>, args: &[Node]) -> Option<CallCost> {
        let size = |node: &Node| self.estimated(node);
        match (function, target, args) {
            ("check", ..) => cost(Range::fixed(AUTHORIZATION)),
            (constant, ..) if COST_ONE.contains(&constant) => cost(ONE),
            ("fieldSelector" | "labelSelector", _, [selector]) => cost(selector_cost(size(selector))),
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(list), _) => self.each_element(list),
            ("url", _, [text]) => sized(size(text).scaled(TRAVERSAL), size(text)),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(text), _) => {
                sized(size(text).scaled(TRAVERSAL), size(text))
            }
            ("replace", Some(text), [old, new, ..]) => {
                sized(size(text).scaled(2.0 * TRAVERSAL), replaced(size(text), size(old), size(new)))
            }
            ("split", Some(text), rest) => {
                let literal = rest.get(1).and_then(literal_int_signed);
                let max = literal.unwrap_or(size(text).max);
                sized(size(text).scaled(2.0 * TRAVERSAL), Range { min: 0, max })
            }
            ("join", Some(list), rest) => {
                let size = self.joined(list, rest.first());
                sized(size.scaled(TRAVERSAL), size)
            }
            ("find" | "findAll", Some(text), [pattern, ..]) => {
                let cost = size(text).plus(ONE).scaled(TRAVERSAL).times(size(pattern).scaled(REGEX));
                sized(cost, Range { min: 0, max: size(text).max })
            }
            ("ip", ..) if overload == "cidr_ip" => cost(ONE),
            ("cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", _, [text, ..]) => {
                cost(size(text).scaled(TRAVERSAL))
            }
            ("ip.isCanonical", _, [text]) => cost(size(text).scaled(2.0 * TRAVERSAL)),
            ("containsIP" | "containsCIDR", _, [other, ..]) => cost(self.contains(function, overload, other)),
            ("validate", _, [text, ..]) => cost(size(text).scaled(TRAVERSAL).scaled(FORMAT_REGEX_MAX * REGEX)),
            (EQUALS, _, [a, b]) if a.t == b.t => equality(&a.t, b.size),
            _ => None,
        }
    }

    fn element(&self, list: &Node) -> Option<(Type, Option<Range>)> {
        let t = match &list.t {
            Type::List(element) => (**element).clone(),
            Type::Map(pair) => pair.0.clone(),
            Type::Opaque(_, parameters) => parameters.first()?.clone(),
            _ => return None,
        };
        let path: Vec<Arc<str>> = list.path.iter().flatten().cloned().chain(["@items".into()]).collect();
        Some((t, self.sizes.size(&path)))
    }

    fn each_element(&self, list: &Node) -> Option<CallCost> {
        let size = self.estimated(list);
        let Some((t, element)) = self.element(list) else { return cost(size.scaled(TRAVERSAL)) };
        let each = match t {
            Type::String | Type::Bytes => ONE.plus(element.unwrap_or(Range::UNKNOWN).scaled(TRAVERSAL)),
            _ => ONE,
        };
        cost(size.times(each))
    }

    fn joined(&self, list: &Node, separator: Option<&Node>) -> Range {
        let count = self.estimated(list);
        let mut size = Range::fixed(0);
        if let Some((_, element)) = self.element(list) {
            size = count.times(element.unwrap_or(Range::UNKNOWN));
        }
        if let Some(separator) = separator {
            let separators = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
            size = size.plus(self.estimated(separator).times(separators));
        }
        size
    }

    fn contains(&self, function: &str, overload: &str, other: &Node) -> Range {
        let address = Range { min: 4, max: 16 };
        let mut sum = address.plus(address).scaled(TRAVERSAL);
        if function == "containsCIDR" {
            sum = sum.plus(address.scaled(TRAVERSAL)).plus(ONE);
        }
        match overload {
            "cidr_contains_ip_string" | "cidr_contains_cidr_string" => sum.plus(self.estimated(other).scaled(TRAVERSAL)),
            _ => sum,
        }
    }

    fn standard(
        &mut self,
        expr: &Expr,
        overload: &str,
        target: Option<&Node>,
        args: &[Node],
        costs: &[Range],
        sum: Range,
    ) -> CallCost {
        let known = |node: &Node| node.size.unwrap_or(Range::UNKNOWN);
        let plain = |cost: Range| CallCost { cost: cost.plus(sum), size: None };
        match (overload, target, args) {
            ("string_format", Some(text), _) => plain(known(text).scaled(TRAVERSAL)),
            ("string_to_bytes", _, [text]) => {
                let size = known(text);
                let result = Range { min: size.min, max: size.max.wrapping_mul(4) };
                CallCost { cost: size.scaled(TRAVERSAL).plus(sum), size: Some(result) }
            }
            ("bytes_to_string", _, [bytes]) => {
                let size = known(bytes);
                CallCost { cost: size.scaled(TRAVERSAL).plus(sum), size: Some(Range { min: size.min / 4, max: size.max }) }
            }
            ("strings_quote", _, [text]) => {
                let size = known(text);
                let result = Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
                CallCost { cost: size.scaled(TRAVERSAL).plus(sum), size: Some(result) }
            }
            ("starts_with_string" | "ends_with_string", _, [part]) => plain(known(part).scaled(TRAVERSAL)),
            ("in_list", _, [_, list]) => plain(known(list)),
            ("matches_string", Some(text), [pattern]) => {
                plain(known(text).plus(ONE).scaled(TRAVERSAL).times(known(pattern).scaled(REGEX)))
            }
            ("contains_string", Some(text), [part]) => plain(known(text).scaled(TRAVERSAL).times(known(part).scaled(TRAVERSAL))),
            ("logical_or" | "logical_and", _, _) if costs.len() == 2 => {
                let cost = Range { min: costs[0].min, max: costs[0].plus(costs[1]).max };
                CallCost { cost, size: None }
            }
            ("conditional", _, [_, yes, no]) if costs.len() == 3 => {
                let size = known(yes).union(known(no));
                if let (Some(a), Some(b)) = (self.entries_of(yes.expr), self.entries_of(no.expr)) {
                    self.entries.insert(expr.id, a.union(b));
                }
                CallCost { cost: costs[0].plus(costs[1].union(costs[2])), size: Some(size) }
            }
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let size = known(a).plus(known(b));
                if let (Some(x), Some(y)) = (self.entries_of(a.expr), self.entries_of(b.expr)) {
                    self.entries.insert(expr.id, x.union(y));
                }
                let cost = if overload == "add_list" { ONE } else { size.scaled(TRAVERSAL) };
                CallCost { cost: cost.plus(sum), size: Some(size) }
            }
            (id, _, [a, b]) if compares_content(id) => {
                let max = known(a).max.min(known(b).max);
                plain(Range { min: u64::from(max > 0), max }.scaled(TRAVERSAL))
            }
            _ => plain(ONE),
        }
    }
}

fn compares_content(id: &str) -> bool {
    let ordered = id.starts_with("less_") || id.starts_with("greater_");
    matches!(id, "equals" | "not_equals") || (ordered && (id.ends_with("_string") || id.ends_with("_bytes")))
}

fn literal_int_signed(node: &Node) -> Option<u64> {
    match *node.expr.kind {
        Kind::Literal(Literal::Int(i)) => Some(i as u64),
        _ => None,
    }
}

fn sorting(id: &str, size: Range) -> Option<CallCost> {
    let factor = if id.starts_with("list_string") || id.starts_with("list_bytes") { 2.0 + TRAVERSAL } else { 2.0 };
    allocating(factor, size.times(size))
}

fn selector_cost(length: Range) -> Range {
    let requirements = length.scaled(0.5).scaled((LIST + STRUCT) as f64);
    Range::fixed(LIST).plus(length.scaled(TRAVERSAL)).plus(requirements)
}

fn replaced(text: Range, old: Range, new: Range) -> Range {
    let count = |size: u64, part: u64| scaled(size, 1.0 / part as f64);
    let (most, kept_most) = match old.min {
        0 => (text.max.saturating_add(1), text.max),
        min if new.max <= min => (0, text.max),
        min => (count(text.max, min), 0),
    };
    let (least, kept_least) = match old.max {
        0 => (text.min.saturating_add(1), text.min),
        max if max <= new.min => (0, text.min),
        max => (count(text.min, max), 0),
    };
    Range { min: least, max: most }.times(new).plus(Range { min: kept_least, max: kept_most })
}

fn equality(t: &Type, size: Option<Range>) -> Option<CallCost> {
    if compared_at_once(t) {
        return cost(ONE);
    }
    match t {
        Type::Struct(name) if &**name == "kubernetes.NamedFormat" => cost(Range { min: 1, max: FORMAT_MAX }.scaled(TRAVERSAL)),
        Type::Struct(name) if &**name == "kubernetes.URL" => {
            cost(Range { min: 1, max: size.map_or(1, |size| size.max) }.scaled(TRAVERSAL))
        }
        _ => None,
    }
}
