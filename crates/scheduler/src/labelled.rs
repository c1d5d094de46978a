//! Which nodes have pods with a label: who counts the pods of a selector looks at those nodes alone, not at the whole cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::label_selector::{Labels, Selector};
use crate::pod_info::PodInfo;

/// How many pods, by the position of their node.
type Places = HashMap<usize, usize>;

/// Places by namespace, key and value of a label.
#[derive(Debug, Default)]
pub(crate) struct Labelled(HashMap<String, HashMap<String, HashMap<String, Places>>>);

/// Where pods may be that a selector matches.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// On these nodes at most.
    Positions(HashSet<usize>),
    /// The selector asks for no value of any label.
    Anywhere,
}

impl Labelled {
    /// The pods of a node have changed. Most are the same objects as before.
    pub(crate) fn replace(&mut self, position: usize, before: &[Arc<PodInfo>], after: &[Arc<PodInfo>]) {
        let same = before.iter().zip(after).take_while(|(before, after)| Arc::ptr_eq(before, after)).count();
        let (before, after) = (&before[same..], &after[same..]);
        let pointers = |pods: &[Arc<PodInfo>]| pods.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
        let (old, new) = (pointers(before), pointers(after));
        for pod in after.iter().filter(|pod| !old.contains(&Arc::as_ptr(pod))) {
            self.add(position, pod);
        }
        for pod in before.iter().filter(|pod| !new.contains(&Arc::as_ptr(pod))) {
            self.remove(position, pod);
        }
    }

    /// Where the pods of a namespace may be that a selector matches.
    pub(crate) fn places(&self, namespace: &str, selector: &Selector) -> Where {
        if selector.is_nothing() {
            return Where::Positions(HashSet::new());
        }
        let keys = self.0.get(namespace);
        let found = |(key, wanted): (&str, &[String])| -> Vec<&Places> {
            let values = keys.and_then(|keys| keys.get(key));
            values.into_iter().flat_map(|values| wanted.iter().filter_map(|value| values.get(value))).collect()
        };
        let fewest = selector.values().map(found).min_by_key(|places| places.iter().map(|places| places.len()).sum::<usize>());
        match fewest {
            Some(places) => Where::Positions(places.into_iter().flat_map(HashMap::keys).copied().collect()),
            None => Where::Anywhere,
        }
    }

    fn add(&mut self, position: usize, pod: &PodInfo) {
        let Some((namespace, labels)) = labels(pod) else { return };
        let keys = entry(&mut self.0, namespace);
        for (key, value) in labels {
            *entry(entry(keys, key), value).entry(position).or_default() += 1;
        }
    }

    fn remove(&mut self, position: usize, pod: &PodInfo) {
        let Some((namespace, labels)) = labels(pod) else { return };
        let Some(keys) = self.0.get_mut(namespace) else { return };
        for (key, value) in labels {
            let Some(values) = keys.get_mut(key) else { continue };
            let Some(places) = values.get_mut(value) else { continue };
            if let Some(pods) = places.get_mut(&position) {
                *pods -= 1;
                if *pods == 0 {
                    places.remove(&position);
                }
            }
            if places.is_empty() {
                values.remove(value);
            }
            if values.is_empty() {
                keys.remove(key);
            }
        }
        if keys.is_empty() {
            self.0.remove(namespace);
        }
    }
}

fn labels(pod: &PodInfo) -> Option<(&str, &Labels)> {
    let labels = pod.pod.metadata.labels.as_ref().filter(|labels| !labels.is_empty())?;
    Some((pod.pod.metadata.namespace.as_deref().unwrap_or_default(), labels))
}

/// The name is copied only where it is new.
fn entry<'a, V: Default>(map: &'a mut HashMap<String, V>, name: &str) -> &'a mut V {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), V::default());
    }
    map.get_mut(name).expect("it has just been put there")
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;

    fn pod(random: &mut StdRng) -> Arc<PodInfo> {
        let mut labels = Labels::new();
        for key in ["a", "b"] {
            if random.random_bool(0.7) {
                labels.insert(key.to_owned(), random.random_range(0..3).to_string());
            }
        }
        let namespace = ["x", "y"][random.random_range(0..2)];
        let object = json!({"metadata": {"namespace": namespace, "labels": labels}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).expect("a pod"))))
    }

    fn selector(random: &mut StdRng) -> Selector {
        let mut selector = Selector::default();
        for key in ["a", "b"] {
            let value = random.random_range(0..4).to_string();
            match random.random_range(0..4) {
                0 => selector.require(key, "In", vec![value]),
                1 => selector.require(key, "In", vec![value, "0".to_owned()]),
                2 => selector.require(key, "NotIn", vec![value]),
                _ => {}
            }
        }
        selector
    }

    #[test]
    fn no_node_with_a_pod_that_matches_is_left_out() {
        let mut random = StdRng::seed_from_u64(5);
        let (mut labelled, mut nodes) = (Labelled::default(), vec![Vec::<Arc<PodInfo>>::new(); 6]);
        let mut left_out = 0;
        for _ in 0..3000 {
            let position = random.random_range(0..nodes.len());
            let before = nodes[position].clone();
            for _ in 0..random.random_range(1..3) {
                let pods = &mut nodes[position];
                if random.random_bool(0.5) && !pods.is_empty() {
                    pods.remove(random.random_range(0..pods.len()));
                } else {
                    pods.push(pod(&mut random));
                }
            }
            labelled.replace(position, &before, &nodes[position]);
            let (selector, namespace) = (selector(&mut random), ["x", "y", "z"][random.random_range(0..3)]);
            let matches = |pod: &Arc<PodInfo>| {
                pod.pod.metadata.namespace.as_deref() == Some(namespace) && selector.matches(pod.pod.metadata.labels.as_ref())
            };
            let having: HashSet<usize> = (0..nodes.len()).filter(|position| nodes[*position].iter().any(matches)).collect();
            match labelled.places(namespace, &selector) {
                Where::Positions(positions) => {
                    assert!(positions.is_superset(&having), "{positions:?} {having:?} {selector:?}");
                    left_out += nodes.len() - positions.len();
                }
                Where::Anywhere => assert_eq!(selector.values().count(), 0),
            }
        }
        assert!(left_out > 0);
        nodes.iter().enumerate().for_each(|(position, pods)| labelled.replace(position, pods, &[]));
        assert!(labelled.0.is_empty(), "nothing is kept of pods that are gone");
    }
}
