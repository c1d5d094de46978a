//! What is served: the rows of the table bound to where their objects live and to their rules.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::{GroupResource, GroupVersionKind, Value, Wanted, schema};
use bytes::Bytes;

use super::codec::Header;
use super::resource::{self, Resource};
use super::strategy::Strategy;
use crate::cache::{Cacher, CacherConfig, Entry, Feed, Indexer};
use crate::gates::{Feature, FeatureGates};
use crate::kinds;
use crate::server::ServerConfig;

/// Where the objects of a resource live. Versions and groups that share objects (`events`) share this too.
pub(crate) struct Stored {
    /// Group and plural name.
    pub(crate) resource: GroupResource,
    /// The kind that objects are stored as.
    pub(crate) kind: GroupVersionKind,
    /// Objects live in namespaces.
    pub(crate) namespaced: bool,
    /// The key prefix, with its slash.
    pub(crate) prefix: String,
    /// The fixed beginning of the objects' JSON.
    pub(crate) header: Header,
    /// The watch cache.
    pub(crate) cacher: Arc<Cacher>,
    /// The selectable fields.
    pub(crate) fields: &'static [&'static str],
    /// The rules of the object itself.
    pub(crate) strategy: Arc<dyn Strategy>,
    /// The rules of subresources that are parts of the object.
    pub(crate) subresources: Vec<(&'static str, Arc<dyn Strategy>)>,
    /// Deletions answer with the object.
    pub(crate) returns_deleted: bool,
}

impl Stored {
    /// The key of an object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("{}{namespace}/{name}", self.prefix),
            false => format!("{}{name}", self.prefix),
        }
    }

    /// Whether upstream answers from a cache (with its default `--watch-cache-sizes`): of events nobody reads the same twice.
    pub(crate) fn is_cached_upstream(&self) -> bool {
        !(self.resource.group.is_empty() && self.resource.resource == "events")
    }

    /// The rules of the object or of a part of it.
    pub(crate) fn strategy_for(&self, subresource: &str) -> Option<&Arc<dyn Strategy>> {
        match subresource {
            "" => Some(&self.strategy),
            name => self.subresources.iter().find(|(have, _)| *have == name).map(|(_, strategy)| strategy),
        }
    }
}

/// One served resource.
pub(crate) struct Endpoint {
    /// Its facts.
    pub(crate) row: Resource,
    /// Where its objects live; `None` for those that are computed, such as reviews.
    pub(crate) stored: Option<Arc<Stored>>,
    /// What its clients are warned of.
    pub(crate) deprecation: Option<String>,
    /// The release that no longer serves it (`1.38`); empty when none is named.
    pub(crate) removed_release: &'static str,
}

impl Endpoint {
    /// Whether objects are served in another version than they are stored in.
    pub(crate) fn converts(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.kind != self.row.kind)
    }

    /// A cached object of it as a protobuf message without an envelope; `None` if its kind has no schema.
    pub(crate) fn message(&self, entry: &Entry) -> Option<Bytes> {
        let message = entry.served.message();
        // Only now, so that a sweep in between cannot overlook it.
        if let Some(stored) = &self.stored {
            stored.cacher.messages_were_made();
        }
        message
    }
}

/// All served resources.
pub(crate) struct Catalog {
    endpoints: Vec<Arc<Endpoint>>,
    by_name: HashMap<(String, String, String), usize>,
    stored: HashMap<GroupResource, Arc<Stored>>,
}

impl Catalog {
    /// Binds the built-in table to a store's caches.
    pub(crate) fn builtin(config: &ServerConfig, feed: &Feed, services: &Arc<kinds::ServiceAllocator>) -> Catalog {
        let rows = resource::builtin();
        let mut catalog = Catalog { endpoints: Vec::new(), by_name: HashMap::new(), stored: HashMap::new() };
        for row in rows.iter().filter(|row| config.apis.serves(row) && has_feature(row, config.gates)) {
            let stored = row.serves("update").then(|| catalog.bind(config, feed, &rows, row, services));
            let name = (row.gvr.group.clone(), row.gvr.version.clone(), row.gvr.resource.clone());
            catalog.by_name.insert(name, catalog.endpoints.len());
            let facts = schema::resource(&row.gvr.group, &row.gvr.version, &row.gvr.resource);
            let deprecation = facts.and_then(schema::ResourceInfo::deprecation_warning);
            let removed_release = facts.map(schema::ResourceInfo::removed_release).unwrap_or_default();
            catalog.endpoints.push(Arc::new(Endpoint { row: row.clone(), stored, deprecation, removed_release }));
        }
        catalog
    }

