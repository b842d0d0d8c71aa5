//! Distributions over a vocabulary: the nearest one to any row of numbers, and a draw from it.

use crate::engine::schedule::NoiseSource;

/// Moves a row to the nearest one whose numbers are none below zero and add up to one (Duchi and
/// others 2008).
pub(super) fn project(row: &mut [f32]) {
    let mut sorted = row.to_vec();
    sorted.sort_unstable_by(|left, right| right.total_cmp(left));
    let (mut sum, mut shift) = (0.0_f64, 0.0_f64);
    for (index, value) in sorted.into_iter().enumerate() {
        sum += f64::from(value);
        let candidate = (sum - 1.0) / (index + 1) as f64;
        if f64::from(value) <= candidate {
            break;
        }
        shift = candidate;
    }
    for value in row {
        *value = (f64::from(*value) - shift).max(0.0) as f32;
    }
}

/// A place, drawn with the chance that the row gives it.
pub(super) fn draw(row: &[f32], noise: &mut NoiseSource) -> usize {
    let all: f64 = row.iter().map(|value| f64::from(*value)).sum();
    let mut left = noise.uniform() * all;
    for (place, value) in row.iter().enumerate() {
        left -= f64::from(*value);
        if left < 0.0 {
            return place;
        }
    }
    largest(row)
}

/// The place of the largest; of the first where several are.
pub(super) fn largest(row: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (place, &value) in row.iter().enumerate() {
        if value > best.1 {
            best = (place, value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(row: &[f32]) -> f64 {
        row.iter().map(|value| f64::from(*value)).sum()
    }

    #[test]
    fn what_lies_on_the_simplex_stays_and_what_does_not_moves_to_the_nearest() {
        for (row, nearest) in [
            (vec![0.25, 0.75], vec![0.25, 0.75]),
            (vec![1.0, 1.0], vec![0.5, 0.5]),
            (vec![2.0, 0.0, 0.0], vec![1.0, 0.0, 0.0]),
            (vec![-5.0, 0.1, 0.1], vec![0.0, 0.5, 0.5]),
            (vec![3.0], vec![1.0]),
        ] {
            let mut moved = row;
            project(&mut moved);
            let off = moved.iter().zip(&nearest).map(|(a, b): (&f32, &f32)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-6, "{moved:?}, {nearest:?}");
        }
    }

    proptest! {
        /// The nearest point makes no acute angle with any corner (the projection theorem).
        #[test]
        fn no_corner_is_nearer(row in prop::collection::vec(-3.0_f32..3.0, 1..40)) {
            let mut moved = row.clone();
            project(&mut moved);
            prop_assert!((sum(&moved) - 1.0).abs() < 1e-4 && moved.iter().all(|value| *value >= 0.0));
            let away: Vec<f64> =
                row.iter().zip(&moved).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
            let own: f64 = away.iter().zip(&moved).map(|(away, x)| away * f64::from(*x)).sum();
            prop_assert!(away.iter().all(|corner| *corner <= own + 1e-3));
        }
    }

    #[test]
    fn draws_follow_the_row() {
        let mut noise = NoiseSource::new(2);
        let row = [0.0, 0.5, 0.0, 0.25, 0.25];
        let mut seen = [0; 5];
        for _ in 0..4_000 {
            seen[draw(&row, &mut noise)] += 1;
        }
        assert!(seen[0] == 0 && seen[2] == 0, "{seen:?}");
        assert!((1_850..2_150).contains(&seen[1]) && (900..1_100).contains(&seen[3]), "{seen:?}");
        assert_eq!((largest(&row), draw(&[1.0], &mut noise)), (1, 0));
    }
}
