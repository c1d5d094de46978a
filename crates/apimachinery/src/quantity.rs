//! `resource.Quantity`: exact decimal numbers with SI and binary suffixes, in upstream's canonical form
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).
//!
//! Held as a 128-bit count of 1e-9 units: exact for everything upstream can hold, up to 1.7e29.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::Value;

const NANO: i128 = 1_000_000_000;

/// How a quantity is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `12M`
    #[default]
    DecimalSi,
    /// `12Mi`
    BinarySi,
    /// `12e6`
    DecimalExponent,
}

/// An amount of something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity; upstream's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is none.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A text taken apart.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros (but "0" when nothing else is left).
    numerator: &'a str,
    /// Digits after the point.
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let (negative, rest) = match text.as_bytes().first() {
        None => return Err(QuantityError::Format),
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
    };
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let rest = rest.trim_start_matches('0');
    let (numerator, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let tail = suffix[letters..].strip_prefix(['+', '-']).unwrap_or(&suffix[letters..]);
    if digits(tail) != tail.len() {
        return Err(QuantityError::Format);
    }
    Ok(Parts { negative, numerator: if numerator.is_empty() { "0" } else { numerator }, fraction, suffix })
}

/// The base, exponent and format of a suffix.
fn interpret(suffix: &str) -> Result<(u32, i32, Format), QuantityError> {
    let decimal = |exponent| Ok((10, exponent, Format::DecimalSi));
    let binary = |exponent| Ok((2, exponent, Format::BinarySi));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        other => {
            let exponent = other.strip_prefix(['e', 'E']).filter(|e| !e.is_empty());
            let exponent = exponent.and_then(|e| e.parse::<i32>().ok()).ok_or(QuantityError::Suffix)?;
            Ok((10, exponent, Format::DecimalExponent))
        }
    }
}

/// `value * 10^exponent`, rounded up (away from zero), saturating.
fn scale10(value: i128, exponent: i32) -> i128 {
    if exponent >= 0 {
        let factor = 10i128.checked_pow(exponent.unsigned_abs());
        return factor.and_then(|f| value.checked_mul(f)).unwrap_or(if value == 0 { 0 } else { i128::MAX });
    }
    match 10i128.checked_pow(exponent.unsigned_abs()) {
        Some(divisor) => div_away(value, divisor),
        None => i128::from(value > 0),
    }
}

fn div_away(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    if value % divisor == 0 { quotient } else { quotient + value.signum() }
}

impl Quantity {
    /// Parses a quantity. What is finer than 1e-9 is rounded up.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let parts = split(text)?;
        let (base, exponent, mut format) = interpret(parts.suffix)?;
        // What is cut off beyond 17 digits matters only for rounding up: one digit stands for it.
        let fraction = parts.fraction.trim_end_matches('0');
        let kept = match fraction.get(..17) {
            Some(head) if fraction.len() > 17 => format!("{head}1"),
            _ => fraction.to_owned(),
        };
        let text = format!("{}{kept}", parts.numerator);
        let mantissa = text.parse::<i128>().unwrap_or(i128::MAX);
        let places = kept.len() as i32;
        let mut nanos = match base {
            10 => scale10(mantissa, exponent - places + 9),
            _ => {
                let scaled = mantissa.checked_mul(1 << exponent).and_then(|v| v.checked_mul(NANO));
                scaled.map_or_else(|| scale10(mantissa, 9 - places).saturating_mul(1 << exponent), |v| scale10(v, -places))
            }
        };
        if nanos == i128::MAX || (format == Format::BinarySi && nanos > i128::from(i64::MAX) * NANO) {
            nanos = i128::from(i64::MAX) * NANO;
        }
        if format == Format::BinarySi && (1..NANO).contains(&nanos) {
            format = Format::DecimalSi;
        }
        Ok(Quantity { nanos: if parts.negative { -nanos } else { nanos }, format })
    }

    /// The text as upstream writes it back: canonical, except that some canonical enough forms stay as they are.
    pub fn canonicalize(text: &str) -> Result<Cow<'_, str>, QuantityError> {
        let text = text.trim();
        if text == "0" {
            return Ok(Cow::Borrowed(text));
        }
        let quantity = Quantity::parse(text)?;
        let parts = split(text)?;
        let (_, exponent, format) = interpret(parts.suffix)?;
        let digits = (parts.numerator.len() + parts.fraction.len()) as i32;
        let keep = match format {
            // Upstream's fast path keeps the text when it finds nothing to simplify.
            Format::BinarySi => {
                let room = 15 - parts.numerator.len() as i32 - (f64::from(exponent) * 3.0 / 10.0) as i32 - 1;
                let odd = parts.numerator.parse::<i64>().is_ok_and(|v| v & 7 != 0);
                parts.fraction.is_empty() && room >= 0 && odd
            }
            _ => {
                let scale = exponent - parts.fraction.len() as i32;
                let shifted = format!("{}{}", parts.numerator, parts.fraction);
                digits <= 18 && scale >= -9 && scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0')
            }
        };
        Ok(if keep { Cow::Borrowed(text) } else { Cow::Owned(quantity.to_string()) })
    }

    /// A whole number.
    pub fn new(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format }
    }

    /// A number of thousandths.
    pub fn from_milli(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * (NANO / 1000), format }
    }

    /// From a JSON value: a string or a number.
    pub fn from_value(value: &Value) -> Result<Quantity, QuantityError> {
        match value {
            Value::String(s) => Quantity::parse(s.trim()),
            Value::Int(_) | Value::Float(_) => Quantity::parse(&value.to_json()),
            Value::Null => Ok(Quantity::default()),
            _ => Err(QuantityError::Format),
        }
    }

    /// The format it prints in.
    pub fn format(self) -> Format {
        self.format
    }

    /// Rounded up to a whole number, saturating.
    pub fn value(self) -> i64 {
        saturate(div_away(self.nanos, NANO))
    }

    /// Rounded up to thousandths, saturating.
    pub fn milli_value(self) -> i64 {
        saturate(div_away(self.nanos, NANO / 1000))
    }

    /// Approximately, as a float.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether it is a whole number.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether it is 0.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn signum(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Rounded up to thousandths.
    #[must_use]
    pub fn rounded_up_to_milli(self) -> Quantity {
        let milli = NANO / 1000;
        Quantity { nanos: div_away(self.nanos, milli).saturating_mul(milli), format: self.format }
    }

    /// The sum, in the format of `self` (of `other` when `self` is 0).
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, in the format of `self` (of `other` when `self` is 0).
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }

    /// The product with a whole number.
    #[must_use]
    pub fn times(self, factor: i64) -> Quantity {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(factor)), format: self.format }
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value > 0 { i64::MAX } else { i64::MIN })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(s: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(s)
    }
}

