//! The search for devices: depth first, with a step back wherever it does not go on (upstream's
//! `structured/internal/incubating/allocator_incubating.go`).

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cel::EvalError;
use cel::device::Seen;
use client::Store;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{
    AllocationResult, Device, DeviceAttribute, DeviceClass, DeviceRequest, DeviceSelector, ResourceClaim, ResourceSlice,
};
use parking_lot::Mutex;

use super::claims::{device_key, key};
use super::pools::{Pool, gather};
use super::results;
use super::selectors::{Selectors, seen};

/// How many devices a claim may get.
const DEVICES_MAX: usize = 32;

/// A slice, and which of its devices are taken.
pub(super) struct Slice {
    pub(super) object: Arc<ResourceSlice>,
    taken: Vec<bool>,
}

impl Slice {
    pub(super) fn devices(&self) -> &[Device] {
        self.object.spec.devices.as_deref().unwrap_or_default()
    }
}

/// What there is to allocate from, for one attempt at one pod.
pub(super) struct Inventory {
    slices: Vec<Slice>,
    classes: Store<DeviceClass>,
    selectors: Arc<Selectors>,
    /// Whether a device is what a request asks for: the same on every node.
    matches: Mutex<HashMap<(RequestAt, DeviceAt), Result<bool, String>>>,
}

/// Why there is no allocation.
pub(super) enum Failure {
    /// Not on this node.
    OnNode(String),
    /// Something is wrong.
    Error(String),
}

/// A device: indices of slice and device.
pub(super) type DeviceAt = (usize, usize);
/// A request: indices of claim, request and subrequest (0 where there is none).
pub(super) type RequestAt = (usize, usize, usize);

/// A request, or one of its alternatives.
pub(super) struct Request<'a> {
    pub(super) name: &'a str,
    /// The name of the request that this is an alternative of.
    pub(super) parent: Option<&'a str>,
    pub(super) class: Arc<DeviceClass>,
    selectors: &'a [DeviceSelector],
    admin: bool,
    all: Option<Vec<DeviceAt>>,
    count: usize,
}

impl Request<'_> {
    /// As results name it.
    pub(super) fn full_name(&self) -> String {
        self.parent.map_or_else(|| self.name.to_owned(), |parent| format!("{parent}/{}", self.name))
    }
}

/// A device that was chosen.
pub(super) struct Chosen {
    pub(super) at: DeviceAt,
    pub(super) request: RequestAt,
    pub(super) admin: bool,
}

/// That devices agree in an attribute.
struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    value: Option<&'a DeviceAttribute>,
    count: usize,
}

/// How a branch of the search ended.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Found,
    NotFound,
    /// More devices than a claim may get: trying others does not help.
    TooMany,
}

/// One search on one node.
pub(super) struct Search<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) claims: &'a [Arc<ResourceClaim>],
    pools: Vec<Pool<'a>>,
    pub(super) requests: BTreeMap<RequestAt, Request<'a>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// Which claims get a device.
    allocating: HashMap<DeviceAt, BTreeSet<usize>>,
    pub(super) chosen: Vec<Vec<Chosen>>,
    /// Which alternative was taken, by claim and request.
    pub(super) selected: HashMap<(usize, usize), usize>,
    /// Whether it takes too long by now.
    is_late: &'a dyn Fn() -> bool,
}

pub(super) fn requests_of(claim: &ResourceClaim) -> &[DeviceRequest] {
    claim.spec.devices.as_ref().and_then(|devices| devices.requests.as_deref()).unwrap_or_default()
}

impl Inventory {
    /// `taken` holds the devices that are in use, by [`device_key`].
    pub(super) fn new(
        mut slices: Vec<Arc<ResourceSlice>>,
        taken: &HashSet<String>,
        classes: Store<DeviceClass>,
        selectors: Arc<Selectors>,
    ) -> Self {
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let slices = slices.into_iter().map(|object| {
            let spec = &object.spec;
            let devices = spec.devices.iter().flatten();
            let taken = devices.map(|device| taken.contains(&device_key(&spec.driver, &spec.pool.name, &device.name))).collect();
            Slice { object, taken }
        });
        Self { slices: slices.collect(), classes, selectors, matches: Mutex::default() }
    }

    pub(super) fn slice(&self, at: DeviceAt) -> &ResourceSlice {
        &self.slices[at.0].object
    }

    pub(super) fn device(&self, at: DeviceAt) -> &Device {
        &self.slices[at.0].devices()[at.1]
    }

