//! Reads resource quantities (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>) as whole numbers.
//! The API server has validated them; an unreadable one counts as zero.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, rounded up as upstream's `MilliValue` does.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    scaled(&quantity.0, 1000)
}

/// The value, rounded up as upstream's `Value` does.
pub(crate) fn whole(quantity: &Quantity) -> i64 {
    scaled(&quantity.0, 1)
}

/// The quantity that upstream prints for a number of bytes with a binary suffix, the largest that divides it.
pub(crate) fn bytes(value: u64) -> Quantity {
    const SUFFIXES: [(&str, u32); 4] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    for (suffix, shift) in SUFFIXES {
        if value != 0 && value.trailing_zeros() >= shift {
            return Quantity(format!("{}{suffix}", value >> shift));
        }
    }
    Quantity(value.to_string())
}

fn scaled(text: &str, scale: i128) -> i64 {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    // A ratio keeps everything in integers: value = digits * numerator / denominator.
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => match exponent.strip_prefix(['e', 'E']).and_then(|e| e.parse::<i32>().ok()) {
            Some(e @ 0..=18) => (10i128.pow(e.unsigned_abs()), 1),
            Some(e @ -18..0) => (1, 10i128.pow(e.unsigned_abs())),
            _ => return 0,
        },
    };
    let (integral, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(12)];
    let negative = integral.starts_with('-');
    let digits: i128 = format!("{}{fraction}", integral.trim_start_matches(['+', '-'])).parse().unwrap_or(0);
    let denominator = denominator * 10i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let product = digits.saturating_mul(numerator).saturating_mul(scale);
    let value = product / denominator + i128::from(product % denominator != 0);
    let value = if negative { -value } else { value };
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_upstream_forms() {
        let cases = [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("0.5", 500, 1),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1e3", 1_000_000, 1000),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("12E", i64::MAX, i64::MAX),
            ("0", 0, 0),
            ("1n", 1, 1),
        ];
        for (text, milli_value, whole_value) in cases {
            let quantity = Quantity(text.to_owned());
            assert_eq!((milli(&quantity), whole(&quantity)), (milli_value, whole_value), "{text}");
        }
    }

    #[test]
    fn prints_the_largest_suffix_that_divides() {
        for (value, expected) in [(0, "0"), (1000, "1000"), (2048, "2Ki"), (64 << 20, "64Mi"), (3 << 30, "3Gi")] {
            assert_eq!(bytes(value).0, expected);
        }
    }
}
