//! The environment of admission policies and webhooks' match conditions (upstream's `pkg/admission/plugin/cel`).
//!
//! `object` and `oldObject` are anything; `request` and `namespaceObject` have types; `params`, `authorizer` and `variables` are there
//! where the caller says so.
//!
//! Here expressions are compiled and checked; nothing of the API server evaluates them yet.

use std::sync::LazyLock;

use crate::env::{COMPATIBLE, Env};
use crate::types::Type;

/// The type of `variables`.
const VARIABLES: &str = "kubernetes.variables";

/// Which optional variables an expression may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Optional {
    /// `params`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
}

/// Compiles expressions; knows the variables of a policy that were compiled before.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Without and with params, without and with an authorizer.
    environments: [Env; 4],
}

static BASE: LazyLock<Env> = LazyLock::new(base);
static PLAIN: LazyLock<Compiler> = LazyLock::new(|| Compiler { environments: std::array::from_fn(environment) });

fn environment(which: usize) -> Env {
    let mut env = BASE.clone();
    if which & 1 != 0 {
        env = env.with_variable("params", Type::Dyn);
    }
    if which & 2 != 0 {
        let authorizer = Type::object("kubernetes.authorization.Authorizer");
        let check = Type::object("kubernetes.authorization.ResourceCheck");
        env = env.with_variable("authorizer", authorizer).with_variable("authorizer.requestResource", check);
    }
    env
}

fn strings<'f>(names: &[&'f str]) -> Vec<(&'f str, Type)> {
    names.iter().map(|name| (*name, Type::String)).collect()
}

fn base() -> Env {
    let texts = || Type::list(Type::String);
    let object = Type::object;
    let with = |names: &[&'static str], more: Vec<(&'static str, Type)>| {
        let mut fields = strings(names);
        fields.extend(more);
        fields
    };
    let request = with(
        &["subResource", "requestSubResource", "name", "namespace", "operation"],
        vec![
            ("kind", object("kubernetes.GroupVersionKind")),
            ("resource", object("kubernetes.GroupVersionResource")),
            ("requestKind", object("kubernetes.GroupVersionKind")),
            ("requestResource", object("kubernetes.GroupVersionResource")),
            ("userInfo", object("kubernetes.UserInfo")),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    );
    let user = with(&["username", "uid"], vec![("groups", texts()), ("extra", Type::map(Type::String, texts()))]);
    let labels = || Type::map(Type::String, Type::String);
    let metadata = with(
        &["name", "generateName", "namespace", "UID", "resourceVersion"],
        vec![
            ("labels", labels()),
            ("annotations", labels()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("finalizers", texts()),
        ],
    );
    let condition = with(&["status", "type", "message", "reason"], vec![("lastTransitionTime", Type::Timestamp)]);
    let namespace = vec![
        ("metadata", object("kubernetes.NamespaceMetadata")),
        ("spec", object("kubernetes.NamespaceSpec")),
        ("status", object("kubernetes.NamespaceStatus")),
    ];
    let conditions = Type::list(object("kubernetes.NamespaceCondition"));
    Env::base(COMPATIBLE)
        .with_object("kubernetes.GroupVersionKind", strings(&["group", "version", "kind"]))
        .with_object("kubernetes.GroupVersionResource", strings(&["group", "version", "resource"]))
        .with_object("kubernetes.UserInfo", user)
        .with_object("kubernetes.AdmissionRequest", request)
        .with_object("kubernetes.NamespaceSpec", [("finalizers", texts())])
        .with_object("kubernetes.NamespaceCondition", condition)
        .with_object("kubernetes.NamespaceStatus", with(&["phase"], vec![("conditions", conditions)]))
        .with_object("kubernetes.NamespaceMetadata", metadata)
        .with_object("kubernetes.Namespace", namespace)
        .with_variable("object", Type::Dyn)
        .with_variable("oldObject", Type::Dyn)
        .with_variable("namespaceObject", object("kubernetes.Namespace"))
        .with_variable("request", object("kubernetes.AdmissionRequest"))
}

impl Compiler {
    /// A compiler for expressions without variables of a policy.
    pub fn stateless() -> &'static Compiler {
        &PLAIN
    }

    /// A compiler for the expressions of a policy, which [`Compiler::add_variable`] makes its variables known to.
    pub fn for_policy() -> Compiler {
        let environments = PLAIN.environments.clone();
        Compiler {
            environments: environments
                .map(|env| env.with_variable("variables", Type::object(VARIABLES)).with_object(VARIABLES, [])),
        }
    }

    /// Whether an expression compiles and evaluates to one of `wanted` ([`Type::Any`] for anything); the error is for the user.
    pub fn compile(&self, expression: &str, wanted: &[Type], optional: Optional) -> Result<(), String> {
        let output = self.output(expression, optional)?;
        if wanted.contains(&output) || wanted.contains(&Type::Any) {
            return Ok(());
        }
        Err(match wanted {
            [one] => format!("must evaluate to {one} but got {output}"),
            many => {
                let names: Vec<String> = many.iter().map(Type::to_string).collect();
                format!("must evaluate to one of [{}] but got {output}", names.join(" "))
            }
        })
    }

    fn output(&self, expression: &str, optional: Optional) -> Result<Type, String> {
        let env = &self.environments[usize::from(optional.params) | usize::from(optional.authorizer) << 1];
        let ast = env.compile(expression).map_err(|issues| format!("compilation failed: {issues}"))?;
        Ok(ast.output_type().clone())
    }

    /// Compiles a variable of the policy; from then on expressions may use it, with an unknown type if it does not compile.
    pub fn add_variable(&mut self, name: &str, expression: &str, optional: Optional) -> Result<(), String> {
        let output = self.output(expression, optional);
        let t = output.as_ref().map_or(Type::Dyn, declared);
        for env in &mut self.environments {
            env.add_field(VARIABLES, name, t.clone());
        }
        output.map(drop)
    }
}

/// Checks the expressions of a policy against the types of what it is for, where [`Compiler`] takes `object` and `params` for anything.
#[derive(Clone, Debug)]
pub struct TypeChecker(Env);

impl TypeChecker {
    /// For `object` and `oldObject`, and for `params` of a policy that has them.
    pub fn new(object: Type, params: Option<Type>) -> TypeChecker {
        let mut env = BASE
            .clone()
            .with_variable("object", object.clone())
            .with_variable("oldObject", object)
            .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"))
            .with_variable("variables", Type::object(VARIABLES))
            .with_object(VARIABLES, []);
        if let Some(params) = params {
            env = env.with_variable("params", params);
        }
        TypeChecker(env)
    }

    /// Makes the fields of an object type known.
    pub fn add_object<'f>(&mut self, name: &str, fields: impl IntoIterator<Item = (&'f str, Type)>) {
        for (field, t) in fields {
            self.0.add_field(name, field, t);
        }
    }

    /// Makes a variable of the policy known, with an unknown type if its expression is wrong.
    pub fn add_variable(&mut self, name: &str, expression: &str) {
        let t = self.0.compile(expression).map_or(Type::Dyn, |ast| declared(ast.output_type()));
        self.0.add_field(VARIABLES, name, t);
    }

    /// What is wrong with an expression.
    pub fn check(&self, expression: &str) -> Option<String> {
        self.0.compile(expression).err().map(|issues| issues.to_string())
    }
}