    /// Allocates all claims on a node; `None` if that cannot be done there. `is_late` is asked every so often whether to give up.
    pub(super) fn allocate(
        &self,
        node: &Node,
        claims: &[Arc<ResourceClaim>],
        is_late: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<AllocationResult>>, Failure> {
        let mut search = Search {
            inventory: self,
            claims,
            pools: gather(&self.slices, node),
            requests: BTreeMap::new(),
            constraints: Vec::new(),
            allocating: HashMap::new(),
            chosen: claims.iter().map(|_| Vec::new()).collect(),
            selected: HashMap::new(),
            is_late,
        };
        search.prepare()?;
        if search.next((0, 0, 0), 0, false)? != Outcome::Found {
            if search.pools.iter().any(|pool| pool.is_invalid) {
                return Err(Failure::OnNode("invalid resource pools were encountered".to_owned()));
            }
            return Ok(None);
        }
        results::collect(&search).map(Some).map_err(Failure::Error)
    }
}

impl<'a> Search<'a> {
    /// Reads requests and constraints.
    fn prepare(&mut self) -> Result<(), Failure> {
        let claims = self.claims;
        for (c, claim) in claims.iter().enumerate() {
            let mut least = 0;
            for (r, request) in requests_of(claim).iter().enumerate() {
                let alternatives = request.first_available.as_deref().unwrap_or_default();
                let mut fewest = usize::MAX;
                for (s, part) in alternatives.iter().enumerate() {
                    let mode = (part.allocation_mode.as_deref(), part.count);
                    let selectors = part.selectors.as_deref().unwrap_or_default();
                    let names = (part.name.as_str(), Some(request.name.as_str()));
                    let read = self.request((c, r, s), names, &part.device_class_name, selectors, mode, false)?;
                    fewest = fewest.min(read.count);
                    self.requests.insert((c, r, s), read);
                }
                if let (Some(exactly), []) = (&request.exactly, alternatives) {
                    let mode = (exactly.allocation_mode.as_deref(), exactly.count);
                    let selectors = exactly.selectors.as_deref().unwrap_or_default();
                    let admin = exactly.admin_access == Some(true);
                    let names = (request.name.as_str(), None);
                    let read = self.request((c, r, 0), names, &exactly.device_class_name, selectors, mode, admin)?;
                    fewest = read.count;
                    self.requests.insert((c, r, 0), read);
                }
                least += if fewest == usize::MAX { 0 } else { fewest };
            }
            if least > DEVICES_MAX {
                let claim = key(claim);
                return Err(Failure::Error(format!(
                    "claim {claim}: number of requested devices {least} exceeds the claim limit of {DEVICES_MAX}"
                )));
            }
            let constraints = claim.spec.devices.as_ref().and_then(|devices| devices.constraints.as_deref()).unwrap_or_default();
            let mut read = Vec::new();
            for (i, constraint) in constraints.iter().enumerate() {
                let Some(attribute) = constraint.match_attribute.as_deref() else {
                    let claim = key(claim);
                    let why = format!("claim {claim}, constraint #{i}: empty constraint (unsupported constraint type?)");
                    return Err(Failure::Error(why));
                };
                let requests = constraint.requests.as_deref().unwrap_or_default();
                read.push(Constraint { requests, attribute, value: None, count: 0 });
            }
            self.constraints.push(read);
        }
        Ok(())
    }

    fn request(
        &self,
        at: RequestAt,
        (name, parent): (&'a str, Option<&'a str>),
        class: &str,
        selectors: &'a [DeviceSelector],
        (mode, count): (Option<&str>, Option<i64>),
        admin: bool,
    ) -> Result<Request<'a>, Failure> {
        let claim = key(&self.claims[at.0]);
        let place = format!("claim {claim}, request {name}");
        if let Some(i) = selectors.iter().position(|selector| selector.cel.is_none()) {
            return Err(Failure::Error(format!("{place}, selector #{i}: CEL expression empty (unsupported selector type?)")));
        }
        let found = self.inventory.classes.get("", class);
        let missing = || {
            let why = format!("deviceclass.resource.k8s.io {class:?} not found");
            Failure::Error(format!("{place}: could not retrieve device class {class}: {why}"))
        };
        let class = found.ok_or_else(missing)?;
        let mut request = Request { name, parent, class, selectors, admin, all: None, count: 0 };
        match mode {
            Some("ExactCount") => request.count = usize::try_from(count.unwrap_or_default()).unwrap_or_default(),
            Some("All") => {
                let all = self.all_devices(at, &request, &place)?;
                request.count = all.len();
                request.all = Some(all);
            }
            other => {
                return Err(Failure::Error(format!("{place}: unsupported count mode {}", other.unwrap_or_default())));
            }
        }
        Ok(request)
    }

