//! Macros: calls that stand for loops and tests (cel-go's `parser/macro.go`, and those of its extension libraries).

use std::sync::Arc;

use super::Parser;
use crate::ast::{ACCUMULATOR, Comprehension, Expr, Kind, Literal, OLD_ACCUMULATOR, UNUSED, op};

/// Why a macro does not apply to its arguments, and where.
type Wrong = (Option<u32>, String);

/// What distinguishes the loops over a range.
struct Loop {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

impl Parser<'_> {
    /// Expands a global macro; gives the arguments back if there is none.
    pub(super) fn expand_global(&mut self, pos: Option<u32>, function: &str, mut args: Vec<Expr>) -> Result<Expr, Vec<Expr>> {
        if function != "has" || args.len() != 1 {
            return Err(args);
        }
        let arg = args.remove(0);
        Ok(match *arg.kind {
            Kind::Select { operand, field, .. } => self.node(pos, Kind::Select { operand, field, test_only: true }),
            _ => self.wrong((arg.pos, "invalid argument to has() macro".to_owned())),
        })
    }

    /// Expands a macro that is called on something; gives target and arguments back if there is none.
    pub(super) fn expand_receiver(
        &mut self,
        pos: Option<u32>,
        function: &str,
        target: Expr,
        args: Vec<Expr>,
    ) -> Result<Expr, (Expr, Vec<Expr>)> {
        let syntax = self.syntax;
        // What was written counts, not what it expands to.
        let depth = target.depth.max(args.iter().map(|arg| arg.depth).max().unwrap_or_default());
        let expanded = match (function, args.len()) {
            ("all" | "exists" | "exists_one" | "existsOne", 2) => self.quantifier(pos, function, target, args, false),
            ("all" | "exists" | "exists_one" | "existsOne", 3) if syntax.two_variables => {
                self.quantifier(pos, function, target, args, true)
            }
            ("map", 2 | 3) => self.map_macro(pos, target, args),
            ("filter", 2) => self.filter_macro(pos, target, args),
            ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) if syntax.two_variables => {
                self.transform(pos, function, target, args)
            }
            ("optMap" | "optFlatMap", 2) if syntax.optionals => self.opt_map(pos, function, target, args),
            ("sortBy", 2) if syntax.sort_by => self.sort_by(pos, target, args),
            ("bind", 3) if syntax.bindings && target.as_ident().is_some_and(|name| &**name == "cel") => self.bind(pos, args),
            _ => return Err((target, args)),
        };
        let mut expanded = expanded.unwrap_or_else(|wrong| self.wrong(wrong));
        expanded.depth = depth;
        Ok(expanded)
    }

    fn wrong(&mut self, (pos, message): Wrong) -> Expr {
        self.error(pos, message);
        self.node(pos, Kind::Unspecified)
    }

    fn ident(&mut self, pos: Option<u32>, name: &str) -> Expr {
        self.node(pos, Kind::Ident(name.into()))
    }

    fn accu(&mut self, pos: Option<u32>) -> Expr {
        self.ident(pos, ACCUMULATOR)
    }

    fn bool(&mut self, pos: Option<u32>, value: bool) -> Expr {
        self.node(pos, Kind::Literal(Literal::Bool(value)))
    }

    fn int(&mut self, pos: Option<u32>, value: i64) -> Expr {
        self.node(pos, Kind::Literal(Literal::Int(value)))
    }

    fn comprehension(&mut self, pos: Option<u32>, range: Expr, vars: (Arc<str>, Option<Arc<str>>), each: Loop) -> Expr {
        let Loop { init, condition, step, result } = each;
        let (var, var2) = vars;
        let accu = ACCUMULATOR.into();
        let all = Comprehension { range, var, var2, accu, init, condition, step, result };
        self.node(pos, Kind::Comprehension(all))
    }

    /// The loop that binds a name to a value for one expression.
    fn bound(&mut self, pos: Option<u32>, name: Arc<str>, value: Expr, body: Expr) -> Expr {
        let range = self.node(pos, Kind::List(Vec::new(), Vec::new()));
        let condition = self.bool(pos, false);
        let step = self.ident(pos, &name);
        let all = Comprehension { range, var: UNUSED.into(), var2: None, accu: name, init: value, condition, step, result: body };
        self.node(pos, Kind::Comprehension(all))
    }

    /// A copy with ids of its own.
    fn copy(&mut self, expr: &Expr) -> Expr {
        let mut copy = expr.clone();
        self.renumber(&mut copy);
        copy
    }

    fn renumber(&mut self, expr: &mut Expr) {
        expr.id = self.next_id;
        self.next_id += 1;
        match &mut *expr.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call { target, args, .. } => {
                target.iter_mut().for_each(|target| self.renumber(target));
                args.iter_mut().for_each(|arg| self.renumber(arg));
            }
            Kind::List(elements, _) => elements.iter_mut().for_each(|element| self.renumber(element)),
            Kind::Map(entries) => {
                for entry in entries {
                    entry.id = self.next_id;
                    self.next_id += 1;
                    self.renumber(&mut entry.key);
                    self.renumber(&mut entry.value);
                }
            }
            Kind::Struct(_, fields) => {
                for field in fields {
                    field.id = self.next_id;
                    self.next_id += 1;
                    self.renumber(&mut field.value);
                }
            }
            Kind::Comprehension(c) => {
                for part in [&mut c.range, &mut c.init, &mut c.condition, &mut c.step, &mut c.result] {
                    self.renumber(part);
                }
            }
        }
    }

    fn quantifier(
        &mut self,
        pos: Option<u32>,
        function: &str,
        target: Expr,
        mut args: Vec<Expr>,
        two: bool,
    ) -> Result<Expr, Wrong> {
        let vars = if two { two_variables(&args)? } else { (variable(&args[0], "argument must be a simple name")?, None) };
        let test = args.pop().unwrap_or_else(|| self.nothing());
        let accu = self.accu(pos);
        let result = self.accu(pos);
        let each = match function {
            "all" => Loop {
                init: self.bool(pos, true),
                condition: {
                    let now = self.accu(pos);
                    self.call(pos, op::NOT_STRICTLY_FALSE, None, vec![now])
                },
                step: self.call(pos, op::AND, None, vec![accu, test]),
                result,
            },
            "exists" => Loop {
                init: self.bool(pos, false),
                condition: {
                    let now = self.accu(pos);
                    let not = self.call(pos, op::NOT, None, vec![now]);
                    self.call(pos, op::NOT_STRICTLY_FALSE, None, vec![not])
                },
                step: self.call(pos, op::OR, None, vec![accu, test]),
                result,
            },
            _ => {
                let (zero, one, wanted) = (self.int(pos, 0), self.int(pos, 1), self.int(pos, 1));
                let more = self.call(pos, op::ADD, None, vec![accu, one]);
                let same = self.accu(pos);
                Loop {
                    init: zero,
                    condition: self.bool(pos, true),
                    step: self.call(pos, op::CONDITIONAL, None, vec![test, more, same]),
                    result: self.call(pos, op::EQUALS, None, vec![result, wanted]),
                }
            }
        };
        Ok(self.comprehension(pos, target, vars, each))
    }

    /// Gathers by `step`, for what passes the filter.
    fn gather(&mut self, pos: Option<u32>, init: Expr, step: Expr, filter: Option<Expr>) -> Loop {
        let step = match filter {
            None => step,
            Some(filter) => {
                let same = self.accu(pos);
                self.call(pos, op::CONDITIONAL, None, vec![filter, step, same])
            }
        };
        Loop { init, condition: self.bool(pos, true), step, result: self.accu(pos) }
    }

    fn append(&mut self, pos: Option<u32>, element: Expr) -> Expr {
        let (accu, list) = (self.accu(pos), self.node(pos, Kind::List(vec![element], Vec::new())));
        self.call(pos, op::ADD, None, vec![accu, list])
    }

    fn map_macro(&mut self, pos: Option<u32>, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Wrong> {
        let var = variable(&args[0], "argument is not an identifier")?;
        let element = args.pop().unwrap_or_else(|| self.nothing());
        let filter = if args.len() == 2 { args.pop() } else { None };
        let init = self.node(pos, Kind::List(Vec::new(), Vec::new()));
        let step = self.append(pos, element);
        let each = self.gather(pos, init, step, filter);
        Ok(self.comprehension(pos, target, (var, None), each))
    }

    fn filter_macro(&mut self, pos: Option<u32>, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Wrong> {
        let var = variable(&args[0], "argument is not an identifier")?;
        let filter = args.pop();
        let element = args.pop().unwrap_or_else(|| self.nothing());
        let init = self.node(pos, Kind::List(Vec::new(), Vec::new()));
        let step = self.append(pos, element);
        let each = self.gather(pos, init, step, filter);
        Ok(self.comprehension(pos, target, (var, None), each))
    }

    fn transform(&mut self, pos: Option<u32>, function: &str, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Wrong> {
        let vars = two_variables(&args)?;
        let value = args.pop().unwrap_or_else(|| self.nothing());
        let filter = if args.len() == 3 { args.pop() } else { None };
        let (init, step) = match function {
            "transformList" => (Kind::List(Vec::new(), Vec::new()), self.append(pos, value)),
            "transformMap" => {
                let (accu, key) = (self.accu(pos), self.ident(pos, &vars.0));
                (Kind::Map(Vec::new()), self.call(pos, op::MAP_INSERT, None, vec![accu, key, value]))
            }
            _ => {
                let accu = self.accu(pos);
                (Kind::Map(Vec::new()), self.call(pos, op::MAP_INSERT, None, vec![accu, value]))
            }
        };
        let init = self.node(pos, init);
        let each = self.gather(pos, init, step, filter);
        Ok(self.comprehension(pos, target, vars, each))
    }

    fn opt_map(&mut self, pos: Option<u32>, function: &str, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Wrong> {
        let body = args.pop().unwrap_or_else(|| self.nothing());
        let name = args[0].as_ident().cloned();
        let name = name.ok_or_else(|| (args[0].pos, format!("{function}() variable name must be a simple identifier")))?;
        let copy = self.copy(&target);
        let value = self.call(pos, "value", Some(copy), Vec::new());
        let mut some = self.bound(pos, name, value, body);
        if function == "optMap" {
            some = self.call(pos, "optional.of", None, vec![some]);
        }
        let has = self.call(pos, "hasValue", Some(target), Vec::new());
        let none = self.call(pos, "optional.none", None, Vec::new());
        Ok(self.call(pos, op::CONDITIONAL, None, vec![has, some, none]))
    }

    fn sort_by(&mut self, pos: Option<u32>, target: Expr, args: Vec<Expr>) -> Result<Expr, Wrong> {
        const INPUT: &str = "@__sortBy_input__";
        if matches!(*target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct(..)) {
            let why = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Err((target.pos, why.to_owned()));
        }
        let input = self.ident(pos, INPUT);
        let keys = self.map_macro(pos, input, args)?;
        let receiver = self.ident(pos, INPUT);
        let sorted = self.call(pos, op::SORT_BY_KEYS, Some(receiver), vec![keys]);
        Ok(self.bound(pos, INPUT.into(), target, sorted))
    }

    fn bind(&mut self, pos: Option<u32>, mut args: Vec<Expr>) -> Result<Expr, Wrong> {
        let body = args.pop().unwrap_or_else(|| self.nothing());
        let value = args.pop().unwrap_or_else(|| self.nothing());
        match args[0].as_ident().cloned() {
            Some(name) => Ok(self.bound(pos, name, value, body)),
            None => Err((args[0].pos, "cel.bind() variable names must be simple identifiers".to_owned())),
        }
    }
}

fn variable(expr: &Expr, otherwise: &str) -> Result<Arc<str>, Wrong> {
    let name = expr.as_ident().ok_or_else(|| (expr.pos, otherwise.to_owned()))?;
    not_accumulator(expr, name)?;
    Ok(name.clone())
}

fn not_accumulator(expr: &Expr, name: &str) -> Result<(), Wrong> {
    match name {
        ACCUMULATOR | OLD_ACCUMULATOR => Err((expr.pos, "iteration variable overwrites accumulator variable".to_owned())),
        _ => Ok(()),
    }
}

fn two_variables(args: &[Expr]) -> Result<(Arc<str>, Option<Arc<str>>), Wrong> {
    let simple = |expr: &Expr| expr.as_ident().cloned().ok_or_else(|| (expr.pos, "argument must be a simple name".to_owned()));
    let (first, second) = (simple(&args[0])?, simple(&args[1])?);
    if first == second {
        return Err((args[1].pos, format!("duplicate variable name: {first}")));
    }
    not_accumulator(&args[0], &first)?;
    not_accumulator(&args[1], &second)?;
    Ok((first, Some(second)))
}
