//! The softmax of scores that come in parts.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use super::exponential::{exp, largest, sum};

/// How the softmax of a row stands after some of its scores: a score has the weight
/// `exp(score - offset) / sum` (Milakov and Gimelshein, "Online normalizer calculation for softmax").
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Level {
    /// The highest score.
    offset: f32,
    sum: f32,
}

impl Level {
    /// Before the first score.
    pub(in crate::engine) const NONE: Self = Self { offset: f32::NEG_INFINITY, sum: 0.0 };

    /// Turns more scores, times `scale`, to weights that are still to be multiplied by the
    /// [rate](Self::rate); what was weighed before is to be multiplied by the result.
    #[inline(always)]
    pub(in crate::engine) fn weigh(&mut self, scores: &mut [f32], scale: f32) -> f32 {
        let before = self.offset;
        let highest = scale * largest(scores);
        self.offset = if highest > before { highest } else { before };
        let offset = self.finite_offset();
        for score in scores.iter_mut() {
            *score = exp(score.mul_add(scale, -offset));
        }
        let rate = exp(before - offset);
        self.sum = self.sum.mul_add(rate, sum(scores, |score| score));
        rate
    }

    /// Turns scores that have been weighed, times `scale`, to their weights.
    #[inline(always)]
    pub(in crate::engine) fn weigh_again(self, scores: &mut [f32], scale: f32) {
        let (offset, rate) = (self.finite_offset(), self.rate());
        for score in scores.iter_mut() {
            *score = exp(score.mul_add(scale, -offset)) * rate;
        }
    }

    /// What makes weights add up to one.
    #[inline(always)]
    pub(in crate::engine) fn rate(self) -> f32 {
        1.0 / self.sum
    }

    /// Where all scores so far are minus infinity, every exponential is to be zero.
    #[inline(always)]
    fn finite_offset(self) -> f32 {
        if self.offset == f32::NEG_INFINITY { 0.0 } else { self.offset }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "these results are exact")]

    use super::*;

    /// The softmax in one go and in double precision.
    fn naive(scores: &[f32], scale: f64) -> Vec<f64> {
        let powers: Vec<f64> = scores.iter().map(|&s| (f64::from(s) * scale).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    #[test]
    fn parts_give_the_softmax_of_the_whole() {
        let scores: Vec<f32> = (0..100).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.3).collect();
        let expected = naive(&scores, 0.5);
        for length in [1, 7, 33, 100] {
            let mut level = Level::NONE;
            let mut weighed: Vec<f32> = Vec::new();
            for part in scores.chunks(length) {
                let mut part = part.to_vec();
                let rate = level.weigh(&mut part, 0.5);
                for weight in &mut weighed {
                    *weight *= rate;
                }
                weighed.extend(part);
            }
            let mut again = scores.clone();
            level.weigh_again(&mut again, 0.5);
            for ((weight, again), expected) in weighed.iter().zip(again).zip(&expected) {
                let weight = f64::from(weight * level.rate());
                assert!((weight - expected).abs() < 1e-6 * expected, "{weight} {expected}");
                assert!((f64::from(again) - expected).abs() < 1e-6 * expected, "{again}");
            }
        }
    }

    #[test]
    fn hidden_parts_weigh_nothing() {
        let mut level = Level::NONE;
        let mut hidden = [f32::NEG_INFINITY; 3];
        level.weigh(&mut hidden, 1.0);
        assert_eq!(hidden, [0.0; 3]);
        let mut seen = [-300.0, -300.0];
        level.weigh(&mut seen, 1.0);
        level.weigh(&mut hidden.map(|_| f32::NEG_INFINITY), 1.0);
        let mut again = [-300.0, f32::NEG_INFINITY];
        level.weigh_again(&mut again, 1.0);
        assert_eq!(again, [0.5, 0.0]);
    }

    #[test]
    fn what_is_not_a_number_shows() {
        let mut level = Level::NONE;
        level.weigh(&mut [1.0, f32::NAN], 1.0);
        assert!(level.rate().is_nan());
    }
}
