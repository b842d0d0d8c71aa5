//! Reports to the job store how far a job's state is saved, so that a lost worker is charged to its
//! job only where nothing new was saved.

use std::io::{self, Write};

use tokio::sync::watch;

use crate::{
    engine::{PartReader, SavePoint, StateError, StatePart, StateStore},
    jobs::Milestone,
};

/// A result that stands outweighs everything that led to it.
pub(super) const RESULT_STANDS: Milestone = Milestone(u64::MAX >> 1);

/// A store that sends a milestone after every save.
pub(super) struct MilestoneStore<'a> {
    pub(super) store: &'a mut dyn StateStore,
    pub(super) saved: &'a watch::Sender<Milestone>,
}

impl StateStore for MilestoneStore<'_> {
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError> {
        self.store.load(part)
    }

    fn save(
        &mut self,
        point: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        self.store.save(point, write)?;
        self.saved.send_replace(milestone(point));
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
}
