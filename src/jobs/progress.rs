//! How far a job has come.

use serde::{Deserialize, Serialize};

use crate::outcome::{Phase, Progress, number};

/// How far a job is; before any work by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// What is being done.
    pub phase: Phase,
    /// Units of the phase that are done.
    pub done: u64,
    /// Units of the phase in all.
    pub total: u64,
    /// Updates finished, over the whole job.
    pub updates_done: u32,
    /// Updates in all; 0 before training.
    pub updates_total: u32,
    /// Step of the last update.
    pub key_step: u32,
    /// Loss of the last update.
    #[serde(deserialize_with = "number::deserialize")]
    pub loss: f64,
    /// Gradient norm of the last update.
    #[serde(deserialize_with = "number::deserialize")]
    pub gradient_norm: f64,
}

impl JobProgress {
    /// Takes over a report of the engine; what training measured stays while other phases run.
    pub fn advance(&mut self, report: &Progress) {
        self.phase = report.phase;
        self.done = report.done as u64;
        self.total = report.total as u64;
        if report.phase == Phase::Train {
            self.updates_total = u32::try_from(report.total).unwrap_or(u32::MAX);
        }
        if let Some(update) = &report.update {
            self.updates_done = u32::try_from(update.update + 1).unwrap_or(u32::MAX);
            self.key_step = u32::try_from(update.step.0).unwrap_or(u32::MAX);
            self.loss = update.loss;
            self.gradient_norm = update.gradient_norm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::EventBody;

    #[test]
    fn a_loss_that_is_no_number_comes_back() {
        let progress = JobProgress {
            phase: Phase::Train,
            done: 1,
            total: 2,
            updates_done: 1,
            updates_total: 2,
            key_step: 3,
            loss: f64::NAN,
            gradient_norm: 0.1 + 0.2,
        };
        let text = serde_json::to_string(&EventBody::Progress(progress)).unwrap();
        let EventBody::Progress(back) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}");
        };
        assert!(back.loss.is_nan());
        assert_eq!(back.gradient_norm.to_bits(), progress.gradient_norm.to_bits());
    }
}
