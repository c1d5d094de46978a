//! Types of expressions, and when one may stand for another (cel-go's `common/types` and `checker/types.go`).

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// How many nodes a type may have, and so many steps it takes at most to see what two types have in common: `{a: a}` doubles a type each time.
pub(crate) const NODES_MAX: usize = 256;
/// How many steps it takes at most for all types of an expression.
const STEPS_MAX: usize = 32 << 20;

/// The type of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Anything; checked when it is evaluated.
    Dyn,
    /// `google.protobuf.Any`: what cannot be known, treated as [`Type::Dyn`].
    Any,
    /// What has no type because of an error.
    Error,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// `bytes`.
    Bytes,
    /// `double`.
    Double,
    /// `google.protobuf.Duration`.
    Duration,
    /// `int`.
    Int,
    /// `string`.
    String,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// `uint`.
    Uint,
    /// A parameter of a function's type.
    Param(Arc<str>),
    /// A list of elements.
    List(Arc<Type>),
    /// A map from keys to values.
    Map(Arc<(Type, Type)>),
    /// An abstract type with parameters.
    Opaque(Arc<str>, Arc<[Type]>),
    /// An object with fields.
    Struct(Arc<str>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
}

impl Type {
    /// A list of these.
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    /// A map from `key` to `value`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// A value that may be absent.
    pub fn optional(value: Type) -> Type {
        Type::Opaque("optional_type".into(), [value].into())
    }

