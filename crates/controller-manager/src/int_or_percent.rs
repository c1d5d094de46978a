//! Numbers that may be given as a percentage.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A number, or a percentage of `total`; 0 if malformed (the API server lets none in).
pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|text| text.parse::<i64>().ok());
            let hundredfold = percent.unwrap_or(0) * i64::from(total);
            let rounded = if round_up { (hundredfold + 99).div_euclid(100) } else { hundredfold.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_told() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        for (value, total, up, down) in [
            (None, 10, 0, 0),
            (Some(IntOrString::Int(3)), 10, 3, 3),
            (Some(percent("25%")), 10, 3, 2),
            (Some(percent("100%")), 7, 7, 7),
            (Some(percent("0%")), 7, 0, 0),
            (Some(percent("many")), 7, 0, 0),
        ] {
            assert_eq!((scaled(value.as_ref(), total, true), scaled(value.as_ref(), total, false)), (up, down), "{value:?}");
        }
    }
}
