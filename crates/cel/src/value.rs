//! Values while an expression is evaluated.
//!
//! Objects and lists of the API are not copied: they are looked into ([`Val::from`]). Lists and maps that an expression makes are shared,
//! so that a copy of a value is always cheap.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::url::Url;
use apimachinery::{Quantity, Value};
use jiff::Timestamp;

use crate::ast::Literal;
use crate::eval::EvalError;
use crate::library::format::Format;
use crate::library::semver::Version;
use crate::meter::Meter;
use crate::types::Type;

/// A value.
#[derive(Clone, Debug)]
pub enum Val {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A float.
    Double(f64),
    /// A string.
    String(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list.
    List(List),
    /// A map.
    Map(Map),
    /// A value that may be absent.
    Optional(Option<Arc<Val>>),
    /// A type.
    Type(Type),
    /// Something of Kubernetes' libraries.
    Extension(Extension),
}

/// Values of Kubernetes' own types.
#[derive(Clone, Debug)]
pub enum Extension {
    /// `kubernetes.Quantity`.
    Quantity(Quantity),
    /// `kubernetes.Semver`.
    Semver(Arc<Version>),
    /// `kubernetes.URL`.
    Url(Arc<Url>),
    /// `net.IP`.
    Ip(IpAddr),
    /// `net.CIDR`: address and length of the prefix.
    Cidr(IpAddr, u8),
    /// `kubernetes.NamedFormat`.
    Format(Format),
}

/// A list: of an object of the API, or made by an expression.
#[derive(Clone, Debug)]
pub enum List {
    /// Of an object; converted when it is looked at.
    Json(Arc<Vec<Value>>),
    /// Made here.
    Own(Arc<Vec<Val>>),
}

/// A map: an object of the API, or made by an expression.
#[derive(Clone, Debug)]
pub enum Map {
    /// An object; converted when it is looked at.
    Json(Arc<apimachinery::Map>),
    /// Made here.
    Own(Arc<BTreeMap<MapKey, Val>>),
    /// One whose missing members are empty maps: how attributes of devices are looked up by domain.
    Defaulted(Arc<BTreeMap<MapKey, Val>>),
}

/// What may be a key. Numbers of different types that are equal are one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapKey {
    /// A boolean.
    Bool(bool),
    /// Any integer.
    Number(i128),
    /// A string.
    String(Arc<str>),
}

impl MapKey {
    /// The key that a value is; `None` for what cannot be one.
    pub(crate) fn of(value: &Val) -> Option<MapKey> {
        match value {
            Val::Bool(b) => Some(MapKey::Bool(*b)),
            Val::Int(i) => Some(MapKey::Number(i128::from(*i))),
            Val::Uint(u) => Some(MapKey::Number(i128::from(*u))),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 1.0e18 => Some(MapKey::Number(*d as i128)),
            Val::String(s) => Some(MapKey::String(s.clone())),
            _ => None,
        }
    }

    fn value(&self) -> Val {
        match self {
            MapKey::Bool(b) => Val::Bool(*b),
            MapKey::Number(n) => i64::try_from(*n).map_or_else(|_| Val::Uint(u64::try_from(*n).unwrap_or(u64::MAX)), Val::Int),
            MapKey::String(s) => Val::String(s.clone()),
        }
    }
}

impl From<&str> for MapKey {
    fn from(text: &str) -> MapKey {
        MapKey::String(text.into())
    }
}

impl From<&Value> for Val {
    fn from(value: &Value) -> Val {
        match value {
            Value::Null => Val::Null,
            Value::Bool(b) => Val::Bool(*b),
            Value::Int(i) => Val::Int(*i),
            Value::Float(f) => Val::Double(*f),
            Value::String(s) => Val::String(s.clone()),
            Value::Array(items) => Val::List(List::Json(items.clone())),
            Value::Object(members) => Val::Map(Map::Json(members.clone())),
        }
    }
}

impl From<&str> for Val {
    fn from(text: &str) -> Val {
        Val::String(text.into())
    }
}

impl From<Vec<Val>> for Val {
    fn from(items: Vec<Val>) -> Val {
        Val::List(List::Own(Arc::new(items)))
    }
}

impl From<BTreeMap<MapKey, Val>> for Val {
    fn from(members: BTreeMap<MapKey, Val>) -> Val {
        Val::Map(Map::Own(Arc::new(members)))
    }
}

impl From<Extension> for Val {
    fn from(extension: Extension) -> Val {
        Val::Extension(extension)
    }
}

impl From<&Literal> for Val {
    fn from(literal: &Literal) -> Val {
        match literal {
            Literal::Null => Val::Null,
            Literal::Bool(b) => Val::Bool(*b),
            Literal::Int(i) => Val::Int(*i),
            Literal::Uint(u) => Val::Uint(*u),
            Literal::Double(d) => Val::Double(*d),
            Literal::String(s) => Val::String(s.clone()),
            Literal::Bytes(b) => Val::Bytes(b.clone()),
        }
    }
}

