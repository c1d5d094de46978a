//! Paths and operations of resources.

use std::collections::{BTreeMap, BTreeSet};

use super::{Options, parameters, schemas};
use crate::schema::{ResourceInfo, SubresourceInfo, TypeInfo, lookup, type_named};
use crate::{GroupVersionKind, Value, value};

/// Everything needed to describe the operations of one resource.
struct Context<'a> {
    resource: &'a ResourceInfo,
    options: &'a Options<'a>,
    used: &'a mut BTreeSet<String>,
    paths: &'a mut BTreeMap<String, Value>,
    /// `/apis/apps/v1`
    root: String,
    /// `AppsV1`
    prefix: String,
    /// `apps_v1`
    tag: String,
}

/// The paths of a group version; adds the types that they refer to.
pub(super) fn of_group_version(
    group: &str,
    version: &str,
    resources: &[&ResourceInfo],
    options: &Options<'_>,
    used: &mut BTreeSet<String>,
) -> BTreeMap<String, Value> {
    let root = format!("/{}", super::document_path(group, version));
    let (prefix, tag) = names(group, version);
    let mut paths = BTreeMap::new();
    used.insert("meta.v1.APIResourceList".into());
    let list = type_named("meta.v1.APIResourceList").expect("the facts have the type");
    let operation = value!({
        "description": "get available resources", "operationId": (format!("get{prefix}APIResources")), "tags": [(tag.as_str())],
        "responses": (responses(&[("200", Some(list))], options.media_types)),
    });
    paths.insert(format!("{root}/"), value!({ "get": operation }));
    for resource in resources {
        let mut context =
            Context { resource, options, used, paths: &mut paths, root: root.clone(), prefix: prefix.clone(), tag: tag.clone() };
        context.resource_paths();
        for sub in &resource.subresources {
            context.subresource_paths(sub);
        }
    }
    paths
}

/// `AppsV1` and `apps_v1`; `FlowcontrolApiserverV1` and `flowcontrolApiserver_v1`.
fn names(group: &str, version: &str) -> (String, String) {
    let camel = camel(if group.is_empty() { "core" } else { group });
    (format!("{camel}{}", capitalized(version)), format!("{}_{version}", lower_first(&camel)))
}

/// `Apps`, `FlowcontrolApiserver`.
pub(super) fn camel(group: &str) -> String {
    group.trim_end_matches(".k8s.io").split('.').map(capitalized).collect()
}

/// `apps`, `flowcontrolApiserver`.
pub(super) fn lower_first(camel: &str) -> String {
    camel[..1].to_lowercase() + &camel[1..]
}

