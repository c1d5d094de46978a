//! What one evaluation takes beyond its cost: upstream's costs say nothing of values that refer to a value many times, nor of memory.
//!
//! Steps bound the work, bytes the memory of what is made. Both bounds are far beyond what an expression can need whose cost is within
//! Kubernetes' limits; what exceeds them ends as a spent budget does.

use std::cell::Cell;

use crate::eval::EvalError;
use crate::value::{List, Map, MapKey, Val};

/// Values compared, gone through or written, in one evaluation.
pub(crate) const STEPS_MAX: usize = 16 << 20;
/// Bytes of lists, maps and texts that are made, in one evaluation.
const BYTES_MAX: usize = 64 << 20;
/// What a text takes beside its bytes: two counters, and what an allocator needs.
const TEXT: usize = 32;
/// So many bytes of a text are a step.
pub(crate) const STEP_BYTES: usize = 256;
/// After how many steps it is asked whether to go on.
const CHECK_FREQUENCY: usize = 1 << 14;

pub(crate) struct Meter<'b> {
    steps: Cell<usize>,
    bytes: Cell<usize>,
    interrupted: &'b dyn Fn() -> bool,
}

impl<'b> Meter<'b> {
    pub(crate) fn new(interrupted: &'b dyn Fn() -> bool) -> Meter<'b> {
        Meter { steps: Cell::new(0), bytes: Cell::new(0), interrupted }
    }

    pub(crate) fn check(&self) -> Result<(), EvalError> {
        if (self.interrupted)() { Err(EvalError::Interrupted) } else { Ok(()) }
    }

    pub(crate) fn step(&self, count: usize) -> Result<(), EvalError> {
        let before = self.steps.get();
        let now = before.saturating_add(count);
        self.steps.set(now);
        if now > STEPS_MAX {
            return Err(EvalError::CostLimit);
        }
        if now / CHECK_FREQUENCY > before / CHECK_FREQUENCY { self.check() } else { Ok(()) }
    }

    /// Going through a value, without what is in it.
    pub(crate) fn visit(&self, value: &Val) -> Result<(), EvalError> {
        self.step(match value {
            Val::String(s) => 1 + s.len() / STEP_BYTES,
            Val::Bytes(b) => 1 + b.len() / STEP_BYTES,
            _ => 1,
        })
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<(), EvalError> {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        if self.bytes.get() > BYTES_MAX { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    pub(crate) fn elements(&self, count: usize) -> Result<(), EvalError> {
        self.allocate(count.saturating_mul(size_of::<Val>()))
    }

    pub(crate) fn members(&self, count: usize) -> Result<(), EvalError> {
        self.allocate(count.saturating_mul(size_of::<Val>() + size_of::<MapKey>()))
    }

    /// What a function made of its arguments; without what is in a list or map, unless `is_new` says that this was made as well.
    pub(crate) fn made(&self, value: &Val, args: &[Val], is_new: bool) -> Result<(), EvalError> {
        if args.iter().any(|arg| is_same(arg, value)) {
            return Ok(());
        }
        match value {
            Val::String(s) => self.allocate(TEXT + s.len()),
            Val::Bytes(b) => self.allocate(TEXT + b.len()),
            Val::List(list) => {
                self.elements(list.len())?;
                if is_new { list.iter().try_for_each(|item| self.made(&item, &[], true)) } else { Ok(()) }
            }
            Val::Map(map) => {
                self.members(map.len())?;
                let mut made = |(key, item): (Val, Val)| self.made(&key, &[], true).and_then(|()| self.made(&item, &[], true));
                if is_new { map.iter().try_for_each(&mut made) } else { Ok(()) }
            }
            // What is made of a text holds it, or less.
            Val::Extension(_) => self.allocate(args.iter().map(text_bytes).sum()),
            Val::Optional(_) | Val::Type(_) => self.allocate(size_of::<Val>()),
            _ => Ok(()),
        }
    }
}

fn text_bytes(value: &Val) -> usize {
    value.as_str().map_or(0, str::len)
}

/// Whether the two share what they hold.
fn is_same(a: &Val, b: &Val) -> bool {
    use std::sync::Arc;
    match (a, b) {
        (Val::String(a), Val::String(b)) => Arc::ptr_eq(a, b),
        (Val::Bytes(a), Val::Bytes(b)) => Arc::ptr_eq(a, b),
        (Val::List(List::Json(a)), Val::List(List::Json(b))) => Arc::ptr_eq(a, b),
        (Val::List(List::Own(a)), Val::List(List::Own(b))) => Arc::ptr_eq(a, b),
        (Val::Map(Map::Json(a)), Val::Map(Map::Json(b))) => Arc::ptr_eq(a, b),
        (Val::Map(Map::Own(a)), Val::Map(Map::Own(b))) => Arc::ptr_eq(a, b),
        _ => false,
    }
}
