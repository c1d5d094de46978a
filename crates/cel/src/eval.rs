//! The evaluator: walks the tree of an expression that was checked, within a budget of cost.
//!
//! Costs are cel-go's (`interpreter/runtimecost.go`), so that an expression that upstream lets pass passes here. Errors are values for
//! `&&`, `||` and the conditions of comprehensions, except that a spent budget ends everything. What a single value may grow to is
//! bounded here as well: upstream's lists share what they are put together from, ours do not. So is what all values together take, and the
//! work on values that refer to others many times ([`Meter`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ast::{Comprehension, Entry, Expr, Kind, op};
use crate::env::{Ast, type_named};
use crate::library::{self, regex::Constant};
use crate::meter::Meter;
use crate::names::unescape;
use crate::runtime_cost;
use crate::value::{List, Map, MapKey, Val};

/// What lists, maps and strings of an expression may grow to.
pub(crate) const ELEMENTS_MAX: usize = 1 << 20;
pub(crate) const BYTES_MAX: usize = 16 << 20;
/// After how many rounds of comprehensions it is asked whether to go on (upstream's `CheckFrequency`).
const CHECK_FREQUENCY: u32 = 100;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// Something in it went wrong.
    #[error("{0}")]
    Failed(String),
    /// It costs too much.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// Whoever asked does not want to know any more.
    #[error("operation interrupted")]
    Interrupted,
}

impl EvalError {
    pub(crate) fn failed(message: impl Into<String>) -> EvalError {
        EvalError::Failed(message.into())
    }

    pub(crate) fn no_overload() -> EvalError {
        EvalError::failed("no such overload")
    }
}

pub(crate) type Evaluated = Result<Val, EvalError>;

/// The values of an expression's variables.
pub trait Activation {
    /// The value of a variable.
    fn variable(&self, name: &str) -> Option<Result<Val, EvalError>>;
}

impl Activation for HashMap<&str, Val> {
    fn variable(&self, name: &str) -> Option<Result<Val, EvalError>> {
        self.get(name).cloned().map(Ok)
    }
}

/// What an evaluation may take.
pub struct Budget<'b> {
    /// Upstream's units of cost.
    pub cost_max: u64,
    /// Whether to give up; asked every so often.
    pub interrupted: &'b dyn Fn() -> bool,
}

impl Budget<'_> {
    /// This cost, for as long as it takes.
    pub fn cost(cost_max: u64) -> Budget<'static> {
        Budget { cost_max, interrupted: &|| false }
    }
}

/// An expression that is ready to be evaluated, any number of times.
#[derive(Clone, Debug)]
pub struct Program {
    ast: Ast,
}

impl Program {
    /// Prepares an expression.
    pub fn new(ast: &Ast) -> Program {
        Program { ast: ast.clone() }
    }

    pub(crate) fn ast(&self) -> &Ast {
        &self.ast
    }

    /// Evaluates the expression; returns its value, and in any case what it cost.
    pub fn evaluate(&self, activation: &dyn Activation, budget: &Budget<'_>) -> (Result<Val, EvalError>, u64) {
        let meter = Meter::new(budget.interrupted);
        let mut evaluation = Evaluation { program: self, activation, scopes: Vec::new(), cost: 0, budget, meter, rounds: 0 };
        let result = evaluation.eval(&self.ast.expr);
        (result, evaluation.cost)
    }
}

struct Evaluation<'p> {
    program: &'p Program,
    activation: &'p dyn Activation,
    scopes: Vec<(Arc<str>, Val)>,
    cost: u64,
    budget: &'p Budget<'p>,
    meter: Meter<'p>,
    rounds: u32,
}

/// Errors that are a value: what `&&` and `||` look past. The rest ends the evaluation.
fn soft(result: Evaluated) -> Result<Evaluated, EvalError> {
    match result {
        Err(EvalError::Failed(message)) => Ok(Err(EvalError::Failed(message))),
        Err(fatal) => Err(fatal),
        Ok(value) => Ok(Ok(value)),
    }
}

