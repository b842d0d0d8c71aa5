//! What a running job is given: a place to report to and a flag to watch.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{EngineError, state::Saving};
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

/// Set from anywhere when the process must make room: the run saves where it stands and ends with
/// [`EngineError::Paused`], for a later process to go on.
#[derive(Debug, Clone, Default)]
pub struct PauseFlag(Arc<AtomicBool>);

impl PauseFlag {
    /// Asks the run to pause; cannot be taken back.
    pub fn pause(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the run shall pause.
    pub fn is_paused(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Passed down every long computation.
pub struct RunContext<'a> {
    /// Called after every unit of work.
    pub report: &'a mut dyn FnMut(Progress),
    /// Watched before every unit of work.
    pub cancel: CancelFlag,
    /// Where a run that shall outlive its process saves its state; none where it need not.
    pub saving: Option<Saving<'a>>,
}

impl std::fmt::Debug for RunContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext")
            .field("cancel", &self.cancel)
            .field("saving", &self.saving)
            .finish_non_exhaustive()
    }
}

impl RunContext<'_> {
    /// Reports a unit of work and stops a run that was cancelled or paused.
    pub fn advance(&mut self, phase: Phase, done: usize, total: usize) -> Result<(), EngineError> {
        (self.report)(Progress { phase, done, total, update: None });
        self.check()
    }

    /// Stops a run that was cancelled or paused.
    pub fn check(&self) -> Result<(), EngineError> {
        self.check_cancelled()?;
        if self.is_paused() { Err(EngineError::Paused) } else { Ok(()) }
    }

    /// Stops a cancelled run alone: for where a pause has nothing left to wait for.
    pub(super) fn check_cancelled(&self) -> Result<(), EngineError> {
        if self.cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.saving.as_ref().is_some_and(|saving| saving.pause.is_paused())
    }
}
