//! Any expression compiles or does not, in the environments of policies and of devices, and is evaluated within its budget.
#![no_main]

use std::collections::HashMap;

use cel::admission::{Compiler, Optional};
use cel::{Activation, Budget, EvalError, Type, Val};
use libfuzzer_sys::fuzz_target;

/// Every variable is an object with a list.
struct Anything;

impl Activation for Anything {
    fn variable(&self, name: &str) -> Option<Result<Val, EvalError>> {
        HashMap::from([(name, Val::from(vec![Val::from("a"), Val::Int(1)]))]).remove(name).map(Ok)
    }
}

fuzz_target!(|expression: &str| {
    let optional = Optional { params: true, authorizer: true };
    if let Ok(compiled) = Compiler::stateless().compile(expression, &[Type::Any], optional) {
        let _ = compiled.program.evaluate(&Anything, &Budget::cost(10_000));
    }
    if let Ok(selector) = cel::device::compile(expression) {
        let _ = selector.matches(&cel::device::Device::default());
    }
});