/// The type that a variable of this type has: objects lose theirs.
fn declared(t: &Type) -> Type {
    match t {
        Type::List(element) => Type::list(declared(element)),
        Type::Map(pair) => Type::map(declared(&pair.0), declared(&pair.1)),
        Type::Opaque(..) | Type::Struct(_) | Type::Type(_) | Type::Param(_) | Type::Error => Type::Dyn,
        simple => simple.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str, wanted: &[Type], optional: Optional, expected: Result<(), &str>) {
        let compiled = Compiler::stateless().compile(expression, wanted, optional);
        assert_eq!(compiled, expected.map_err(str::to_owned), "{expression}");
    }

    #[test]
    fn variables_and_results() {
        let (none, all) = (Optional::default(), Optional { params: true, authorizer: true });
        check("object.spec.replicas > 3 && request.userInfo.groups.exists(g, g == 'a')", &[Type::Bool], none, Ok(()));
        check("namespaceObject.metadata.labels['a'] == 'b'", &[Type::Bool], none, Ok(()));
        check("authorizer.requestResource.check('get').allowed()", &[Type::Bool], all, Ok(()));
        check("1", &[Type::Bool], none, Err("must evaluate to bool but got int"));
        check("1", &[Type::String, Type::Null], none, Err("must evaluate to one of [string null_type] but got int"));
        check(
            "params.a",
            &[Type::Bool],
            none,
            Err("compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.a\n | ^"),
        );
        check(
            "request.nothing == 1",
            &[Type::Bool],
            none,
            Err("compilation failed: ERROR: <input>:1:8: undefined field 'nothing'\n | request.nothing == 1\n | .......^"),
        );
    }

    #[test]
    fn variables_of_a_policy() {
        let mut compiler = Compiler::for_policy();
        let none = Optional::default();
        assert!(compiler.compile("variables.a == 1", &[Type::Bool], none).is_err_and(|e| e.contains("undefined field 'a'")));
        compiler.add_variable("a", "size(object.items)", none).expect("it compiles");
        assert!(compiler.compile("variables.a == 1", &[Type::Bool], none).is_ok());
        assert!(compiler.compile("variables.a == 'b'", &[Type::Bool], none).is_err_and(|e| e.contains("'(int, string)'")));
    }
}
