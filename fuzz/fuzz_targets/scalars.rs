//! Quantities, times, durations and names.
#![no_main]

use apimachinery::{Quantity, time, validation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(quantity) = Quantity::parse(text) {
        assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity), "{text}");
        let _ = (quantity.value(), quantity.milli_value(), quantity.as_f64());
        let _ = (quantity.plus(quantity), quantity.minus(quantity), quantity.times(3), quantity.rounded_up_to_milli());
    }
    let _ = Quantity::canonicalize(text);
    if let Ok(parsed) = time::parse_micro_time(text) {
        let _ = (time::format_micro_time(parsed), time::format_time(parsed));
    }
    if let Ok(parsed) = time::parse_time(text) {
        assert_eq!(time::parse_time(&time::format_time(parsed)).map(time::format_time), Ok(time::format_time(parsed)));
    }
    if let Ok(parsed) = time::parse_duration(text) {
        let _ = time::format_duration(parsed);
    }
    let _ = (validation::is_qualified_name(text), validation::name_is_dns_label(text, true), validation::is_env_var_name(text));
});
