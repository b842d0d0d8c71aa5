//! `RunContext`: what a caller passes to a run, to receive progress, to cancel or pause it, and to
//! save its state.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{EngineError, StateStore};
use crate::outcome::{Notice, Phase, Progress};

/// Set from anywhere, seen by the engine within one update. Clones share it.
#[derive(Clone, Default)]
pub struct CancelFlag(Arc<Cancelling>);

#[derive(Default)]
struct Cancelling {
    is_cancelled: AtomicBool,
    rest: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for CancelFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelFlag").field(&self.is_cancelled()).finish()
    }
}

impl CancelFlag {
    /// Asks the run to stop; cannot be taken back.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the run shall stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// Lets the run leave the device to others now and then: `rest` is called within its larger
    /// units of work as well as between them, on the run's own thread. The first one counts.
    pub fn rest_by(&self, rest: impl Fn() + Send + Sync + 'static) {
        // Who set one before knows of it.
        let _ = self.0.rest.set(Box::new(rest));
    }

    /// Rests where there is something to rest for, and stops a cancelled run.
    pub(super) fn rest(&self) -> Result<(), EngineError> {
        if let Some(rest) = self.0.rest.get() {
            rest();
        }
        if self.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
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

/// How a run saves its state.
pub struct CheckpointPolicy<'a> {
    /// Where to.
    pub store: &'a mut dyn StateStore,
    /// Updates from one save to the next, and once more at the end of the training; 0 saves on a pause
    /// alone, or where it is due.
    pub every: usize,
    /// Asked between two units of work: whether so much time has passed that it is worth saving.
    pub due: &'a mut dyn FnMut() -> bool,
    /// Watched before every unit of work: once set, the run saves where it stands and ends with
    /// [`EngineError::Paused`].
    pub pause: PauseFlag,
    /// Told what became of saved state, for a log.
    pub notice: &'a mut dyn FnMut(Notice),
}

impl fmt::Debug for CheckpointPolicy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointPolicy")
            .field("every", &self.every)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// Passed down every long computation.
pub struct RunContext<'a> {
    /// Called after every unit of work.
    pub report: &'a mut dyn FnMut(Progress),
    /// Watched before every unit of work.
    pub cancel: CancelFlag,
    /// Where a run that shall outlive its process saves its state; none where it need not.
    pub saving: Option<CheckpointPolicy<'a>>,
}

impl fmt::Debug for RunContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext")
            .field("cancel", &self.cancel)
            .field("saving", &self.saving)
            .finish_non_exhaustive()
    }
}

impl<'a> RunContext<'a> {
    /// Of a run that nobody cancels and nothing saves.
    pub fn reporting(report: &'a mut dyn FnMut(Progress)) -> Self {
        Self { report, cancel: CancelFlag::default(), saving: None }
    }

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
