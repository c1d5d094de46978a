//! What an expression may cost at worst, before it is evaluated: cel-go's `checker/cost.go`.
//!
//! Sizes of what comes from outside are asked of a [`SizeEstimator`]; without an answer they have no bound.

mod calls;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Comprehension, Expr, Id, Kind, Literal, OLD_ACCUMULATOR, op};
use crate::checker::Checked;
use crate::env::Ast;
use crate::runtime_cost::{LIST, MAP, STRUCT, scaled};
use crate::types::Type;

/// The least and the most that something may be: a size, or a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub min: u64,
    /// The most; `u64::MAX` where there is no bound.
    pub max: u64,
}

impl Range {
    const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
    /// What a union starts from.
    const NOTHING: Range = Range { min: u64::MAX, max: 0 };

    /// Exactly this.
    pub const fn fixed(value: u64) -> Range {
        Range { min: value, max: value }
    }

    fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scaled(self, factor: f64) -> Range {
        Range { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Knows how large what comes from outside may be.
pub trait SizeEstimator {
    /// The size of what is at this path: the name of a variable, then fields, `@items`, `@indices`, `@keys` and `@values`.
    fn size(&self, path: &[Arc<str>]) -> Option<Range>;
}

/// The cost of an expression.
pub fn estimate(ast: &Ast, sizes: &dyn SizeEstimator) -> Range {
    let mut coster = Coster {
        checked: &ast.checked,
        sizes,
        paths: HashMap::new(),
        locals: Vec::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(&ast.expr)
}

/// Sizes of what is in a list or map.
#[derive(Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(self, other: Entries) -> Entries {
        Entries { is_list: self.is_list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

struct Local {
    name: Arc<str>,
    path: Vec<Arc<str>>,
    size: Option<Range>,
    entries: Option<Entries>,
}

struct Coster<'a> {
    checked: &'a Checked,
    sizes: &'a dyn SizeEstimator,
    paths: HashMap<Id, Vec<Arc<str>>>,
    locals: Vec<Local>,
    computed: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
}

/// An argument of a call.
struct Node<'e> {
    expr: &'e Expr,
    path: Option<Vec<Arc<str>>>,
    t: Type,
    size: Option<Range>,
}

/// What a call costs, and the size of what it gives.
struct CallCost {
    cost: Range,
    size: Option<Range>,
}

/// An identifier, or a step of a selection.
const STEP: Range = Range::fixed(1);

fn extended(mut path: Vec<Arc<str>>, part: &str) -> Vec<Arc<str>> {
    path.push(part.into());
    path
}

impl<'a> Coster<'a> {
    fn cost(&mut self, expr: &'a Expr) -> Range {
        match &*expr.kind {
            Kind::Unspecified | Kind::Literal(_) => Range::fixed(0),
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select { operand, field, test_only } => self.select(expr, operand, field, *test_only),
            Kind::Call { target, function, args } => self.call(expr, target.as_ref(), function, args),
            Kind::List(elements, _) => self.list(expr, elements),
            Kind::Map(entries) => {
                let (mut key, mut value) = (Range::NOTHING, Range::NOTHING);
                if entries.is_empty() {
                    (key.min, value.min) = (0, 0);
                }
                let mut sum = Range::fixed(MAP);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(expr.id, Entries { is_list: false, key, value });
                sum
            }
            Kind::Struct(_, fields) => fields.iter().fold(Range::fixed(STRUCT), |sum, field| sum.plus(self.cost(&field.value))),
            Kind::Comprehension(c) if is_bind(c) => self.bind(expr, c),
            Kind::Comprehension(c) => self.comprehension(expr, c),
        }
    }

    fn ident(&mut self, expr: &Expr, name: &Arc<str>) -> Range {
        let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
        self.paths.insert(expr.id, path);
        STEP
    }

    fn select(&mut self, expr: &Expr, operand: &'a Expr, field: &Arc<str>, test_only: bool) -> Range {
        if let Some(name) = self.checked.names.get(&expr.id) {
            return self.ident(expr, &name.clone());
        }
        let sum = self.cost(operand);
        if test_only {
            // A test for presence costs nothing in Kubernetes' environments.
            return sum;
        }
        let path = extended(self.path(operand), field);
        self.paths.insert(expr.id, path);
        match self.checked.type_of(operand) {
            Type::Map(_) | Type::Struct(_) | Type::Param(_) => sum.plus(STEP),
            _ => sum,
        }
    }

    fn list(&mut self, expr: &Expr, elements: &'a [Expr]) -> Range {
        let mut value = Range::NOTHING;
        if elements.is_empty() {
            value.min = 0;
        }
        let mut sum = Range::fixed(LIST);
        for element in elements {
            sum = sum.plus(self.cost(element));
            value = value.union(self.size_or_unknown(element));
        }
        self.entries.insert(expr.id, Entries { is_list: true, key: Range::fixed(1), value });
        sum
    }

    fn call(&mut self, expr: &Expr, target: Option<&'a Expr>, function: &str, args: &'a [Expr]) -> Range {
        if let ("dyn", [arg]) = (function, args) {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return cost.plus(Range::fixed(1));
        }
        let renamed = self.checked.names.get(&expr.id).cloned();
        let (target, function) = match &renamed {
            Some(name) => (None, &**name),
            None => (target, function),
        };
        let mut costs = Vec::with_capacity(args.len());
        let mut nodes = Vec::with_capacity(args.len());
        for arg in args {
            costs.push(self.cost(arg));
            nodes.push(self.node(arg));
        }
        let overloads = self.checked.overloads(expr).to_vec();
        if overloads.is_empty() {
            return Range::fixed(0);
        }
        let mut sum = Range::fixed(0);
        let target = target.map(|target| {
            sum = self.cost(target);
            self.node(target)
        });
        let (mut cost, mut size) = (Range::NOTHING, None::<Range>);
        for overload in overloads {
            let call = self.function_cost(expr, function, overload, target.as_ref(), &nodes, &costs);
            cost = cost.union(call.cost);
            size = match (size, call.size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let ("index_list" | "index_map", [indexed, ..]) = (overload, args) {
                size = self.entries_of(indexed).map(|entries| entries.value);
                let part = if overload == "index_list" { "@items" } else { "@values" };
                let path = extended(self.path(indexed), part);
                self.paths.insert(expr.id, path);
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        if let Some(size) = size {
            self.computed.insert(expr.id, size);
        }
        sum.plus(cost)
    }

    fn push(&mut self, name: &Arc<str>, path: Vec<Arc<str>>, size: Option<Range>, entries: Option<Entries>) {
        self.locals.push(Local { name: name.clone(), path, size, entries });
    }

    fn comprehension(&mut self, expr: &Expr, c: &'a Comprehension) -> Range {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        let depth = self.locals.len();
        let (path, size, entries) = (self.path(&c.init), self.size(&c.init), self.entries_of(&c.init));
        self.push(&c.accu, path, size, entries);
        let entries = self.entries_of(&c.range);
        let is_list = entries.map_or_else(|| matches!(self.checked.type_of(&c.range), Type::List(_)), |entries| entries.is_list);
        let path = self.path(&c.range);
        let (key, value) = (entries.map(|entries| entries.key), entries.map(|entries| entries.value));
        match &c.var2 {
            Some(var2) => {
                self.push(&c.var, extended(path.clone(), if is_list { "@indices" } else { "@keys" }), key, None);
                self.push(var2, extended(path, if is_list { "@items" } else { "@values" }), value, None);
            }
            None if is_list => self.push(&c.var, extended(path, "@items"), value, None),
            None => self.push(&c.var, extended(path, "@keys"), key, None),
        }
        let each = self.cost(&c.condition);
        let each = self.cost(&c.step).plus(each);
        self.locals.truncate(depth + 1);
        sum = sum.plus(self.cost(&c.result));
        let count = self.size_or_unknown(&c.range);
        sum = sum.plus(count.times(each));
        match &*c.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&c.init) {
                    self.computed.insert(expr.id, size);
                }
            }
            Kind::List(..) | Kind::Map(_) => {
                self.computed.insert(expr.id, count);
                if let Some(entries) = self.entries_of(&c.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        self.locals.truncate(depth);
        sum
    }

    fn bind(&mut self, expr: &Expr, c: &'a Comprehension) -> Range {
        let sum = self.cost(&c.range).plus(self.cost(&c.init));
        let (path, size, entries) = (self.path(&c.init), self.size(&c.init), self.entries_of(&c.init));
        self.push(&c.accu, path, size, entries);
        let sum = sum.plus(self.cost(&c.result));
        self.locals.pop();
        self.copy_sizes(expr, &c.result);
        sum
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| &*local.name == name)
    }

    fn path(&self, expr: &Expr) -> Vec<Arc<str>> {
        if let Some(local) = expr.as_ident().and_then(|name| self.local(name)) {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn node<'e>(&mut self, expr: &'e Expr) -> Node<'e> {
        let path = self.path(expr);
        let hidden = path.first().is_none_or(|first| matches!(&**first, ACCUMULATOR | OLD_ACCUMULATOR));
        Node { expr, path: (!hidden).then_some(path), t: self.checked.type_of(expr).clone(), size: self.size(expr) }
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.computed.get(&expr.id) {
            return Some(*size);
        }
        let own = match &*expr.kind {
            Kind::Literal(Literal::String(s)) => Some(s.chars().count()),
            Kind::Literal(Literal::Bytes(b)) => Some(b.len()),
            Kind::Literal(_) => Some(1),
            Kind::List(elements, _) => Some(elements.len()),
            Kind::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(size) = own {
            return Some(Range::fixed(size as u64));
        }
        if let Some(size) = self.sizes.size(&self.path(expr)) {
            self.computed.insert(expr.id, size);
            return Some(size);
        }
        if self.checked.type_of(expr).is_scalar() {
            return Some(Range::fixed(1));
        }
        expr.as_ident().and_then(|name| self.local(name)).and_then(|local| local.size)
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        let known = self.entries.get(&expr.id).copied();
        known.or_else(|| expr.as_ident().and_then(|name| self.local(name)).and_then(|local| local.entries))
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.size(from) {
            self.computed.insert(to.id, size);
        }
        if let Some(entries) = self.entries_of(from) {
            self.entries.insert(to.id, entries);
        }
    }
}

/// Whether a comprehension only binds a name.
fn is_bind(c: &Comprehension) -> bool {
    matches!(&*c.range.kind, Kind::List(elements, _) if elements.is_empty())
        && matches!(*c.condition.kind, Kind::Literal(Literal::Bool(false)))
        && &*c.accu != OLD_ACCUMULATOR
}

/// Whether two sides of an equality are compared by looking at them once.
fn compared_at_once(t: &Type) -> bool {
    match t {
        Type::Opaque(name, _) => matches!(&**name, "net.IP" | "net.CIDR"),
        Type::Struct(name) => {
            matches!(&**name, "kubernetes.Quantity" | "kubernetes.Semver") || name.starts_with("kubernetes.authorization.")
        }
        _ => false,
    }
}

/// The function behind an operator that [`calls`] treats by name.
const EQUALS: &str = op::EQUALS;
