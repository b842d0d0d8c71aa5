//! Progress on stderr: bars on a terminal, a line now and then elsewhere.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::timing::{Pace, Stopwatch};
#[cfg(feature = "server")]
use crate::outcome::Progress;
use crate::proto::keystep::v1::WorkPhase;

/// Between two plain lines of one phase.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
const BAR: &str = "{prefix:<22} {bar:32} {msg}";

/// What a phase counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Things, such as updates and pictures.
    Count,
    /// Bytes, shown as KiB, MiB and so on.
    Bytes,
}

impl Unit {
    fn amount(self, amount: u64) -> String {
        match self {
            Self::Count => amount.to_string(),
            Self::Bytes => BinaryBytes(amount).to_string(),
        }
    }

    fn rate(self, rate: f64) -> String {
        match self {
            Self::Count => format!("{rate:.2}/s"),
            Self::Bytes => format!("{}/s", BinaryBytes(rate as u64)),
        }
    }
}

/// How far a phase of the work is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PhaseProgress {
    /// The phase, as people read it.
    pub(super) phase: Cow<'static, str>,
    pub(super) done: u64,
    pub(super) total: u64,
    pub(super) unit: Unit,
    /// Loss of the latest update, while training.
    pub(super) loss: Option<f64>,
}

#[cfg(feature = "server")]
impl From<&Progress> for PhaseProgress {
    fn from(progress: &Progress) -> Self {
        Self {
            phase: phase_name(progress.phase.into()).into(),
            done: progress.done as u64,
            total: progress.total as u64,
            unit: Unit::Count,
            loss: progress.update.as_ref().map(|update| update.loss),
        }
    }
}

/// Where progress is shown.
#[derive(Debug)]
pub(super) struct ProgressDisplay {
    mode: Mode,
    current: Option<Current>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Bars,
}

#[derive(Debug)]
struct Current {
    started: Stopwatch,
    last_line: Stopwatch,
    pace: Pace,
    bar: Option<ProgressBar>,
    latest: PhaseProgress,
}

impl ProgressDisplay {
    pub(super) fn new(quiet: bool) -> Self {
        let mode = if quiet {
            Mode::Quiet
        } else if std::io::stderr().is_terminal() {
            Mode::Bars
        } else {
            Mode::Lines
        };
        Self { mode, current: None }
    }

    /// Shows one report of the work.
    pub(super) fn show(&mut self, progress: PhaseProgress) {
        if self.mode == Mode::Quiet {
            return;
        }
        if self.current.as_ref().is_none_or(|current| current.latest.phase != progress.phase) {
            self.finish();
            self.begin(&progress);
        }
        let Some(current) = &mut self.current else { return };
        let seconds = current.started.seconds();
        current.pace.see(seconds, progress.done);
        if let Some(bar) = &current.bar {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(figures(&progress, current.pace.rate(seconds)));
        } else if current.last_line.elapsed() >= LINE_INTERVAL {
            current.last_line = Stopwatch::start();
            say(&plain_line(&progress, current.pace.rate(seconds)));
        }
        current.latest = progress;
    }

    /// Ends the phase that is shown.
    pub(super) fn finish(&mut self) {
        let Some(current) = self.current.take() else { return };
        if let Some(bar) = &current.bar {
            // Stays on the screen as it is, finished or cut short.
            bar.abandon();
        } else {
            // Of the whole phase: what came of it, and no forecast.
            let seconds = current.started.seconds();
            let rate = (seconds > 0.0).then(|| current.latest.done as f64 / seconds);
            say(&plain_line(&current.latest, rate.filter(|rate| *rate > 0.0)));
        }
    }

    /// A line of its own.
    pub(super) fn note(&mut self, text: &str) {
        self.finish();
        if self.mode != Mode::Quiet {
            say(text);
        }
    }

    fn begin(&mut self, progress: &PhaseProgress) {
        let bar = (self.mode == Mode::Bars).then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(8);
            let bar = ProgressBar::with_draw_target(Some(progress.total), target);
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style.progress_chars("━━╌"));
            }
            bar.set_prefix(progress.phase.clone());
            bar
        });
        let now = Stopwatch::start();
        self.current = Some(Current {
            started: now,
            last_line: now,
            pace: Pace::default(),
            bar,
            latest: progress.clone(),
        });
    }
}

/// What work here and a server's work are called.
pub(super) fn phase_name(phase: WorkPhase) -> &'static str {
    match phase {
        WorkPhase::Unspecified => "working",
        WorkPhase::Score => "scoring steps",
        WorkPhase::SwitchCurve => "sampling switch curve",
        WorkPhase::Walk => "walking trajectories",
        WorkPhase::Train => "training",
        WorkPhase::Draw => "drawing pictures",
        WorkPhase::Judge => "judging pictures",
        WorkPhase::Attack => "attacking",
        WorkPhase::Upload => "uploading",
    }
}

fn plain_line(progress: &PhaseProgress, rate: Option<f64>) -> String {
    format!("{}: {}", progress.phase, figures(progress, rate))
}

/// What is done, how many units a second, what is left at that rate, the loss.
fn figures(progress: &PhaseProgress, rate: Option<f64>) -> String {
    let PhaseProgress { done, total, unit, .. } = *progress;
    let mut parts = vec![format!("{}/{}", unit.amount(done), unit.amount(total))];
    if let Some(rate) = rate {
        parts.push(unit.rate(rate));
        if done < total {
            parts.push(format!("{:.0} s left", (total - done) as f64 / rate));
        }
    }
    if let Some(loss) = progress.loss {
        parts.push(format!("loss {loss:.4}"));
    }
    parts.join(", ")
}

fn say(text: &str) {
    // Progress that nobody reads is no failure.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests {
    use super::*;
    use crate::{
        outcome::{Phase, UpdateRecord},
        spec::{StepIndex, Timestep},
    };

    #[test]
    fn a_line_has_rate_time_left_and_loss() {
        let update = UpdateRecord {
            update: 119,
            step: StepIndex(3),
            timestep: Timestep(801),
            loss: 0.012_34,
            gradient_norm: 1.0,
            unet_evaluations: 10,
        };
        let progress =
            Progress { phase: Phase::Train, done: 120, total: 300, update: Some(update) };
        assert_eq!(
            plain_line(&PhaseProgress::from(&progress), Some(2.0)),
            "training: 120/300, 2.00/s, 90 s left, loss 0.0123"
        );
        let nothing = Progress { phase: Phase::Draw, done: 0, total: 0, update: None };
        assert_eq!(plain_line(&PhaseProgress::from(&nothing), None), "drawing pictures: 0/0");
    }

    #[test]
    fn bytes_are_shown_as_people_read_them() {
        let upload = PhaseProgress {
            phase: "uploading".into(),
            done: 3 << 19,
            total: 70 << 20,
            unit: Unit::Bytes,
            loss: None,
        };
        assert_eq!(
            plain_line(&upload, Some(f64::from(1 << 20))),
            "uploading: 1.50 MiB/70.00 MiB, 1.00 MiB/s, 68 s left"
        );
    }

    #[test]
    fn the_bar_is_well_formed() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