    /// The object type of this name.
    pub fn object(name: &str) -> Type {
        Type::Struct(name.into())
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Any)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        self.is_dyn() || *self == Type::Error
    }

    /// What an optional type wraps.
    pub(crate) fn unwrap_optional(&self) -> Option<&Type> {
        match self {
            Type::Opaque(name, parameters) if &**name == "optional_type" => parameters.first(),
            _ => None,
        }
    }

    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            other => other.unwrap_optional().is_some_and(Type::is_scalar),
        }
    }

    /// The type's name, without parameters.
    pub(crate) fn name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Any => "google.protobuf.Any",
            Type::Error => "error",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Bytes => "bytes",
            Type::Double => "double",
            Type::Duration => "google.protobuf.Duration",
            Type::Int => "int",
            Type::String => "string",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Uint => "uint",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Type(_) => "type",
            Type::Param(name) | Type::Opaque(name, _) | Type::Struct(name) => name,
        }
    }

    fn parameters(&self) -> Vec<&Type> {
        match self {
            Type::List(element) => vec![element],
            Type::Map(pair) => vec![&pair.0, &pair.1],
            Type::Opaque(_, parameters) => parameters.iter().collect(),
            Type::Type(Some(of)) => vec![of],
            _ => Vec::new(),
        }
    }

    /// Whether the type has more nodes than `most`, as far as that takes.
    pub(crate) fn is_larger_than(&self, most: usize) -> bool {
        let (mut open, mut seen) = (vec![self], 0);
        while let Some(t) = open.pop() {
            seen += 1;
            if seen > most {
                return true;
            }
            open.extend(t.parameters());
        }
        false
    }

    /// Whether values of `from` are values of this type, in cel-go's sense without inference.
    fn takes(&self, from: &Type) -> bool {
        if self == from || matches!(self, Type::Dyn | Type::Any | Type::Param(_)) {
            return true;
        }
        std::mem::discriminant(self) == std::mem::discriminant(from)
            && self.name() == from.name()
            && self.parameters().len() == from.parameters().len()
            && self.parameters().iter().zip(from.parameters()).all(|(to, from)| to.takes(from))
    }

    /// The same but for the names of type parameters.
    pub(crate) fn is_equivalent(&self, other: &Type) -> bool {
        if matches!((self, other), (Type::Param(_), Type::Param(_))) {
            return true;
        }
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && self.name() == other.name()
            && self.parameters().len() == other.parameters().len()
            && self.parameters().iter().zip(other.parameters()).all(|(one, other)| one.is_equivalent(other))
    }

    /// As errors of the checker show it (cel-go's `FormatCELType`).
    pub(crate) fn shown(&self) -> String {
        let name = match self {
            Type::Any => "any",
            Type::Duration => "duration",
            Type::Error => "!error!",
            Type::Null => "null",
            Type::Timestamp => "timestamp",
            other => other.name(),
        };
        match self.parameters().as_slice() {
            [] => name.to_owned(),
            many => format!("{name}({})", many.iter().map(|t| t.shown()).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Type::Param(name) = self {
            return write!(f, "<{name}>");
        }
        f.write_str(self.name())?;
        let parameters = self.parameters();
        for (i, parameter) in parameters.iter().enumerate() {
            write!(f, "{}{parameter}", if i == 0 { "(" } else { ", " })?;
        }
        if parameters.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// What type variables stand for, with what is needed to take back an attempt that failed.
///
/// Variables that stand for types of variables make large types out of small ones, so every operation ends after [`NODES_MAX`] steps, and
/// all of them after [`STEPS_MAX`]:
/// what is left of the type is [`Type::Error`] then, which fits everything, and [`Mapping::take_too_large`] says so.
#[derive(Default)]
pub(crate) struct Mapping {
    known: HashMap<Arc<str>, Type>,
    trail: Vec<(Arc<str>, Option<Type>)>,
    steps: Cell<usize>,
    all_steps: Cell<usize>,
    too_large: Cell<bool>,
}

impl Mapping {
    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(name) => self.known.get(name),
            _ => None,
        }
    }

    /// Makes a parameter stand for a type.
    pub(crate) fn add(&mut self, variable: &Type, t: Type) {
        if let Type::Param(name) = variable {
            let before = self.known.insert(name.clone(), t);
            self.trail.push((name.clone(), before));
        }
    }

    /// Whether a type was too large since this was asked last.
    pub(crate) fn take_too_large(&self) -> bool {
        self.too_large.take()
    }

    /// Counts a step of an operation; `false` if it takes too many.
    fn step(&self) -> bool {
        self.steps.set(self.steps.get() + 1);
        self.all_steps.set(self.all_steps.get() + 1);
        let goes_on = self.steps.get() <= NODES_MAX && self.all_steps.get() <= STEPS_MAX;
        if !goes_on {
            self.too_large.set(true);
        }
        goes_on
    }

    fn attempt(&mut self, unify: impl FnOnce(&mut Self) -> bool) -> bool {
        self.steps.set(0);
        self.trail.clear();
        let fits = unify(self);
        while !fits && let Some((name, before)) = self.trail.pop() {
            match before {
                Some(t) => self.known.insert(name, t),
                None => self.known.remove(&name),
            };
        }
        fits
    }

    /// Replaces variables by what they stand for; free ones by `dyn` if so wished.
    pub(crate) fn substitute(&self, t: &Type, free_to_dyn: bool) -> Type {
        self.steps.set(0);
        self.replaced(t, free_to_dyn)
    }

    fn replaced(&self, t: &Type, free_to_dyn: bool) -> Type {
        if !self.step() {
            return Type::Error;
        }
        if let Some(found) = self.find(t) {
            return self.replaced(found, free_to_dyn);
        }
        match t {
            Type::Param(_) if free_to_dyn => Type::Dyn,
            Type::Opaque(name, parameters) => {
                Type::Opaque(name.clone(), parameters.iter().map(|p| self.replaced(p, free_to_dyn)).collect())
            }
            Type::List(element) => Type::list(self.replaced(element, free_to_dyn)),
            Type::Map(pair) => Type::map(self.replaced(&pair.0, free_to_dyn), self.replaced(&pair.1, free_to_dyn)),
            Type::Type(Some(of)) => Type::Type(Some(Arc::new(self.replaced(of, free_to_dyn)))),
            other => other.clone(),
        }
    }

    /// Whether `t2` may stand where `t1` is wanted; what it takes is remembered only if so.
    pub(crate) fn assignable(&mut self, t1: &Type, t2: &Type) -> bool {
        self.attempt(|mapping| mapping.unify(t1, t2))
    }

    /// As [`Mapping::assignable`], for all pairs at once.
    pub(crate) fn all_assignable(&mut self, one: &[Type], other: &[Type]) -> bool {
        let same = one.len() == other.len();
        same && self.attempt(|mapping| one.iter().zip(other).all(|(t1, t2)| mapping.unify(t1, t2)))
    }

    fn unify(&mut self, t1: &Type, t2: &Type) -> bool {
        if !self.step() {
            return true;
        }
        if let Type::Param(_) = t2 {
            match self.valid_substitution(t1, t2) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Param(_) = t1 {
            return self.valid_substitution(t2, t1).0;
        }
        if t1.is_dyn_or_error() || t2.is_dyn_or_error() {
            return true;
        }
        match (t1, t2) {
            (Type::Null, t) | (t, Type::Null) => takes_null(t),
            (Type::Type(_), other) => matches!(other, Type::Type(_)),
            (Type::List(a), Type::List(b)) => self.unify(a, b),
            (Type::Map(a), Type::Map(b)) => self.unify(&a.0, &b.0) && self.unify(&a.1, &b.1),
            (Type::Opaque(a, p), Type::Opaque(b, q)) => {
                a == b && p.len() == q.len() && p.iter().zip(q.iter()).all(|(p, q)| self.unify(p, q))
            }
            (Type::List(_) | Type::Map(_) | Type::Opaque(..), _) => false,
            _ => t2.takes(t1),
        }
    }

    /// Whether the variable `t2` may stand for `t1`, and whether it stood for something before.
    fn valid_substitution(&mut self, t1: &Type, t2: &Type) -> (bool, bool) {
        if t1 == t2 {
            return (true, true);
        }
        if let Some(known) = self.find(t2).cloned() {
            if *t1 == known {
                return (true, true);
            }
            if self.unify(t1, &known) {
                let general = most_general(t1, &known).clone();
                if self.not_within(t2, &general) {
                    self.add(t2, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.not_within(t2, t1) {
            self.add(t2, t1.clone());
            return (true, false);
        }
        (false, false)
    }

    fn not_within(&self, t: &Type, within: &Type) -> bool {
        if t == within || !self.step() {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|known| self.not_within(t, known)),
            other => other.parameters().into_iter().all(|parameter| self.not_within(t, parameter)),
        }
    }
}

fn takes_null(t: &Type) -> bool {
    matches!(t, Type::Opaque(..) | Type::Struct(_) | Type::Any | Type::Dyn | Type::Duration | Type::Timestamp | Type::Null)
}

/// The one of two types that says less.
pub(crate) fn most_general<'t>(t1: &'t Type, t2: &'t Type) -> &'t Type {
    if less_specific(t1, t2) { t1 } else { t2 }
}

fn less_specific(t1: &Type, t2: &Type) -> bool {
    if t1.is_dyn() || matches!(t1, Type::Param(_)) {
        return true;
    }
    if t2.is_dyn() || matches!(t2, Type::Param(_)) {
        return false;
    }
    match (t1, t2) {
        (Type::List(a), Type::List(b)) => less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (Type::Opaque(a, p), Type::Opaque(b, q)) => {
            a == b && p.len() == q.len() && p.iter().zip(q.iter()).all(|(p, q)| less_specific(p, q))
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => t1 == t2,
    }
}
