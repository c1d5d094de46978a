//! What a plugin answers.

/// The kind of answer; upstream's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Go on.
    Success,
    /// The plugin failed; the pod is tried again.
    Error,
    /// Not now: something may change (preemption too).
    Unschedulable,
    /// Not now, and removing other pods would not help.
    UnschedulableAndUnresolvable,
    /// Leave this plugin out of the rest of the cycle.
    Skip,
    /// Permit only: not yet.
    Wait,
}

/// A code with the reasons that a user reads in `kubectl describe pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: Code,
    reasons: Vec<String>,
    plugin: &'static str,
}

impl Status {
    /// Go on.
    pub fn success() -> Self {
        Self { code: Code::Success, reasons: Vec::new(), plugin: "" }
    }

    /// Leave the plugin out.
    pub fn skip() -> Self {
        Self { code: Code::Skip, ..Self::success() }
    }

    /// A rejection or a failure.
    pub fn new(code: Code, reasons: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { code, reasons: reasons.into_iter().map(Into::into).collect(), plugin: "" }
    }

    /// Adds who said so.
    #[must_use]
    pub(crate) fn by(mut self, plugin: &'static str) -> Self {
        self.plugin = plugin;
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The reasons, for people.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// The plugin that answered; empty if it does not matter.
    pub fn plugin(&self) -> &'static str {
        self.plugin
    }

    /// Whether the cycle goes on.
    pub fn is_success(&self) -> bool {
        self.code == Code::Success
    }

    /// Whether the pod was rejected, as opposed to a failure of the plugin.
    pub fn is_rejected(&self) -> bool {
        matches!(self.code, Code::Unschedulable | Code::UnschedulableAndUnresolvable)
    }
}
