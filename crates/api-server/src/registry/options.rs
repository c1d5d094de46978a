//! ListOptions, CreateOptions, UpdateOptions, PatchOptions and DeleteOptions, read from the query and the body.

use apimachinery::selector::{FieldRequirement, FieldSelector, LabelSelector};
use apimachinery::{GroupKind, Status, Value, field, validation};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::catalog::Stored;
use super::resource;
use crate::cache::{Entry, Term};
use crate::gates::Feature;
use crate::http::{Query, RequestContext};

/// Which objects, by selectors.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// `metadata.name`, if the field selector requires just one.
    pub(crate) name: Option<String>,
    /// `metadata.namespace`, if the field selector requires just one.
    pub(crate) namespace: Option<String>,
}

impl Selection {
    /// `group` is the API group of the request: cohabiting resources name their fields differently in each.
    fn of((labels, fields): (LabelSelector, FieldSelector), group: &str, stored: &Stored) -> Result<Selection, Status> {
        let fields = fields.requirements().iter().map(|requirement| {
            let field = match requirement.field.as_str() {
                "metadata.name" => Some("metadata.name"),
                "metadata.namespace" => Some("metadata.namespace").filter(|_| resource::has_namespace_label(&stored.resource)),
                label => resource::stored_field(group, &stored.resource, label).filter(|field| stored.fields.contains(field)),
            };
            let field = field.ok_or_else(|| Status::bad_request(unknown_field(stored, group, &requirement.field)))?;
            Ok(FieldRequirement { field: field.to_owned(), ..requirement.clone() })
        });
        let fields = FieldSelector::new(fields.collect::<Result<_, Status>>()?);
        let name = fields.exact_match("metadata.name").map(str::to_owned);
        let namespace = fields.exact_match("metadata.namespace").map(str::to_owned);
        Ok(Selection { labels, fields, name, namespace })
    }

    /// Whether everything matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one value that a selectable field must have.
    fn exact(&self, field: &str) -> Option<&str> {
        self.fields.exact_match(field)
    }

    /// What the cache's index can find the objects by: all that match have all of these.
    pub(crate) fn terms(&self, stored: &Stored) -> Vec<Term> {
        let label = |key: &str| self.labels.exact_match(key).map(|value| Term::label(key, value));
        let labels = self.labels.requirements().iter().filter_map(|requirement| label(requirement.key()));
        labels.chain(self.indexed_value(stored).map(Term::field)).collect()
    }

    /// The one value that the indexed field must have.
    pub(crate) fn indexed_value(&self, stored: &Stored) -> Option<&str> {
        stored.cacher.indexed_field().and_then(|at| self.exact(stored.fields[at]))
    }

    pub(crate) fn matches(&self, stored: &Stored, entry: &Entry) -> bool {
        let label = |key: &str| entry.labels.iter().find(|(have, _)| &**have == key).map(|(_, value)| &**value);
        let field = |name: &str| match name {
            "metadata.name" => entry.name(),
            "metadata.namespace" => entry.namespace(),
            _ => stored
                .fields
                .iter()
                .position(|have| *have == name)
                .and_then(|at| entry.fields.get(at))
                .map_or("", |value| &**value),
        };
        self.labels.matches_with(label) && self.fields.matches_with(field)
    }
}

/// The kinds that have labels of their own say so in words of their own.
fn unknown_field(stored: &Stored, group: &str, field: &str) -> String {
    let kind = &stored.kind;
    match stored.fields.is_empty() {
        _ if kind.kind == "Job" && kind.group == "batch" => {
            format!("field label {} not supported for Job", apimachinery::go_quote(field))
        }
        _ if kind.kind == "ResourceSlice" => {
            format!("field label not supported for {group}/{}, Kind=ResourceSlice: {field}", kind.version)
        }
        true => format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            apimachinery::go_quote(field)
        ),
        false => format!("field label not supported: {field}"),
    }
}

/// How old a list may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListRevision {
    /// At least as new as every write acknowledged before.
    MostRecent,
    /// Whatever is there.
    Any,
    /// At least this.
    NotOlderThan(i64),
    /// Exactly this.
    Exact(i64),
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContinueToken {
    /// The revision of the first page; `-1` means the newest, after an expired token.
    pub(crate) revision: i64,
    /// The next key, without the resource's prefix.
    pub(crate) start: String,
}

