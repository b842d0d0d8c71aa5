//! One run of a verb: its progress, its cancel flag, its clock.

use std::io::Write;

use super::{
    CliError,
    interrupt::Interrupt,
    progress::{PhaseProgress, ProgressDisplay},
    timing::Stopwatch,
};
use crate::{
    engine::{EngineError, RunContext},
    report::PhaseCost,
};

/// What a verb's work needs: signals, clock and progress.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) interrupt: Interrupt,
    stopwatch: Stopwatch,
    progress: ProgressDisplay,
}

impl Session {
    pub(super) fn new(quiet: bool, interrupt: Interrupt) -> Self {
        Self { interrupt, stopwatch: Stopwatch::start(), progress: ProgressDisplay::new(quiet) }
    }

    /// Seconds since the verb began.
    pub(super) fn seconds(&self) -> f64 {
        self.stopwatch.seconds()
    }

    /// Runs work of the engine, shows its progress and watches signals. Returns the result and the
    /// seconds it took.
    pub(super) fn work<T>(
        &mut self,
        work: impl FnOnce(&mut RunContext<'_>) -> Result<T, EngineError>,
    ) -> Result<(T, f64), CliError> {
        self.interrupt.check()?;
        let stopwatch = Stopwatch::start();
        let progress = &mut self.progress;
        let mut report = |event| progress.show(PhaseProgress::from(&event));
        let mut context =
            RunContext { report: &mut report, cancel: self.interrupt.cancel.clone(), saving: None };
        let result = work(&mut context);
        self.progress.finish();
        Ok((result?, stopwatch.seconds()))
    }

    /// The display, for progress that does not come from [`Session::work`].
    pub(super) fn display(&mut self) -> &mut ProgressDisplay {
        &mut self.progress
    }

    /// Prints a line on the present work to stderr.
    pub(super) fn note(&mut self, text: &str) {
        self.progress.note(text);
    }
}

/// The cost of a part.
pub(super) fn cost(unet_evaluations: u64, seconds: f64) -> PhaseCost {
    PhaseCost { unet_evaluations, seconds: Some(seconds) }
}

/// Prints a result to stdout. A reader that has gone away, such as `head`, is no failure of ours.
pub(super) fn print_result(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
