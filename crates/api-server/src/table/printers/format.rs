//! How values are written in cells.

use apimachinery::{Value, time};

/// The name.
pub(super) fn name(object: &Value) -> Value {
    object.meta().name().into()
}

/// The time since creation.
pub(super) fn age(object: &Value) -> Value {
    since(object.meta().creation_timestamp()).into()
}

/// The time since a timestamp, as people say it.
pub(super) fn since(timestamp: Option<&str>) -> String {
    match timestamp.and_then(|text| time::parse_micro_time(text).or_else(|_| time::parse_time(text)).ok()) {
        Some(then) => duration(jiff::Timestamp::now().as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// The time between two timestamps; empty when one is missing.
pub(super) fn between(start: Option<&str>, end: Option<&str>) -> String {
    let seconds = |text: &str| time::parse_time(text).ok().map(jiff::Timestamp::as_second);
    match (start.and_then(seconds), end.and_then(seconds)) {
        (Some(start), Some(end)) => duration(end - start),
        _ => String::new(),
    }
}

/// Upstream's HumanDuration: two units where the larger one alone would say too little.
pub(super) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(hours / 24, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{}d", hours / 24),
        63_072_000..252_288_000 => two(hours / 8760, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 8760),
    }
}

/// A string at a path, or `otherwise`.
pub(super) fn text(object: &Value, path: &[&str], otherwise: &str) -> Value {
    object.str_at(path).filter(|text| !text.is_empty()).unwrap_or(otherwise).into()
}

/// A number at a path, or zero.
pub(super) fn number(object: &Value, path: &[&str]) -> i64 {
    object.i64_at(path).unwrap_or_default()
}

/// Anything at a path as text: strings as they are, the rest as JSON.
pub(super) fn any(object: &Value, path: &[&str], otherwise: &str) -> Value {
    match object.get_path(path) {
        None | Some(Value::Null) => otherwise.into(),
        Some(Value::String(text)) => text.clone().into(),
        Some(other) => other.to_json().into(),
    }
}

/// A list's strings, joined by commas.
pub(super) fn joined(object: &Value, path: &[&str]) -> String {
    object.array_at(path).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// The first strings of a list and how many more there are.
pub(super) fn with_more(list: &[String], most: usize) -> String {
    let shown = list[..list.len().min(most)].join(",");
    if list.len() > most { format!("{shown} + {} more...", list.len() - most) } else { shown }
}

/// Labels as `a=b,c=d`; `<none>` for none.
pub(super) fn labels(labels: Option<&Value>) -> String {
    let pairs: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector in the syntax of `kubectl -l`; `<none>` for one that selects everything.
pub(super) fn selector(selector: Option<&Value>) -> String {
    let text = selector_text(selector);
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// As [`selector`]; empty for one that selects everything.
pub(super) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return String::new() };
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<(String, String)> =
        labels.map(|(key, value)| (key.to_string(), format!("{key}={}", value.as_str().unwrap_or_default()))).collect();
    for requirement in selector.array_at(&["matchExpressions"]) {
        let key = requirement.str_at(&["key"]).unwrap_or_default();
        let mut values: Vec<&str> = requirement.array_at(&["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let text = match requirement.str_at(&["operator"]).unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), text));
    }
    parts.sort();
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// The names and the images of a pod template's containers.
pub(super) fn containers(spec: Option<&Value>) -> [Value; 2] {
    let containers = spec.map(|spec| spec.array_at(&["containers"])).unwrap_or_default();
    let all = |field: &str| containers.iter().map(|c| c.str_at(&[field]).unwrap_or_default()).collect::<Vec<_>>().join(",");
    [all("name").into(), all("image").into()]
}

/// The condition of a type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.array_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == Some(kind))
}

/// Whether the condition of a type is true.
pub(super) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition.str_at(&["status"]) == Some("True"))
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn durations_read_as_upstream() {
        let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected);
        check(-5, "<invalid>");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(125, "2m5s");
        check(600, "10m");
        check(3 * 3600 - 1, "179m");
        check(3 * 3600, "3h");
        check(3 * 3600 + 60, "3h1m");
        check(8 * 3600, "8h");
        check(47 * 3600, "47h");
        check(48 * 3600, "2d");
        check(50 * 3600, "2d2h");
        check(8 * 86_400, "8d");
        check(729 * 86_400, "729d");
        check(730 * 86_400, "2y");
        check(731 * 86_400, "2y1d");
        check(3000 * 86_400, "8y");
    }

    #[test]
    fn selectors_and_lists() {
        let object =
            value!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]});
        assert_eq!(selector(Some(&object)), "a in (x,y),b=1");
        assert_eq!(selector(None), "<none>");
        let list: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        assert_eq!(with_more(&list, 3), "a,b,c + 1 more...");
        assert_eq!(with_more(&list[..2], 3), "a,b");
    }
}
