//! Counted shares and paired drops, each with its interval: what a figure proves follows from how many
//! pictures it was counted over.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};

/// How sure an interval is: the share of such intervals that hold the true value, above 0 and below 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Confidence(f64);

impl Confidence {
    /// 0.95, two-sided.
    pub const DEFAULT: Self = Self(0.95);

    /// None outside (0, 1).
    pub fn new(level: f64) -> Option<Self> {
        (level > 0.0 && level < 1.0).then_some(Self(level))
    }

    /// The level.
    pub fn level(self) -> f64 {
        self.0
    }

    /// The same error split over several looks at the data, or over several rows that are read at
    /// once (Bonferroni).
    #[must_use]
    pub fn split(self, looks: usize) -> Self {
        Self(1.0 - (1.0 - self.0) / looks.max(1) as f64)
    }

    /// The normal quantile of an interval that is open to both sides: 1.96 at 0.95.
    pub fn two_sided(self) -> f64 {
        quantile(f64::midpoint(1.0, self.0))
    }

    /// The normal quantile of a bound to one side: 1.645 at 0.95.
    pub fn one_sided(self) -> f64 {
        quantile(self.0)
    }
}

impl Default for Confidence {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<f64> for Confidence {
    type Error = String;

    fn try_from(level: f64) -> Result<Self, String> {
        Self::new(level).ok_or_else(|| format!("a confidence of {level} is not between 0 and 1"))
    }
}

impl From<Confidence> for f64 {
    fn from(confidence: Confidence) -> Self {
        confidence.0
    }
}

fn quantile(probability: f64) -> f64 {
    // The largest double below 1: beyond it the quantile is infinite.
    Normal::standard().inverse_cdf(probability.min(1.0 - f64::EPSILON / 2.0))
}

/// From where to where a true value lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The least that it can be.
    pub low: f64,
    /// The most that it can be.
    pub high: f64,
}

/// How many of so many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Those that are counted.
    pub count: u64,
    /// All of them.
    pub of: u64,
}

impl Share {
    /// Counts one more.
    pub fn add(&mut self, counted: bool) {
        self.count += u64::from(counted);
        self.of += 1;
    }

    /// The pictures of both, which must be others.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, of: self.of + other.of }
    }

    /// Those that are not counted.
    #[must_use]
    pub fn complement(self) -> Self {
        Self { count: self.of - self.count, of: self.of }
    }

    /// 0 to 1; NaN of none.
    pub fn rate(self) -> f64 {
        self.count as f64 / self.of as f64
    }

    /// Wilson's score interval at a normal quantile `z`; everything where nothing was counted.
    pub fn wilson(self, z: f64) -> Interval {
        if self.of == 0 {
            return Interval { low: 0.0, high: 1.0 };
        }
        let (n, rate, square) = (self.of as f64, self.rate(), z * z);
        let scale = 1.0 + square / n;
        let centre = (rate + square / (2.0 * n)) / scale;
        let half = z / scale * (rate * (1.0 - rate) / n + square / (4.0 * n * n)).sqrt();
        Interval {
            low: if self.count == 0 { 0.0 } else { (centre - half).max(0.0) },
            high: if self.count == self.of { 1.0 } else { (centre + half).min(1.0) },
        }
    }

    /// The two-sided interval.
    pub fn interval(self, confidence: Confidence) -> Interval {
        self.wilson(confidence.two_sided())
    }

    /// How many pictures without a miss show a share of at least `least` at a normal quantile `z`:
    /// the smallest n for which Wilson's lower bound n / (n + z²) reaches it. None outside [0, 1).
    pub fn needed(least: f64, z: f64) -> Option<u64> {
        if !(0.0..1.0).contains(&least) {
            return None;
        }
        let shown = |n: u64| Self { count: n, of: n }.wilson(z).low >= least;
        // The quotient rounds to either side of a whole number.
        let near = (z * z * least / (1.0 - least)).floor() as u64;
        (near.saturating_sub(1).max(1)..=near.saturating_add(2)).find(|n| shown(*n))
    }
}

