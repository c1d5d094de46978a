//! Lists of amounts by name, and the arithmetic on them (upstream's `apiserver/pkg/quota/v1/resources.go`).

use std::collections::BTreeMap;

use super::quantities;
use crate::{Quantity, Value};

/// Amounts by the names that quotas use.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts at a path of an object, for example `status.used`.
pub fn amounts_at(object: &Value, path: &[&str]) -> Amounts {
    object.get_path(path).map(quantities).unwrap_or_default()
}

/// Whether the same names have the same amounts.
pub fn equal(a: &Amounts, b: &Amounts) -> bool {
    a == b
}

/// Both together.
#[must_use]
pub fn sum(a: &Amounts, b: &Amounts) -> Amounts {
    let mut total = a.clone();
    for (name, amount) in b {
        let sum = total.get(name).map_or(*amount, |have| have.plus(*amount));
        total.insert(name.clone(), sum);
    }
    total
}

/// `a - b` for every name of either, never below 0.
#[must_use]
pub fn without_debts(a: &Amounts, b: &Amounts) -> Amounts {
    let less = |name: &String| {
        let have = a.get(name).copied().unwrap_or_default();
        let left = b.get(name).map_or(have, |taken| have.minus(*taken));
        if left.signum() > 0 { left } else { Quantity::default() }
    };
    a.keys().chain(b.keys()).map(|name| (name.clone(), less(name))).collect()
}

/// Only the names that are wanted.
#[must_use]
pub fn masked(amounts: &Amounts, wanted: impl Fn(&str) -> bool) -> Amounts {
    amounts.iter().filter(|(name, _)| wanted(name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// Only what is not 0.
#[must_use]
pub fn without_zeros(mut amounts: Amounts) -> Amounts {
    amounts.retain(|_, amount| !amount.is_zero());
    amounts
}

/// The names of which there is more than allowed.
pub fn exceeding(amounts: &Amounts, most: &Amounts) -> Vec<String> {
    let over = |(name, amount): (&String, &Quantity)| most.get(name).filter(|most| amount > *most).map(|_| name.clone());
    amounts.iter().filter_map(over).collect()
}

/// The names of one that the other does not have.
pub fn mismatch<'a>(a: &'a Amounts, b: &Amounts) -> Vec<&'a str> {
    a.keys().filter(|name| !b.contains_key(*name)).map(String::as_str).collect()
}

/// `name=amount,name=amount`, as upstream's messages show them.
pub fn print(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}
