//! Turns the engine's reports into a job's progress, and into the rate that plans are estimated by.

use tokio::sync::watch;

use crate::{
    jobs::{JobProgress, Monotonic},
    outcome::Progress,
};

/// Turns reports into a job's progress; the newest is what a reader finds.
#[derive(Debug)]
pub(super) struct ProgressLine<'a> {
    sender: &'a watch::Sender<Option<JobProgress>>,
    last: JobProgress,
}

impl<'a> ProgressLine<'a> {
    pub(super) fn new(sender: &'a watch::Sender<Option<JobProgress>>) -> Self {
        Self { sender, last: JobProgress::default() }
    }

    pub(super) fn tell(&mut self, progress: &Progress) {
        self.last.advance(progress);
        self.sender.send_replace(Some(self.last));
    }
}

/// Measures U-Net evaluations a second between updates; what was done for others in between does
/// not count.
#[derive(Debug, Default)]
pub(super) struct RateMeter {
    last: Option<(u64, Monotonic)>,
    evaluations: u64,
    seconds: f64,
}

impl RateMeter {
    pub(super) fn see(&mut self, progress: &Progress, now: Monotonic) {
        let Some(update) = &progress.update else { return };
        if let Some((before, then)) = self.last {
            self.evaluations += update.unet_evaluations.saturating_sub(before);
            self.seconds += now.since(then).as_secs_f64();
        }
        self.last = Some((update.unet_evaluations, now));
    }

    /// The time until the next update was not the job's own.
    pub(super) fn interrupt(&mut self) {
        self.last = None;
    }

    /// None before two updates were seen.
    pub(super) fn rate(&self) -> Option<f64> {
        (self.evaluations > 0 && self.seconds > 0.0).then(|| self.evaluations as f64 / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outcome::{Phase, UpdateRecord},
        spec::{StepIndex, Timestep},
    };

    fn update(update: usize, unet_evaluations: u64) -> Progress {
        let record = UpdateRecord {
            update,
            step: StepIndex(3),
            timestep: Timestep(500),
            loss: 0.5,
            gradient_norm: 2.0,
            unet_evaluations,
        };
        Progress { phase: Phase::Train, done: update + 1, total: 9, update: Some(record) }
    }

    #[test]
    fn the_rate_leaves_out_what_was_done_for_others() {
        let mut meter = RateMeter::default();
        let second = |n| Monotonic(std::time::Duration::from_secs(n));
        meter.see(&update(0, 100), second(1));
        assert_eq!(meter.rate(), None);
        meter.see(&update(1, 120), second(3));
        meter.interrupt();
        meter.see(&update(2, 140), second(90));
        meter.see(&update(3, 160), second(92));
        assert_eq!(meter.rate(), Some(10.0));
    }

    #[test]
    fn what_training_measured_stays_while_other_phases_run() {
        let (sender, receiver) = watch::channel(None);
        let mut line = ProgressLine::new(&sender);
        line.tell(&update(8, 100));
        line.tell(&Progress { phase: Phase::Draw, done: 1, total: 400, update: None });
        let seen = receiver.borrow().unwrap();
        assert_eq!((seen.phase, seen.done, seen.total), (Phase::Draw, 1, 400));
        assert_eq!((seen.updates_done, seen.updates_total, seen.key_step), (9, 9, 3));
    }
}
