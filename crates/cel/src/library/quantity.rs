//! Quantities (upstream's `library/quantity.go`).

use std::cmp::Ordering;

use apimachinery::Quantity;
use apimachinery::quantity::Format;

use crate::eval::{EvalError, Evaluated};
use crate::value::{Extension, Val};

pub(super) const TABLE: &str = "
quantity string_to_quantity (string) -> Quantity
isQuantity is_quantity_string (string) -> bool
sign quantity_sign (Quantity) -> int
isGreaterThan quantity_is_greater_than Quantity.(Quantity) -> bool
isLessThan quantity_is_less_than Quantity.(Quantity) -> bool
compareTo quantity_compare_to Quantity.(Quantity) -> int
asApproximateFloat quantity_get_float Quantity.() -> double
asInteger quantity_get_int Quantity.() -> int
isInteger quantity_is_integer Quantity.() -> bool
add quantity_add Quantity.(Quantity) -> Quantity
add quantity_add_int Quantity.(int) -> Quantity
sub quantity_sub Quantity.(Quantity) -> Quantity
sub quantity_sub_int Quantity.(int) -> Quantity
";

fn whole(quantity: Quantity) -> Option<i64> {
    let value = quantity.value();
    (quantity.is_integer() && Quantity::new(value, Format::DecimalSi) == quantity).then_some(value)
}

fn operand(value: &Val) -> Result<Quantity, EvalError> {
    match value {
        Val::Extension(Extension::Quantity(quantity)) => Ok(*quantity),
        Val::Int(i) => Ok(Quantity::new(*i, Format::DecimalExponent)),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    if let [Val::String(text)] = args {
        let parsed = Quantity::parse(text);
        return match function {
            "isQuantity" => Ok(Val::Bool(parsed.is_ok())),
            "quantity" => match parsed {
                Ok(quantity) => Ok(Extension::Quantity(quantity).into()),
                Err(error) => Err(EvalError::failed(error.to_string())),
            },
            _ => Err(EvalError::no_overload()),
        };
    }
    let [Val::Extension(Extension::Quantity(q)), rest @ ..] = args else { return Err(EvalError::no_overload()) };
    match (function, rest) {
        ("sign", []) => Ok(Val::Int(i64::from(q.signum()))),
        ("asApproximateFloat", []) => Ok(Val::Double(q.as_f64())),
        ("isInteger", []) => Ok(Val::Bool(whole(*q).is_some())),
        ("asInteger", []) => whole(*q).map(Val::Int).ok_or_else(|| EvalError::failed("cannot convert value to integer")),
        ("isGreaterThan", [other]) => Ok(Val::Bool(q.cmp(&operand(other)?) == Ordering::Greater)),
        ("isLessThan", [other]) => Ok(Val::Bool(q.cmp(&operand(other)?) == Ordering::Less)),
        ("compareTo", [other]) => Ok(Val::Int(q.cmp(&operand(other)?) as i64)),
        ("add", [other]) => Ok(Extension::Quantity(q.plus(operand(other)?)).into()),
        ("sub", [other]) => Ok(Extension::Quantity(q.minus(operand(other)?)).into()),
        _ => Err(EvalError::no_overload()),
    }
}
