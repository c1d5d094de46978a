//! Resource quantities as whole numbers. The API server has validated them; an unreadable one counts as zero.

use apimachinery::Quantity as Parsed;
use apimachinery::quantity::Format;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, rounded up as upstream's `MilliValue` does.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    Parsed::parse(&quantity.0).map_or(0, Parsed::milli_value)
}

/// The value, rounded up as upstream's `Value` does.
pub(crate) fn whole(quantity: &Quantity) -> i64 {
    Parsed::parse(&quantity.0).map_or(0, Parsed::value)
}

/// The quantity that upstream prints for a number of bytes with a binary suffix, the largest that divides it.
pub(crate) fn bytes(value: u64) -> Quantity {
    Quantity(Parsed::new(i64::try_from(value).unwrap_or(i64::MAX), Format::BinarySi).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_largest_suffix_that_divides() {
        for (value, expected) in [(0, "0"), (1000, "1k"), (2048, "2Ki"), (64 << 20, "64Mi"), (3 << 30, "3Gi")] {
            assert_eq!(bytes(value).0, expected);
        }
    }

    #[test]
    fn numbers_are_rounded_up() {
        for (text, milli_value, whole_value) in [("100m", 100, 1), ("1.5Gi", 1_610_612_736_000, 1_610_612_736), ("x", 0, 0)] {
            let quantity = Quantity(text.to_owned());
            assert_eq!((milli(&quantity), whole(&quantity)), (milli_value, whole_value), "{text}");
        }
    }
}
