//! Any expression compiles or does not, in the environments of policies and of devices; its cost is estimated, and it is evaluated within
//! its budget, whatever its variables are.
#![no_main]

use std::sync::LazyLock;

use apimachinery::Value;
use cel::admission::{Compiler, Optional, TypeChecker};
use cel::device::Device;
use cel::{Activation, Budget, Env, EvalError, Program, Range, SizeEstimator, Type, Val};
use libfuzzer_sys::fuzz_target;

const COST_MAX: u64 = 100_000;

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let env = Env::base(cel::COMPATIBLE).with_bindings();
    ["object", "a", "x"].into_iter().fold(env, |env, name| env.with_variable(name, Type::Dyn))
});
static CHECKER: LazyLock<TypeChecker> = LazyLock::new(|| TypeChecker::new(Type::Dyn, None));
static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    let text = br#"{"a": 1, "b": [1, 2, "x"], "c": {"a": "b"}, "d": null, "e": 0.5, "f": "2024-01-01T00:00:00Z", "g": [[], {}]}"#;
    Value::from_slice(text).expect("an object")
});

/// Every variable is the object.
struct Anything;

impl Activation for Anything {
    fn variable(&self, _: &str) -> Option<Result<Val, EvalError>> {
        Some(Ok(Val::from(&*OBJECT)))
    }
}

struct Unknown;

impl SizeEstimator for Unknown {
    fn size(&self, _: &[std::sync::Arc<str>]) -> Option<Range> {
        None
    }
}

fuzz_target!(|expression: &str| {
    if let Ok(ast) = ENV.compile(expression) {
        let estimated = cel::estimate(&ast, &Unknown);
        let program = Program::new(&ast);
        let (result, cost) = program.evaluate(&Anything, &Budget::cost(COST_MAX));
        // Not compared with the least that it may cost: upstream's estimate is too high where an error ends an evaluation early.
        assert!(result.is_err() || cost <= COST_MAX, "{cost} of {COST_MAX}, estimated {estimated:?}");
        let again = program.evaluate(&Anything, &Budget { cost_max: COST_MAX, interrupted: &|| true }).0;
        assert!(matches!(again, Err(EvalError::Interrupted)) || again.is_err() == result.is_err(), "{again:?}");
    }
    let _ = Compiler::stateless().compile(expression, &[Type::Any], Optional { params: true, authorizer: true });
    let _ = CHECKER.check(expression);
    if let Ok(selector) = cel::device::compile(expression) {
        let _ = selector.cost_max();
        let device = Device { driver: "d".to_owned(), attributes: vec![("a".to_owned(), Val::Int(1))], ..Device::default() };
        let _ = selector.matches(&device.seen(), &|| false);
    }
});
