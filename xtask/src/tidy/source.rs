//! The Rust sources of the workspace, parsed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// One parsed file.
pub(super) struct Source {
    /// Relative to the workspace.
    pub(super) path: String,
    /// The whole text.
    pub(super) text: String,
    /// Every function, with its length.
    pub(super) functions: Vec<Function>,
    /// The first line of the trailing `#[cfg(test)]` module, or the number of lines.
    pub(super) code_lines: usize,
    /// A test, bench or example: other rules hold.
    pub(super) is_test: bool,
}

/// One function of a file.
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// The lines from signature to closing brace.
    pub(super) lines: usize,
    /// Inside a `#[cfg(test)]` module.
    pub(super) in_test: bool,
}

/// Reads and parses every `.rs` file under `crates` and `xtask`.
pub(super) fn load(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut pending = vec![root.join("crates"), root.join("xtask")];
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| parse(root, path)).collect()
}

fn parse(root: &Path, path: &Path) -> anyhow::Result<Source> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
    let relative = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let mut functions = Functions { found: Vec::new(), in_test: false };
    functions.visit_file(&file);
    let code_lines = file
        .items
        .iter()
        .filter_map(|item| match item {
            syn::Item::Mod(module) if is_cfg_test(&module.attrs) => Some(module.span().start().line.saturating_sub(1)),
            _ => None,
        })
        .min()
        .unwrap_or_else(|| text.lines().count());
    let is_test = ["/tests/", "/tests-helper/", "/benches/", "/examples/"].iter().any(|part| relative.contains(part))
        || ["/tests.rs", "_tests.rs"].iter().any(|end| relative.ends_with(end));
    Ok(Source { path: relative, text, functions: functions.found, code_lines, is_test })
}

fn is_cfg_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// Collects functions and methods.
struct Functions {
    found: Vec<Function>,
    in_test: bool,
}

impl Functions {
    fn add(&mut self, name: &syn::Ident, body: proc_macro2::Span) {
        let lines = body.end().line - body.start().line + 1;
        self.found.push(Function { name: name.to_string(), lines, in_test: self.in_test });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let outer = self.in_test;
        self.in_test |= is_cfg_test(&module.attrs);
        visit::visit_item_mod(self, module);
        self.in_test = outer;
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig.ident, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig.ident, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }
}
