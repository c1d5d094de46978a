//! What differs between two values, as upstream's errors show it (`apimachinery/pkg/util/diff`): both as indented JSON, and a unified diff of
//! their lines with three lines of context. Lines are matched as Ratcliff and Obershelp's algorithm does it, longest run first; in a text
//! of 200 lines or more, lines that make up more than a hundredth of it start no match.

use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

use apimachinery::field::{self, Error, Path};

const CONTEXT: usize = 3;
const LONG: usize = 200;

/// The error that something may not change: it shows what has changed in the value at a place, of which these are the texts.
pub(super) fn forbidden(path: &Path, place: &Path, why: &str, before: String, after: String) -> Error {
    let mut error = Error::forbidden(path, format!("{why}\n{}", diff(&before, &after))).of_place(place);
    error.change = Some(Box::new(field::Change { before, after, unsent: &[] }));
    error
}

/// The difference between two values in compact JSON.
pub(crate) fn diff(old: &str, new: &str) -> String {
    let (old, new) = (indented(old), indented(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let mut out = String::new();
    for group in groups(&changes(&old, &new)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "@@ -{} +{} @@", lines(first.old.start..last.old.end), lines(first.new.start..last.new.end));
        let mut put = |mark: char, lines: &[&str]| {
            lines.iter().for_each(|line| {
                let _ = writeln!(out, "{mark}{line}");
            });
        };
        for change in group {
            if change.equal {
                put(' ', &old[change.old]);
                continue;
            }
            put('-', &old[change.old]);
            put('+', &new[change.new]);
        }
    }
    out
}

/// Compact JSON with a member or element a line, each level one space deeper.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let mut letters = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth));
    };
    while let Some(c) = letters.next() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '"' => {
                in_text = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                if !matches!(letters.peek(), Some('}' | ']')) {
                    depth += 1;
                    line(&mut out, depth);
                    continue;
                }
                out.extend(letters.next());
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

fn lines(range: Range<usize>) -> String {
    match range.len() {
        1 => (range.start + 1).to_string(),
        0 => format!("{},0", range.start),
        count => format!("{},{count}", range.start + 1),
    }
}

/// A run of lines that both have, or that one has in the place of the other's.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    equal: bool,
    old: Range<usize>,
    new: Range<usize>,
}

/// A run of equal lines: where it starts in each, and how long it is.
struct Match {
    old: usize,
    new: usize,
    len: usize,
}

fn changes(old: &[&str], new: &[&str]) -> Vec<Change> {
    let mut matches = Vec::new();
    find(old, new, &starts(new), 0..old.len(), 0..new.len(), &mut matches);
    matches.push(Match { old: old.len(), new: new.len(), len: 0 });
    let mut all: Vec<Change> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for found in matches {
        if i < found.old || j < found.new {
            all.push(Change { equal: false, old: i..found.old, new: j..found.new });
        }
        i = found.old + found.len;
        j = found.new + found.len;
        if found.len == 0 {
            continue;
        }
        match all.last_mut().filter(|last| last.equal) {
            // Matches that touch are one.
            Some(last) => (last.old.end, last.new.end) = (i, j),
            None => all.push(Change { equal: true, old: found.old..i, new: found.new..j }),
        }
    }
    all
}

/// Where each line is, without those that are all over a long text.
fn starts<'t>(lines: &[&'t str]) -> HashMap<&'t str, Vec<usize>> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, line) in lines.iter().enumerate() {
        places.entry(line).or_default().push(at);
    }
    if lines.len() >= LONG {
        let most = lines.len() / 100 + 1;
        places.retain(|_, at| at.len() <= most);
    }
    places
}

fn find(old: &[&str], new: &[&str], places: &HashMap<&str, Vec<usize>>, a: Range<usize>, b: Range<usize>, out: &mut Vec<Match>) {
    let found = longest(old, new, places, a.clone(), b.clone());
    if found.len == 0 {
        return;
    }
    let (i, j, len) = (found.old, found.new, found.len);
    if a.start < i && b.start < j {
        find(old, new, places, a.start..i, b.start..j, out);
    }
    out.push(found);
    if i + len < a.end && j + len < b.end {
        find(old, new, places, i + len..a.end, j + len..b.end, out);
    }
}

