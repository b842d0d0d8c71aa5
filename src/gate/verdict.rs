//! `GateVerdict`: what a policy says of a model, which every output is made of.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::{Bound, Date, Measure, RuleKind, Severity};

/// What a policy says of an erased model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateVerdict {
    /// Version of this form: 1.
    pub schema: u32,
    /// Whether the model is let through.
    pub verdict: Decision,
    /// By which policy.
    pub policy: PolicyReference,
    /// The edited model, as it was named.
    pub model: String,
    /// The base model, as it was named.
    pub base: String,
    /// The concept that should be gone.
    pub concept: String,
    /// How sure each decision is, before it is split over looks and rows.
    pub confidence: f64,
    /// Looks that the policy allows.
    pub looks: usize,
    /// Which look this is, from 1.
    pub look: usize,
    /// The day that waivers were held against, in UTC.
    pub date: Date,
    /// One a rule, in the policy's order.
    pub rules: Vec<RuleResult>,
}

/// Which policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyReference {
    /// The policy's name, as its file gives it.
    pub name: String,
    /// SHA-256 of its file's bytes, hexadecimal.
    pub sha256: String,
    /// Path of its file, with `/` between the parts; empty where it came from no file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
}

/// Whether a model is let through.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    IntoStaticStr,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Decision {
    /// Every rule that counts is kept.
    Passed,
    /// None is broken, and of one or more it is not known.
    Undecided,
    /// A rule that counts is broken.
    Rejected,
}

/// What became of a rule.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    IntoStaticStr,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Outcome {
    /// It is kept.
    Passed,
    /// It is not known.
    Undecided,
    /// It is broken.
    Failed,
}

/// What became of a rule, with the figures that it read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleResult {
    /// The rule's name.
    pub id: String,
    /// Its line in the policy's file.
    pub line: usize,
    /// Which figure was held against the limit.
    pub measure: Measure,
    /// How it is decided.
    pub kind: RuleKind,
    /// Whether it can reject.
    pub severity: Severity,
    /// Its limit.
    pub bound: Bound,
    /// What became of it: the worst of its rows.
    pub outcome: Outcome,
    /// Whether it bears on the verdict: not a warning, and not waived.
    pub counts: bool,
    /// Its exception, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiver: Option<WaiverState>,
    /// The same in words.
    pub message: String,
    /// One a judge and a thing that was measured; worst first.
    pub rows: Vec<RowResult>,
}

/// An exception, and whether it still counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaiverState {
    /// Last day that it counts.
    pub until: Date,
    /// Who accepted what.
    pub reason: String,
    /// Whether that day is over.
    pub expired: bool,
}

/// One figure, held against a rule's limit. What was not measured is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowResult {
    /// Whose figure; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub judge: String,
    /// Of which word, suite or attack; empty for the model as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub of: String,
    /// What became of it; absent where it proves nothing and so is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The measured value, in the measure's own unit; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The least that it can be, so sure as the decision is; absent where nothing bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The most that it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Pictures that it was counted over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<u64>,
    /// Where it is undecided: how many more pictures would decide it at the present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_pictures: Option<u64>,
    /// For alarms: the value nearest to the limit that would have raised it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest_visible: Option<f64>,
    /// The same in words.
    pub message: String,
}

impl RuleResult {
    /// Failed rules that count first, then undecided ones, then those that only inform.
    pub fn rank(&self) -> (bool, std::cmp::Reverse<Outcome>) {
        (!self.counts, std::cmp::Reverse(self.outcome))
    }

    /// Whether an exception keeps it from counting.
    pub fn is_waived(&self) -> bool {
        self.waiver.as_ref().is_some_and(|waiver| !waiver.expired)
    }
}

impl GateVerdict {
    /// The rules, worst first.
    pub fn worst_first(&self) -> Vec<&RuleResult> {
        let mut rules: Vec<_> = self.rules.iter().collect();
        rules.sort_by_key(|rule| rule.rank());
        rules
    }

    /// The verdict of rules: any broken one rejects, else any unknown one leaves it undecided.
    pub(super) fn decision(rules: &[RuleResult]) -> Decision {
        let worst = rules.iter().filter(|rule| rule.counts).map(|rule| rule.outcome).max();
        match worst {
            Some(Outcome::Failed) => Decision::Rejected,
            Some(Outcome::Undecided) => Decision::Undecided,
            Some(Outcome::Passed) | None => Decision::Passed,
        }
    }
}
