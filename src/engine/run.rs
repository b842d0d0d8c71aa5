//! What a running job is given: a place to report to and a flag to watch.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::EngineError;
use crate::outcome::{Phase, Progress};

/// Set from anywhere, seen by the engine within one update.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks the run to stop; cannot be taken back.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the run shall stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Passed down every long computation.
pub struct RunContext<'a> {
    /// Called after every unit of work.
    pub report: &'a mut dyn FnMut(Progress),
    /// Watched before every unit of work.
    pub cancel: CancelFlag,
}

impl std::fmt::Debug for RunContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl RunContext<'_> {
    /// Reports a unit of work and stops a cancelled run.
    pub fn advance(&mut self, phase: Phase, done: usize, total: usize) -> Result<(), EngineError> {
        (self.report)(Progress { phase, done, total, update: None });
        self.check()
    }

    /// Stops a cancelled run.
    pub fn check(&self) -> Result<(), EngineError> {
        if self.cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }
}
