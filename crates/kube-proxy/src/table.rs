//! The table as it is in the kernel, and the transactions that change it.
//!
//! Invariants: `claims` holds for every element the Services that want it, first come first; the first one's value is in the
//! kernel. A shared chain is there as long as a plan refers to it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::NamespacedName;
use nftables::{Batch, Connection, Element, Family, Key, KeyField, Set, Table};

use crate::layout::{MapName, Pick, Settings, add_skeleton};
use crate::plan::{ElementId, Plan, UdpFrontend, Value};

/// Clients that one endpoint's affinity set holds. A client beyond that draws anew with every connection.
const AFFINITY_CLIENTS_MAX: u32 = 65_536;

/// The Services that want one element, first come first; the first one's value is in the kernel. Nearly always it is alone.
struct Claimants {
    holder: Arc<NamespacedName>,
    others: Vec<Arc<NamespacedName>>,
}

/// The elements that a transaction deletes and adds, by map.
#[derive(Default)]
struct Changes {
    delete: BTreeMap<MapName, Vec<Element>>,
    add: BTreeMap<MapName, Vec<Element>>,
}

impl Changes {
    fn delete(&mut self, (map, key): &ElementId) {
        self.delete.entry(*map).or_default().push(Element::key(key.clone()));
    }

    fn add(&mut self, (map, key): &ElementId, value: &Value) {
        self.add.entry(*map).or_default().push(element(key.clone(), value));
    }
}

fn element(key: Key, value: &Value) -> Element {
    match value {
        Value::None => Element::key(key),
        Value::Verdict(verdict) => Element::verdict(key, verdict.clone()),
        Value::Endpoint(endpoint) => Element::value(key, endpoint.clone()),
    }
}

/// One family's table.
pub(crate) struct ProxyTable {
    table: Table,
    settings: Arc<Settings>,
    plans: BTreeMap<Arc<NamespacedName>, Arc<Plan>>,
    claims: HashMap<ElementId, Claimants>,
    picks: BTreeMap<Pick, usize>,
    /// The kernel's table is not known to hold what we think: it must be built anew.
    stale: bool,
}

