//! One run of a verb: its progress, its cancel flag, its clock.

use std::{cell::RefCell, io::Write};

use super::{
    CliError,
    interrupt::Interrupt,
    measurements::VerbMeasurements,
    progress::{PhaseProgress, ProgressDisplay},
    timing::Stopwatch,
};
use crate::{
    engine::{EngineError, PauseFlag, RunContext, evaluate::NoPictures},
    outcome::{Notice, Progress},
    run::RunPorts,
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

    /// What is measured of the verb's run, beside what an earlier process spent on the same work.
    pub(super) fn measurements(&self, earlier: f64) -> VerbMeasurements {
        VerbMeasurements { stopwatch: self.stopwatch, earlier }
    }

    /// Lets a use case run, with progress and notices shown and the signals watched.
    pub(super) fn run<T>(
        &mut self,
        measurements: &VerbMeasurements,
        has_memory_limit: bool,
        run: impl FnOnce(&mut RunPorts<'_>) -> T,
    ) -> T {
        let display = RefCell::new(&mut self.progress);
        let mut progress =
            |progress: Progress| display.borrow_mut().show(PhaseProgress::from(&progress));
        let mut notice = |notice: Notice| display.borrow_mut().note(&notice.to_string());
        // The engine holds its own work to the limit. Asked beforehand, it refuses a judgement that
        // does not fit before the hours of training.
        let mut admit = |_| Ok(());
        let done = run(&mut RunPorts {
            admit: has_memory_limit.then_some(&mut admit),
            progress: &mut progress,
            notice: &mut notice,
            pictures: &mut NoPictures,
            cancel: self.interrupt.cancel.clone(),
            pause: PauseFlag::default(),
            measurements: Some(measurements),
        });
        self.progress.finish();
        done
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

/// Prints a result to stdout. A reader that has gone away, such as `head`, is no failure of ours.
pub(super) fn print_result(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