    fn bind(
        &mut self,
        config: &ServerConfig,
        feed: &Feed,
        rows: &[Resource],
        row: &Resource,
        services: &Arc<kinds::ServiceAllocator>,
    ) -> Arc<Stored> {
        let gr = cohabitant(row.group_resource());
        if let Some(stored) = self.stored.get(&gr) {
            return stored.clone();
        }
        let versions: Vec<&str> =
            rows.iter().filter(|other| other.group_resource() == gr).map(|other| other.gvr.version.as_str()).collect();
        let kind = GroupVersionKind::new(&gr.group, resource::storage_version(&gr.group, &versions), &row.kind.kind);
        let prefix = format!("{}/{}/", config.storage_prefix, resource::storage_path(&gr));
        let header = Header::new(&kind);
        let fields = resource::selectable_fields(&gr);
        let rules = kinds::rules(&gr, row, services, config.gates);
        let indexed = resource::indexed_field(&gr);
        let cacher = Arc::new(Cacher::new(CacherConfig {
            prefix: prefix.clone(),
            header: header.clone(),
            indexer: Box::new(FieldIndexer::new(fields, rules.strategy.clone())),
            indexed_field: indexed.and_then(|field| fields.iter().position(|have| *have == field)),
        }));
        feed.add(cacher.clone());
        let stored = Arc::new(Stored {
            namespaced: row.namespaced,
            returns_deleted: resource::returns_deleted_object(&gr),
            strategy: rules.strategy,
            subresources: rules.subresources,
            resource: gr.clone(),
            kind,
            prefix,
            header,
            cacher,
            fields,
        });
        self.stored.insert(gr, stored.clone());
        stored
    }

    /// One resource.
    pub(crate) fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Endpoint>> {
        let name = (group.to_owned(), version.to_owned(), resource.to_owned());
        self.by_name.get(&name).map(|at| &self.endpoints[*at])
    }

    /// Everything, in discovery's order.
    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }
}

/// Whether the feature of a resource is on, if it is of one.
fn has_feature(row: &Resource, gates: FeatureGates) -> bool {
    let (group, resource) = (row.gvr.group.as_str(), row.gvr.resource.as_str());
    OF_FEATURES.iter().all(|(of_group, of, feature)| (*of_group, *of) != (group, resource) || gates.has(*feature))
}

/// Resources that need a feature gate beside `--runtime-config`.
const OF_FEATURES: [(&str, &str, Feature); 2] = [
    ("certificates.k8s.io", "clustertrustbundles", Feature::ClusterTrustBundle),
    ("scheduling.k8s.io", "workloads", Feature::GenericWorkload),
];

/// Events of both groups are the same objects (upstream's `AddCohabitatingResources`).
fn cohabitant(resource: GroupResource) -> GroupResource {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("events.k8s.io", "events") => GroupResource::new("", "events"),
        _ => resource,
    }
}

/// Takes selectable fields from objects: the strategy's values first, then the path itself.
struct FieldIndexer {
    fields: &'static [&'static str],
    strategy: Arc<dyn Strategy>,
    /// `None` for all of the object.
    wanted: Option<Vec<Wanted>>,
}

impl FieldIndexer {
    fn new(fields: &'static [&'static str], strategy: Arc<dyn Strategy>) -> FieldIndexer {
        let computes = !strategy.selectable_fields(&Value::object()).is_empty();
        let read = if computes { strategy.selectable_from() } else { Some(&[][..]) };
        let wanted = read.map(|read| Wanted::of_paths(["metadata.labels"].iter().chain(fields).chain(read).copied()));
        FieldIndexer { fields, wanted, strategy }
    }
}

impl Indexer for FieldIndexer {
    fn wanted(&self) -> Option<&[Wanted]> {
        self.wanted.as_deref()
    }

    fn fields(&self, object: &Value) -> Box<[Box<str>]> {
        if self.fields.is_empty() {
            return Box::default();
        }
        let computed = self.strategy.selectable_fields(object);
        let value = |field: &&str| -> Box<str> {
            match computed.iter().find(|(name, _)| name == field) {
                Some((_, value)) => value.as_str().into(),
                None => field_text(object, field).into(),
            }
        };
        self.fields.iter().map(value).collect()
    }
}

/// The value at a dotted path as field selectors print it.
fn field_text(object: &Value, path: &str) -> String {
    // An event's source is a struct, and events of the newer API have a reporting controller instead.
    if path == "source" {
        let reporting = object.str_at(&["reportingComponent"]).unwrap_or_default();
        let component = object.str_at(&["source", "component"]).unwrap_or_default();
        return if component.is_empty() { reporting } else { component }.to_owned();
    }
    let mut at = object;
    for part in path.split('.') {
        at = &at[part];
    }
    match at {
        Value::String(text) => text.to_string(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => at.to_json(),
        // Go's zero value of a boolean; strings are empty.
        _ if matches!(path, "spec.hostNetwork" | "spec.unschedulable") => "false".to_owned(),
        _ if matches!(path, "status.replicas" | "status.successful") => "0".to_owned(),
        _ => String::new(),
    }
}
