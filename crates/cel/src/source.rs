//! The text of an expression, and what is wrong with it in cel-go's words and layout (`common.Errors`): clients see these lines.

use std::fmt;

/// What cel-go reports at most; the rest is counted.
pub(crate) const SHOWN_MAX: usize = 100;
/// Longer lines are not repeated under an error.
const SNIPPET_BYTES_MAX: usize = 16384;

/// One error, at a place of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The offset in characters; `None` where the error has no place.
    pub offset: Option<u32>,
    /// What is wrong.
    pub message: String,
}

/// Why an expression does not compile. Displays as cel-go does: each error with its line and a caret under the place.
#[derive(Clone, Debug)]
pub struct Issues {
    source: String,
    issues: Vec<Issue>,
}

impl Issues {
    pub(crate) fn new(source: &str, issues: Vec<Issue>) -> Issues {
        Issues { source: source.to_owned(), issues }
    }

    /// The errors, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Issue> {
        self.issues.iter()
    }
}

impl std::error::Error for Issues {}

/// Lines count from 1, columns from 0; an error without a place is at line -1.
fn location(source: &str, offset: Option<u32>) -> (i64, i64) {
    let Some(offset) = offset else { return (-1, -1) };
    if source.is_empty() {
        // cel-go finds no place in an empty text.
        return (1, -1);
    }
    let (mut line, mut column) = (1, 0);
    for c in source.chars().take(offset as usize) {
        match c {
            '\n' => (line, column) = (line + 1, 0),
            _ => column += 1,
        }
    }
    (line, column)
}

fn show(f: &mut fmt::Formatter<'_>, source: &str, (line, column): (i64, i64), message: &str) -> fmt::Result {
    write!(f, "ERROR: <input>:{line}:{}: {message}", column + 1)?;
    let snippet = usize::try_from(line - 1).ok().and_then(|line| source.split('\n').nth(line));
    let shown = |text: &&str| text.len() <= SNIPPET_BYTES_MAX && !source.is_empty();
    let Some(snippet) = snippet.filter(shown) else { return Ok(()) };
    write!(f, "\n | {}\n | ", snippet.replace('\t', " "))?;
    let mut rest = snippet.chars();
    for c in rest.by_ref().take(usize::try_from(column).unwrap_or_default()) {
        f.write_str(if c.len_utf8() > 1 { "\u{ff0e}" } else { "." })?;
    }
    f.write_str(if rest.next().is_some_and(|c| c.len_utf8() > 1) { "\u{ff3e}" } else { "^" })
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.issues.iter().take(SHOWN_MAX);
        let mut located: Vec<_> = shown.map(|issue| (location(&self.source, issue.offset), &issue.message)).collect();
        located.sort_by_key(|(place, _)| *place);
        for (i, (place, message)) in located.into_iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            show(f, &self.source, place, message)?;
        }
        if self.issues.len() > SHOWN_MAX {
            write!(f, "\n{} more errors were truncated", self.issues.len() - SHOWN_MAX)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_at_their_place() {
        let at = |offset, message: &str| Issue { offset, message: message.to_owned() };
        let issues = Issues::new("a\n\tü b", vec![at(Some(5), "second"), at(Some(0), "first"), at(None, "nowhere")]);
        let expected = "ERROR: <input>:-1:0: nowhere\nERROR: <input>:1:1: first\n | a\n | ^\nERROR: <input>:2:4: second\n |  ü b\n | .\u{ff0e}.^";
        assert_eq!(issues.to_string(), expected);
        assert_eq!(Issues::new("", vec![at(Some(0), "nothing")]).to_string(), "ERROR: <input>:1:0: nothing");
    }
}
