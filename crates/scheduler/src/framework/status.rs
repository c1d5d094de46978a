//! What a plugin answers.

use std::borrow::Cow;

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
    /// Not now, and the plugin knows that what the pod waits for is on its way.
    Pending,
    /// Leave this plugin out of the rest of the cycle.
    Skip,
    /// Permit only: not yet.
    Wait,
}

/// A code with the reasons that a user reads in `kubectl describe pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: Code,
    /// Mostly constants: a node that is refused costs no copy of the text.
    reasons: Vec<Cow<'static, str>>,
    plugin: &'static str,
}

impl Code {
    /// Upstream's name, for metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Error => "Error",
            Self::Unschedulable => "Unschedulable",
            Self::UnschedulableAndUnresolvable => "UnschedulableAndUnresolvable",
            Self::Pending => "Pending",
            Self::Skip => "Skip",
            Self::Wait => "Wait",
        }
    }
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
    pub fn new(code: Code, reasons: impl IntoIterator<Item = impl Into<Cow<'static, str>>>) -> Self {
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
    pub fn reasons(&self) -> &[Cow<'static, str>] {
        &self.reasons
    }

    /// All reasons as one text.
    pub fn message(&self) -> String {
        self.reasons.join(", ")
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
        matches!(self.code, Code::Unschedulable | Code::UnschedulableAndUnresolvable | Code::Pending)
    }
}