/// The same prompts and seeds before and after: how many a judge named rightly before and not after,
/// and the other way round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairedDrop {
    /// Right before and wrong after.
    pub lost: u64,
    /// Wrong before and right after.
    pub gained: u64,
    /// All pairs.
    pub of: u64,
}

impl PairedDrop {
    /// Counts one more pair.
    pub fn add(&mut self, before: bool, after: bool) {
        self.lost += u64::from(before && !after);
        self.gained += u64::from(!before && after);
        self.of += 1;
    }

    /// The pairs of both, which must be others.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            gained: self.gained + other.gained,
            of: self.of + other.of,
        }
    }

    /// By how much the share fell, -1 to 1; NaN of none.
    pub fn drop(self) -> f64 {
        (self.lost as f64 - self.gained as f64) / self.of as f64
    }

    /// The exact test of a drop (`McNemar`): the chance of as many losses among the pairs that differ,
    /// were losses and gains alike.
    pub fn chance(self) -> f64 {
        let differing = self.lost + self.gained;
        if self.lost == 0 {
            return 1.0;
        }
        Binomial::new(0.5, differing).map_or(f64::NAN, |alike| alike.sf(self.lost - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 5e-4, "{found} instead of {wanted}");
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        near(Confidence::DEFAULT.two_sided(), 1.96);
        near(Confidence::DEFAULT.one_sided(), 1.645);
        // 27 rows read at once.
        near(Confidence::DEFAULT.split(27).one_sided(), 2.902);
        assert!(Confidence::new(1.0 - 1e-16).is_none_or(|it| it.one_sided().is_finite()));
        for level in [0.0, 1.0, -1.0, f64::NAN] {
            assert_eq!(Confidence::new(level), None, "{level}");
        }
        assert!(serde_json::from_str::<Confidence>("1.5").is_err());
    }

    /// 32 of 32 proves 0.893 and no more; so many without a miss show so much.
    #[test]
    fn wilson_says_what_a_count_proves() {
        let all = |n| Share { count: n, of: n }.interval(Confidence::DEFAULT);
        near(all(32).low, 0.8928);
        assert!((all(32).high - 1.0).abs() < f64::EPSILON);
        for (wanted, n) in [(0.90, 35), (0.95, 73), (0.97, 125), (0.99, 381)] {
            assert!(all(n).low >= wanted, "{n}");
            assert!(all(n - 1).low < wanted, "{n}");
            assert_eq!(Share::needed(wanted, Confidence::DEFAULT.two_sided()), Some(n));
        }
        for (wanted, n) in [(0.90, 25), (0.95, 52), (0.97, 88), (0.99, 268)] {
            assert_eq!(Share::needed(wanted, Confidence::DEFAULT.one_sided()), Some(n));
        }
        for wrong in [1.0, -0.1, f64::NAN] {
            assert_eq!(Share::needed(wrong, 1.96), None);
        }
        // Wilson 1927 as R's prop.test(7, 20, correct = FALSE) prints it.
        let some = Share { count: 7, of: 20 }.interval(Confidence::DEFAULT);
        near(some.low, 0.1812);
        near(some.high, 0.5671);
        let none = Share::default();
        assert!(none.rate().is_nan());
        assert_eq!(none.interval(Confidence::DEFAULT), Interval { low: 0.0, high: 1.0 });
    }

    #[test]
    fn a_drop_is_counted_over_pairs() {
        let mut drop = PairedDrop::default();
        for (before, after) in [(true, false), (true, true), (false, true), (false, false)] {
            drop.add(before, after);
        }
        assert_eq!(drop, PairedDrop { lost: 1, gained: 1, of: 4 });
        let drop = PairedDrop { lost: 4, gained: 1, of: 40 };
        near(drop.drop(), 0.075);
        // 1 of 2^5 + 5 of 2^5.
        near(drop.chance(), 6.0 / 32.0);
        near(PairedDrop { lost: 0, gained: 3, of: 9 }.chance(), 1.0);
        assert!(PairedDrop::default().drop().is_nan());
    }
}
