//! The extension points by name, and which plugins take part in each.

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
}