/// ` a Pod`, ` an Event`, ` Endpoints`: upstream's rule for what comes before a kind.
fn with_article(kind: &str) -> String {
    let plural = kind.ends_with('s') && !kind.ends_with("ss");
    match kind.chars().next() {
        _ if plural => format!(" {kind}"),
        Some('A' | 'E' | 'I' | 'O' | 'U') => format!(" an {kind}"),
        _ => format!(" a {kind}"),
    }
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// `{"200": {"content": {...}, "description": "OK"}, ..., "401": ...}`
pub(super) fn responses(codes: &[(&str, Option<&TypeInfo>)], media_types: &[&str]) -> Value {
    let mut all = value!({"401": {"description": "Unauthorized"}});
    for (code, info) in codes {
        let description = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        let schema = match info {
            Some(info) => schemas::reference(info),
            None => value!({"type": "string"}),
        };
        let mut content = Value::object();
        for media_type in media_types {
            content.insert(*media_type, value!({"schema": (schema.clone())}));
        }
        all.insert(*code, value!({"description": description, "content": content}));
    }
    all
}

impl Context<'_> {
    fn info(&mut self, gvk: &GroupVersionKind) -> Option<&'static TypeInfo> {
        let info = lookup(gvk)?;
        self.used.insert(info.name.to_owned());
        Some(info)
    }

    fn meta(&mut self, name: &str) -> &'static TypeInfo {
        let name = format!("meta.v1.{name}");
        let info = type_named(&name).expect("the facts have the type");
        self.used.insert(name);
        info
    }

    fn can(&self, verb: &str) -> bool {
        self.resource.verbs.contains(&verb)
    }

    /// `Namespaced` for namespaced resources.
    fn scope(&self) -> &'static str {
        if self.resource.namespaced { "Namespaced" } else { "" }
    }

    fn collection_path(&self) -> String {
        let namespace = if self.resource.namespaced { "/namespaces/{namespace}" } else { "" };
        format!("{}{namespace}/{}", self.root, self.resource.plural)
    }

    fn operation(&self, id: String, action: &str, gvk: &GroupVersionKind, description: String) -> Value {
        value!({
            "operationId": id, "description": description, "tags": [(self.tag.as_str())], "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": (gvk.group.as_str()), "version": (gvk.version.as_str()), "kind": (gvk.kind.as_str())},
        })
    }

    /// Parameters in the path, and `pretty`; `kind` is that of the named object.
    fn path_parameters(&self, kind: &str, names: &[&str]) -> Vec<Value> {
        let names = names.iter().filter(|n| **n != "namespace" || self.resource.namespaced);
        let mut all: Vec<Value> = names.map(|n| parameters::path(n, kind)).collect();
        all.push(parameters::pretty(self.options));
        all
    }

    fn resource_paths(&mut self) {
        self.collection();
        self.item();
        if self.resource.namespaced && self.can("list") {
            self.all_namespaces();
        }
        if self.can("watch") {
            self.watches();
        }
    }

    fn collection(&mut self) {
        let (gvk, kind, scope) = (self.resource.gvk(), self.resource.kind, self.scope());
        let prefix = self.prefix.clone();
        let mut item = Value::object();
        let only_create = !self.can("list");
        let mut shared = self.path_parameters(kind, &["namespace"]);
        if self.can("list") {
            item.insert("get", self.list_operation(format!("list{prefix}{scope}{kind}"), false));
        }
        if self.can("create") {
            let mut operation = self.write_operation(
                format!("create{prefix}{scope}{kind}"),
                "post",
                &gvk,
                format!("create{}", with_article(kind)),
                &["200", "201", "202"],
            );
            if only_create {
                shared.extend(parameters::write(self.options));
                operation.remove("parameters");
            }
            item.insert("post", operation);
        }
        if self.can("deletecollection") {
            let mut operation = self.operation(
                format!("delete{prefix}Collection{scope}{kind}"),
                "deletecollection",
                &gvk,
                format!("delete collection of {kind}"),
            );
            operation.insert("parameters", parameters::delete_collection(self.options));
            let status = self.meta("Status");
            operation.insert("responses", responses(&[("200", Some(status))], self.options.media_types));
            operation.insert("requestBody", self.delete_body());
            item.insert("delete", operation);
        }
        // A cluster-scoped list's own parameters stand with the path when there is nothing else on it.
        if item.as_object().is_some_and(|m| m.len() == 1)
            && let Some(own) = item.get_mut("get").and_then(|get| get.remove("parameters"))
        {
            shared.extend(own.as_array().unwrap_or_default().iter().cloned());
        }
        item.insert("parameters", parameters::sorted(shared));
        self.paths.insert(self.collection_path(), item);
    }

    fn list_operation(&mut self, id: String, all: bool) -> Value {
        let gvk = self.resource.gvk();
        let verb = if self.can("watch") { "list or watch" } else { "list" };
        let mut operation = self.operation(id, "list", &gvk, format!("{verb} objects of kind {}", self.resource.kind));
        let list = self.info(&GroupVersionKind { kind: self.resource.list_kind(), ..gvk });
        let media_types = [self.options.media_types, self.options.stream_media_types].concat();
        operation.insert("responses", responses(&[("200", list)], &media_types));
        if !all {
            operation.insert("parameters", parameters::list(self.options));
        }
        operation
    }

    fn all_namespaces(&mut self) {
        let id = format!("list{}{}ForAllNamespaces", self.prefix, self.resource.kind);
        let operation = self.list_operation(id, true);
        let mut shared = parameters::list(self.options);
        shared.push(parameters::pretty(self.options));
        let item = value!({"get": operation, "parameters": (parameters::sorted(shared))});
        self.paths.insert(format!("{}/{}", self.root, self.resource.plural), item);
    }

    fn watches(&mut self) {
        let (prefix, kind, scope, plural) = (self.prefix.clone(), self.resource.kind, self.scope(), self.resource.plural);
        let collection = self.collection_path().replacen(&self.root, &format!("{}/watch", self.root), 1);
        self.watch(collection.clone(), format!("watch{prefix}{scope}{kind}List"), "watchlist", &["namespace"]);
        self.watch(format!("{collection}/{{name}}"), format!("watch{prefix}{scope}{kind}"), "watch", &["name", "namespace"]);
        if self.resource.namespaced {
            let path = format!("{}/watch/{plural}", self.root);
            self.watch(path, format!("watch{prefix}{kind}ListForAllNamespaces"), "watchlist", &[]);
        }
    }

    fn watch(&mut self, path: String, id: String, action: &str, names: &[&str]) {
        let (gvk, kind) = (self.resource.gvk(), self.resource.kind);
        let instead = "deprecated: use the 'watch' parameter with a list operation instead";
        let description = match action {
            "watchlist" => format!("watch individual changes to a list of {kind}. {instead}."),
            _ => format!(
                "watch changes to an object of kind {kind}. {instead}, filtered to a single item with the 'fieldSelector' parameter."
            ),
        };
        let mut operation = self.operation(id, action, &gvk, description);
        let event = self.meta("WatchEvent");
        let media_types = [self.options.media_types, self.options.stream_media_types].concat();
        operation.insert("responses", responses(&[("200", Some(event))], &media_types));
        let mut shared = self.path_parameters(kind, names);
        shared.extend(parameters::list(self.options));
        self.paths.insert(path, value!({"get": operation, "parameters": (parameters::sorted(shared))}));
    }

    fn item(&mut self) {
        let (gvk, kind, scope, prefix) = (self.resource.gvk(), self.resource.kind, self.scope(), self.prefix.clone());
        let mut item = Value::object();
        if self.can("get") {
            let info = self.info(&gvk);
            let mut operation =
                self.operation(format!("read{prefix}{scope}{kind}"), "get", &gvk, format!("read the specified {kind}"));
            operation.insert("responses", responses(&[("200", info)], self.options.media_types));
            item.insert("get", operation);
        }
        if self.can("update") {
            let id = format!("replace{prefix}{scope}{kind}");
            item.insert("put", self.write_operation(id, "put", &gvk, format!("replace the specified {kind}"), &["200", "201"]));
        }
        if self.can("patch") {
            item.insert(
                "patch",
                self.patch_operation(
                    format!("patch{prefix}{scope}{kind}"),
                    &gvk,
                    format!("partially update the specified {kind}"),
                ),
            );
        }
        if self.can("delete") {
            item.insert("delete", self.delete_operation(format!("delete{prefix}{scope}{kind}")));
        }
        if !item.is_empty() {
            item.insert("parameters", self.path_parameters(kind, &["name", "namespace"]));
            self.paths.insert(format!("{}/{{name}}", self.collection_path()), item);
        }
    }

    fn write_operation(
        &mut self,
        id: String,
        action: &str,
        gvk: &GroupVersionKind,
        description: String,
        codes: &[&str],
    ) -> Value {
        let info = self.info(gvk);
        let mut operation = self.operation(id, action, gvk, description);
        operation.insert("parameters", parameters::write(self.options));
        let schema = info.map_or_else(Value::object, schemas::reference);
        operation.insert("requestBody", value!({"content": {"*/*": {"schema": schema}}, "required": true}));
        let codes: Vec<_> = codes.iter().map(|code| (*code, info)).collect();
        operation.insert("responses", responses(&codes, self.options.media_types));
        operation
    }

    fn patch_operation(&mut self, id: String, gvk: &GroupVersionKind, description: String) -> Value {
        let info = self.info(gvk);
        let mut operation = self.operation(id, "patch", gvk, description);
        operation.insert("parameters", parameters::patch(self.options));
        let schema = schemas::reference(self.meta("Patch"));
        let mut content = Value::object();
        for patch_type in self.options.patch_types {
            content.insert(*patch_type, value!({"schema": (schema.clone())}));
        }
        operation.insert("requestBody", value!({"content": content, "required": true}));
        operation.insert("responses", responses(&[("200", info), ("201", info)], self.options.media_types));
        operation
    }

    fn delete_body(&mut self) -> Value {
        let schema = schemas::reference(self.meta("DeleteOptions"));
        value!({"content": {"*/*": {"schema": schema}}})
    }

    fn delete_operation(&mut self, id: String) -> Value {
        let gvk = self.resource.gvk();
        let mut operation = self.operation(id, "delete", &gvk, format!("delete{}", with_article(self.resource.kind)));
        operation.insert("parameters", parameters::delete(self.options));
        operation.insert("requestBody", self.delete_body());
        let answer = if self.resource.delete_returns_object() { self.info(&gvk) } else { Some(self.meta("Status")) };
        operation.insert("responses", responses(&[("200", answer), ("202", answer)], self.options.media_types));
        operation
    }

    fn subresource_paths(&mut self, sub: &SubresourceInfo) {
        let gvk = sub.gvk(self.resource);
        let path = format!("{}/{{name}}/{}", self.collection_path(), sub.name);
        if sub.kind.ends_with("Options") {
            self.connect_paths(sub, &gvk, &path);
            return;
        }
        let suffix = capitalized(sub.name);
        let (kind, scope, prefix) = (self.resource.kind, self.scope(), self.prefix.clone());
        let mut item = Value::object();
        let mut shared = self.path_parameters(sub.kind, &["name", "namespace"]);
        for verb in &sub.verbs {
            match *verb {
                "get" => {
                    let id = format!("read{prefix}{scope}{kind}{suffix}");
                    let mut operation = self.operation(id, "get", &gvk, format!("read {} of the specified {kind}", sub.name));
                    if sub.name == "log" {
                        let media_types = [self.options.media_types, &["text/plain"]].concat();
                        operation.insert("responses", responses(&[("200", None)], &media_types));
                        shared.extend(parameters::log(self.options));
                    } else {
                        let info = self.info(&gvk);
                        operation.insert("responses", responses(&[("200", info)], self.options.media_types));
                    }
                    item.insert("get", operation);
                }
                "update" => {
                    let id = format!("replace{prefix}{scope}{kind}{suffix}");
                    let description = format!("replace {} of the specified {kind}", sub.name);
                    item.insert("put", self.write_operation(id, "put", &gvk, description, &["200", "201"]));
                }
                "patch" => {
                    let id = format!("patch{prefix}{scope}{kind}{suffix}");
                    item.insert(
                        "patch",
                        self.patch_operation(id, &gvk, format!("partially update {} of the specified {kind}", sub.name)),
                    );
                }
                "create" => {
                    let id = format!("create{prefix}{scope}{kind}{suffix}");
                    let description = format!("create {} of{}", sub.name, with_article(kind));
                    item.insert("post", self.write_operation(id, "post", &gvk, description, &["200", "201", "202"]));
                }
                _ => {}
            }
        }
        // The parameters of a path's only operation stand with the path.
        if item.as_object().is_some_and(|m| m.len() == 1) {
            for (_, operation) in item.object_mut().iter_mut() {
                let own = operation.remove("parameters").unwrap_or_default();
                shared.extend(own.as_array().unwrap_or_default().iter().cloned());
            }
        }
        item.insert("parameters", parameters::sorted(shared));
        self.paths.insert(path, item);
    }

    fn connect_paths(&mut self, sub: &SubresourceInfo, gvk: &GroupVersionKind, path: &str) {
        let (kind, scope, prefix, suffix) = (self.resource.kind, self.scope(), self.prefix.clone(), capitalized(sub.name));
        let methods: &[&str] =
            if sub.name == "proxy" { &["delete", "get", "head", "options", "patch", "post", "put"] } else { &["get", "post"] };
        let mut shared = self.path_parameters(sub.kind, &["name", "namespace"]);
        shared.pop();
        shared.extend(parameters::connect(sub.kind, self.options));
        let mut variants = vec![(path.to_owned(), "")];
        if sub.name == "proxy" {
            variants.push((format!("{path}/{{path}}"), "WithPath"));
        }
        for (path, with_path) in variants {
            let mut item = Value::object();
            for method in methods {
                let id = format!("connect{prefix}{}{scope}{kind}{suffix}{with_path}", capitalized(method));
                let description = format!("connect {} requests to {} of {kind}", method.to_uppercase(), sub.name);
                let mut operation = self.operation(id, "connect", gvk, description);
                operation.insert("responses", responses(&[("200", None)], &["*/*"]));
                item.insert(*method, operation);
            }
            let mut shared = shared.clone();
            if !with_path.is_empty() {
                shared.push(parameters::path("path", ""));
            }
            item.insert("parameters", parameters::sorted(shared));
            self.paths.insert(path, item);
        }
    }
}
