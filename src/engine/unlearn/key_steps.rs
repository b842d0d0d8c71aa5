//! KSCU's Key Step Table (arXiv 2507.06526, section 4.1; authors' code `gen_steps`).

use serde::{Deserialize, Serialize};

use crate::spec::{KscuSettings, StepIndex};

/// One entry of the table: which concept, at which step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct KeyStep {
    pub(in crate::engine) concept: usize,
    pub(in crate::engine) step: StepIndex,
}

impl KeyStep {
    /// Whether the latent of `self`, moved by one sampler step, is that of `next`.
    pub(in crate::engine) fn leads_to(self, next: Self) -> bool {
        self.concept == next.concept && self.step.0 + 1 == next.step.0
    }
}

/// The table as an iterator of `settings.updates` entries: whole traversals of `S..E`, for each
/// concept in turn; after `loop_n` of them `S` moves up by one, as long as it stays below 0.9 `E`. Steps `without_signal`,
/// the first of the schedule, are left out.
pub(in crate::engine) fn key_step_table(
    settings: &KscuSettings,
    without_signal: usize,
    concepts: usize,
) -> impl Iterator<Item = KeyStep> + use<> {
    let (loop_n, end) = (settings.loop_n, settings.schedule_steps);
    let first = settings.first_key_step.max(without_signal);
    (0..)
        .flat_map(move |shift| {
            // 0.9 E in whole numbers: S stays below it.
            let limit = (end * 9).div_ceil(10).saturating_sub(1);
            let start = (first + shift).min(limit.max(first));
            (0..loop_n).flat_map(move |_| {
                (0..concepts).flat_map(move |concept| {
                    (start..end).map(move |step| KeyStep { concept, step: StepIndex(step) })
                })
            })
        })
        .take(settings.updates)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::ConceptKind;

    #[test]
    fn the_object_preset_walks_14_to_49_eight_times_before_it_shifts() {
        let (settings, _) = KscuSettings::preset(ConceptKind::Object, false);
        let table: Vec<_> = key_step_table(&settings, 0, 1).collect();
        assert_eq!(table.len(), 750);
        assert_eq!(table[0].step, StepIndex(14));
        assert_eq!(table[35].step, StepIndex(49));
        assert_eq!(table[36].step, StepIndex(14));
        assert_eq!(table[36 * 8].step, StepIndex(15));
    }

    #[test]
    fn a_step_without_signal_is_left_out() {
        let (preset, _) = KscuSettings::preset(ConceptKind::Object, false);
        let settings =
            KscuSettings { first_key_step: 0, schedule_steps: 4, loop_n: 1, updates: 6, ..preset };
        let steps = |without_signal| -> Vec<usize> {
            key_step_table(&settings, without_signal, 1).map(|entry| entry.step.0).collect()
        };
        assert_eq!(steps(0), [0, 1, 2, 3, 1, 2]);
        assert_eq!(steps(1), [1, 2, 3, 2, 3, 3]);
    }

    proptest! {
        #[test]
        fn every_entry_lies_on_the_schedule_and_the_start_stays_below_nine_tenths(
            end in 2_usize..60, first in 0_usize..60, loop_n in 1_usize..10,
            updates in 1_usize..3_000, concepts in 1_usize..4,
        ) {
            prop_assume!(first * 10 < end * 9);
            let (preset, _) = KscuSettings::preset(ConceptKind::Object, false);
            let settings = KscuSettings {
                schedule_steps: end, first_key_step: first, loop_n, updates, ..preset
            };
            let table: Vec<_> = key_step_table(&settings, 0, concepts).collect();
            prop_assert_eq!(table.len(), updates);
            let mut start = first;
            for pair in table.windows(2) {
                prop_assert!(pair[0].step.0 < end);
                if !pair[0].leads_to(pair[1]) {
                    // A traversal always ends at the last step, and S never falls.
                    prop_assert_eq!(pair[0].step.0, end - 1);
                    prop_assert!(pair[1].step.0 >= start);
                    prop_assert!(pair[1].step.0 * 10 < end * 9);
                    start = pair[1].step.0;
                }
            }
        }
    }
}
