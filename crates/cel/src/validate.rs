//! What is refused although its types fit: literals that are no duration, timestamp or pattern, lists of mixed elements, formats that do
//! not fit their arguments (cel-go's `cel/validator.go`).

use crate::ast::{Expr, Kind};
use crate::env::Ast;
use crate::library::{self, regex::Constant};
use crate::meter::Meter;
use crate::source::Issue;
use crate::types::Type;
use crate::value::Val;

/// Everything that is wrong, one check after the other.
pub(crate) fn validate(ast: &Ast) -> Vec<Issue> {
    let mut issues = Vec::new();
    for function in ["duration", "timestamp", "matches"] {
        ast.expr.walk(&mut |expr| literal(ast, expr, function, &mut issues));
    }
    homogeneous(ast, &ast.expr, false, &mut issues);
    ast.expr.walk(&mut |expr| {
        if let Kind::Call { target: Some(target), function, args } = &*expr.kind
            && &**function == "format"
            && let (Some(format), [list]) = (target.as_text(), args.as_slice())
            && let Kind::List(args, _) = &*list.kind
        {
            issues.extend(library::check_format(&ast.checked, expr, format, args));
        }
    });
    issues
}

fn literal(ast: &Ast, expr: &Expr, wanted: &str, issues: &mut Vec<Issue>) {
    let Kind::Call { function, args, .. } = &*expr.kind else { return };
    let Some(arg) = args.first().filter(|_| &**function == wanted) else { return };
    let Kind::Literal(value) = &*arg.kind else { return };
    let fits = match (wanted, value) {
        ("matches", _) => match ast.patterns.get(arg) {
            Some(Constant::TooMuch) => {
                let message = "regular expressions of the expression are too large together".to_owned();
                return issues.push(Issue { offset: arg.pos, message });
            }
            constant => !matches!(constant, Some(Constant::Invalid)),
        },
        (_, value) => library::invoke(wanted, &[Val::from(value)], None, &Meter::new(&|| false)).is_ok(),
    };
    if !fits {
        issues.push(Issue { offset: arg.pos, message: format!("invalid {wanted} argument") });
    }
}

fn mismatch(at: &Expr, expected: &Type, found: &Type) -> Issue {
    Issue { offset: at.pos, message: format!("expected type '{}' but found '{}'", expected.shown(), found.shown()) }
}

/// Elements of a list, keys and values of a map have one type each; only arguments of `format` need not.
fn homogeneous(ast: &Ast, expr: &Expr, exempt: bool, issues: &mut Vec<Issue>) {
    if let (Kind::List(elements, optionals), false) = (&*expr.kind, exempt) {
        let type_of = |i: usize| {
            let t = ast.checked.type_of(&elements[i]);
            if optionals.binary_search(&i).is_ok() { t.unwrap_optional().unwrap_or(t) } else { t }
        };
        let odd = (1..elements.len()).find(|i| !type_of(0).is_equivalent(type_of(*i)));
        issues.extend(odd.map(|i| mismatch(&elements[i], type_of(0), type_of(i))));
    }
    if let (Kind::Map(entries), false) = (&*expr.kind, exempt)
        && let Some(first) = entries.first()
    {
        let value_type = |entry: &crate::ast::Entry<Expr>| {
            let t = ast.checked.type_of(&entry.value);
            if entry.optional { t.unwrap_optional().unwrap_or(t).clone() } else { t.clone() }
        };
        let (key, value) = (ast.checked.type_of(&first.key), value_type(first));
        for entry in &entries[1..] {
            let (k, v) = (ast.checked.type_of(&entry.key), value_type(entry));
            if !key.is_equivalent(k) {
                issues.push(mismatch(&entry.key, key, k));
            }
            if !value.is_equivalent(&v) {
                issues.push(mismatch(&entry.value, &value, &v));
            }
        }
    }
    let within = exempt || matches!(&*expr.kind, Kind::Call { function, .. } if &**function == "format");
    expr.kind.children(&mut |child| homogeneous(ast, child, within, issues));
}
