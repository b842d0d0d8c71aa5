//! How far a job is.

use serde::{Deserialize, Serialize};

use crate::outcome::{Phase, number};

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
    /// Of a job that has not trained.
    pub fn untrained(phase: Phase) -> Self {
        Self {
            phase,
            done: 0,
            total: 0,
            updates_done: 0,
            updates_total: 0,
            key_step: 0,
            loss: 0.0,
            gradient_norm: 0.0,
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
