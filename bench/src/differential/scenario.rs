//! What is asked, in order: a scenario is about one object of one kind.
//!
//! Either new objects that may be wrong, nearly all of them dry run; or the life of a valid one: created, read, changed in every way, deleted.

use apimachinery::{Value, value};
use hyper::Method;

use super::data::{Base, Effects};
use super::edit::{self, Edit};
use super::patch;
use super::random::Random;
use super::request::{Body, JSON, Request};
use super::subresource;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const YAML: &str = "application/yaml";
/// Rows of columns, as `kubectl get` asks for them.
pub(super) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Nothing but the metadata.
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

/// One object and what happens to it.
pub(super) struct Scenario<'a> {
    pub(super) base: &'a Base,
    pub(super) number: u64,
    pub(super) random: Random,
}

impl<'a> Scenario<'a> {
    pub(super) fn new(bases: &'a [Base], seed: u64, number: u64) -> Self {
        let mut random = Random::of(seed, number);
        Scenario { base: random.pick(bases), number, random }
    }

    /// All requests.
    pub(super) fn requests(mut self) -> Vec<Request> {
        if self.base.effects == Effects::Controlled || self.random.percent(45) {
            let mut requests: Vec<Request> = (0..4).map(|_| self.create(true)).collect();
            if self.base.effects == Effects::None {
                requests.push(self.create(false));
            }
            return requests;
        }
        let mut requests = vec![self.plain_create()];
        for _ in 0..4 + self.random.below(5) {
            requests.push(self.change_or_read());
        }
        requests.push(self.delete());
        if self.random.percent(12) {
            requests.push(self.watch());
        }
        requests
    }

