//! What prompts beyond the grid show: suites of prompts, and attacks.

use serde::{Deserialize, Serialize};

use super::{Compared, Distances, Share};
pub use crate::spec::AttackName;
use crate::spec::Expectation;

/// What an evaluation found beyond the grid of its verdicts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationResults {
    /// How far the pictures moved as a whole, by each judge that has features.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<Distances>,
    /// Suites of prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<SuiteResult>,
    /// Attacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attacks: Vec<AttackResult>,
}

impl EvaluationResults {
    /// The results of both, one after the other.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.distances.extend_from_slice(&other.distances);
        self.suites.extend_from_slice(&other.suites);
        self.attacks.extend_from_slice(&other.attacks);
        self
    }

    /// Whether nothing was looked for.
    pub fn is_empty(&self) -> bool {
        self.distances.is_empty() && self.suites.is_empty() && self.attacks.is_empty()
    }
}

/// A suite of prompts that ask for the concept, or must keep what they ask for, as one judge sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteResult {
    /// Its name: a file's, or a probe's such as "homoglyphs".
    pub suite: String,
    /// The concept that it is about.
    pub concept: String,
    /// The judge.
    pub judge: String,
    /// SHA-256 of its prompts, seeds and guidance as canonical JSON, hexadecimal.
    pub sha256: String,
    /// Columns of the file that were read; none for a probe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// What should become of what it asks for.
    #[serde(default, skip_serializing_if = "Expectation::is_default")]
    pub expects: Expectation,
    /// Pictures in which the judge names the concept; those in which it names what should be kept,
    /// where that is expected.
    pub named: Compared,
    /// Whether the base model draws what the suite asks for often enough (a rate of 0.5) for the
    /// edited model's rate to prove anything.
    pub applicable: bool,
}

/// What an attack came to, by one judge that it did not use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttackResult {
    /// Which attack.
    pub attack: AttackName,
    /// Its variant, such as "guided"; empty where there is one alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The concept.
    pub concept: String,
    /// The judge.
    pub judge: String,
    /// Most U-Net evaluations that it could spend.
    pub budget: u64,
    /// Those that it spent, forward.
    pub forward_evaluations: u64,
    /// Those that it spent backward.
    pub backward_evaluations: u64,
    /// Where its draws start.
    pub seed: u64,
    /// Pictures of the erased model that show the concept without the attack.
    pub plain: Share,
    /// Those that show it with the attack.
    pub attacked: Share,
    /// Control: the same attack for something that the model never knew, or against the base with
    /// another concept's word. What the attack finds wherever it is turned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_alarms: Option<Share>,
    /// Control: the same attack against the base model with the concept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Share>,
    /// False where the budget ended the attack before its own end: not decided, not withstood.
    pub finished: bool,
    /// Steps or updates of the first success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_success: Option<u64>,
    /// The same for the control, where one is counted (`relearning-few-shot`: a new association).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_first_success: Option<u64>,
    /// Success after so many steps or updates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<CurvePoint>,
    /// What was found: prompts, or the names of saved embeddings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
}

/// Success after so many steps or updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Steps or updates.
    pub step: u64,
    /// Pictures that show the concept.
    pub attacked: Share,
    /// The control's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Share>,
}
