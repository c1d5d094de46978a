//! Query and path parameters of operations.
//!
//! Upstream takes what parameters are for from the comments of its Go types. The same text is in the published schemas for deletions
//! only; for the others the words are our own.

use super::Options;
use crate::schema::type_named;
use crate::{Value, value};

/// A parameter: the name of its definition in version 2, which is its own name and a hash (facts of upstream's document; without a hash
/// it is never shared), its type, and what it is for. Empty words are those of the field of DeleteOptions.
type Row = (&'static str, &'static str, &'static str);

const QUERIES: &[Row] = &[
    ("allowWatchBookmarks-HC2hJt-J", "boolean", "A watch may send events of type BOOKMARK, which tell how far it is."),
    ("command-Py3eQybp", "string", "The command and its arguments, one parameter each; no shell is involved."),
    ("container-1GeXxFDC", "string", "The container whose log is read; may be left out when the pod has only one."),
    ("container-_Q-EJ3nR", "string", "The container to attach to; may be left out when the pod has only one."),
    ("container-i5dOmRiM", "string", "The container to run the command in; may be left out when the pod has only one."),
    (
        "continue-QfD61s0i",
        "string",
        "The token from a list that was cut at its limit: go on from there, with the same other parameters.",
    ),
    ("dryRun", "string", ""),
    ("fieldManager-7c6nTn1T", "string", "Who makes the change, up to 128 printable characters; required for apply patches."),
    ("fieldManager-Qy4HdaTW", "string", "Who makes the change, up to 128 printable characters."),
    ("fieldSelector-xIcQKXFG", "string", "Only objects whose fields have these values."),
    (
        "fieldValidation",
        "string",
        "What unknown and duplicate fields do: Ignore drops them, Warn also sends warnings, Strict refuses the request.",
    ),
    ("follow-9OIXh_2R", "boolean", "Go on with lines as they are written."),
    ("force-tOGGb0Yi", "boolean", "An apply patch takes fields over from other managers; not allowed with other patches."),
    ("gracePeriodSeconds--K5HaBOS", "integer", ""),
    ("ignoreStoreReadErrorWithClusterBreakingPotential-QbNkfIqj", "boolean", ""),
    ("insecureSkipTLSVerifyBackend-gM00jVbe", "boolean", "Do not check the certificate of the node that has the log."),
    ("labelSelector-5Zw57w4C", "string", "Only objects whose labels match."),
    ("limit-1NfNmdNH", "integer", "The most items to return; a token to continue with comes with the list when there are more."),
    ("limitBytes-zwd1RXuc", "integer", "End the log after so many bytes."),
    ("orphanDependents-uRB25kX5", "boolean", ""),
    ("path-QCf0eosM", "string", "The path and query of the request to the service."),
    ("path-oPbzgLUj", "string", "The path of the request to the pod."),
    ("path-rFDtV0x9", "string", "The path of the request to the node."),
    ("ports-91KROJmm", "integer", "The ports to forward; required with WebSockets."),
    ("pretty-tJGM1-ng", "string", "Whether JSON is indented; the default is true for browsers, curl and wget."),
    ("previous-1jxDPu3y", "boolean", "The log of the container's previous run."),
    ("propagationPolicy-6jk3prlO", "string", ""),
    ("resourceVersion-5WAnf1kx", "string", "Which state of the data may answer; see resourceVersionMatch."),
    (
        "resourceVersionMatch-t8XhRHeC",
        "string",
        "Whether resourceVersion is the exact state to list, or the oldest that will do.",
    ),
    (
        "sendInitialEvents-rLXlEK_k",
        "boolean",
        "A watch begins with what there is, as ADDED events, and a BOOKMARK at the end of them.",
    ),
    ("sinceSeconds-vE2NLdnP", "integer", "Only lines of the last so many seconds."),
    ("stderr-26jJhFUR", "boolean", "Attach to the standard error stream; the default is true."),
    ("stderr-W_1TNlWc", "boolean", "Send the command's standard error stream."),
    ("stdin-PSzNhyUC", "boolean", "Give the command a standard input stream; the default is false."),
    ("stdin-sEFnN3IS", "boolean", "Attach to the standard input stream; the default is false."),
    ("stdout--EZLRwV1", "boolean", "Send the command's standard output stream."),
    ("stdout-005YMKE6", "boolean", "Attach to the standard output stream; the default is true."),
    ("stream-l-48cgXv", "string", "Which of the container's streams: All (the default), Stdout or Stderr."),
    ("tailLines-9xQLWHMV", "integer", "Only the last so many lines."),
    ("timeoutSeconds-yvYezaOC", "integer", "End the list or watch after so long."),
    ("timestamps-c17fW1w_", "boolean", "Begin each line with its time."),
    ("tty-g7MlET_l", "boolean", "The container has a terminal; the default is false."),
    ("tty-s0flW37O", "boolean", "Run the command in a terminal; the default is false."),
    ("watch-XNNPZGbK", "boolean", "Send changes as they happen instead of a list."),
];

/// Parameters in the path that every kind's operations share.
const PATHS: &[Row] = &[
    ("namespace-vgWSWtn3", "string", "object name and auth scope, such as for teams and projects"),
    ("path-z6Ciiujn", "string", "path to the resource"),
];

const LIST: [&str; 10] = [
    "allowWatchBookmarks-HC2hJt-J",
    "continue-QfD61s0i",
    "fieldSelector-xIcQKXFG",
    "labelSelector-5Zw57w4C",
    "limit-1NfNmdNH",
    "resourceVersion-5WAnf1kx",
    "resourceVersionMatch-t8XhRHeC",
    "sendInitialEvents-rLXlEK_k",
    "timeoutSeconds-yvYezaOC",
    "watch-XNNPZGbK",
];
const DELETE: [&str; 5] = [
    "dryRun",
    "gracePeriodSeconds--K5HaBOS",
    "ignoreStoreReadErrorWithClusterBreakingPotential-QbNkfIqj",
    "orphanDependents-uRB25kX5",
    "propagationPolicy-6jk3prlO",
];
const LOG: [&str; 9] = [
    "container-1GeXxFDC",
    "follow-9OIXh_2R",
    "insecureSkipTLSVerifyBackend-gM00jVbe",
    "limitBytes-zwd1RXuc",
    "previous-1jxDPu3y",
    "sinceSeconds-vE2NLdnP",
    "stream-l-48cgXv",
    "tailLines-9xQLWHMV",
    "timestamps-c17fW1w_",
];

/// The parameter's own name: without the hash.
fn own_name(reference: &'static str) -> &'static str {
    // A hash has eight characters, a dash among them.
    let cut = reference.len().checked_sub(9).filter(|at| reference.as_bytes()[*at] == b'-');
    cut.map_or(reference, |at| &reference[..at])
}

fn query((reference, schema_type, words): Row, options: &Options<'_>) -> Value {
    let name = own_name(reference);
    let mut parameter = value!({"in": "query", "name": name, "schema": {"type": schema_type, "uniqueItems": true}});
    let description = match words {
        "" => type_named("meta.v1.DeleteOptions").and_then(|info| (options.describe)(info, Some(name))),
        words => Some(words.to_owned()),
    };
    if let Some(description) = description {
        parameter.insert("description", description);
    }
    parameter
}

fn queries(references: &[&str], options: &Options<'_>) -> Vec<Value> {
    QUERIES.iter().filter(|row| references.contains(&row.0)).map(|row| query(*row, options)).collect()
}

fn in_path(name: &str, description: &str) -> Value {
    value!({
        "in": "path", "name": name, "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true},
    })
}

/// A parameter in the path: an object's `name` and its kind, `namespace`, or the `path` of a proxied request.
pub(super) fn path(name: &str, kind: &str) -> Value {
    match PATHS.iter().find(|row| own_name(row.0) == name) {
        Some((_, _, words)) => in_path(name, words),
        None => in_path(name, &format!("name of the {kind}")),
    }
}

/// `?pretty=`
pub(super) fn pretty(options: &Options<'_>) -> Value {
    queries(&["pretty-tJGM1-ng"], options).pop().unwrap_or_default()
}

/// What lists and watches take.
pub(super) fn list(options: &Options<'_>) -> Vec<Value> {
    queries(&LIST, options)
}

/// What creations and updates take.
pub(super) fn write(options: &Options<'_>) -> Vec<Value> {
    queries(&["dryRun", "fieldManager-Qy4HdaTW", "fieldValidation"], options)
}

/// What patches take.
pub(super) fn patch(options: &Options<'_>) -> Vec<Value> {
    queries(&["dryRun", "fieldManager-7c6nTn1T", "fieldValidation", "force-tOGGb0Yi"], options)
}

/// What deletions take.
pub(super) fn delete(options: &Options<'_>) -> Vec<Value> {
    queries(&DELETE, options)
}

/// What deletions of collections take.
pub(super) fn delete_collection(options: &Options<'_>) -> Vec<Value> {
    let only_reading = ["allowWatchBookmarks", "watch"];
    let mut all = delete(options);
    all.extend(list(options).into_iter().filter(|p| !only_reading.iter().any(|name| p["name"] == *name)));
    sorted(all)
}

/// What a subresource that connects takes, by the kind of its options.
pub(super) fn connect(options_kind: &str, options: &Options<'_>) -> Vec<Value> {
    let references: &[&str] = match options_kind {
        "PodExecOptions" => {
            &["command-Py3eQybp", "container-i5dOmRiM", "stderr-W_1TNlWc", "stdin-PSzNhyUC", "stdout--EZLRwV1", "tty-s0flW37O"]
        }
        "PodAttachOptions" => &["container-_Q-EJ3nR", "stderr-26jJhFUR", "stdin-sEFnN3IS", "stdout-005YMKE6", "tty-g7MlET_l"],
        "PodPortForwardOptions" => &["ports-91KROJmm"],
        "PodProxyOptions" => &["path-oPbzgLUj"],
        "NodeProxyOptions" => &["path-rFDtV0x9"],
        _ => &["path-QCf0eosM"],
    };
    queries(references, options)
}

/// What a pod's log takes.
pub(super) fn log(options: &Options<'_>) -> Vec<Value> {
    queries(&LOG, options)
}

/// In upstream's order: by name, then by place.
pub(super) fn sorted(mut parameters: Vec<Value>) -> Vec<Value> {
    parameters.sort_by(|a, b| {
        let key =
            |p: &Value| (p["name"].as_str().unwrap_or_default().to_owned(), p["in"].as_str().unwrap_or_default().to_owned());
        key(a).cmp(&key(b))
    });
    parameters
}

/// All parameters that version 2 defines once, with the names of their definitions.
pub(super) fn shared(options: &Options<'_>) -> Vec<(&'static str, Value)> {
    let queries = QUERIES.iter().filter(|row| own_name(row.0) != row.0).map(|row| (row.0, query(*row, options)));
    queries.chain(PATHS.iter().map(|row| (row.0, in_path(own_name(row.0), row.2)))).collect()
}
