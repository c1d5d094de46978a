//! The extension points by name, and which plugins take part in each.

use super::Plugin;

/// An extension point that can be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    PreEnqueue,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

/// All of them, with upstream's names (the `extension_point` label of metrics).
pub(crate) const POINTS: [(Point, &str); 11] = [
    (Point::PreEnqueue, "PreEnqueue"),
    (Point::PreFilter, "PreFilter"),
    (Point::Filter, "Filter"),
    (Point::PostFilter, "PostFilter"),
    (Point::PreScore, "PreScore"),
    (Point::Score, "Score"),
    (Point::Reserve, "Reserve"),
    (Point::Permit, "Permit"),
    (Point::PreBind, "PreBind"),
    (Point::Bind, "Bind"),
    (Point::PostBind, "PostBind"),
];

/// Whether a plugin has something to do at a point.
pub(crate) fn implements(plugin: &dyn Plugin, point: Point) -> bool {
    match point {
        Point::PreEnqueue => plugin.as_pre_enqueue().is_some(),
        Point::PreFilter => plugin.as_pre_filter().is_some(),
        Point::Filter => plugin.as_filter().is_some(),
        Point::PostFilter => plugin.as_post_filter().is_some(),
        Point::PreScore => plugin.as_pre_score().is_some(),
        Point::Score => plugin.as_score().is_some(),
        Point::Reserve => plugin.as_reserve().is_some(),
        Point::Permit => plugin.as_permit().is_some(),
        Point::PreBind => plugin.as_pre_bind().is_some(),
        Point::Bind => plugin.as_bind().is_some(),
        Point::PostBind => plugin.as_post_bind().is_some(),
    }
}

/// For each point the plugins in their order: their index among the profile's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Points([Vec<usize>; POINTS.len()]);

impl Points {
    /// Every plugin at every point.
    pub(crate) fn all(plugins: usize) -> Self {
        Self(std::array::from_fn(|_| (0..plugins).collect()))
    }

    /// The plugins at a point.
    pub(crate) fn at(&self, point: Point) -> &[usize] {
        &self.0[point as usize]
    }

    /// Says which plugins are at a point.
    pub(crate) fn set(&mut self, point: Point, plugins: Vec<usize>) {
        self.0[point as usize] = plugins;
    }

    /// Keeps only some of the plugins at each point.
    pub(crate) fn retain(&mut self, keep: impl Fn(Point, usize) -> bool) {
        for (point, _) in POINTS {
            self.0[point as usize].retain(|plugin| keep(point, *plugin));
        }
    }
}
