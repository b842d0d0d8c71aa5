//! Means over concepts and seeds, with their interval by the bootstrap (Efron 1979, percentiles).
//!
//! Pictures of one seed are not independent where the seed is used in several cells, so that seeds are
//! drawn and not pictures; a mean over concepts says something of concepts that were not tried, so that
//! concepts are drawn on top.

use crate::{
    engine::schedule::NoiseSource,
    outcome::{Confidence, Interval, Share},
};

/// Resamples that an interval is read from.
const DRAWS: usize = 2_000;

/// One concept's pictures, counted for each seed apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConceptSeeds {
    /// In any order; those without pictures count for nothing.
    pub seeds: Vec<Share>,
}

impl ConceptSeeds {
    /// Pictures that are each of a seed of its own, as those of a judgement are.
    pub fn of_pictures(share: Share) -> Self {
        let seed = |index| Share { count: u64::from(index < share.count), of: 1 };
        Self { seeds: (0..share.of).map(seed).collect() }
    }

    fn rate(shares: impl Iterator<Item = Share>) -> f64 {
        shares.fold(Share::default(), Share::plus).rate()
    }

    fn counted(&self) -> Vec<Share> {
        self.seeds.iter().copied().filter(|seed| seed.of > 0).collect()
    }
}

/// A mean over concepts of each one's rate over its seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pooled {
    /// Every concept weighs the same, whatever its pictures.
    pub mean: f64,
    /// Where the mean lies in the middle of all resamples.
    pub interval: Interval,
}

/// Draws concepts with replacement, and of each its seeds; none where there are no pictures. An
/// interval of few seeds or concepts is too narrow: of one of each it has no width at all.
pub fn bootstrap(
    concepts: &[ConceptSeeds],
    confidence: Confidence,
    noise: &mut NoiseSource,
) -> Option<Pooled> {
    let concepts: Vec<Vec<Share>> =
        concepts.iter().map(ConceptSeeds::counted).filter(|seeds| !seeds.is_empty()).collect();
    if concepts.is_empty() {
        return None;
    }
    let count = concepts.len() as f64;
    let whole = concepts.iter().map(|seeds| ConceptSeeds::rate(seeds.iter().copied()));
    let mean = whole.sum::<f64>() / count;
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let drawn = (0..concepts.len()).map(|_| {
                let seeds = &concepts[noise.index(concepts.len())];
                ConceptSeeds::rate((0..seeds.len()).map(|_| seeds[noise.index(seeds.len())]))
            });
            drawn.sum::<f64>() / count
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence.level()) / 2.0;
    let interval = Interval { low: percentile(&means, tail), high: percentile(&means, 1.0 - tail) };
    Some(Pooled { mean, interval })
}

/// Between the two nearest of sorted values, in a straight line (numpy's `percentile`).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let at = |index: usize| sorted.get(index).or(sorted.last()).copied().unwrap_or(f64::NAN);
    let (low, high) = (at(place.floor() as usize), at(place.ceil() as usize));
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(shares: &[(u64, u64)]) -> ConceptSeeds {
        ConceptSeeds {
            seeds: shares.iter().map(|(count, of)| Share { count: *count, of: *of }).collect(),
        }
    }

    fn pooled(concepts: &[ConceptSeeds]) -> Option<Pooled> {
        bootstrap(concepts, Confidence::DEFAULT, &mut NoiseSource::new(7))
    }

    fn near(found: f64, wanted: f64, by: f64) {
        assert!((found - wanted).abs() <= by, "{found} instead of {wanted}");
    }

    #[test]
    fn percentiles_lie_between_values() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        for (share, wanted) in [(0.0, 1.0), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            near(percentile(&sorted, share), wanted, 1e-12);
        }
        near(percentile(&[3.0], 0.3), 3.0, 0.0);
    }

    /// 40 seeds of a picture each, 30 of them right: the mean's deviation is √(¾ · ¼ / 40) = 0.0685.
    #[test]
    fn of_one_concept_it_is_the_interval_of_a_mean() {
        let shares: Vec<_> = (0..40).map(|seed| (u64::from(seed % 4 > 0), 1)).collect();
        let found = pooled(&[seeds(&shares)]).unwrap();
        near(found.mean, 0.75, 1e-12);
        near(found.interval.low, 0.75 - 1.96 * 0.0685, 0.02);
        near(found.interval.high, 0.75 + 1.96 * 0.0685, 0.02);
        assert_eq!(pooled(&[seeds(&shares)]), Some(found));
    }

    #[test]
    fn pictures_of_a_judgement_have_seeds_of_their_own() {
        let found = ConceptSeeds::of_pictures(Share { count: 2, of: 3 });
        assert_eq!(found, seeds(&[(1, 1), (1, 1), (0, 1)]));
    }

    /// Four cells a seed that are right or wrong together say no more than one.
    #[test]
    fn pictures_of_one_seed_are_not_counted_as_many() {
        let of = |cells| {
            let shares: Vec<_> =
                (0..40).map(|seed| (u64::from(seed % 4 > 0) * cells, cells)).collect();
            pooled(&[seeds(&shares)]).unwrap()
        };
        assert_eq!(of(1), of(4));
    }

    #[test]
    fn concepts_that_differ_widen_the_interval() {
        let concept = |right| seeds(&[(right, 10); 8]);
        let alike = pooled(&[concept(8), concept(8), concept(8), concept(8)]).unwrap();
        let mixed = pooled(&[concept(10), concept(10), concept(10), concept(2)]).unwrap();
        near(alike.mean, mixed.mean, 1e-12);
        let width = |pooled: Pooled| pooled.interval.high - pooled.interval.low;
        near(width(alike), 0.0, 1e-9);
        near(mixed.interval.low, 0.4, 0.21);
        near(mixed.interval.high, 1.0, 1e-9);
    }

    #[test]
    fn of_nothing_there_is_no_mean() {
        assert_eq!(pooled(&[]), None);
        assert_eq!(pooled(&[seeds(&[]), seeds(&[(0, 0)])]), None);
        // A concept without pictures does not count as one that failed.
        near(pooled(&[seeds(&[(0, 0)]), seeds(&[(3, 3)])]).unwrap().mean, 1.0, 0.0);
    }
}
