//! Sizes, with a ratchet: what is over the limit today is listed in `xtask/tidy-ratchet.txt` and may only shrink.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

use super::source::Source;

/// HOUSE_STYLE 3: lines of a file without its test module.
const FILE_LINES_MAX: usize = 600;
/// No file may pass this, listed or not: lines with tests.
const FILE_LINES_HARD_MAX: usize = 1000;
/// HOUSE_STYLE 3: lines of a function body.
const FUNCTION_LINES_MAX: usize = 70;

const RATCHET: &str = "xtask/tidy-ratchet.txt";

/// Compares every size with its limit or its ratchet value.
pub(super) fn check(root: &Path, sources: &[Source], update: bool) -> anyhow::Result<Vec<String>> {
    let path = root.join(RATCHET);
    let allowed = parse(&std::fs::read_to_string(&path).unwrap_or_default())
        .with_context(|| format!("{RATCHET}: a line is `SIZE NAME`"))?;
    let offenders = offenders(sources);
    let mut findings = Vec::new();
    for (name, lines) in &offenders {
        match allowed.get(name) {
            Some(most) if lines <= most => {}
            Some(most) => findings.push(format!("{name} has grown to {lines} lines; the ratchet allows {most}: split it")),
            None if update => {}
            None => findings.push(format!("{name} has {lines} lines: split it by what changes together")),
        }
    }
    for source in sources {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_HARD_MAX {
            findings.push(format!("{} has {lines} lines, over the hard limit of {FILE_LINES_HARD_MAX}", source.path));
        }
    }
    for name in allowed.keys().filter(|name| !offenders.contains_key(*name)) {
        if !update {
            findings.push(format!("{name} is within the limit now: take it out of the ratchet with `cargo xtask tidy --update`"));
        }
    }
    if update {
        let lines: String = offenders.iter().map(|(name, lines)| format!("{lines} {name}\n")).collect();
        std::fs::write(&path, lines).with_context(|| format!("cannot write {RATCHET}"))?;
    }
    Ok(findings)
}

/// Everything over a limit. Functions of one file that share a name count by the longest.
fn offenders(sources: &[Source]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for source in sources {
        if source.code_lines > FILE_LINES_MAX {
            found.insert(source.path.clone(), source.code_lines);
        }
        for function in source.functions.iter().filter(|function| !function.in_test && !source.is_test) {
            if function.lines > FUNCTION_LINES_MAX {
                let most = found.entry(format!("{}::{}", source.path, function.name)).or_default();
                *most = function.lines.max(*most);
            }
        }
    }
    found
}

fn parse(text: &str) -> anyhow::Result<BTreeMap<String, usize>> {
    text.lines()
        .map(|line| {
            let (size, name) = line.split_once(' ').with_context(|| format!("no space in {line:?}"))?;
            Ok((name.to_owned(), size.parse().with_context(|| format!("no number in {line:?}"))?))
        })
        .collect()
}