impl ContinueToken {
    pub(crate) fn encode(&self) -> String {
        let token = apimachinery::value!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start.as_str()});
        URL_SAFE_NO_PAD.encode(token.to_vec())
    }

    fn decode(text: &str) -> Result<ContinueToken, Status> {
        let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| bad(&go_base64_error(&error, text.len())))?;
        let token = Value::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        let version = token["v"].as_str().unwrap_or_default();
        if version != "meta.k8s.io/v1" {
            return Err(bad(&format!("server does not recognize this encoded version {version}")));
        }
        let revision = token["rv"].as_i64().unwrap_or(0);
        let start = token["start"].as_str().unwrap_or_default();
        let above = start.strip_prefix('/').unwrap_or(start).split('/').any(|part| matches!(part, "" | "." | ".."));
        match (revision, start) {
            (0, _) => Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
            (_, "") => Err(bad("encoded start key empty (version meta.k8s.io/v1)")),
            _ if above => Err(bad(start)),
            _ => Ok(ContinueToken { revision, start: start.to_owned() }),
        }
    }
}

/// Where Go's decoder stops at what is not base64.
fn go_base64_error(error: &base64::DecodeError, length: usize) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => length.saturating_sub(1),
    };
    format!("illegal base64 data at input byte {at}")
}

/// What a list or watch asks for.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) selection: Selection,
    /// 0 is "all".
    pub(crate) limit: usize,
    pub(crate) token: Option<ContinueToken>,
    pub(crate) revision: ListRevision,
    /// The resourceVersion as a number, if one was given.
    pub(crate) resource_version: Option<i64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout: Option<std::time::Duration>,
}

impl ListOptions {
    pub(crate) fn parse(context: &RequestContext, stored: &Stored, watch: bool) -> Result<ListOptions, Status> {
        let query = &context.query;
        let text = query.non_empty("resourceVersion");
        let mode = query.non_empty("resourceVersionMatch");
        let number = |key: &str| -> Result<Option<i64>, Status> { query.get(key).map(parse_int).transpose() };
        // In this order upstream reads them: numbers, then selectors.
        let timeout_seconds = number("timeoutSeconds")?;
        let limit = number("limit")?.unwrap_or(0);
        let token = query.non_empty("continue");
        let send_initial_events = query.flag("sendInitialEvents");
        let selectors = parse_selectors(query)?;
        check_name(context, &selectors.1)?;
        // The watches of old clients, which say nothing about it, begin with what is there too.
        let unasked = watch && context.gates.has(Feature::WatchList) && mode.is_none() && matches!(text, None | Some("0"));
        let (mode, send_initial_events) = match unasked && send_initial_events.is_none() {
            true => (Some("NotOlderThan"), Some(true)),
            false => (mode, send_initial_events),
        };
        let given = Given { mode, version: text, token, send_initial_events };
        match watch {
            true => given.check_watch(context.gates.has(Feature::WatchList))?,
            false => given.check_list()?,
        }
        // Upstream refuses options that do not go together before fields that it does not know.
        let selection = Selection::of(selectors, &context.info.api_group, stored)?;
        let decoded = token.map(ContinueToken::decode).transpose()?;
        if decoded.is_some() && text.is_some_and(|text| text != "0") && !watch {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let resource_version = text.map(|text| parse_revision(text, watch)).transpose()?;
        let revision = match (resource_version, mode) {
            (None, _) => ListRevision::MostRecent,
            (Some(revision), Some("Exact")) => ListRevision::Exact(revision),
            (Some(0), _) => ListRevision::Any,
            // Without a match, a limited list at a revision is exact, as upstream has it for old clients.
            (Some(revision), None) if limit > 0 => ListRevision::Exact(revision),
            (Some(revision), _) => ListRevision::NotOlderThan(revision),
        };
        Ok(ListOptions {
            selection,
            // Upstream's cache answers a list at no particular revision whole.
            limit: match decoded.is_none() && revision == ListRevision::Any && stored.is_cached_upstream() {
                true => 0,
                false => usize::try_from(limit).unwrap_or(0),
            },
            token: decoded,
            revision,
            resource_version,
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events,
            timeout: timeout_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0)
                .map(std::time::Duration::from_secs),
        })
    }
}

impl ListOptions {
    /// The value of the indexed field of all that is asked for, where upstream's cache looks them up by it: in its newest state, and not where
    /// a list goes on.
    pub(crate) fn indexed_value(&self, stored: &Stored) -> Option<&str> {
        if self.token.is_some() || matches!(self.revision, ListRevision::Exact(_)) {
            return None;
        }
        self.selection.indexed_value(stored)
    }
}