impl From<Quantity> for Value {
    fn from(q: Quantity) -> Value {
        Value::from(q.to_string())
    }
}

impl fmt::Display for Quantity {
    /// The canonical form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.nanos % NANO == 0 {
            let mut number = self.nanos / NANO;
            let mut steps = 0;
            while number % 1024 == 0 && steps < 6 {
                number /= 1024;
                steps += 1;
            }
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][steps]);
        }
        let mut number = self.nanos;
        let mut exponent = -9;
        while number % 1000 == 0 && (exponent < 18 || self.format == Format::DecimalExponent) {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((exponent + 9) / 3) as usize];
        write!(f, "{number}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0Mi", "0"),
            ("-0", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("0.5Gi", "512Mi"),
            ("1024Mi", "1Gi"),
            ("1023Mi", "1023Mi"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("100000", "100k"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1000e3", "1e6"),
            ("12e6", "12e6"),
            ("100m", "100m"),
            ("1.5Gi", "1536Mi"),
            ("0.1Mi", "104857600m"),
            ("1Ki", "1Ki"),
            ("8Ki", "8Ki"),
            ("512", "512"),
            ("0.000000001", "1n"),
            ("0.0000000001", "1n"),
            ("-1.5", "-1500m"),
            ("+1", "+1"),
            ("12345678901234567890", "12345678901234567890"),
            ("1.23456789012345678901", "1234567891n"),
            ("0.1Ki", "102400m"),
            ("1e-12", "1e-9"),
            ("2000m", "2"),
            ("01", "01"),
            ("1.0", "1"),
            ("5.", "5."),
            ("1Ei", "1Ei"),
            ("16Ei", "9223372036854775807"),
            ("1E", "1E"),
            ("100E", "100E"),
            ("0.5Ki", "512"),
            (".5", "500m"),
            ("3T", "3T"),
            ("1.1u", "1100n"),
            ("64Gi", "64Gi"),
            ("4000000Ki", "4000000Ki"),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity::canonicalize(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors() {
        let cases = [
            ("", QuantityError::Format),
            ("x", QuantityError::Format),
            ("1x", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1GiB", QuantityError::Format),
            ("1i", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1KI", QuantityError::Format),
            ("1ki", QuantityError::Suffix),
            ("--1", QuantityError::Suffix),
        ];
        for (text, error) in cases {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn arithmetic_and_comparison() {
        let q = |s: &str| Quantity::parse(s).expect(s);
        assert_eq!(q("1Gi").plus(q("512Mi")).to_string(), "1536Mi");
        assert_eq!(q("1").minus(q("100m")).to_string(), "900m");
        assert_eq!(q("100m").times(3).to_string(), "300m");
        assert_eq!(q("1.5").value(), 2);
        assert_eq!(q("-1.5").value(), -2);
        assert_eq!(q("1500m").milli_value(), 1500);
        assert_eq!(q("1n").milli_value(), 1);
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!(q("100E").value(), i64::MAX);
        assert_eq!(Quantity::new(2048, Format::BinarySi).to_string(), "2Ki");
        assert_eq!(Quantity::from_value(&Value::Float(0.5)).map(|q| q.to_string()).as_deref(), Ok("500m"));
    }
}
