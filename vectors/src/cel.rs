//! The conformance files of the CEL specification. Most of them are about messages of protocol buffers, which `crates/cel` does not know:
//! they are counted, so that the report shows what is not compared.

use anyhow::Result;

use crate::modules::{Modules, files, read};
use crate::report::Class;

const MODULE: &str = "cel.dev/expr";

pub(crate) fn run(modules: &Modules) -> Result<Vec<Class>> {
    let directory = modules.directory(MODULE)?.join("tests/simple/testdata");
    let why = "not compared: crates/cel knows no messages of protocol buffers";
    let note = format!("{MODULE}@{} tests/simple/testdata/*.textproto; {why}", modules.version(MODULE)?);
    let mut class = Class { not_run: true, ..Class::new("CEL specification, expressions", note) };
    for (_, path) in files(&directory, "textproto")? {
        class.total += tests(&String::from_utf8_lossy(&read(&path)?));
    }
    Ok(vec![class])
}

/// `test {` blocks inside of sections.
fn tests(text: &str) -> usize {
    text.lines().map(str::trim).filter(|line| matches!(*line, "test {" | "test: {")).count()
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_blocks() {
        assert_eq!(super::tests("section {\n  test {\n    name: \"a\"\n  }\n  test: {\n  }\n}\n"), 2);
    }
}
