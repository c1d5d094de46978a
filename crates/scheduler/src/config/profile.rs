//! From a profile of the file to plugins at extension points: the defaults, minus what is disabled, plus what is enabled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::file::{PluginName, PluginSet, Plugins, ProfileFile};
use super::{ConfigError, FeatureGates, invalid};
use crate::framework::{Handle, Plugin, Point, Points, Profile, implements};
use crate::plugins::{GANG_SCHEDULING, REGISTRY, Registration};

/// The queue's order; it is no module here, but upstream's configuration names it.
const QUEUE_SORT: &str = "PrioritySort";

fn set_of(plugins: &Plugins, point: Point) -> &PluginSet {
    match point {
        Point::PreEnqueue => &plugins.pre_enqueue,
        Point::PreFilter => &plugins.pre_filter,
        Point::Filter => &plugins.filter,
        Point::PostFilter => &plugins.post_filter,
        Point::PreScore => &plugins.pre_score,
        Point::Score => &plugins.score,
        Point::Reserve => &plugins.reserve,
        Point::Permit => &plugins.permit,
        Point::PreBind => &plugins.pre_bind,
        Point::Bind => &plugins.bind,
        Point::PostBind => &plugins.post_bind,
    }
}

/// Every plugin there is, made with its arguments.
struct Available {
    plugins: Vec<(Arc<dyn Plugin>, i64)>,
    by_name: BTreeMap<&'static str, usize>,
}

impl Available {
    fn new(file: &ProfileFile, handle: &Arc<Handle>, ignored: &BTreeSet<String>) -> Result<Self, ConfigError> {
        let mut args: BTreeMap<&str, &Value> = BTreeMap::new();
        for given in &file.plugin_config {
            if args.insert(&given.name, &given.args).is_some() {
                return Err(invalid("pluginConfig", format!("{:?}", given.name), "Duplicate value"));
            }
        }
        // What only the extenders count is added to what the file leaves out.
        let fit = with_ignored(args.get("NodeResourcesFit").copied(), ignored);
        if let Some(fit) = &fit {
            args.insert("NodeResourcesFit", fit);
        }
        let plugins = REGISTRY
            .iter()
            .map(|Registration { name, make, weight }| Ok((make(handle, args.remove(name).unwrap_or(&Value::Null))?, *weight)))
            .collect::<Result<Vec<_>, ConfigError>>()?;
        if let Some(unknown) = args.keys().next() {
            return Err(invalid("pluginConfig", format!("{unknown:?}"), "plugin does not exist"));
        }
        let by_name = plugins.iter().enumerate().map(|(index, (plugin, _))| (plugin.name(), index)).collect();
        Ok(Self { plugins, by_name })
    }

    fn index(&self, name: &str) -> Result<usize, ConfigError> {
        self.by_name.get(name).copied().ok_or_else(|| invalid("plugins", format!("{name:?}"), "plugin does not exist"))
    }
}

fn with_ignored(args: Option<&Value>, ignored: &BTreeSet<String>) -> Option<Value> {
    if ignored.is_empty() {
        return None;
    }
    let mut args = args.filter(|args| args.is_object()).cloned().unwrap_or_else(|| json!({}));
    let before = args["ignoredResources"].as_array().cloned().unwrap_or_default();
    args["ignoredResources"] = before.into_iter().chain(ignored.iter().map(|name| json!(name))).collect();
    Some(args)
}

/// The plugins that take part wherever they can, in order.
fn multi_point(file: &PluginSet, gates: FeatureGates) -> Vec<PluginName> {
    let is_default = |registration: &&Registration| {
        let has_gate = registration.name != GANG_SCHEDULING || gates.gang_scheduling;
        has_gate && !file.disables(registration.name)
    };
    let defaults = REGISTRY.iter().filter(is_default).map(|registration| {
        let name = registration.name.to_owned();
        file.enables(&name).cloned().unwrap_or(PluginName { name, weight: None })
    });
    let mut chosen: Vec<PluginName> = defaults.collect();
    for extra in file.enabled.iter().filter(|extra| extra.name != QUEUE_SORT) {
        if !chosen.iter().any(|known| known.name == extra.name) {
            chosen.push(extra.clone());
        }
    }
    chosen
}

