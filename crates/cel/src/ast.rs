//! The syntax tree. Macros are expanded by the parser, so that the rest knows only these kinds of nodes.
//!
//! Every node has an id that is unique in its tree: what the checker learns about it is kept in tables by id.

use std::sync::Arc;

/// The hidden variable of comprehensions that macros expand to.
pub(crate) const ACCUMULATOR: &str = "@result";
/// What the variable was called before cel-go hid it; still not allowed as an iteration variable.
pub(crate) const OLD_ACCUMULATOR: &str = "__result__";
/// The loop variable of a comprehension that binds a name.
pub(crate) const UNUSED: &str = "#unused";

/// Names of operators, as errors show them.
pub(crate) mod op {
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const NEGATE: &str = "-_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const SUBTRACT: &str = "_-_";
    pub(crate) const MULTIPLY: &str = "_*_";
    pub(crate) const DIVIDE: &str = "_/_";
    pub(crate) const MODULO: &str = "_%_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const NOT_EQUALS: &str = "_!=_";
    pub(crate) const LESS: &str = "_<_";
    pub(crate) const LESS_EQUALS: &str = "_<=_";
    pub(crate) const GREATER: &str = "_>_";
    pub(crate) const GREATER_EQUALS: &str = "_>=_";
    pub(crate) const IN: &str = "@in";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const OPT_INDEX: &str = "_[?_]";
    pub(crate) const OPT_SELECT: &str = "_?._";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub(crate) const MAP_INSERT: &str = "cel.@mapInsert";
    pub(crate) const SORT_BY_KEYS: &str = "@sortByAssociatedKeys";
}

/// The id of a node: an index into the checker's tables.
pub(crate) type Id = u32;

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) id: Id,
    /// Offset in characters; `None` for what has no place.
    pub(crate) pos: Option<u32>,
    /// How many selections, calls and operators are on top of one another here, as cel-go's parser counts what was written.
    pub(crate) depth: u16,
    /// Boxed, so that passing a node around takes little of the stack: expressions nest deeply.
    pub(crate) kind: Box<Kind>,
}

/// A key and its value, or a field and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry<K> {
    pub(crate) id: Id,
    pub(crate) pos: Option<u32>,
    pub(crate) key: K,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// A loop over `range`, with what it gathers.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    pub(crate) range: Expr,
    pub(crate) var: Arc<str>,
    pub(crate) var2: Option<Arc<str>>,
    pub(crate) accu: Arc<str>,
    pub(crate) init: Expr,
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Stands for what could not be parsed: never in a tree without errors.
    Unspecified,
    Literal(Literal),
    Ident(Arc<str>),
    Select {
        operand: Expr,
        field: Arc<str>,
        test_only: bool,
    },
    Call {
        target: Option<Expr>,
        function: Arc<str>,
        args: Vec<Expr>,
    },
    /// Elements, and which of them are optional, in order.
    List(Vec<Expr>, Vec<usize>),
    Map(Vec<Entry<Expr>>),
    Struct(Arc<str>, Vec<Entry<Arc<str>>>),
    Comprehension(Comprehension),
}

impl Expr {
    /// The dotted name that a chain of selections spells, if it is one.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        match &*self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test_only: false } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }

    pub(crate) fn as_ident(&self) -> Option<&Arc<str>> {
        match &*self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// The largest depth among the nodes right below.
    pub(crate) fn depth_below(kind: &Kind) -> u16 {
        let mut deepest = 0;
        kind.children(&mut |child| deepest = deepest.max(child.depth));
        deepest
    }

    /// The text of a string literal.
    pub(crate) fn as_text(&self) -> Option<&Arc<str>> {
        match &*self.kind {
            Kind::Literal(Literal::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Calls `visit` for this node and everything below it.
    pub(crate) fn walk<'e>(&'e self, visit: &mut dyn FnMut(&'e Expr)) {
        visit(self);
        self.kind.children(&mut |child| child.walk(visit));
    }
}

impl Kind {
    /// Calls `visit` for each node right below, in the order in which they are written.
    pub(crate) fn children<'e>(&'e self, visit: &mut dyn FnMut(&'e Expr)) {
        match self {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => visit(operand),
            Kind::Call { target, args, .. } => target.iter().chain(args).for_each(visit),
            Kind::List(elements, _) => elements.iter().for_each(visit),
            Kind::Map(entries) => entries.iter().flat_map(|entry| [&entry.key, &entry.value]).for_each(visit),
            Kind::Struct(_, fields) => fields.iter().map(|field| &field.value).for_each(visit),
            Kind::Comprehension(c) => [&c.range, &c.init, &c.condition, &c.step, &c.result].into_iter().for_each(visit),
        }
    }
}
