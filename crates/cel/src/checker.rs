//! The type checker (cel-go's `checker/checker.go`): gives every node its type and every call its overloads, or says what does not fit.
//!
//! Names are resolved without a container. Literals of lists and maps have to be homogeneous, as in all of Kubernetes' environments.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Comprehension, Entry, Expr, Id, Kind, Literal, op};
use crate::decls::Overload;
use crate::env::Env;
use crate::source::{Issue, SHOWN_MAX};
use crate::types::{Mapping, NODES_MAX, Type, most_general};

/// What is known of a tree: types by id, and overloads of calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    types: Vec<Option<Type>>,
    overloads: HashMap<Id, Vec<&'static str>>,
    /// Selections that are names, and calls on names that are functions (`ip.isCanonical`), by id.
    pub(crate) names: HashMap<Id, Arc<str>>,
}

impl Checked {
    pub(crate) fn type_of(&self, expr: &Expr) -> &Type {
        self.types.get(expr.id as usize).and_then(Option::as_ref).unwrap_or(&Type::Dyn)
    }

    /// The overloads that a call may come to.
    pub(crate) fn overloads(&self, expr: &Expr) -> &[&'static str] {
        self.overloads.get(&expr.id).map_or(&[], Vec::as_slice)
    }
}

/// Checks a tree that uses `ids` ids.
pub(crate) fn check(env: &Env, expr: &Expr, ids: Id) -> Result<Checked, Vec<Issue>> {
    let checked = Checked { types: vec![None; ids as usize], ..Checked::default() };
    let mut checker = Checker {
        env,
        scopes: Vec::new(),
        mapping: Mapping::default(),
        free: 0,
        checked,
        issues: Vec::new(),
        has_too_large: false,
    };
    checker.check(expr);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let Checker { mapping, mut checked, .. } = checker;
    // Many nodes have the same type: they share what becomes of it.
    let mut replaced: HashMap<Type, Type> = HashMap::new();
    for known in checked.types.iter_mut().flatten() {
        *known = replaced.entry(known.clone()).or_insert_with(|| mapping.substitute(known, true)).clone();
    }
    if mapping.take_too_large() {
        return Err(vec![too_large(expr)]);
    }
    Ok(checked)
}

fn too_large(expr: &Expr) -> Issue {
    Issue { offset: expr.pos, message: format!("types of the expression are too large: more than {NODES_MAX} parts") }
}

struct Checker<'e> {
    env: &'e Env,
    scopes: Vec<(Arc<str>, Type)>,
    mapping: Mapping,
    free: u32,
    checked: Checked,
    issues: Vec<Issue>,
    /// Whether it was said that a type is too large: what follows from that one is not.
    has_too_large: bool,
}

