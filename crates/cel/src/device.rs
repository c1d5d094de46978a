//! Selectors of devices (upstream's `k8s.io/dynamic-resource-allocation/cel`): the variable `device`, what an expression may cost, and
//! whether a device matches.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::cost::{Range, SizeEstimator, estimate};
use crate::env::{COMPATIBLE, Env};
use crate::eval::{Budget, EvalError, Program};
use crate::types::Type;
use crate::value::{Map, MapKey, Val};

/// Upstream's limits of an expression.
pub const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
/// What an expression may cost, estimated as well as evaluated.
pub const COST_MAX: u64 = 1_000_000;

/// Attributes and capacities of a device together, lengths of a domain, of a name, of a driver's name, and of a value.
const ENTRIES_MAX: u64 = 32;
const DOMAIN_MAX: u64 = 63;
const ID_MAX: u64 = 32;
const DRIVER_MAX: u64 = 63;
const VALUE_MAX: u64 = 64;

/// A selector that compiled.
#[derive(Clone, Debug)]
pub struct Selector(Program);

/// What a selector sees of a device: attributes and capacities by their names, with or without a domain.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// The driver, which is the domain of names without one.
    pub driver: String,
    /// Attributes by name.
    pub attributes: Vec<(String, Val)>,
    /// Capacities by name.
    pub capacity: Vec<(String, Val)>,
}

/// A device as expressions see it.
#[derive(Clone, Debug)]
pub struct Seen(Val);

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let of_domain = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
    let fields = [
        ("driver", Type::String),
        ("attributes", of_domain(Type::Any)),
        ("capacity", of_domain(Type::object("kubernetes.Quantity"))),
    ];
    Env::base(COMPATIBLE)
        .with_bindings()
        .with_object("kubernetes.DRADevice", fields)
        .with_variable("device", Type::object("kubernetes.DRADevice"))
});

/// Compiles a selector; the error is for the user.
pub fn compile(expression: &str) -> Result<Selector, String> {
    let ast = ENV.compile(expression).map_err(|issues| format!("compilation failed: {issues}"))?;
    let output = ast.output_type();
    if !matches!(output, Type::Bool | Type::Any) {
        return Err(format!("must evaluate to bool or the unknown type, not {output}"));
    }
    Ok(Selector(Program::new(&ast)))
}

impl Selector {
    /// What evaluating it may cost at most.
    pub fn cost_max(&self) -> u64 {
        estimate(self.0.ast(), &Sizes).max
    }

    /// Whether a device matches. `interrupted` is asked every so often whether to give up, which is [`EvalError::Interrupted`].
    pub fn matches(&self, device: &Seen, interrupted: &dyn Fn() -> bool) -> Result<bool, EvalError> {
        let variables = std::collections::HashMap::from([("device", device.0.clone())]);
        let (result, _) = self.0.evaluate(&variables, &Budget { cost_max: COST_MAX, interrupted });
        match result? {
            Val::Bool(matches) => Ok(matches),
            other => {
                let name = other.type_of();
                Err(EvalError::Failed(format!("CEL result of type {} could not be converted to bool", name.name())))
            }
        }
    }
}

impl Device {
    /// What expressions see of it.
    pub fn seen(&self) -> Seen {
        let members = BTreeMap::from([
            (MapKey::from("driver"), Val::from(self.driver.as_str())),
            (MapKey::from("attributes"), self.by_domain(&self.attributes)),
            (MapKey::from("capacity"), self.by_domain(&self.capacity)),
        ]);
        Seen(members.into())
    }

    fn by_domain(&self, entries: &[(String, Val)]) -> Val {
        let mut domains: BTreeMap<&str, BTreeMap<MapKey, Val>> = BTreeMap::new();
        for (name, value) in entries {
            let (domain, id) = name.split_once('/').unwrap_or((&self.driver, name));
            domains.entry(domain).or_default().insert(id.into(), value.clone());
        }
        let domains = domains.into_iter().map(|(domain, members)| (MapKey::from(domain), members.into())).collect();
        Val::Map(Map::Defaulted(Arc::new(domains)))
    }
}

