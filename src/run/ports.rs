//! `RunPorts`: what a run asks of its surroundings.

use std::{collections::BTreeMap, fmt};

use super::{DeviceEngine, RunError, Undertaking};
use crate::{
    engine::{CancelFlag, EngineError, PauseFlag, WorkMemory, evaluate::PictureStore},
    jobs::Failure,
    outcome::{Notice, Progress},
    report::PhaseCost,
};

/// What a run asks of its surroundings.
pub struct RunPorts<'a> {
    /// Asked before any work whether it may hold so much memory to its end; none where nothing else
    /// shares the memory.
    pub admit: Option<&'a mut dyn FnMut(WorkMemory) -> Result<(), Failure>>,
    /// Called after every unit of work.
    pub progress: &'a mut dyn FnMut(Progress),
    /// Called with what became of saved state.
    pub notice: &'a mut dyn FnMut(Notice),
    /// Where the base model's judged pictures are kept.
    pub pictures: &'a mut dyn PictureStore,
    /// Ends the run.
    pub cancel: CancelFlag,
    /// Lets the training save where it stands and ends the run; a judgement is not saved.
    pub pause: PauseFlag,
    /// None where equal work must give equal bytes.
    pub measurements: Option<&'a dyn Measurements>,
}

/// What the clock and the machine say of a run, for its report.
pub trait Measurements {
    /// Wall time from the run's beginning to now.
    fn seconds(&self) -> f64;

    /// The most memory that the process held, where the system says.
    fn peak_rss_bytes(&self) -> Option<u64>;

    /// The machine, in words.
    fn platform(&self) -> String;
}

impl fmt::Debug for RunPorts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunPorts")
            .field("cancel", &self.cancel)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

impl RunPorts<'_> {
    /// Asks for the most that any part of a run holds: a run holds its memory from its beginning to
    /// its end. Each part comes with the bytes that lie beside it.
    pub(super) fn admit<'a, E: DeviceEngine>(
        &mut self,
        engine: &E,
        parts: impl IntoIterator<Item = (Undertaking<'a>, u64)>,
    ) -> Result<(), RunError> {
        let Some(admit) = &mut self.admit else { return Ok(()) };
        let mut most = WorkMemory { program: 0, work: 0 };
        for (part, beside) in parts {
            let memory = engine.memory(part)?;
            most.program = most.program.max(memory.program);
            most.work = most.work.max(memory.work.saturating_add(beside));
        }
        admit(most).map_err(RunError::NotAdmitted)
    }

    /// Stops a run that was cancelled or paused, where the engine does not.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        if self.cancel.is_cancelled() {
            Err(EngineError::Cancelled)
        } else if self.pause.is_paused() {
            Err(EngineError::Paused)
        } else {
            Ok(())
        }
    }

    /// Seconds since the run began, where they are measured.
    pub(super) fn seconds(&self) -> Option<f64> {
        self.measurements.map(Measurements::seconds)
    }

    /// The most memory that the process held, where it is measured.
    pub(super) fn peak_rss_bytes(&self) -> Option<u64> {
        self.measurements.and_then(Measurements::peak_rss_bytes)
    }

    /// The cost of a part that took so long, where that was measured.
    pub(super) fn cost(&self, unet_evaluations: u64, seconds: f64) -> PhaseCost {
        PhaseCost { unet_evaluations, seconds: self.measurements.map(|_| seconds) }
    }
}

/// What computed a result; the machine where it is measured.
pub fn versions(measurements: Option<&dyn Measurements>) -> BTreeMap<String, String> {
    let keystep = ("keystep".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let platform = measurements.map(|measured| ("platform".to_owned(), measured.platform()));
    [keystep].into_iter().chain(platform).collect()
}