    fn all_devices(&self, at: RequestAt, request: &Request<'a>, place: &str) -> Result<Vec<DeviceAt>, Failure> {
        let mut all = Vec::new();
        for pool in &self.pools {
            let (driver, name) = (pool.driver, pool.name);
            let state = match (pool.is_incomplete, pool.is_invalid) {
                (true, _) => "being updated",
                (false, true) => "invalid",
                (false, false) => "",
            };
            if !state.is_empty() {
                let pool = format!("{driver}/{name}");
                return Err(Failure::Error(format!(
                    "{place}: asks for all devices, but resource pool {pool} is currently {state}"
                )));
            }
            for slice in &pool.slices {
                for device in 0..self.inventory.slices[*slice].devices().len() {
                    if self.matches(at, request, (*slice, device))? {
                        all.push((*slice, device));
                    }
                }
            }
        }
        Ok(all)
    }

    /// Whether a device is what a request asks for.
    fn matches(&self, at: RequestAt, request: &Request<'a>, device: DeviceAt) -> Result<bool, Failure> {
        if (self.is_late)() {
            return Err(late());
        }
        let object = self.inventory.device(device);
        if object.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty()) {
            return Ok(false);
        }
        if let Some(known) = self.inventory.matches.lock().get(&(at, device)) {
            return known.clone().map_err(Failure::Error);
        }
        let class = request.class.spec.selectors.as_deref().unwrap_or_default();
        let class_name = request.class.metadata.name.as_deref().unwrap_or_default();
        let built = OnceCell::new();
        let seen = || built.get_or_init(|| seen(&self.inventory.slice(device).spec.driver, object)).as_ref();
        let result = self.selected_by(seen, class, || format!("class {class_name}")).and_then(|matches| {
            Ok(matches && self.selected_by(seen, request.selectors, || format!("claim {}", key(&self.claims[at.0])))?)
        });
        let known = match result {
            Ok(matches) => Ok(matches),
            Err(Failure::Error(error)) => Err(error),
            // Nothing is known of the device then: the next node has time of its own.
            Err(late @ Failure::OnNode(_)) => return Err(late),
        };
        self.inventory.matches.lock().insert((at, device), known.clone());
        known.map_err(Failure::Error)
    }

    fn selected_by<'s>(
        &self,
        seen: impl Fn() -> Result<&'s Seen, &'s String>,
        selectors: &[DeviceSelector],
        whose: impl Fn() -> String,
    ) -> Result<bool, Failure> {
        let runtime = |i: usize, error: &str| Failure::Error(format!("{}: selector #{i}: CEL runtime error: {error}", whose()));
        for (i, selector) in selectors.iter().enumerate() {
            let device = seen().map_err(|error| runtime(0, error))?;
            let expression = selector.cel.as_ref().map_or("", |cel| cel.expression.as_str());
            let compiled = self.inventory.selectors.get(expression);
            let selector = match &*compiled {
                Ok(selector) => selector,
                Err(error) => {
                    return Err(Failure::Error(format!("{}: selector #{i}: CEL compile error: {error}", whose())));
                }
            };
            match selector.matches(device, self.is_late) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(EvalError::Interrupted) => return Err(late()),
                Err(error) => return Err(runtime(i, &error.to_string())),
            }
        }
        Ok(true)
    }

    fn is_taken(&self, at: DeviceAt, claim: usize, admin: bool) -> bool {
        let allocating = self.allocating.get(&at);
        match admin {
            true => allocating.is_some_and(|claims| claims.contains(&claim)),
            false => self.inventory.slices[at.0].taken[at.1] || allocating.is_some_and(|claims| !claims.is_empty()),
        }
    }

    /// Goes on with the `number`th device of a request. `within` says that an alternative was chosen already.
    fn next(&mut self, at: RequestAt, number: usize, within: bool) -> Result<Outcome, Failure> {
        if (self.is_late)() {
            return Err(late());
        }
        let (c, r, _) = at;
        let Some(claim) = self.claims.get(c) else { return Ok(Outcome::Found) };
        if r >= requests_of(claim).len() {
            // What does not fit into a later claim is not the fault of this one's size.
            return Ok(match self.next((c + 1, 0, 0), 0, false)? {
                Outcome::TooMany => Outcome::NotFound,
                other => other,
            });
        }
        let Some(request) = self.requests.get(&at) else { return Ok(Outcome::NotFound) };
        if !within && request.parent.is_some() {
            return self.alternatives(c, r);
        }
        if request.all.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Outcome::NotFound);
        }
        if number >= request.count {
            return self.next((c, r + 1, 0), 0, false);
        }
        if self.chosen[c].len() + request.count - number > DEVICES_MAX {
            return Ok(Outcome::TooMany);
        }
        match request.all.as_ref().map(|all| all[number]) {
            Some(device) => self.take(at, number, device, within, true),
            None => self.any(at, number, within),
        }
    }

    fn alternatives(&mut self, c: usize, r: usize) -> Result<Outcome, Failure> {
        let mut all_too_many = true;
        for s in 0.. {
            if !self.requests.contains_key(&(c, r, s)) {
                break;
            }
            match self.next((c, r, s), 0, true)? {
                Outcome::Found => {
                    self.selected.insert((c, r), s);
                    return Ok(Outcome::Found);
                }
                Outcome::TooMany => {}
                Outcome::NotFound => all_too_many = false,
            }
        }
        Ok(if all_too_many { Outcome::TooMany } else { Outcome::NotFound })
    }

    fn any(&mut self, at: RequestAt, number: usize, within: bool) -> Result<Outcome, Failure> {
        let usable = self.pools.iter().filter(|pool| !pool.is_incomplete && !pool.is_invalid);
        let slices: Vec<usize> = usable.flat_map(|pool| pool.slices.iter().copied()).collect();
        for slice in slices {
            for device in 0..self.inventory.slices[slice].devices().len() {
                let device = (slice, device);
                let request = &self.requests[&at];
                if self.is_taken(device, at.0, request.admin) || !self.matches(at, request, device)? {
                    continue;
                }
                match self.take(at, number, device, within, false)? {
                    Outcome::NotFound => {}
                    other => return Ok(other),
                }
            }
        }
        Ok(Outcome::NotFound)
    }

    /// Takes a device, goes on, and gives it back if that leads nowhere. `must`: there is no other that would do.
    fn take(&mut self, at: RequestAt, number: usize, device: DeviceAt, within: bool, must: bool) -> Result<Outcome, Failure> {
        let c = at.0;
        let request = &self.requests[&at];
        let (admin, object) = (request.admin, self.inventory.device(device));
        let counted = object.consumes_counters.as_ref().is_some_and(|counters| !counters.is_empty());
        if self.is_taken(device, c, admin) || counted {
            return Ok(Outcome::NotFound);
        }
        let (base, full, own) = (request.parent.unwrap_or(request.name).to_owned(), request.full_name(), request.name);
        let driver = self.inventory.slice(device).spec.driver.as_str();
        for i in 0..self.constraints[c].len() {
            if self.constraints[c][i].add(&base, &full, driver, object) {
                continue;
            }
            if must {
                let (claim, spec) = (key(&self.claims[c]), &self.inventory.slice(device).spec);
                let device = device_key(driver, &spec.pool.name, &object.name);
                return Err(Failure::Error(format!(
                    "claim {claim}, request {own}: cannot add device {device} because a claim constraint would not be satisfied"
                )));
            }
            self.constraints[c][..i].iter_mut().for_each(|constraint| constraint.remove(&base, &full));
            return Ok(Outcome::NotFound);
        }
        self.allocating.entry(device).or_default().insert(c);
        self.chosen[c].push(Chosen { at: device, request: at, admin });
        let outcome = self.next(at, number + 1, within)?;
        if outcome != Outcome::Found {
            self.constraints[c].iter_mut().for_each(|constraint| constraint.remove(&base, &full));
            if let Some(claims) = self.allocating.get_mut(&device) {
                claims.remove(&c);
            }
            self.chosen[c].pop();
        }
        Ok(outcome)
    }
}

fn late() -> Failure {
    Failure::OnNode("timed out trying to allocate devices".to_owned())
}

/// An attribute by its full name; one of the driver's own domain may be written without it.
fn attribute<'a>(driver: &str, device: &'a Device, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    let own = || name.split_once('/').filter(|(domain, _)| *domain == driver).and_then(|(_, id)| attributes.get(id));
    attributes.get(name).or_else(own)
}

impl<'a> Constraint<'a> {
    fn applies(&self, base: &str, full: &str) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|request| request == base || request == full)
    }

    fn add(&mut self, base: &str, full: &str, driver: &str, device: &'a Device) -> bool {
        if !self.applies(base, full) {
            return true;
        }
        let Some(value) = attribute(driver, device, self.attribute) else { return false };
        if self.count > 0 && self.value != Some(value) {
            return false;
        }
        self.value = Some(value);
        self.count += 1;
        true
    }

    fn remove(&mut self, base: &str, full: &str) {
        if self.applies(base, full) {
            self.count -= 1;
        }
    }
}