impl List {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items) => items.len(),
            List::Own(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element.
    pub fn get(&self, index: usize) -> Option<Val> {
        match self {
            List::Json(items) => items.get(index).map(Val::from),
            List::Own(items) => items.get(index).cloned(),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Val> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

impl Map {
    /// How many members there are.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(members) => members.len(),
            Map::Own(members) | Map::Defaulted(members) => members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A member.
    pub fn get(&self, key: &Val) -> Option<Val> {
        match (self, MapKey::of(key)) {
            (Map::Json(members), Some(MapKey::String(name))) => members.get(&name).map(Val::from),
            (Map::Own(members), Some(key)) => members.get(&key).cloned(),
            (Map::Defaulted(members), key) => {
                Some(key.and_then(|key| members.get(&key).cloned()).unwrap_or_else(|| BTreeMap::new().into()))
            }
            _ => None,
        }
    }

    /// All members, by key.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (Val, Val)> + '_> {
        match self {
            Map::Json(members) => Box::new(members.iter().map(|(key, value)| (Val::from(key.as_str()), Val::from(value)))),
            Map::Own(members) | Map::Defaulted(members) => {
                Box::new(members.iter().map(|(key, value)| (key.value(), value.clone())))
            }
        }
    }
}

impl Val {
    /// The type that the value has now.
    pub fn type_of(&self) -> Type {
        match self {
            Val::Null => Type::Null,
            Val::Bool(_) => Type::Bool,
            Val::Int(_) => Type::Int,
            Val::Uint(_) => Type::Uint,
            Val::Double(_) => Type::Double,
            Val::String(_) => Type::String,
            Val::Bytes(_) => Type::Bytes,
            Val::Duration(_) => Type::Duration,
            Val::Timestamp(_) => Type::Timestamp,
            Val::List(_) => Type::list(Type::Dyn),
            Val::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Val::Optional(_) => Type::optional(Type::Dyn),
            Val::Type(_) => Type::Type(None),
            Val::Extension(extension) => extension.type_of(),
        }
    }

    /// A string's text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Val::String(s) => Some(s),
            _ => None,
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Val::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// Equality across types of numbers, by content for everything else; different types are not equal. The meter bounds
    /// the work.
    pub(crate) fn equals(&self, other: &Val, meter: &Meter<'_>) -> Result<bool, EvalError> {
        meter.visit(self)?;
        Ok(match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::String(a), Val::String(b)) => a == b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a.name() == b.name(),
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b, meter)?,
                (a, b) => a.is_none() == b.is_none(),
            },
            (Val::List(a), Val::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equals(&b, meter)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Val::Map(a), Val::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, value) in a.iter() {
                    meter.visit(&key)?;
                    match b.get(&key) {
                        Some(other) if value.equals(&other, meter)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Val::Extension(a), Val::Extension(b)) => a.equals(b),
            _ => self.is_number() && other.is_number() && self.compare(other) == Some(Ordering::Equal),
        })
    }

    fn is_number(&self) -> bool {
        matches!(self, Val::Int(_) | Val::Uint(_) | Val::Double(_))
    }

    /// The order of two values; `None` for what has none.
    pub(crate) fn compare(&self, other: &Val) -> Option<Ordering> {
        match (self, other) {
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::String(a), Val::String(b)) => Some(a.cmp(b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Double(a), b) => whole(b).and_then(|b| order(*a, b)),
            (a, Val::Double(b)) => whole(a).and_then(|a| order(*b, a)).map(Ordering::reverse),
            (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
        }
    }

    /// What `size()` says, and 1 for what has no size: what costs are counted by.
    pub(crate) fn cost_size(&self) -> u64 {
        match self {
            Val::String(s) => s.chars().count() as u64,
            Val::Bytes(b) => b.len() as u64,
            Val::List(list) => list.len() as u64,
            Val::Map(map) => map.len() as u64,
            Val::Optional(Some(value)) => value.cost_size(),
            Val::Extension(Extension::Ip(ip)) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Val::Extension(Extension::Cidr(_, bits)) => u64::from(bits.div_ceil(8)),
            _ => 1,
        }
    }

    /// Whether it is the zero value of its type.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Val::Null => true,
            Val::Bool(b) => !b,
            Val::Int(i) => *i == 0,
            Val::Uint(u) => *u == 0,
            Val::Double(d) => *d == 0.0,
            Val::String(s) => s.is_empty(),
            Val::Bytes(b) => b.is_empty(),
            Val::Duration(d) => *d == 0,
            Val::List(list) => list.is_empty(),
            Val::Map(map) => map.is_empty(),
            Val::Optional(value) => value.is_none(),
            Val::Timestamp(_) | Val::Type(_) | Val::Extension(_) => false,
        }
    }
}

fn whole(value: &Val) -> Option<i128> {
    match value {
        Val::Int(i) => Some(i128::from(*i)),
        Val::Uint(u) => Some(i128::from(*u)),
        _ => None,
    }
}

/// A float against a whole number of 64 bits, exactly.
fn order(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a.abs() >= 1.0e30 {
        return Some(if a > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let floor = a.floor();
    Some((floor as i128).cmp(&b).then(if a > floor { Ordering::Greater } else { Ordering::Equal }))
}

impl Extension {
    fn type_of(&self) -> Type {
        match self {
            Extension::Quantity(_) => Type::object("kubernetes.Quantity"),
            Extension::Semver(_) => Type::object("kubernetes.Semver"),
            Extension::Url(_) => Type::object("kubernetes.URL"),
            Extension::Ip(_) => Type::Opaque("net.IP".into(), [].into()),
            Extension::Cidr(..) => Type::Opaque("net.CIDR".into(), [].into()),
            Extension::Format(_) => Type::object("kubernetes.NamedFormat"),
        }
    }

    fn equals(&self, other: &Extension) -> bool {
        match (self, other) {
            (Extension::Quantity(a), Extension::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (Extension::Semver(a), Extension::Semver(b)) => a.cmp(b) == Ordering::Equal,
            // As upstream: by the text that they make.
            (Extension::Url(a), Extension::Url(b)) => a.to_string() == b.to_string(),
            (Extension::Ip(a), Extension::Ip(b)) => a == b,
            (Extension::Cidr(a, m), Extension::Cidr(b, n)) => a == b && m == n,
            (Extension::Format(a), Extension::Format(b)) => a == b,
            _ => false,
        }
    }
}
