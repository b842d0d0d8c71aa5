//! `ScoreSpec`: how the steps that decide a concept are measured.

use serde::{Deserialize, Serialize};

use super::{Concept, Field, Scope, SpecError, Vocabulary, violation::Violations};

/// A request for timestep scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSpec {
    /// The concept.
    pub concept: Concept,
    /// Words for contexts and neighbours.
    pub vocabulary: Vocabulary,
    /// Steps of the schedule that is scored.
    pub steps: usize,
    /// Guidance of the trajectories.
    pub guidance_scale: f64,
    /// Trajectories, and so seeds, that are averaged over.
    pub trajectories: usize,
    /// Whether to compare gradients, which costs as much as the rest.
    pub gradient_share: bool,
    /// Whether to sample the switch curve, which needs a judge.
    pub switch_curve: bool,
    /// The scope whose gradients are compared.
    pub scope: Scope,
    /// First seed; trajectory `n` uses `seed + n`.
    pub seed: u64,
}

impl ScoreSpec {
    /// The defaults for a concept.
    pub fn new(concept: Concept, vocabulary: Vocabulary) -> Self {
        Self {
            concept,
            vocabulary,
            steps: 20,
            guidance_scale: 5.0,
            trajectories: 8,
            gradient_share: true,
            switch_curve: true,
            scope: Scope::CrossAttention,
            seed: 0,
        }
    }

    /// The same request in canonical words.
    #[must_use]
    pub fn canonical(&self) -> Self {
        Self {
            concept: self.concept.canonical(),
            vocabulary: self.vocabulary.canonical(),
            ..self.clone()
        }
    }

    /// Single-sample U-Net evaluations that it takes at most; an evaluation with its gradient, which
    /// costs three times as much, counts three.
    pub fn most_evaluations(&self) -> u64 {
        let [steps, trajectories] = [self.steps, self.trajectories].map(|n| n as u64);
        // The concept, its anchor and the empty prompt; with gradients a neighbour and the empty
        // prompt as well, and four trajectories forward and backward, twice.
        let gradients = if self.gradient_share { 2 * trajectories + 24 } else { 0 };
        // Two trunks and twenty branches of four trajectories, half of them guided.
        let curve = if self.switch_curve { 132 } else { 0 };
        steps.saturating_mul(3 * trajectories + gradients + curve)
    }

    /// Checks every field.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.absorb(self.concept.validate());
        found.absorb(self.vocabulary.validate());
        found.absorb(self.scope.validate());
        found.within(Field::Steps, self.steps, 4..=1_000);
        found.within(Field::GuidanceScale, self.guidance_scale, 0.0..=100.0);
        found.within(Field::Trajectories, self.trajectories, 2..=1_024);
        found.finish()
    }
}