impl ProxyTable {
    pub(crate) fn new(family: Family, name: &str, settings: Arc<Settings>) -> Self {
        Self {
            table: Table::new(family, name),
            settings,
            plans: BTreeMap::new(),
            claims: HashMap::new(),
            picks: BTreeMap::new(),
            stale: true,
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.table.family
    }

    /// Forces the next [`ProxyTable::apply`] to build everything anew.
    pub(crate) fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// Whether the kernel has the table.
    pub(crate) fn is_present(&self, connection: &mut Connection) -> Result<bool, nftables::Error> {
        Ok(connection.tables(self.table.family)?.contains(&self.table.name))
    }

    /// Replaces the plans of these Services (`None`: the Service is gone) and brings the kernel in line, in one transaction.
    /// Returns the UDP frontends whose flows must be looked at. On error the table counts as stale and everything is
    /// built anew next time; the plans are kept.
    pub(crate) fn apply(
        &mut self,
        connection: &mut Connection,
        changed: Vec<(NamespacedName, Option<Plan>)>,
    ) -> Result<Vec<UdpFrontend>, nftables::Error> {
        let mut batch = Batch::new(&self.table);
        let mut udp = Vec::new();
        // What is built anew is no change of anything.
        let mut changes = (!self.stale).then(Changes::default);
        let before: BTreeSet<Pick> = self.picks.keys().copied().collect();
        let mut replaced = Vec::new();
        for (name, new) in changed {
            let name = Arc::new(name);
            let new = Arc::new(new.unwrap_or_default());
            let old = self.plans.remove(&name).unwrap_or_default();
            if old == new && !self.stale {
                self.remember(&name, new);
                continue;
            }
            udp.extend(new.udp.iter().filter(|frontend| !old.udp.contains(frontend)).cloned());
            self.claim(&name, &old, &new, &mut changes);
            self.count_picks(&old, &new);
            self.remember(&name, Arc::clone(&new));
            if !self.stale {
                replaced.push((old, new));
            }
        }
        match changes {
            None => self.build(&mut batch),
            Some(changes) => self.add_changes(&mut batch, &before, &replaced, &changes),
        }
        let result = connection.commit(&batch);
        self.stale = result.is_err();
        result.map(|()| udp)
    }

    /// Deletes the table; what connections it translated goes on.
    #[cfg(test)]
    pub(crate) fn remove(&self, connection: &mut Connection) -> Result<(), nftables::Error> {
        let mut batch = Batch::new(&self.table);
        batch.add_table();
        batch.delete_table();
        connection.commit(&batch)
    }

    fn remember(&mut self, name: &Arc<NamespacedName>, plan: Arc<Plan>) {
        if *plan != Plan::default() {
            self.plans.insert(Arc::clone(name), plan);
        }
    }

    /// Updates who wants which element, and notes what that changes in the kernel. `self.plans` has neither plan now.
    fn claim(&mut self, name: &Arc<NamespacedName>, old: &Plan, new: &Plan, changes: &mut Option<Changes>) {
        for (id, value) in &old.elements {
            let Some(claimants) = self.claims.get_mut(id) else { continue };
            let holds = claimants.holder == *name;
            match new.elements.get(id) {
                Some(wanted) if wanted == value || !holds => {}
                Some(wanted) => {
                    if let Some(changes) = changes {
                        changes.delete(id);
                        changes.add(id, wanted);
                    }
                }
                None => {
                    claimants.others.retain(|claimant| claimant != name);
                    let next = (!claimants.others.is_empty()).then(|| claimants.others[0].clone());
                    match &next {
                        _ if !holds => {}
                        Some(_) => claimants.holder = claimants.others.remove(0),
                        None => drop(self.claims.remove(id)),
                    }
                    // A set's element has no value: the next claimant's is the same.
                    if let Some(changes) = changes.as_mut().filter(|_| holds && (*value != Value::None || next.is_none())) {
                        changes.delete(id);
                        let successor = next.and_then(|next| self.plans.get(&next)?.elements.get(id));
                        if let Some(value) = successor {
                            changes.add(id, value);
                        }
                    }
                }
            }
        }
        for (id, value) in new.elements.iter().filter(|(id, _)| !old.elements.contains_key(id)) {
            match self.claims.entry(id.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Claimants { holder: Arc::clone(name), others: Vec::new() });
                    if let Some(changes) = changes {
                        changes.add(id, value);
                    }
                }
                Entry::Occupied(mut occupied) => {
                    let claimants = occupied.get_mut();
                    claimants.others.push(Arc::clone(name));
                    if *value != Value::None {
                        let holder = &claimants.holder;
                        tracing::warn!(service = %name, %holder, map = id.0.name(), "an address and port is wanted by two Services");
                    }
                }
            }
        }
    }

    fn count_picks(&mut self, old: &Plan, new: &Plan) {
        for pick in &new.picks {
            *self.picks.entry(*pick).or_default() += 1;
        }
        for pick in &old.picks {
            if let Some(count) = self.picks.get_mut(pick) {
                *count -= 1;
                if *count == 0 {
                    self.picks.remove(pick);
                }
            }
        }
    }

    /// The whole table from nothing.
    fn build(&self, batch: &mut Batch) {
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        add_skeleton(batch, &self.settings, self.table.family);
        self.add_objects(batch, self.picks.keys(), self.plans.values().map(Arc::as_ref));
        let mut elements: BTreeMap<MapName, Vec<Element>> = BTreeMap::new();
        for (name, plan) in &self.plans {
            let held = |(id, _): &(&ElementId, &Value)| self.claims.get(*id).is_some_and(|claimants| claimants.holder == *name);
            for (id, value) in plan.elements.iter().filter(held) {
                elements.entry(id.0).or_default().push(element(id.1.clone(), value));
            }
        }
        for (map, elements) in elements {
            batch.add_elements(map.name(), &elements);
        }
    }

    /// Sets first, then chains, then rules: each may refer to what comes before.
    fn add_objects<'a>(
        &self,
        batch: &mut Batch,
        picks: impl Iterator<Item = &'a Pick> + Clone,
        plans: impl Iterator<Item = &'a Plan> + Clone,
    ) {
        for name in plans.clone().flat_map(|plan| &plan.affinity_sets) {
            batch.add_set(&self.affinity_set(name));
        }
        for pick in picks.clone() {
            batch.add_chain(&pick.chain(), None);
        }
        for name in plans.clone().flat_map(|plan| plan.chains.keys()) {
            batch.add_chain(name, None);
        }
        for pick in picks {
            for rule in pick.rules(&self.settings, self.table.family) {
                batch.add_rule(&pick.chain(), &rule);
            }
        }
        for (name, rules) in plans.flat_map(|plan| &plan.chains) {
            for rule in rules {
                batch.add_rule(name, rule);
            }
        }
    }

    fn affinity_set(&self, name: &str) -> Set {
        let address = if self.table.family == Family::Ipv6 { KeyField::Ipv6 } else { KeyField::Ipv4 };
        Set::new(name, &[address]).dynamic(AFFINITY_CLIENTS_MAX)
    }

    /// The difference: what is new comes first, then the elements, then what is no longer referred to goes.
    fn add_changes(&self, batch: &mut Batch, before: &BTreeSet<Pick>, replaced: &[(Arc<Plan>, Arc<Plan>)], changes: &Changes) {
        let now: BTreeSet<Pick> = self.picks.keys().copied().collect();
        let differences: Vec<Plan> = replaced.iter().map(|(old, new)| added(old, new)).collect();
        for (old, new) in replaced {
            // A chain whose rules changed keeps its name and its references.
            for name in new.chains.keys().filter(|name| old.chains.contains_key(*name)) {
                if old.chains[name] != new.chains[name] {
                    batch.flush_chain(name);
                }
            }
        }
        self.add_objects(batch, now.difference(before), differences.iter());
        for (map, elements) in &changes.delete {
            batch.delete_elements(map.name(), elements);
        }
        for (map, elements) in &changes.add {
            batch.add_elements(map.name(), elements);
        }
        let gone = |select: fn(&Plan) -> Vec<&String>| -> Vec<&String> {
            replaced
                .iter()
                .flat_map(|(old, new)| {
                    let kept: BTreeSet<&String> = select(new).into_iter().collect();
                    select(old).into_iter().filter(move |name| !kept.contains(*name))
                })
                .collect()
        };
        let chains = gone(|plan| plan.chains.keys().collect());
        // They refer to each other: first all are emptied.
        for chain in &chains {
            batch.flush_chain(chain);
        }
        for chain in &chains {
            batch.delete_chain(chain);
        }
        for pick in before.difference(&now) {
            batch.delete_chain(&pick.chain());
        }
        for set in gone(|plan| plan.affinity_sets.iter().collect()) {
            batch.delete_set(set);
        }
    }
}

/// The sets and chains of `new` that `old` does not have, or not with the same rules.
fn added(old: &Plan, new: &Plan) -> Plan {
    let chains = new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules));
    Plan {
        chains: chains.map(|(name, rules)| (name.clone(), rules.clone())).collect(),
        affinity_sets: new.affinity_sets.difference(&old.affinity_sets).cloned().collect(),
        ..Plan::default()
    }
}