/// Whether a node is a variable or a part of one, in cel-go's sense.
fn is_attribute(expr: &Expr) -> bool {
    match &*expr.kind {
        Kind::Ident(_) | Kind::Select { test_only: false, .. } => true,
        Kind::Call { target: None, function, .. } => matches!(&**function, op::INDEX | op::OPT_INDEX | op::OPT_SELECT),
        _ => false,
    }
}

impl Evaluation<'_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.budget.cost_max { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, expr: &Expr) -> Evaluated {
        match &*expr.kind {
            Kind::Unspecified => Err(EvalError::failed("unspecified expression")),
            Kind::Literal(literal) => Ok(literal.into()),
            Kind::Ident(name) => self.ident(name),
            Kind::Select { operand, field, test_only } => self.select(expr, operand, field, *test_only),
            Kind::Call { target, function, args } => self.call(expr, target.as_ref(), function, args),
            Kind::List(elements, optionals) => self.list(elements, optionals),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct(name, fields) => self.object(name, fields),
            Kind::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn ident(&mut self, name: &str) -> Evaluated {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, value)) = self.scopes.iter().rev().find(|(local, _)| &**local == name) {
            let value = value.clone();
            self.charge(1)?;
            return Ok(value);
        }
        if let Some(value) = self.activation.variable(name) {
            self.charge(1)?;
            return value;
        }
        match type_named(name) {
            Some(t) => Ok(Val::Type(t)),
            None => Err(EvalError::failed(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test_only: bool) -> Evaluated {
        if let Some(name) = self.program.ast.checked.names.get(&expr.id).cloned() {
            return self.ident(&name);
        }
        let value = self.eval(operand)?;
        if !is_attribute(operand) {
            self.charge(1)?;
        }
        if test_only {
            return has_field(&value, field).map(Val::Bool);
        }
        self.charge(1)?;
        select_field(&value, field)
    }

    fn list(&mut self, elements: &[Expr], optionals: &[usize]) -> Evaluated {
        let mut items = Vec::with_capacity(elements.len());
        for (i, element) in elements.iter().enumerate() {
            match (self.eval(element)?, optionals.binary_search(&i).is_ok()) {
                (Val::Optional(value), true) => items.extend(value.map(Arc::unwrap_or_clone)),
                (_, true) => return Err(EvalError::failed("cannot initialize optional list element from non-optional value")),
                (value, false) => items.push(value),
            }
        }
        self.charge(runtime_cost::LIST)?;
        self.meter.elements(items.len())?;
        Ok(items.into())
    }

    fn map(&mut self, entries: &[Entry<Expr>]) -> Evaluated {
        let mut members = BTreeMap::new();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let value = match (self.eval(&entry.value)?, entry.optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(value)), true) => Arc::unwrap_or_clone(value),
                (_, true) => return Err(EvalError::failed("cannot initialize optional entry from non-optional value")),
                (value, false) => value,
            };
            let key = MapKey::of(&key).ok_or_else(|| EvalError::failed("unsupported key type"))?;
            if members.insert(key, value).is_some() {
                return Err(EvalError::failed("Failed with repeated key"));
            }
        }
        self.charge(runtime_cost::MAP)?;
        self.meter.members(members.len())?;
        Ok(members.into())
    }

    /// An object is what its fields say.
    fn object(&mut self, _name: &str, fields: &[Entry<Arc<str>>]) -> Evaluated {
        let mut members = BTreeMap::new();
        for field in fields {
            let value = match (self.eval(&field.value)?, field.optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(value)), true) => Arc::unwrap_or_clone(value),
                (value, _) => value,
            };
            let name = unescape(&field.key).unwrap_or_else(|| field.key.to_string());
            members.insert(MapKey::String(name.into()), value);
        }
        self.charge(runtime_cost::STRUCT)?;
        self.meter.members(members.len())?;
        Ok(members.into())
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Evaluated {
        match (function, args) {
            (op::AND, [left, right]) => self.logic(left, right, false),
            (op::OR, [left, right]) => self.logic(left, right, true),
            (op::CONDITIONAL, [condition, yes, no]) => match self.eval(condition)? {
                Val::Bool(true) => self.eval(yes),
                Val::Bool(false) => self.eval(no),
                _ => Err(EvalError::no_overload()),
            },
            (op::NOT_STRICTLY_FALSE, [value]) => {
                let value = soft(self.eval(value))?;
                self.charge(1)?;
                Ok(Val::Bool(!matches!(value, Ok(Val::Bool(false)))))
            }
            (op::INDEX | op::OPT_INDEX, [operand, index]) => self.index(operand, index, function == op::OPT_INDEX),
            (op::OPT_SELECT, [operand, name]) => {
                let field = name.as_text().ok_or_else(EvalError::no_overload)?;
                let value = self.eval(operand)?;
                self.charge(1)?;
                optional_of(&value, |value| match has_field(value, field)? {
                    true => select_field(value, field).map(Some),
                    false => Ok(None),
                })
            }
            ("or" | "orValue", [other]) => self.or(target, function, other),
            _ => self.function(expr, target, function, args),
        }
    }

    fn logic(&mut self, left: &Expr, right: &Expr, decides: bool) -> Evaluated {
        let first = soft(self.eval(left))?;
        if let Ok(Val::Bool(b)) = first
            && b == decides
        {
            return Ok(Val::Bool(decides));
        }
        let second = soft(self.eval(right))?;
        match (first, second) {
            (_, Ok(Val::Bool(b))) if b == decides => Ok(Val::Bool(decides)),
            (Ok(Val::Bool(_)), Ok(Val::Bool(_))) => Ok(Val::Bool(!decides)),
            (Err(error), _) | (Ok(Val::Bool(_)), Err(error)) => Err(error),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn index(&mut self, operand: &Expr, index: &Expr, optional: bool) -> Evaluated {
        let value = self.eval(operand)?;
        let index = self.eval(index)?;
        self.charge(if is_attribute(operand) { 1 } else { 2 })?;
        self.meter.visit(&index)?;
        if optional {
            return optional_of(&value, |value| find(value, &index));
        }
        let missing = || match &value {
            Val::List(_) => EvalError::failed(format!("index out of bounds: {}", library::text::shown(&index))),
            _ => EvalError::failed(format!("no such key: {}", library::text::shown(&index))),
        };
        match &value {
            Val::Optional(_) => optional_of(&value, |value| find(value, &index)),
            value => find(value, &index)?.ok_or_else(missing),
        }
    }

    fn or(&mut self, target: Option<&Expr>, function: &str, other: &Expr) -> Evaluated {
        let Some(target) = target else { return Err(EvalError::no_overload()) };
        match (self.eval(target)?, function) {
            (Val::Optional(Some(value)), "orValue") => Ok(Arc::unwrap_or_clone(value)),
            (Val::Optional(None), _) => self.eval(other),
            (value @ Val::Optional(Some(_)), _) => Ok(value),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn function(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Evaluated {
        let renamed = self.program.ast.checked.names.get(&expr.id).cloned();
        // A function whose name has dots has no target: what looks like one is a part of its name.
        let (target, function) = match &renamed {
            Some(name) => (None, &**name),
            None => (target, function.strip_prefix('.').unwrap_or(function)),
        };
        if let Some(value) = self.append(function, args)? {
            return Ok(value);
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in target.into_iter().chain(args) {
            values.push(self.eval(arg)?);
        }
        if function == "lists.range" && matches!(values.as_slice(), [Val::Int(n)] if *n > ELEMENTS_MAX as i64) {
            return Err(EvalError::CostLimit);
        }
        let pattern = match args.get(usize::from(target.is_none())).and_then(|arg| self.program.ast.patterns.get(arg)) {
            Some(Constant::Compiled(pattern)) => Some(pattern),
            _ => None,
        };
        let overload = match self.program.ast.checked.overloads(expr) {
            [one] => one,
            _ => "",
        };
        // What may be more work than its result is large is paid for before it is done.
        let is_after = runtime_cost::needs_result(function);
        if !is_after {
            let cost = runtime_cost::call(function, overload, &values, None, &self.meter)?;
            self.charge(cost)?;
        }
        let result = library::invoke(function, &values, pattern, &self.meter);
        if is_after {
            let cost = runtime_cost::call(function, overload, &values, result.as_ref().ok(), &self.meter)?;
            self.charge(cost)?;
        }
        result
    }

    /// Appending to the list, or inserting into the map, that a comprehension gathers: in place, because nothing else refers to it.
    fn append(&mut self, function: &str, args: &[Expr]) -> Result<Option<Val>, EvalError> {
        let gathers = matches!((function, args.len()), (op::ADD, 2) | (op::MAP_INSERT, 2 | 3));
        if !gathers || args[0].as_ident().is_none_or(|name| &**name != crate::ast::ACCUMULATOR) {
            return Ok(None);
        }
        let mut more = Vec::with_capacity(2);
        for arg in &args[1..] {
            more.push(self.eval(arg)?);
        }
        self.charge(2)?;
        let accumulator = self.scopes.iter_mut().rev().find(|(name, _)| &**name == crate::ast::ACCUMULATOR);
        let Some((_, slot)) = accumulator else { return Err(EvalError::no_overload()) };
        let value = match (std::mem::replace(slot, Val::Null), more.as_slice()) {
            (Val::List(List::Own(mut items)), [Val::List(added)]) => {
                self.meter.elements(added.len())?;
                Arc::make_mut(&mut items).extend(added.iter());
                Val::List(List::Own(items))
            }
            (Val::Map(Map::Own(mut members)), [key, value]) => {
                self.meter.members(1)?;
                insert(Arc::make_mut(&mut members), key, value.clone())?;
                Val::Map(Map::Own(members))
            }
            (Val::Map(Map::Own(mut members)), [Val::Map(added)]) => {
                self.meter.members(added.len())?;
                for (key, value) in added.iter() {
                    insert(Arc::make_mut(&mut members), &key, value)?;
                }
                Val::Map(Map::Own(members))
            }
            (before, [other]) => return library::invoke(op::ADD, &[before, other.clone()], None, &self.meter).map(Some),
            _ => return Err(EvalError::no_overload()),
        };
        library::within_bounds(value).map(Some)
    }

    fn comprehension(&mut self, c: &Comprehension) -> Evaluated {
        let range = self.eval(&c.range)?;
        let init = self.eval(&c.init)?;
        let depth = self.scopes.len();
        self.scopes.push((c.accu.clone(), init));
        let folded = match &range {
            Val::List(list) => {
                let pairs = list.iter().enumerate().map(|(i, value)| (Val::Int(i as i64), value));
                self.fold(c, depth, pairs, true)
            }
            Val::Map(map) => self.fold(c, depth, map.iter(), false),
            _ => Err(EvalError::no_overload()),
        };
        let result = match folded {
            Ok(()) => self.eval(&c.result),
            Err(error) => Err(error),
        };
        self.scopes.truncate(depth);
        result
    }

    fn fold(
        &mut self,
        c: &Comprehension,
        depth: usize,
        pairs: impl Iterator<Item = (Val, Val)>,
        list: bool,
    ) -> Result<(), EvalError> {
        let mut failed = None;
        for (key, value) in pairs {
            self.rounds += 1;
            if self.rounds.is_multiple_of(CHECK_FREQUENCY) && (self.budget.interrupted)() {
                return Err(EvalError::Interrupted);
            }
            // The keys of an object are copied.
            if let (Val::String(key), false) = (&key, list) {
                self.meter.allocate(key.len())?;
            }
            // Where the last round failed, the condition of `all` and `exists` goes on: another element may decide.
            match &failed {
                None => {
                    if !matches!(self.eval(&c.condition)?, Val::Bool(true)) {
                        break;
                    }
                }
                Some(_) => self.charge(2)?,
            }
            self.scopes.truncate(depth + 1);
            match &c.var2 {
                Some(var2) => {
                    self.scopes.push((c.var.clone(), key));
                    self.scopes.push((var2.clone(), value));
                }
                None => self.scopes.push((c.var.clone(), if list { value } else { key })),
            }
            let step = self.step(c, failed.take());
            self.scopes.truncate(depth + 1);
            match soft(step)? {
                Ok(value) => self.scopes[depth].1 = value,
                Err(error) if decides(&c.step) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// One round; `failed` is what the accumulator would be, if that is an error.
    fn step(&mut self, c: &Comprehension, failed: Option<EvalError>) -> Evaluated {
        let (Some(error), Kind::Call { function, args, .. }) = (failed, &*c.step.kind) else { return self.eval(&c.step) };
        let decides = &**function == op::OR;
        self.charge(1)?;
        match soft(self.eval(&args[1]))? {
            Ok(Val::Bool(b)) if b == decides => Ok(Val::Bool(b)),
            _ => Err(error),
        }
    }
}

/// Whether a step is `accumulator && test` or `accumulator || test`.
fn decides(step: &Expr) -> bool {
    matches!(&*step.kind, Kind::Call { function, .. } if matches!(&**function, op::AND | op::OR))
}

fn insert(members: &mut BTreeMap<MapKey, Val>, key: &Val, value: Val) -> Result<(), EvalError> {
    let unsupported = || EvalError::failed("unsupported key type");
    match members.insert(MapKey::of(key).ok_or_else(unsupported)?, value) {
        None => Ok(()),
        Some(_) => Err(EvalError::failed(format!("insert failed: key {} already exists", library::text::shown(key)))),
    }
}

/// An element of a list or a member of a map.
fn find(value: &Val, index: &Val) -> Result<Option<Val>, EvalError> {
    match value {
        Val::List(list) => {
            let at = match index {
                Val::Int(i) => usize::try_from(*i).ok(),
                Val::Uint(u) => usize::try_from(*u).ok(),
                Val::Double(d) if d.fract() == 0.0 => usize::try_from(*d as i64).ok(),
                other => {
                    let name = other.type_of();
                    return Err(EvalError::failed(format!("unsupported index type '{}' in list", name.name())));
                }
            };
            Ok(at.and_then(|at| list.get(at)))
        }
        Val::Map(map) => Ok(map.get(index)),
        _ => Err(EvalError::no_overload()),
    }
}

/// Applies a search to a value, or to what is in an optional one.
fn optional_of(value: &Val, search: impl Fn(&Val) -> Result<Option<Val>, EvalError>) -> Evaluated {
    let found = match value {
        Val::Optional(None) => None,
        Val::Optional(Some(value)) => search(value)?,
        value => search(value)?,
    };
    Ok(Val::Optional(found.map(Arc::new)))
}

fn member(map: &Map, field: &str) -> Option<Val> {
    if let Some(value) = map.get(&Val::from(field)) {
        return Some(value);
    }
    unescape(field).and_then(|name| map.get(&Val::from(name.as_str())))
}

fn has_field(value: &Val, field: &str) -> Result<bool, EvalError> {
    match value {
        Val::Map(Map::Defaulted(_)) => Ok(true),
        Val::Map(map) => Ok(member(map, field).is_some()),
        Val::Optional(None) => Ok(false),
        Val::Optional(Some(value)) => has_field(value, field),
        _ => Err(EvalError::no_overload()),
    }
}

fn select_field(value: &Val, field: &str) -> Evaluated {
    match value {
        Val::Map(map) => member(map, field).ok_or_else(|| EvalError::failed(format!("no such key: {field}"))),
        Val::Optional(_) => optional_of(value, |value| match has_field(value, field)? {
            true => select_field(value, field).map(Some),
            false => Ok(None),
        }),
        _ => Err(EvalError::no_overload()),
    }
}