/// Makes a profile.
pub(super) fn make(
    file: &ProfileFile,
    name: &str,
    handle: &Arc<Handle>,
    ignored: &BTreeSet<String>,
    gates: FeatureGates,
) -> Result<Profile, ConfigError> {
    let mut available = Available::new(file, handle, ignored)?;
    let everywhere = multi_point(&file.plugins.multi_point, gates);
    if let Some(other) = file.plugins.queue_sort.enabled.iter().find(|plugin| plugin.name != QUEUE_SORT) {
        return Err(invalid("plugins.queueSort", format!("{:?}", other.name), "plugin does not exist"));
    }
    let mut points = Points::default();
    for (point, label) in crate::framework::POINTS {
        let set = set_of(&file.plugins, point);
        for plugin in &set.enabled {
            if !implements(available.plugins[available.index(&plugin.name)?].0.as_ref(), point) {
                let reason = format!("plugin does not extend {label} plugin");
                return Err(invalid("plugins", format!("{:?}", plugin.name), &reason));
            }
        }
        // What the point orders anew comes first, then what is everywhere, then what is only here.
        let named = |name: &str| everywhere.iter().any(|plugin| plugin.name == name);
        let again = set.enabled.iter().filter(|plugin| named(&plugin.name));
        let elsewhere = everywhere.iter().filter(|plugin| !set.disables(&plugin.name) && set.enables(&plugin.name).is_none());
        let only = set.enabled.iter().filter(|plugin| !named(&plugin.name));
        let mut indexes = Vec::new();
        for plugin in again.chain(elsewhere).chain(only) {
            let index = available.index(&plugin.name)?;
            indexes.push(index);
            if point == Point::Score
                && let Some(weight) = plugin.weight.filter(|weight| *weight != 0)
            {
                available.plugins[index].1 = weight;
            }
        }
        points.set(point, indexes);
    }
    if points.at(Point::Bind).is_empty() {
        return Err(invalid("plugins.bind", "[]", "at least one bind plugin is needed for profile"));
    }
    // A plugin that scores only because it is told to has upstream's weight of 1.
    available.plugins.iter_mut().for_each(|(_, weight)| *weight = (*weight).max(1));
    Ok(Profile::new(name, available.plugins, Arc::clone(handle)).with_points(points))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: &str) -> Result<Profile, ConfigError> {
        let file: ProfileFile = serde_json::from_str(&apimachinery::yaml::strict_json(text.as_bytes()).unwrap()).unwrap();
        make(&file, "s", &Arc::default(), &BTreeSet::new(), FeatureGates::default())
    }

    #[test]
    fn gangs_are_scheduled_by_a_gate() {
        let permits = |gang_scheduling: bool, file: &str| {
            let file: ProfileFile = serde_json::from_str(file).unwrap();
            let gates = FeatureGates { gang_scheduling, ..FeatureGates::default() };
            make(&file, "s", &Arc::default(), &BTreeSet::new(), gates).unwrap().names_at(Point::Permit)
        };
        assert!(permits(false, "{}").is_empty());
        assert_eq!(permits(true, "{}"), [GANG_SCHEDULING]);
        let disabled = r#"{"plugins": {"multiPoint": {"disabled": [{"name": "GangScheduling"}]}}}"#;
        assert!(permits(true, disabled).is_empty());
    }

    #[test]
    fn points_are_the_defaults_with_changes() {
        let check = |text: &str, point: Point, expected: &[&str]| {
            let names = profile(text).unwrap().names_at(point);
            assert_eq!(names, expected, "{text}");
        };
        check("schedulerName: s", Point::PostFilter, &["DynamicResources", "DefaultPreemption"]);
        check("plugins: {postFilter: {disabled: [{name: '*'}]}}", Point::PostFilter, &[]);
        check("plugins: {multiPoint: {disabled: [{name: DefaultPreemption}]}}", Point::PostFilter, &["DynamicResources"]);
        let first = "plugins: {postFilter: {enabled: [{name: DefaultPreemption}]}}";
        check(first, Point::PostFilter, &["DefaultPreemption", "DynamicResources"]);
        let only = "plugins: {score: {disabled: [{name: '*'}], enabled: [{name: ImageLocality, weight: 7}]}}";
        check(only, Point::Score, &["ImageLocality"]);
    }

    #[test]
    fn somebody_must_bind() {
        assert!(profile("plugins: {bind: {disabled: [{name: '*'}]}}").is_err());
    }
}
