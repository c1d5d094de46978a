//! Completion indexes in their text form: `1,3-5,7`.

use apimachinery::go_quote;

type Interval = (i64, i64);

fn number(text: &str, completions: i64) -> Result<i64, String> {
    let index: i64 = text.parse().map_err(|_| format!("cannot convert string to integer for index: {}", go_quote(text)))?;
    if index >= completions {
        return Err(format!("too large index: {}", go_quote(text)));
    }
    Ok(index)
}

fn interval(text: &str, completions: i64) -> Result<Interval, String> {
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        [index] => number(index, completions).map(|index| (index, index)),
        [first, last] => {
            let (first, last) = (number(first, completions)?, number(last, completions)?);
            if first >= last {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            Ok((first, last))
        }
        _ => {
            let why = "violates the requirement that an index interval can have at most two parts separated by '-'";
            Err(format!("the fragment {} {why}", go_quote(text)))
        }
    }
}

/// How many indexes there are, or what is wrong.
pub(super) fn count(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut before: Option<i64> = None;
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some(before) = before.filter(|before| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        total += last - first + 1;
        before = Some(last);
    }
    Ok(total)
}

/// The first index that both have. What cannot be read is left to [`count`].
pub(super) fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| text.split(',').filter_map(|part| interval(part, completions).ok()).collect::<Vec<_>>();
    let (completed, failed) = (read(completed), read(failed));
    let (mut a, mut b) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some(left), Some(right)) = (a.peek(), b.peek()) {
        if left.0 <= right.1 && right.0 <= left.1 {
            return Some(left.0.max(right.0));
        }
        if left.0 <= right.0 {
            a.next();
        } else {
            b.next();
        }
    }
    None
}