/// The longest run that both have; of several the first in the old text, then in the new.
fn longest(old: &[&str], new: &[&str], places: &HashMap<&str, Vec<usize>>, a: Range<usize>, b: Range<usize>) -> Match {
    let mut best = Match { old: a.start, new: b.start, len: 0 };
    // How long the run is that ends at a line of the new text, and at the line before of the old one.
    let mut ending: HashMap<usize, usize> = HashMap::new();
    for i in a.clone() {
        let mut now = HashMap::new();
        for &j in places.get(old[i]).into_iter().flatten().filter(|j| b.contains(j)) {
            let len = j.checked_sub(1).and_then(|before| ending.get(&before)).copied().unwrap_or(0) + 1;
            now.insert(j, len);
            if len > best.len {
                best = Match { old: i + 1 - len, new: j + 1 - len, len };
            }
        }
        ending = now;
    }
    while best.old > a.start && best.new > b.start && old[best.old - 1] == new[best.new - 1] {
        best = Match { old: best.old - 1, new: best.new - 1, len: best.len + 1 };
    }
    while best.old + best.len < a.end && best.new + best.len < b.end && old[best.old + best.len] == new[best.new + best.len] {
        best.len += 1;
    }
    best
}

/// Changes with the lines around them; far from a change no line is shown.
fn groups(changes: &[Change]) -> Vec<Vec<Change>> {
    let mut groups = Vec::new();
    let mut group: Vec<Change> = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        let (mut old, mut new) = (change.old.clone(), change.new.clone());
        if change.equal {
            if at == 0 {
                (old.start, new.start) =
                    (old.start.max(old.end.saturating_sub(CONTEXT)), new.start.max(new.end.saturating_sub(CONTEXT)));
            }
            if at + 1 == changes.len() {
                (old.end, new.end) = (old.end.min(old.start + CONTEXT), new.end.min(new.start + CONTEXT));
            }
            if old.len() > 2 * CONTEXT {
                group.push(Change { equal: true, old: old.start..old.start + CONTEXT, new: new.start..new.start + CONTEXT });
                groups.push(std::mem::take(&mut group));
                (old.start, new.start) = (old.end - CONTEXT, new.end - CONTEXT);
            }
        }
        group.push(Change { equal: change.equal, old, new });
    }
    if group.iter().any(|change| !change.equal) {
        groups.push(group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_diffs() {
        let cases = [
            (r#"{"a":1}"#, r#"{"a":1}"#, ""),
            (
                r#"{"a":"x,{\"","b":[]}"#,
                r#"{"a":"y:","b":[]}"#,
                "@@ -1,4 +1,4 @@\n {\n- \"a\": \"x,{\\\"\",\n+ \"a\": \"y:\",\n  \"b\": []\n }\n",
            ),
            (
                r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1}"#,
                r#"{"a":2,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":{"j":null}}"#,
                "@@ -1,5 +1,5 @@\n {\n- \"a\": 1,\n+ \"a\": 2,\n  \"b\": 1,\n  \"c\": 1,\n  \"d\": 1,\n@@ -7,5 +7,7 @@\n  \"f\": 1,\n  \"g\": 1,\n  \"h\": 1,\n- \"i\": 1\n+ \"i\": {\n+  \"j\": null\n+ }\n }\n",
            ),
            ("null", r#"{"a":1}"#, "@@ -1 +1,3 @@\n-null\n+{\n+ \"a\": 1\n+}\n"),
        ];
        for (old, new, expected) in cases {
            assert_eq!(diff(old, new), expected);
        }
    }

    #[test]
    fn frequent_lines_of_long_texts_start_no_match() {
        for (count, removed) in [(10, 2), (200, 202)] {
            let text = |first: u8, last: u8| format!("[{first},{}{last}]", "\"same\",".repeat(count));
            let difference = diff(&text(1, 3), &text(2, 4));
            assert_eq!(difference.lines().filter(|line| line.starts_with('-')).count(), removed, "{difference}");
        }
    }
}