impl Checker<'_> {
    fn error(&mut self, offset: Option<u32>, message: String) {
        // What is only counted takes no memory: types make long messages.
        let message = if self.issues.len() < SHOWN_MAX { message } else { String::new() };
        self.issues.push(Issue { offset, message });
    }

    fn set(&mut self, expr: &Expr, t: Type) {
        let is_too_large = self.mapping.take_too_large() || t.is_larger_than(NODES_MAX);
        if is_too_large && !self.has_too_large {
            self.has_too_large = true;
            self.issues.push(too_large(expr));
        }
        let t = if is_too_large { Type::Error } else { t };
        if let Some(place) = self.checked.types.get_mut(expr.id as usize) {
            *place = Some(t);
        }
    }

    fn get(&self, expr: &Expr) -> Type {
        self.checked.types.get(expr.id as usize).cloned().flatten().unwrap_or(Type::Error)
    }

    fn type_variable(&mut self) -> Type {
        self.free += 1;
        Type::Param(format!("_var{}", self.free - 1).into())
    }

    fn lookup(&self, name: &str) -> Option<Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        let local = self.scopes.iter().rev().find(|(local, _)| &**local == name);
        local.map(|(_, t)| t.clone()).or_else(|| self.env.ident(name))
    }

    fn undeclared(&mut self, expr: &Expr, name: &str) {
        self.error(expr.pos, format!("undeclared reference to '{name}' (in container '')"));
        self.set(expr, Type::Error);
    }

    fn mismatch(&mut self, at: &Expr, expected: &Type, found: &Type) {
        self.error(at.pos, format!("expected type '{}' but found '{}'", expected.shown(), found.shown()));
    }

    fn check(&mut self, expr: &Expr) {
        match &*expr.kind {
            Kind::Unspecified => self.set(expr, Type::Error),
            Kind::Literal(literal) => self.set(expr, literal_type(literal)),
            Kind::Ident(name) => match self.lookup(name) {
                Some(t) => self.set(expr, t),
                None => self.undeclared(expr, name),
            },
            Kind::Select { operand, field, test_only } => self.select(expr, operand, field, *test_only),
            Kind::Call { target, function, args } => self.call(expr, target.as_ref(), function, args),
            Kind::List(elements, optionals) => self.list(expr, elements, optionals),
            Kind::Map(entries) => self.map(expr, entries),
            Kind::Struct(name, fields) => self.message(expr, name, fields),
            Kind::Comprehension(comprehension) => self.comprehension(expr, comprehension),
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test_only: bool) {
        if !test_only
            && let Some(name) = expr.qualified_name()
            && let Some(t) = self.lookup(&name)
        {
            self.checked.names.insert(expr.id, name.into());
            return self.set(expr, t);
        }
        let mut result = self.field(expr, operand, field, false);
        if test_only {
            result = Type::Bool;
        }
        let result = self.mapping.substitute(&result, false);
        self.set(expr, result);
    }

    fn field(&mut self, expr: &Expr, operand: &Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand_type = self.mapping.substitute(&self.get(operand), false);
        let wrapped = operand_type.unwrap_optional().cloned();
        let is_optional = optional || wrapped.is_some();
        let target = wrapped.unwrap_or(operand_type);
        let result = match &target {
            Type::Map(pair) => pair.1.clone(),
            Type::Struct(name) => self.field_of(expr.pos, name, field),
            Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    self.error(expr.pos, format!("type '{}' does not support field selection", other.shown()));
                }
                Type::Dyn
            }
        };
        if is_optional { Type::optional(result) } else { result }
    }

    fn field_of(&mut self, pos: Option<u32>, object: &str, field: &str) -> Type {
        match self.env.field(object, field) {
            Ok(Some(t)) => t,
            Ok(None) => {
                self.error(pos, format!("undefined field '{field}'"));
                Type::Error
            }
            Err(()) => {
                self.error(pos, format!("unexpected failed resolution of '{object}'"));
                Type::Error
            }
        }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &Arc<str>, args: &[Expr]) {
        if &**function == op::OPT_SELECT
            && let [operand, name] = args
            && let Some(field) = name.as_text()
        {
            let result = self.field(expr, operand, field, true);
            let result = self.mapping.substitute(&result, false);
            self.checked.overloads.insert(expr.id, vec!["select_optional_field"]);
            return self.set(expr, result);
        }
        args.iter().for_each(|arg| self.check(arg));
        let env = self.env;
        let plain = |name: &str| env.functions.get(name.strip_prefix('.').unwrap_or(name));
        let Some(target) = target else {
            return match plain(function) {
                Some(overloads) => self.resolve(expr, function, overloads, None, args),
                None => self.undeclared(expr, function),
            };
        };
        if let Some(prefix) = target.qualified_name() {
            let name = format!("{prefix}.{function}");
            if let Some(overloads) = plain(&name) {
                let name: Arc<str> = name.strip_prefix('.').unwrap_or(&name).into();
                self.checked.names.insert(expr.id, name.clone());
                return self.resolve(expr, &name, overloads, None, args);
            }
        }
        self.check(target);
        match plain(function) {
            Some(overloads) => self.resolve(expr, function, overloads, Some(target), args),
            None => self.undeclared(expr, function),
        }
    }

    fn resolve(&mut self, expr: &Expr, function: &str, overloads: &[Overload], target: Option<&Expr>, args: &[Expr]) {
        let types: Vec<Type> = target.into_iter().chain(args).map(|arg| self.get(arg)).collect();
        let (mut found, mut result): (Vec<&'static str>, Option<Type>) = (Vec::new(), None);
        for overload in overloads.iter().filter(|overload| overload.member == target.is_some()) {
            if function == op::AND || function == op::OR {
                return self.logic(expr, overload, args, &types);
            }
            let mut fresh = Mapping::default();
            for parameter in &overload.parameters {
                let variable = self.type_variable();
                fresh.add(&Type::Param(parameter.clone()), variable);
            }
            let wanted: Vec<Type> = overload.args.iter().map(|t| fresh.substitute(t, false)).collect();
            if self.mapping.all_assignable(&types, &wanted) {
                found.push(overload.id);
                let own = self.mapping.substitute(&fresh.substitute(&overload.result, false), false);
                result = Some(match result {
                    None => own,
                    Some(before) if !before.is_dyn() && own != before => Type::Dyn,
                    Some(before) => before,
                });
            }
        }
        let Some(result) = result else {
            let types: Vec<String> = types.iter().map(|t| self.mapping.substitute(t, true).shown()).collect();
            let signature = match target {
                Some(_) => format!("{}.({})", types[0], types[1..].join(", ")),
                None => format!("({})", types.join(", ")),
            };
            self.error(expr.pos, format!("found no matching overload for '{function}' applied to '{signature}'"));
            return self.set(expr, Type::Error);
        };
        self.checked.overloads.insert(expr.id, found);
        self.set(expr, result);
    }

    fn logic(&mut self, expr: &Expr, overload: &Overload, args: &[Expr], types: &[Type]) {
        let mut fits = true;
        for (arg, t) in args.iter().zip(types) {
            if !self.mapping.assignable(t, &Type::Bool) {
                self.mismatch(arg, &Type::Bool, t);
                fits = false;
            }
        }
        self.checked.overloads.insert(expr.id, vec![overload.id]);
        self.set(expr, if fits { Type::Bool } else { Type::Error });
    }

    fn join(&mut self, at: &Expr, before: Option<Type>, now: Type) -> Type {
        match before {
            None => now,
            Some(before) if self.mapping.assignable(&before, &now) => most_general(&before, &now).clone(),
            Some(before) => {
                self.mismatch(at, &before, &now);
                Type::Error
            }
        }
    }

    /// What an optional entry adds.
    fn unwrapped(&mut self, value: &Expr) -> Type {
        let t = self.get(value);
        match t.unwrap_optional() {
            Some(inner) => inner.clone(),
            None => {
                if !t.is_dyn() {
                    self.mismatch(value, &Type::optional(t.clone()), &t);
                }
                t
            }
        }
    }

    fn list(&mut self, expr: &Expr, elements: &[Expr], optionals: &[usize]) {
        let mut joined = None;
        for (i, element) in elements.iter().enumerate() {
            self.check(element);
            let t = if optionals.binary_search(&i).is_ok() { self.unwrapped(element) } else { self.get(element) };
            joined = Some(self.join(element, joined, t));
        }
        let element = joined.unwrap_or_else(|| self.type_variable());
        self.set(expr, Type::list(element));
    }

    fn map(&mut self, expr: &Expr, entries: &[Entry<Expr>]) {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            self.check(&entry.key);
            let t = self.get(&entry.key);
            key = Some(self.join(&entry.key, key, t));
            self.check(&entry.value);
            let t = if entry.optional { self.unwrapped(&entry.value) } else { self.get(&entry.value) };
            value = Some(self.join(&entry.value, value, t));
        }
        let (key, value) = match (key, value) {
            (Some(key), Some(value)) => (key, value),
            _ => (self.type_variable(), self.type_variable()),
        };
        self.set(expr, Type::map(key, value));
    }

    fn message(&mut self, expr: &Expr, name: &Arc<str>, fields: &[Entry<Arc<str>>]) {
        let object = match self.lookup(name) {
            None => {
                self.undeclared(expr, name);
                return;
            }
            Some(Type::Type(Some(of))) if matches!(*of, Type::Struct(_)) => (*of).clone(),
            Some(Type::Type(of)) => {
                let of = of.map_or(Type::Dyn, |of| (*of).clone());
                self.error(expr.pos, format!("'{}' is not a message type", of.name()));
                Type::Error
            }
            Some(other) => {
                self.error(expr.pos, format!("'{}' is not a type", other.name()));
                Type::Error
            }
        };
        self.set(expr, object.clone());
        for field in fields {
            self.check(&field.value);
            let wanted = match &object {
                Type::Struct(name) => self.field_of(field.pos, &name.clone(), &field.key),
                _ => Type::Error,
            };
            let t = if field.optional { self.unwrapped(&field.value) } else { self.get(&field.value) };
            if !self.mapping.assignable(&wanted, &t) {
                let (wanted, t) = (wanted.shown(), t.shown());
                let message = format!("expected type of field '{}' is '{wanted}' but provided type is '{t}'", field.key);
                self.error(field.pos, message);
            }
        }
    }

    fn comprehension(&mut self, expr: &Expr, c: &Comprehension) {
        self.check(&c.range);
        self.check(&c.init);
        let range = self.mapping.substitute(&self.get(&c.range), false);
        let accu = self.get(&c.init);
        let depth = self.scopes.len();
        self.scopes.push((c.accu.clone(), accu.clone()));
        let (first, second) = match &range {
            Type::List(element) if c.var2.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let shown = other.shown();
                let why = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.error(c.range.pos, format!("expression of type '{shown}' {why}"));
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((c.var.clone(), first));
        if let Some(var2) = &c.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.check(&c.condition);
        self.assert(&c.condition, &Type::Bool);
        self.check(&c.step);
        self.assert(&c.step, &accu);
        self.scopes.truncate(depth + 1);
        self.check(&c.result);
        self.scopes.truncate(depth);
        let result = self.mapping.substitute(&self.get(&c.result), false);
        self.set(expr, result);
    }

    fn assert(&mut self, expr: &Expr, wanted: &Type) {
        let t = self.get(expr);
        if !self.mapping.assignable(wanted, &t) {
            self.mismatch(expr, wanted, &t);
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