fn parse_selectors(query: &Query) -> Result<(LabelSelector, FieldSelector), Status> {
    let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default());
    let labels = labels.map_err(|error| Status::bad_request(error.to_string()))?;
    let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default());
    Ok((labels, fields.map_err(|error| Status::bad_request(error.to_string()))?))
}

/// A path that names an object has no selector for another.
fn check_name(context: &RequestContext, fields: &FieldSelector) -> Result<(), Status> {
    let path = context.info.parts.get(1).map(String::as_str).unwrap_or_default();
    if path.is_empty() || fields.is_everything() || fields.exact_match("metadata.name") == Some(path) {
        return Ok(());
    }
    Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"))
}

/// A number in a query, with Go's words for what is none.
pub(crate) fn parse_int(text: &str) -> Result<i64, Status> {
    let why = |why: &str| Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", apimachinery::go_quote(text)));
    text.parse::<i64>().map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => why("value out of range"),
        _ => why("invalid syntax"),
    })
}

fn parse_revision(text: &str, watch: bool) -> Result<i64, Status> {
    let parsed = text.parse::<u64>();
    if let Some(revision) = parsed.as_ref().ok().and_then(|revision| i64::try_from(*revision).ok()) {
        return Ok(revision);
    }
    let why = match parsed {
        Err(error) if *error.kind() != std::num::IntErrorKind::PosOverflow => "invalid syntax",
        _ => "value out of range",
    };
    let text = apimachinery::go_quote(text);
    let why = format!("resourceVersion: Invalid value: {text}: strconv.ParseUint: parsing {text}: {why}");
    // Upstream does not give that of a watch a reason.
    Err(match watch {
        true => Status::new(apimachinery::Reason::Unknown, why),
        false => Status::bad_request(format!("invalid resource version: {why}")),
    })
}

/// What a client gave, for upstream's `ValidateListOptions`.
struct Given<'a> {
    mode: Option<&'a str>,
    version: Option<&'a str>,
    token: Option<&'a str>,
    send_initial_events: Option<bool>,
}

const MATCH: &str = "resourceVersionMatch";
const SEND: &str = "sendInitialEvents";

impl Given<'_> {
    fn check_list(&self) -> Result<(), Status> {
        let mut errors = field::ErrorList::new();
        let mut forbid = |name: &str, why: &str| errors.push(field::Error::forbidden(&field::Path::new(name), why));
        if let Some(mode) = self.mode {
            if self.version.is_none() {
                forbid(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if self.token.is_some() {
                forbid(MATCH, "resourceVersionMatch is forbidden when continue is provided");
            }
            if mode == "Exact" && self.version == Some("0") {
                forbid(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.send_initial_events.is_some() {
            forbid(SEND, "sendInitialEvents is forbidden for list");
        }
        if let Some(mode) = self.mode.filter(|mode| !matches!(*mode, "Exact" | "NotOlderThan")) {
            errors.push(field::Error::not_supported(&field::Path::new(MATCH), mode, &["Exact", "NotOlderThan", ""]));
        }
        refuse(&errors)
    }

    fn check_watch(&self, watch_list: bool) -> Result<(), Status> {
        let mut errors = field::ErrorList::new();
        let mut forbid = |name: &str, why: &str| errors.push(field::Error::forbidden(&field::Path::new(name), why));
        if self.send_initial_events.is_some() {
            if self.mode != Some("NotOlderThan") {
                forbid(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            if !watch_list {
                forbid(SEND, "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled");
            }
        }
        if self.mode.is_some() {
            if self.send_initial_events.is_none() {
                forbid(MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            if self.token.is_some() {
                forbid(MATCH, "resourceVersionMatch is forbidden when continue is provided");
            }
        }
        if let Some(mode) = self.mode.filter(|mode| *mode != "NotOlderThan") {
            errors.push(field::Error::not_supported(&field::Path::new(MATCH), mode, &["NotOlderThan"]));
        }
        refuse(&errors)
    }
}

fn refuse(errors: &field::ErrorList) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("meta.k8s.io", "ListOptions"), "", errors)),
    }
}

/// How strictly unknown and duplicate fields are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// What creations, updates and patches share.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    /// Server-side apply takes over fields of others.
    pub(crate) force: bool,
}

impl WriteOptions {
    /// `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`, for errors.
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<WriteOptions, Status> {
        Self::parse_with(query, kind, field::ErrorList::new())
    }

    /// Those of a patch; `errors` are about what only some types of patches may have.
    pub(crate) fn parse_patch(query: &Query, errors: field::ErrorList) -> Result<WriteOptions, Status> {
        Self::parse_with(query, "PatchOptions", errors)
    }

    fn parse_with(query: &Query, kind: &str, mut errors: field::ErrorList) -> Result<WriteOptions, Status> {
        let dry_run: Vec<String> = query.all("dryRun").map(str::to_owned).collect();
        let manager = query.get("fieldManager").unwrap_or_default();
        let mode = query.get("fieldValidation").unwrap_or_default();
        errors.extend(validation::validate_field_manager(manager, &field::Path::new("fieldManager")));
        errors.extend(validation::validate_dry_run(&dry_run, &field::Path::new("dryRun")));
        errors.extend(validation::validate_field_validation(mode, &field::Path::new("fieldValidation")));
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("meta.k8s.io", kind), "", &errors));
        }
        Ok(WriteOptions {
            dry_run: !dry_run.is_empty(),
            field_manager: manager.to_owned(),
            field_validation: match mode {
                "Ignore" => FieldValidation::Ignore,
                "Strict" => FieldValidation::Strict,
                _ => FieldValidation::Warn,
            },
            force: query.flag("force").unwrap_or(false),
        })
    }

    /// For writes that the server makes on its own account.
    pub(crate) fn internal() -> WriteOptions {
        WriteOptions { dry_run: false, field_manager: String::new(), field_validation: FieldValidation::Ignore, force: false }
    }

    /// As the options object that admission sees.
    pub(crate) fn to_value(&self, kind: &str) -> Value {
        let mut options = apimachinery::value!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
        if self.dry_run {
            options.insert("dryRun", vec![Value::from("All")]);
        }
        if !self.field_manager.is_empty() {
            options.insert("fieldManager", self.field_manager.as_str());
        }
        options
    }
}

