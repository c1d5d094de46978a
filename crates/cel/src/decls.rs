//! Declarations of functions, from lines of text: what a library adds is a table that can be read at a glance.
//!
//! A line is `FUNCTION OVERLOAD SIGNATURE`; a signature is `(T, T) -> T`, or `T.(T) -> T` for what is called on a value. Types are
//! written as CEL shows them, parameters as single capital letters.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// One way to call a function.
#[derive(Clone, Debug)]
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    pub(crate) member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    /// Names of the type parameters.
    pub(crate) parameters: Vec<Arc<str>>,
}

/// The functions of an environment by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Functions(HashMap<&'static str, Vec<Overload>>);

impl Functions {
    pub(crate) fn get(&self, name: &str) -> Option<&[Overload]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Adds the functions of a table.
    pub(crate) fn add(&mut self, table: &'static str) {
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.splitn(3, ' ');
            let (Some(name), Some(id), Some(signature)) = (words.next(), words.next(), words.next()) else {
                debug_assert!(false, "a declaration has three words: {line}");
                continue;
            };
            match overload(id, signature) {
                Some(overload) => self.0.entry(name).or_default().push(overload),
                None => debug_assert!(false, "not a signature: {line}"),
            }
        }
    }
}

fn overload(id: &'static str, signature: &str) -> Option<Overload> {
    let (arguments, result) = signature.split_once(" -> ")?;
    let open = arguments.find(".(").map_or(0, |dot| dot + 1);
    // A dot before the first parenthesis is that of a call on a value, unless it is part of a type's name.
    let member = open > 0;
    let (target, rest) = if member { (Some(&arguments[..open - 1]), &arguments[open..]) } else { (None, arguments) };
    let inner = rest.strip_prefix('(')?.strip_suffix(')')?;
    let mut args: Vec<Type> = Vec::new();
    for text in target.into_iter().chain(split(inner)) {
        args.push(parse_type(text)?);
    }
    let result = parse_type(result)?;
    let mut parameters = Vec::new();
    args.iter().chain([&result]).for_each(|t| gather(t, &mut parameters));
    Some(Overload { id, member, args, result, parameters })
}

/// Splits at commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

fn parse_type(text: &str) -> Option<Type> {
    if let Some((name, rest)) = text.split_once('(') {
        let mut of = Vec::new();
        for part in split(rest.strip_suffix(')')?) {
            of.push(parse_type(part)?);
        }
        return match (name, of.as_slice()) {
            ("list", [element]) => Some(Type::list(element.clone())),
            ("map", [key, value]) => Some(Type::map(key.clone(), value.clone())),
            ("optional", [value]) => Some(Type::optional(value.clone())),
            ("type", [of]) => Some(Type::Type(Some(Arc::new(of.clone())))),
            _ => None,
        };
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "duration" => Type::Duration,
        "int" => Type::Int,
        "string" => Type::String,
        "timestamp" => Type::Timestamp,
        "uint" => Type::Uint,
        "IP" => Type::Opaque("net.IP".into(), [].into()),
        "CIDR" => Type::Opaque("net.CIDR".into(), [].into()),
        "Quantity" => Type::object("kubernetes.Quantity"),
        "Semver" => Type::object("kubernetes.Semver"),
        "URL" => Type::object("kubernetes.URL"),
        "Format" => Type::object("kubernetes.NamedFormat"),
        "Authorizer" => Type::object("kubernetes.authorization.Authorizer"),
        "PathCheck" => Type::object("kubernetes.authorization.PathCheck"),
        "GroupCheck" => Type::object("kubernetes.authorization.GroupCheck"),
        "ResourceCheck" => Type::object("kubernetes.authorization.ResourceCheck"),
        "Decision" => Type::object("kubernetes.authorization.Decision"),
        parameter if parameter.len() == 1 => Type::Param(parameter.into()),
        _ => return None,
    })
}

fn gather(t: &Type, parameters: &mut Vec<Arc<str>>) {
    match t {
        Type::Param(name) if !parameters.contains(name) => parameters.push(name.clone()),
        Type::List(element) => gather(element, parameters),
        Type::Map(pair) => {
            gather(&pair.0, parameters);
            gather(&pair.1, parameters);
        }
        Type::Opaque(_, of) => of.iter().for_each(|t| gather(t, parameters)),
        Type::Type(Some(of)) => gather(of, parameters),
        _ => {}
    }
}