    /// The path of the object.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.base.collection(), self.base.name(self.number))
    }

    fn object(&self) -> Value {
        self.base.object(self.number)
    }

    fn edits(&mut self, root: Option<&str>) -> Vec<Edit> {
        let count = self.random.weighted(&[(70, 1), (24, 2), (6, 0)]);
        let object = self.object();
        (0..count).map(|_| edit::random(&object, self.base.info, root, &mut self.random)).collect()
    }

    fn request(&self, verb: &'static str, method: Method, path: String, body: Body) -> Request {
        Request { verb, method, path, query: Vec::new(), body, accept: JSON }
    }

    fn plain_create(&mut self) -> Request {
        let body = Body::Text(JSON, self.object().to_json());
        self.request("create", Method::POST, self.base.collection(), body)
    }

    fn create(&mut self, dry_run: bool) -> Request {
        let mut object = self.object();
        self.edits(None).iter().for_each(|edit| edit.apply(&mut object));
        let content_type = self.random.weighted(&[(95, JSON), (4, YAML), (1, "application/x-none")]);
        let body = Body::Text(content_type, edit::to_text(&object));
        let mut request = self.request("create", Method::POST, self.base.collection(), body);
        self.write_options(&mut request, dry_run);
        request
    }

    /// dryRun, fieldValidation and fieldManager.
    fn write_options(&mut self, request: &mut Request, dry_run: bool) {
        if dry_run || self.base.effects != Effects::None {
            request.query.push(("dryRun", "All".to_owned()));
        }
        let modes = [(60, ""), (24, "Strict"), (8, "Warn"), (6, "Ignore"), (2, "Nope")];
        let mode = self.random.weighted(&modes);
        if !mode.is_empty() {
            request.query.push(("fieldValidation", mode.to_owned()));
        }
        let manager = self.random.weighted(&[(85, ""), (13, "tester"), (2, "bad\u{7}manager")]);
        if !manager.is_empty() && !request.query.iter().any(|(key, _)| *key == "fieldManager") {
            request.query.push(("fieldManager", manager.to_owned()));
        }
    }

    fn change_or_read(&mut self) -> Request {
        if self.random.percent(20)
            && let Some(mut request) = subresource::request(self.base, self.number, &mut self.random)
        {
            if request.method != Method::GET {
                if request.verb.starts_with("apply") {
                    request.query.push(("fieldManager", "applier".to_owned()));
                }
                let dry_run = self.random.percent(40);
                self.write_options(&mut request, dry_run);
            }
            return request;
        }
        match self.random.below(100) {
            0..28 => self.update(),
            28..42 => self.update_status(),
            42..78 => self.patch(),
            78..85 => self.get(),
            85..92 => self.list(),
            _ => {
                let mut request = self.delete();
                request.query.push(("dryRun", "All".to_owned()));
                request
            }
        }
    }

    fn update(&mut self) -> Request {
        let edits = self.edits(None);
        let body = match self.random.percent(60) {
            true => Body::Current(edits),
            false => {
                let mut object = self.object();
                edits.iter().for_each(|edit| edit.apply(&mut object));
                if self.random.percent(60) {
                    object.set_path(&["metadata", "resourceVersion"], "$rv");
                }
                Body::Text(JSON, edit::to_text(&object))
            }
        };
        let mut request = self.request("update", Method::PUT, self.path(), body);
        let dry_run = self.random.percent(60);
        self.write_options(&mut request, dry_run);
        request
    }

    fn has(&self, subresource: &str) -> bool {
        self.base.resource.subresource(subresource).is_some()
    }

    fn update_status(&mut self) -> Request {
        if self.has("scale") && self.random.percent(25) {
            return self.scale();
        }
        if !self.has("status") {
            return self.update();
        }
        let mut edits = vec![Edit {
            path: vec![edit::Step::Member("status".to_owned())],
            action: edit::Action::Set(self.object()["status"].clone()),
        }];
        edits.extend(self.edits(Some("status")));
        if self.random.percent(15) {
            edits.extend(self.edits(None));
        }
        let mut request = self.request("update status", Method::PUT, format!("{}/status", self.path()), Body::Current(edits));
        let dry_run = self.random.percent(60);
        self.write_options(&mut request, dry_run);
        request
    }

    fn scale(&mut self) -> Request {
        let path = format!("{}/scale", self.path());
        if self.random.percent(20) {
            return self.request("get scale", Method::GET, path, Body::None);
        }
        let replicas =
            self.random.pick(&[value!(0), value!(2), value!(-1), value!("2"), Value::Null, value!(2_147_483_648_i64)]).clone();
        let mut scale = value!({"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {"replicas": replicas}});
        scale.set_path(&["metadata", "name"], self.base.name(self.number));
        scale.set_path(&["metadata", "namespace"], super::data::NAMESPACE);
        let mut request = self.request("update scale", Method::PUT, path, Body::Text(JSON, scale.to_json()));
        let dry_run = self.random.percent(60);
        self.write_options(&mut request, dry_run);
        request
    }

    fn patch(&mut self) -> Request {
        let status = self.has("status") && self.random.percent(25);
        let path = if status { format!("{}/status", self.path()) } else { self.path() };
        let root = status.then_some("status");
        let object = self.object();
        let edit = edit::random(&object, self.base.info, root, &mut self.random);
        let (verb, content_type, text) = match self.random.below(4) {
            0 => ("patch json", patch::JSON_PATCH, patch::json(&object, &edit, &mut self.random)),
            1 => ("patch merge", patch::MERGE, patch::merge(&object, &edit, false, &mut self.random)),
            2 => ("patch strategic", patch::STRATEGIC, patch::merge(&object, &edit, true, &mut self.random)),
            _ => ("apply", patch::APPLY, patch::apply(&object, &edit, root, &mut self.random)),
        };
        let mut request = self.request(verb, Method::PATCH, path, Body::Text(content_type, text));
        if verb == "apply" {
            let manager = self.random.weighted(&[(55, "applier"), (40, "other"), (5, "")]);
            if !manager.is_empty() {
                request.query.push(("fieldManager", manager.to_owned()));
            }
        }
        if self.random.percent(if verb == "apply" { 50 } else { 2 }) {
            request.query.push(("force", "true".to_owned()));
        }
        let dry_run = self.random.percent(60);
        self.write_options(&mut request, dry_run);
        request
    }

    fn get(&mut self) -> Request {
        let mut request = self.request("get", Method::GET, self.path(), Body::None);
        request.accept =
            self.random.weighted(&[(40, JSON), (30, TABLE), (15, METADATA), (10, PROTOBUF), (5, "application/x-none")]);
        if self.has("status") && self.random.percent(10) {
            request.path.push_str("/status");
        }
        self.include_object(&mut request);
        let version = self.random.weighted(&[(70, ""), (10, "0"), (15, "$rv"), (5, "abc")]);
        if !version.is_empty() {
            request.query.push(("resourceVersion", version.to_owned()));
        }
        request
    }

    fn list(&mut self) -> Request {
        let mut request = self.request("list", Method::GET, self.base.collection(), Body::None);
        let number = self.number;
        let labels = match self.random.below(12) {
            0 => format!("scenario=n{number},scenario!=x"),
            1 => format!("scenario in (n{number}, x)"),
            2 => "a in (".to_owned(),
            3 => "-bad=x".to_owned(),
            4 => format!("scenario==n{number},!none"),
            _ => format!("scenario=n{number}"),
        };
        request.query.push(("labelSelector", labels));
        let name = self.base.name(number);
        let fields = [format!("metadata.name={name}"), "metadata.name!=x".to_owned(), "spec.nodeName=".to_owned()];
        let more = ["status.phase=Running", "nope=1", "metadata.name", "type=Opaque", "metadata.namespace=differential"];
        match self.random.below(20) {
            at @ 0..3 => request.query.push(("fieldSelector", fields[at].clone())),
            at @ 3..8 => request.query.push(("fieldSelector", more[at - 3].to_owned())),
            _ => {}
        }
        let options: [(usize, &'static str, &[&str]); 6] = [
            (25, "limit", &["0", "1", "500", "-1", "abc"]),
            (25, "resourceVersion", &["0", "$rv", "abc", "-1"]),
            (15, "resourceVersionMatch", &["Exact", "NotOlderThan", "Nope"]),
            (4, "continue", &["abc", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0"]),
            (4, "sendInitialEvents", &["true", "false"]),
            (3, "timeoutSeconds", &["5", "abc"]),
        ];
        for (chance, key, of) in options {
            if self.random.percent(chance) {
                request.query.push((key, (*self.random.pick(of)).to_owned()));
            }
        }
        request.accept = self.random.weighted(&[(50, JSON), (30, TABLE), (10, METADATA_LIST), (10, PROTOBUF)]);
        self.include_object(&mut request);
        request
    }

    /// What the rows of a table hold beside their cells.
    fn include_object(&mut self, request: &mut Request) {
        if self.random.percent(20) {
            let of = ["None", "Metadata", "Object", "Nope"];
            request.query.push(("includeObject", (*self.random.pick(&of)).to_owned()));
        }
    }

    /// What happened to the object since it was made, or since some other revision.
    fn watch(&mut self) -> Request {
        let mut request = self.request("watch", Method::GET, self.base.collection(), Body::None);
        request.query.push(("watch", "true".to_owned()));
        request.query.push(("timeoutSeconds", "1".to_owned()));
        let labels = match self.random.percent(80) {
            true => format!("scenario=n{}", self.number),
            false => format!("scenario=n{},a=b", self.number),
        };
        request.query.push(("labelSelector", labels));
        if self.random.percent(25) {
            request.query.push(("fieldSelector", format!("metadata.name={}", self.base.name(self.number))));
        }
        let version = self.random.weighted(&[(80, "$first"), (8, "0"), (6, "$rv"), (3, ""), (3, "abc")]);
        request.query.push(("resourceVersion", version.to_owned()));
        let options: [(usize, &'static str, &[&str]); 3] = [
            (10, "resourceVersionMatch", &["NotOlderThan", "Exact"]),
            (10, "sendInitialEvents", &["true", "false"]),
            (10, "limit", &["1", "abc"]),
        ];
        for (chance, key, of) in options {
            if self.random.percent(chance) {
                request.query.push((key, (*self.random.pick(of)).to_owned()));
            }
        }
        request.accept = self.random.weighted(&[(70, JSON), (20, TABLE), (10, METADATA)]);
        request
    }

    fn delete(&mut self) -> Request {
        let mut request = self.request("delete", Method::DELETE, self.path(), Body::None);
        if self.base.resource.verbs.contains(&"deletecollection") && self.random.percent(15) {
            request.verb = "deletecollection";
            request.path = self.base.collection();
            request.query.push(("labelSelector", format!("scenario=n{}", self.number)));
        }
        if self.random.percent(20) {
            let options: [(usize, &'static str, &[&str]); 3] = [
                (50, "gracePeriodSeconds", &["0", "30", "-1", "abc"]),
                (50, "propagationPolicy", &["Foreground", "Background", "Orphan", "Nope"]),
                (20, "orphanDependents", &["true", "false"]),
            ];
            for (chance, key, of) in options {
                if self.random.percent(chance) {
                    request.query.push((key, (*self.random.pick(of)).to_owned()));
                }
            }
            return request;
        }
        if self.random.percent(30) {
            return request;
        }
        let versions = [(70, "v1"), (20, "meta.k8s.io/v1"), (10, "apps/v1")];
        let mut options = value!({"kind": "DeleteOptions", "apiVersion": self.random.weighted(&versions)});
        let members: [(usize, &[&str], &[Value]); 7] = [
            (30, &["gracePeriodSeconds"], &[value!(0), value!(30), value!(-1), value!("1"), Value::Null]),
            (
                40,
                &["propagationPolicy"],
                &[value!("Foreground"), value!("Background"), value!("Orphan"), value!("Nope"), value!(1)],
            ),
            (10, &["orphanDependents"], &[value!(true), value!(false)]),
            (15, &["preconditions", "uid"], &[value!("$uid"), value!("11111111-2222-3333-4444-555555555555")]),
            (15, &["preconditions", "resourceVersion"], &[value!("$rv"), value!("1")]),
            (10, &["dryRun"], &[value!(["All"]), value!(["Nope"]), value!("All")]),
            (3, &["unknownField"], &[value!(1)]),
        ];
        for (chance, path, of) in members {
            if self.random.percent(chance) {
                options.set_path(path, self.random.pick(of));
            }
        }
        request.body = Body::Text(JSON, options.to_json());
        request
    }
}
