//! Environments: which variables, types and functions an expression may use.
//!
//! [`Env::base`] is upstream's base environment (`pkg/cel/environment/base.go`): each library from the minor version of Kubernetes on in
//! which it was introduced.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::ast::Expr;
use crate::checker::{self, Checked};
use crate::decls::Functions;
use crate::library::{self, regex::Patterns};
use crate::names::unescape;
use crate::parser::{self, Syntax};
use crate::source::Issues;
use crate::types::Type;
use crate::validate;

/// The minor version whose libraries new expressions may use in Kubernetes 1.35: one older, so that a rollback still understands them.
pub const COMPATIBLE: u8 = 34;

/// The tables of functions are read once; whoever adds to an environment shares them.
static BASE: LazyLock<Env> = LazyLock::new(|| Env::as_of(COMPATIBLE));

/// An environment.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: HashMap<Arc<str>, Type>,
    objects: HashMap<Arc<str>, HashMap<Arc<str>, Type>>,
    pub(crate) functions: Arc<Functions>,
    syntax: Syntax,
}

/// An expression that compiled.
#[derive(Clone, Debug)]
pub struct Ast {
    pub(crate) expr: Arc<Expr>,
    pub(crate) checked: Arc<Checked>,
    pub(crate) patterns: Arc<Patterns>,
}

impl Ast {
    /// The type of what the expression evaluates to.
    pub fn output_type(&self) -> &Type {
        self.checked.type_of(&self.expr)
    }
}

impl Env {
    /// The environment that all of Kubernetes' expressions share, as of Kubernetes 1.`minor`.
    pub fn base(minor: u8) -> Env {
        if minor == COMPATIBLE { BASE.clone() } else { Env::as_of(minor) }
    }

    fn as_of(minor: u8) -> Env {
        let mut functions = Functions::default();
        for (_, table) in library::TABLES.iter().filter(|(since, _)| minor >= *since) {
            functions.add(table);
        }
        let syntax = Syntax { optionals: minor >= 28, two_variables: minor >= 32, sort_by: minor >= 34, bindings: false };
        Env { functions: Arc::new(functions), syntax, ..Env::default() }
    }

    /// With a variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, t: Type) -> Env {
        self.variables.insert(name.into(), t);
        self
    }

    /// With an object type and its fields.
    #[must_use]
    pub fn with_object<'f>(mut self, name: &str, fields: impl IntoIterator<Item = (&'f str, Type)>) -> Env {
        let fields = fields.into_iter().map(|(field, t)| (field.into(), t)).collect();
        self.objects.insert(name.into(), fields);
        self
    }

    /// With `cel.bind`.
    #[must_use]
    pub fn with_bindings(mut self) -> Env {
        self.syntax.bindings = true;
        self
    }

    /// Adds a field to an object type: how the variables of a policy become known one by one.
    pub fn add_field(&mut self, object: &str, field: &str, t: Type) {
        self.objects.entry(object.into()).or_default().insert(field.into(), t);
    }

    /// Parses, checks and validates an expression.
    pub fn compile(&self, source: &str) -> Result<Ast, Issues> {
        let (expr, ids) = parser::parse(source, self.syntax)?;
        let checked = checker::check(self, &expr, ids).map_err(|issues| Issues::new(source, issues))?;
        let patterns = Arc::new(Patterns::of(&expr));
        let ast = Ast { expr: Arc::new(expr), checked: Arc::new(checked), patterns };
        match validate::validate(&ast) {
            issues if issues.is_empty() => Ok(ast),
            issues => Err(Issues::new(source, issues)),
        }
    }

    /// The type of an identifier: a variable, or the name of a type.
    pub(crate) fn ident(&self, name: &str) -> Option<Type> {
        if let Some(t) = self.variables.get(name) {
            return Some(t.clone());
        }
        type_named(name)
            .or_else(|| self.objects.contains_key(name).then(|| Type::object(name)))
            .map(|t| Type::Type(Some(Arc::new(t))))
    }

    /// The type of an object's field, if it has the field; an error if there is no such type.
    pub(crate) fn field(&self, object: &str, field: &str) -> Result<Option<Type>, ()> {
        let fields = self.objects.get(object).ok_or(())?;
        if let Some(t) = fields.get(field) {
            return Ok(Some(t.clone()));
        }
        Ok(unescape(field).and_then(|name| fields.get(name.as_str()).cloned()))
    }
}

/// The types that go by names.
pub(crate) fn type_named(name: &str) -> Option<Type> {
    let any = || Type::Param("A".into());
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "google.protobuf.Duration" => Type::Duration,
        "int" => Type::Int,
        "list" => Type::list(any()),
        "map" => Type::map(any(), Type::Param("B".into())),
        "null_type" => Type::Null,
        "string" => Type::String,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "type" => Type::Type(None),
        "uint" => Type::Uint,
        "optional_type" => Type::optional(Type::Param("V".into())),
        "net.IP" | "net.CIDR" => Type::Opaque(name.into(), [].into()),
        _ => return None,
    })
}
