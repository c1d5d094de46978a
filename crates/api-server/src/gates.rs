//! Upstream's feature gates that this server has code for both ways.

/// Which features are on. Upstream's flag is `--feature-gates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    /// `CBORServingAndStorage`: CBOR is spoken.
    pub cbor: bool,
    /// `WatchList`: a watch can begin with what is there.
    pub watch_list: bool,
}

impl Default for FeatureGates {
    /// As in upstream's v1.35.
    fn default() -> FeatureGates {
        FeatureGates { cbor: false, watch_list: true }
    }
}
