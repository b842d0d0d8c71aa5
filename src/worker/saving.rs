//! What a run saves: told to whoever charges losses, and no oftener than it is worth.

use std::{
    cell::Cell,
    io::{self, Write},
    time::Duration,
};

use tokio::sync::watch;

use super::StateFiles;
use crate::{
    engine::{PartReader, SavePoint, StateError, StatePart, StateStore},
    jobs::{Clock, Milestone, Monotonic},
};

/// A result that stands outweighs everything that led to it.
pub(super) const RESULT_STANDS: Milestone = Milestone(u64::MAX >> 1);

/// At most one part of this many of a run's time goes into saving, however much there is to save.
const SHARE: u32 = 20;

/// When it is time to save: a while after the last time, and much longer than that took.
#[derive(Debug)]
pub(super) struct SavePace {
    clock: Clock,
    every: Duration,
    last: Cell<Monotonic>,
    took: Cell<Duration>,
}

impl SavePace {
    pub(super) fn new(clock: Clock, every: Duration) -> Self {
        let last = Cell::new(clock.monotonic());
        Self { clock, every, last, took: Cell::default() }
    }

    pub(super) fn is_due(&self) -> bool {
        let wait = self.every.max(self.took.get().saturating_mul(SHARE));
        self.clock.monotonic().since(self.last.get()) >= wait
    }

    fn note(&self, began: Monotonic) {
        let now = self.clock.monotonic();
        self.took.set(now.since(began));
        self.last.set(now);
    }
}

/// Files whose every save is told.
#[derive(Debug)]
pub(super) struct ToldFiles<'a> {
    pub(super) files: StateFiles,
    pub(super) pace: &'a SavePace,
    pub(super) told: &'a watch::Sender<Milestone>,
}

impl StateStore for ToldFiles<'_> {
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError> {
        self.files.load(part)
    }

    fn save(
        &mut self,
        point: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let began = self.pace.clock.monotonic();
        self.files.save(point, write)?;
        self.pace.note(began);
        self.told.send_replace(milestone(point));
        Ok(())
    }
}

/// Grows along a run: by its parts, and within a part by what is done.
fn milestone(point: SavePoint) -> Milestone {
    let part = StatePart::ALL.iter().position(|part| *part == point.part).unwrap_or(0) as u64;
    Milestone(((part + 1) << 32) | point.done.min(u64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{ScriptedClock, Timestamp};

    #[test]
    fn milestones_grow_along_a_run() {
        let mut last = Milestone(0);
        for part in StatePart::ALL {
            for done in [1, 2, 1_000, u64::MAX] {
                let next = milestone(SavePoint { part, done });
                assert!(next > last, "{part:?} {done}");
                last = next;
            }
        }
        assert!(last < RESULT_STANDS);
    }

    #[test]
    fn what_takes_long_is_saved_seldom() {
        let script = ScriptedClock::new(Timestamp(0));
        let second = Duration::from_secs(1);
        let pace = SavePace::new(Clock::Scripted(script.clone()), 2 * second);
        assert!(!pace.is_due());
        script.pass(2 * second);
        // A step of the wall clock is no time.
        script.jump(-7_200_000_000);
        assert!(pace.is_due());
        let began = pace.clock.monotonic();
        script.pass(30 * second);
        pace.note(began);
        for (passed, is_due) in [(2, false), (590, false), (8, true)] {
            script.pass(passed * second);
            assert_eq!(pace.is_due(), is_due, "{passed}");
        }
    }
}