/// The sizes that the API allows a device's parts to have.
struct Sizes;

impl SizeEstimator for Sizes {
    fn size(&self, path: &[Arc<str>]) -> Option<Range> {
        let names: Vec<&str> = path.iter().map(|part| &**part).collect();
        let ("device", rest) = names.split_first().map(|(first, rest)| (*first, rest))? else { return None };
        let max = match rest {
            // The object itself, and what has no bound of its own.
            [] => 0,
            ["driver"] => DRIVER_MAX,
            ["attributes" | "capacity"] | ["attributes" | "capacity", "@items" | "@values"] => ENTRIES_MAX,
            ["attributes" | "capacity", "@keys"] => DOMAIN_MAX,
            ["attributes" | "capacity", "@items" | "@values", "@keys"] => ID_MAX,
            ["attributes", "@items" | "@values", _] => VALUE_MAX,
            ["capacity", "@items" | "@values", "@items" | "@values"] => 0,
            _ => return None,
        };
        Some(Range { min: 0, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Extension;

    fn device() -> Device {
        let quantity = |text: &str| Extension::Quantity(apimachinery::Quantity::parse(text).expect("a quantity")).into();
        Device {
            driver: "gpu.example.com".to_owned(),
            attributes: vec![
                ("model".to_owned(), "a100".into()),
                ("other.com/index".to_owned(), Val::Int(3)),
                ("version".to_owned(), Extension::Semver(crate::Version::parse("1.2.3").expect("a version").into()).into()),
            ],
            capacity: vec![("memory".to_owned(), quantity("40Gi"))],
        }
    }

    #[test]
    fn selectors() {
        for (expression, expected) in [
            ("device.driver == 'gpu.example.com'", Ok(true)),
            ("device.attributes['gpu.example.com'].model == 'a100'", Ok(true)),
            ("device.attributes['other.com'].index > 2", Ok(true)),
            ("device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) == 0", Ok(true)),
            ("device.attributes['gpu.example.com'].version.isGreaterThan(semver('1.2.0'))", Ok(true)),
            ("'model' in device.attributes['nowhere']", Ok(false)),
            ("device.attributes['nowhere'].model == 'x'", Err("no such key: model")),
            ("cel.bind(a, device.attributes['gpu.example.com'], a.model == 'a100' && !has(a.nothing))", Ok(true)),
            ("device.attributes['gpu.example.com'].?model.orValue('none') == 'a100'", Ok(true)),
        ] {
            let selector = compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
            let matches = selector.matches(&device().seen(), &|| false).map_err(|error| error.to_string());
            assert_eq!(matches.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e), "{expression}");
        }
    }

    #[test]
    fn costs_are_bounded_beforehand() {
        for (expression, cheap) in [
            ("device.attributes['a'].b == 'c'", true),
            (
                "device.attributes.all(d, device.attributes[d].all(k, device.attributes.all(e, device.attributes[e].all(l, device.attributes.all(f, true)))))",
                false,
            ),
        ] {
            let cost = compile(expression).expect("it compiles").cost_max();
            assert_eq!(cost <= COST_MAX, cheap, "{expression}: {cost}");
        }
    }

    #[test]
    fn a_match_is_interrupted() {
        let within_budget = "lists.range(1000).all(x, device.attributes['gpu.example.com'].model != 'b100')";
        let selector = compile(within_budget).expect("it compiles");
        assert_eq!(selector.matches(&device().seen(), &|| false), Ok(true));
        assert_eq!(selector.matches(&device().seen(), &|| true), Err(EvalError::Interrupted));
    }

    #[test]
    fn results() {
        let error = |expression: &str| compile(expression).expect_err("refused");
        assert_eq!(error("device.driver"), "must evaluate to bool or the unknown type, not string");
        assert!(compile("device.attributes['a'].b").is_ok());
    }
}
