//! What an attack spends, and what is spent on judging it.

use crate::engine::denoise::EvaluationCounter;

/// Single-sample U-Net evaluations of one trial.
#[derive(Debug)]
pub(super) struct Costs {
    budget: u64,
    /// The attack's own.
    pub(super) forward: EvaluationCounter,
    /// The attack's own passes back.
    pub(super) backward: EvaluationCounter,
    /// Those of pictures that its success is counted over, which the attacker need not draw.
    pub(super) judging: EvaluationCounter,
}

impl Costs {
    pub(super) fn new(budget: u64) -> Self {
        Self {
            budget,
            forward: EvaluationCounter::default(),
            backward: EvaluationCounter::default(),
            judging: EvaluationCounter::default(),
        }
    }

    /// What the attack has spent.
    pub(super) fn spent(&self) -> u64 {
        self.forward.get() + self.backward.get()
    }

    /// What it may still spend.
    pub(super) fn left(&self) -> u64 {
        self.budget.saturating_sub(self.spent())
    }

    /// Everything that was computed.
    pub(super) fn all(&self) -> u64 {
        self.spent() + self.judging.get()
    }

    /// How much of the budget is spent, in thousandths, at most 999.
    pub(super) fn thousandths(&self) -> usize {
        let spent = u128::from(self.spent()) * 1_000 / u128::from(self.budget.max(1));
        usize::try_from(spent).unwrap_or(999).min(999)
    }

    /// Counts passes forward and back over so many samples.
    pub(super) fn pay_gradient(&self, samples: usize) {
        self.forward.add(samples);
        self.backward.add(samples);
    }
}
