//! Decides when a run saves its state: often enough to lose little, seldom enough to cost little.

use std::{
    cell::Cell,
    fmt,
    io::{self, Write},
    time::Duration,
};

use crate::{
    engine::{PartReader, SavePoint, StateError, StatePart, StateStore},
    jobs::{Clock, Monotonic},
};

/// Where and how often an erasure saves its state.
pub struct Saving<'a> {
    /// Where to, and where an earlier run of the same erasure left it.
    pub store: &'a mut dyn StateStore,
    /// Updates from one save to the next, and once more at the end of the training; 0 saves on a pause
    /// alone, or after [`Saving::after`].
    pub every: usize,
    /// Least time from one save to the next, where no updates are counted.
    pub after: Duration,
    /// Where the time comes from.
    pub clock: Clock,
}

impl fmt::Debug for Saving<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saving")
            .field("every", &self.every)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

/// At most one part of this many of a run's time goes into saving, however much there is to save.
const SHARE: u32 = 20;

/// When it is time to save: a while after the last time, and much longer than that took.
#[derive(Debug, Clone)]
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

    /// After a save that began then and ends now.
    pub(super) fn after(clock: Clock, began: Monotonic) -> Self {
        let pace = Self::new(clock, Duration::ZERO);
        pace.note(began);
        pace
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

/// A store that notes how long each save takes.
pub(super) struct PacedStore<'a> {
    pub(super) store: &'a mut dyn StateStore,
    pub(super) pace: &'a SavePace,
}

impl StateStore for PacedStore<'_> {
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError> {
        self.store.load(part)
    }

    fn save(
        &mut self,
        point: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let began = self.pace.clock.monotonic();
        self.store.save(point, write)?;
        self.pace.note(began);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{ScriptedClock, Timestamp};

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