/// What a deletion asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads the body if there is one, else the query.
    pub(crate) fn parse(query: &Query, body: Option<&Value>) -> Result<DeleteOptions, Status> {
        let options = match body {
            Some(body) => DeleteOptions {
                grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
                propagation_policy: body["propagationPolicy"].as_str().map(str::to_owned),
                orphan_dependents: body["orphanDependents"].as_bool(),
                uid: body.str_at(&["preconditions", "uid"]).map(str::to_owned),
                resource_version: body.str_at(&["preconditions", "resourceVersion"]).map(str::to_owned),
                dry_run: !body.array_at(&["dryRun"]).is_empty(),
            },
            None => DeleteOptions {
                grace_period_seconds: query.get("gracePeriodSeconds").map(parse_int).transpose()?,
                propagation_policy: query.get("propagationPolicy").map(str::to_owned),
                orphan_dependents: query.flag("orphanDependents"),
                // The preconditions' members are options of their own in a query.
                uid: query.get("uid").map(str::to_owned),
                resource_version: query.get("resourceVersion").map(str::to_owned),
                dry_run: query.all("dryRun").next().is_some(),
            },
        };
        let dry_run: Vec<String> = match body {
            Some(body) => body.array_at(&["dryRun"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => query.all("dryRun").map(str::to_owned).collect(),
        };
        let mut errors = validation::validate_dry_run(&dry_run, &field::Path::new("dryRun"));
        let policy = field::Path::new("propagationPolicy");
        if options.propagation_policy.is_some() && options.orphan_dependents.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(field::Error::invalid(&policy, options.propagation_policy.as_deref().unwrap_or_default(), why));
        }
        errors.extend(validation::validate_propagation_policy(options.propagation_policy.as_deref(), &policy));
        match errors.is_empty() {
            true => Ok(options),
            false => Err(Status::invalid(&GroupKind::new("meta.k8s.io", "DeleteOptions"), "", &errors)),
        }
    }

    /// As the options object that admission sees.
    pub(crate) fn to_value(&self) -> Value {
        let mut options = apimachinery::value!({"apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions"});
        if let Some(seconds) = self.grace_period_seconds {
            options.insert("gracePeriodSeconds", seconds);
        }
        if let Some(policy) = &self.propagation_policy {
            options.insert("propagationPolicy", policy.as_str());
        }
        if self.dry_run {
            options.insert("dryRun", vec![Value::from("All")]);
        }
        options
    }
}
